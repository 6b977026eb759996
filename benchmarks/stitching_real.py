"""Places of real images' tiles: loops of offsets on a tissue microarray, and planes of a brain cut into tiles with known sub-pixel truth.

Run: python benchmarks/stitching_real.py [--data ../shared/data] [--tma-only]
Writes benchmarks/results_stitching_real.md. The microarray has no stage file and bends its tiles: loops are shown without a distortion, and with
the one that is fitted from these very tiles. The brain's planes are resampled by cubic splines at fractional places, each tile
with Poisson noise of its own on top of the noise that the plane has (which overlaps share).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage as ndi

SIDE, PITCH, JITTER_PX, PHOTONS = 256, 220, 3.0, 100


@dataclass
class Loops:
    """Accepted links of how many, and how far offsets round 2 x 2 blocks miss zero, px."""

    accepted: int
    pairs: int
    miss: Any

    def row(self, name: str) -> str:
        """A line of the table."""
        each = ", ".join(f"{m:.2f}" for m in self.miss)
        return f"| {name} | {self.accepted} of {self.pairs} | {np.median(self.miss):.2f} | {each} |"


def register_tiles(tiles: list[Any], nominal: Any, calibration: Any, reach: int) -> Any:
    """The links of tiles (c, y, x) at `nominal` px."""
    from imaxt_nb.mosaic.neighbours import neighbours
    from imaxt_nb.mosaic.register import register_widening
    from imaxt_nb.mosaic.strips import find_stabiliser

    root = find_stabiliser([[t[c] for t in tiles] for c in range(len(tiles[0]))])
    pairs = neighbours(nominal, tiles[0].shape[1:])
    found, _ = register_widening(lambda k: tiles[k], pairs, nominal, calibration, root, reach)
    return found


# ---- the microarray --------------------------------------------------------------------------------
def loops(found: Any, columns: int) -> Loops:
    """Offsets round all 2 x 2 blocks of a grid with all four links."""
    d = {
        tuple(p): k.offset.displacement
        for p, k in zip(found.pairs.tolist(), found.links, strict=True)
        if k.accepted and k.offset
    }
    miss = []
    for k in range(max(map(max, d)) - columns):
        sides = [(k, k + 1), (k + 1, k + columns + 1), (k + columns, k + columns + 1)]
        sides.append((k, k + columns))
        if (k + 1) % columns and all(s in d for s in sides):
            miss.append(np.hypot(*(d[sides[0]] + d[sides[1]] - d[sides[2]] - d[sides[3]])))
    return Loops(len(d), len(found.pairs), np.array(miss))


def tma(data: Path) -> list[str]:
    """Loops of the tissue microarray, as it is and with a fitted distortion."""
    from PIL import Image

    from imaxt_nb.mosaic.calibration import Calibration, identity
    from imaxt_nb.mosaic.distortion_fit import fit_distortion
    from imaxt_nb.mosaic.neighbours import neighbour_pairs

    names = [data / f"tiles_tma_4x3/r{r}-c{c}.png" for r in range(4) for c in range(3)]
    tiles = [np.asarray(Image.open(n))[None] for n in names]
    side = tiles[0].shape[1:]
    nominal = np.stack(np.divmod(np.arange(12), 3), 1) * (np.array(side) * 0.89)
    plain = loops(register_tiles(tiles, nominal, identity(side), 30), 3)
    fit = fit_distortion(
        lambda k: tiles[k][0].astype(np.float32),
        neighbour_pairs(list(range(12)), nominal, side),
        side,
        reach_px=30,
        side_px=96,
    )
    bent = Calibration(np.ones(side, np.float32), distortion=fit.distortion)
    after = loops(register_tiles(tiles, nominal, bent, 30), 3)
    r = fit.distortion.residuals or {}
    return [
        f"## Tissue microarray, 4 x 3 tiles of {side[1]} x {side[0]} uint8",
        "",
        "| calibration | accepted links | median loop px (bar 0.5) | loops px |",
        "|---|---|---|---|",
        plain.row("none"),
        after.row("distortion fitted from these tiles"),
        "",
        f"The fit: {fit.distortion.largest_px():.1f} px in the corners, from {r['n_patches']} patches of {r['n_pairs']} overlaps; their shifts within an overlap "
        f"{r['median_before_px']:.2f} px before, {r['median_after_px']:.2f} px after. Saturated pixels: {np.mean([(t == 255).mean() for t in tiles]):.2%}.",
    ]


# ---- planes with truth -----------------------------------------------------------------------------
def cut(plane: Any, seed: int) -> tuple[list[Any], Any, Any]:
    """Tiles (1, y, x) of a plane with noise of their own, nominal and true places px."""
    draw = np.random.default_rng(seed)
    rows, columns = ((n - SIDE - 30) // PITCH + 1 for n in plane.shape)
    nominal = np.stack(np.divmod(np.arange(rows * columns), columns), 1) * float(PITCH)
    true = nominal + 15 + draw.normal(0, JITTER_PX, nominal.shape).clip(-12, 12)
    photons = plane.astype(float) * PHOTONS / np.median(plane)
    grid, tiles = np.mgrid[0:SIDE, 0:SIDE].astype(float), []
    for place in true:
        clean = ndi.map_coordinates(photons, grid + place[:, None, None], order=3)
        tiles.append(draw.poisson(clean.clip(0))[None].astype(np.float32))
    return tiles, nominal, true


def brain(data: Path) -> list[str]:
    """Errors of the places of planes cut into tiles."""
    import tifffile

    from imaxt_nb.mosaic.calibration import identity
    from imaxt_nb.mosaic.placement import links_of, place

    out = [
        f"## Planes of a brain, cut into tiles of {SIDE} x {SIDE} with {SIDE - PITCH} px overlap, stage errors of {JITTER_PX:.0f} px",
        "",
        "| plane | tiles, registered | links | median px | worst px | pulls, robust width |",
        "|---|---|---|---|---|---|",
    ]
    files = sorted(data.glob("planes_brain_2ch/*/*.tif"))[::8]
    for seed, file in enumerate(files):
        plane = tifffile.imread(file)
        for k, image in enumerate(plane if plane.ndim == 3 else [plane]):
            tiles, nominal, true = cut(image, 100 * seed + k)
            found = register_tiles(tiles, nominal, identity((SIDE, SIDE)), 24)
            p = place(links_of(found, found.accepted), nominal, JITTER_PX)
            frame = p.island == 0
            miss = p.position - true
            miss -= np.median(miss[frame], axis=0)
            error, pulls = np.hypot(*miss[frame].T), (miss / p.error)[frame].ravel()
            name = f"{file.parent.name} {file.stem[-4:]}" + (f", {k}" if plane.ndim == 3 else "")
            out.append(
                f"| {name} | {len(tiles)}, {int(frame.sum())} | {int(found.accepted.sum())} of {len(found.pairs)} | {np.median(error):.3f} | "
                f"{error.max():.3f} | {1.4826 * np.median(np.abs(pulls)):.2f} |"
            )
    return out


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tma-only", action="store_true")
    a = parser.parse_args()
    lines = ["# Places of tiles of real images", "", "`python benchmarks/stitching_real.py`", ""]
    lines += tma(a.data)
    if not a.tma_only:
        lines += ["", *brain(a.data)]
    print("\n".join(lines))
    (Path(__file__).parent / "results_stitching_real.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
