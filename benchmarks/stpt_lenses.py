"""Distortion and places of samples behind lenses of many shapes (`simulate.lens.random_lens`), against their truth.

    python benchmarks/stpt_lenses.py [--seeds 100 101 102 103 104 105] [--sections 2] [--tile-px 1040] [--grid 4x4] [--published] [--out results_stpt_lenses.md]

Every seed is another block, another stage and another lens (with `--published` the published one). Bars: 0.3 px of distortion left, at most, over the field (constant
and linear parts apart, which placement takes up or scales by), pulls of registered tiles 0.8 to 1.3. Seeds below 100 are for development.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HEAD = """| seed | largest px | pure cube over mixed term, rows, columns | left, px at most (bar 0.3) | stated px | tiles | median um | worst um | pulls x, y | pulls, robust width | link's scale wrong by, in its errors: rows, columns | core-s |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def sample_of(folder: Path, seed: int, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Sample, its converted tiles, truth; settings of `simulate_stpt`."""
    from imaxt_nb.readers.stpt import convert_stpt
    from imaxt_nb.sample.store import Sample
    from imaxt_nb.sample.tiles import RawTiles
    from imaxt_nb.simulate.stpt import read_truth, simulate_stpt

    raw = folder / "raw"
    simulate_stpt(raw, channels=2, seed=seed, **settings)
    sample = Sample.create(f"lens{seed}", str(folder / "data"))
    convert_stpt(raw, sample)
    return sample, RawTiles.open(sample.path("raw", "stpt.zarr")), read_truth(raw)


def differences(d: Any, lens: Any, tile_px: int) -> tuple[float, list[float]]:
    """What is left of the distortion at most; by how many of its errors neighbours' distance is wrong, down and across."""
    r, c = (m.ravel() for m in np.meshgrid(*2 * [np.linspace(0, tile_px - 1, 65)], indexing="ij"))
    wrong = (d.displacement(r, c) - np.stack(lens.displacement(r, c))).T
    plane = np.stack([np.ones_like(r), r / tile_px, c / tile_px], axis=1)
    left = wrong - plane @ np.linalg.lstsq(plane, wrong, rcond=None)[0]
    scales = []
    for k, offset in enumerate(np.diag([0.9 * tile_px] * 2)):
        shared = [np.linspace(o, tile_px - 1, 9) for o in offset]
        q = np.stack([m.ravel() for m in np.meshgrid(*shared, indexing="ij")])
        mine, true = (
            f(*q)[k] - f(*(q - offset[:, None]))[k] for f in (d.displacement, lens.displacement)
        )
        sd = float(np.sqrt(np.square(d.common_modes(offset)[k]).sum()))
        scales.append(float((mine - true).mean()) / sd)
    return float(np.hypot(*left.T).max()), scales


def pulls_of(table: Any, truth: Any) -> tuple[Any, Any]:
    """Distances (n,) um of registered tiles after one shift of each section, pulls (n, 2)."""
    key = ["section", "plane", "row", "column"]
    true = truth.tiles.rename(columns={"x_um": "tx", "y_um": "ty"})[[*key, "tx", "ty"]]
    both = table.merge(true, on=key)
    both = both[both.status == "registered"]
    far, pulls = [], []
    for _, t in both.groupby("section"):
        d = t[["x_um", "y_um"]].to_numpy() - t[["tx", "ty"]].to_numpy()
        d -= np.median(d, axis=0)
        far.append(np.hypot(*d.T))
        pulls.append(d / t[["x_err_um", "y_err_um"]].to_numpy())
    return np.concatenate(far), np.concatenate(pulls)


def width(pulls: Any) -> float:
    return 1.4826 * float(np.median(np.abs(pulls)))


def measure(seed: int, settings: dict[str, Any], workers: int) -> dict[str, Any]:
    from imaxt_nb.mosaic.calibrate import calibrate_sample
    from imaxt_nb.mosaic.calibrate_choice import CalibrateParameters
    from imaxt_nb.mosaic.positions import PlaceParameters, place_sample

    with tempfile.TemporaryDirectory() as folder:
        sample, raw, truth = sample_of(Path(folder), seed, settings)
        start = time.process_time()
        report = calibrate_sample(sample, raw, CalibrateParameters(), workers=workers)
        table = place_sample(sample, raw, report.calibration, PlaceParameters())
        seconds = time.process_time() - start
    t = truth.lens
    row = {"seed": seed, "largest": t.largest_px, "s": seconds}
    row["pure"] = [t.rows[1] / t.rows[0], t.columns[1] / t.columns[0]]
    row["far"], row["pulls"] = pulls_of(table, truth)
    if report.fit is None:
        return row | {"left": np.nan, "scales": [np.nan, np.nan], "stated": np.nan}
    left, scales = differences(report.fit.distortion, t, settings["tile_px"])
    return row | {"left": left, "scales": scales, "stated": report.fit.predicted_error_px}


def line(r: dict[str, Any]) -> str:
    x, y = r["pulls"].T
    return (
        f"| {r['seed']} | {r['largest']:.1f} | {r['pure'][0]:.2f}, {r['pure'][1]:.2f} | {r['left']:.3f} | {r['stated']:.3f} | {len(x)} "
        f"| {np.median(r['far']):.3f} | {r['far'].max():.2f} | {width(x):.2f}, {width(y):.2f} | {width(r['pulls']):.2f} "
        f"| {r['scales'][0]:+.2f}, {r['scales'][1]:+.2f} | {r['s']:.0f} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(100, 106)))
    parser.add_argument("--sections", type=int, default=2)
    parser.add_argument("--published", action="store_true", help="the published lens for all")
    parser.add_argument("--tile-px", type=int, default=1040)
    parser.add_argument("--grid", default="4x4")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results_stpt_lenses.md"
    )
    told = parser.parse_args()
    rows, columns = (int(n) for n in told.grid.split("x"))
    found = []
    for seed in told.seeds:
        settings = {"sections": told.sections, "grid": (rows, columns), "tile_px": told.tile_px}
        settings |= {"lens_seed": None if told.published else seed}
        found.append(measure(seed, settings, told.workers))
        print(line(found[-1]), end="", flush=True)
    pulls, scales = (
        np.concatenate([r["pulls"] for r in found]),
        np.array([r["scales"] for r in found]),
    )
    text = HEAD + "".join(line(r) for r in found)
    text += (
        f"\nAll {len(found)} together: pulls of {len(pulls)} tiles {width(pulls):.2f} (robust width; 68 % are within "
        f"{np.quantile(np.abs(pulls), 0.68):.2f}); of the {scales.size} scales of links {np.sqrt(np.nanmean(scales**2)):.2f} r.m.s.; "
        f"left of the distortion {np.nanmax([r['left'] for r in found]):.3f} px at most.\n"
    )
    told.out.write_text(
        f"# Lenses of many shapes\n\n`python benchmarks/stpt_lenses.py --seeds {' '.join(map(str, told.seeds))} --sections {told.sections} --tile-px {told.tile_px} --grid {told.grid}`: "
        f"2 channels.\n\n{text}"
    )
    print(text.splitlines()[-1])


if __name__ == "__main__":
    main()
