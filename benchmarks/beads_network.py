"""What proposes beads, network or classical: where beads are hard to tell, after the fit; seeds that nothing was trained or tuned on.

    python benchmarks/beads_network.py [--seeds 3] [--first 100] [--weights beads] [--only network] [--figure FILE] [--out FILE]

Scenes of 1.5 mm at 1.5 um a pixel, of the simulator's physics: beads in bright tissue and against it, among fragments of their size, touching, and faint. Truth: beads
whose optical section has a radius of 14 um and more, with their whole disc in the scene. A detection counts as right within 10 um of a bead's centre.
Costs are CPU seconds of proposing and of fitting, compiled and loaded before.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from imaxt_nb.beads.camera import estimate_camera
from imaxt_nb.beads.catalogue import fit_plane, flag_unlike
from imaxt_nb.beads.detect import find_candidates
from imaxt_nb.beads.model import Optics
from imaxt_nb.beads.network import network_candidates
from imaxt_nb.beads.profile import RadiusPrior
from imaxt_nb.beads.sample import BeadParameters
from imaxt_nb.core.compute import rng
from imaxt_nb.simulate.bead_profile import OpticalSection
from imaxt_nb.simulate.bead_views import apart, disc_radius
from imaxt_nb.simulate.block import Beads, Block, outline
from imaxt_nb.simulate.slab import PixelPlaces, emission, maps

SIDE, PIXEL, REACH_UM = 1024, 1.5, 10.0
# tissue's width, whether beads may lie in it, debris and beads per mm3, part of beads with a touching neighbour, brightness, channel
SCENES = {
    "bright tissue": (0.8, True, 10.0, 350.0, 0.0, 0.5, "autofluorescence"),
    "at the tissue": (0.6, False, 10.0, 350.0, 0.0, 0.5, "autofluorescence"),
    "fragments": (0.4, False, 200.0, 300.0, 0.0, 0.5, "beads"),
    "touching": (0.4, False, 10.0, 300.0, 0.8, 0.5, "beads"),
    "faint": (0.6, False, 20.0, 350.0, 0.1, 0.05, "beads"),
}


def spheres(size, per_mm3, touching, layer, seed):
    """Centres (n, 3) and radii that don't overlap, some with a neighbour at their side."""
    draw, z = rng(seed, "spheres"), layer.surface_um + layer.depth_um
    n = draw.poisson(per_mm3 * 1e-9 * size**2 * 140)
    at = np.column_stack([draw.uniform(0, size, (n, 2)), z + draw.uniform(-70, 70, n)])
    radius = np.clip(draw.normal(45, 5, n), 30, 60)
    pairs = np.flatnonzero(draw.random(n) < touching)
    other = np.clip(draw.normal(45, 5, len(pairs)), 30, 60)
    way = np.column_stack([draw.normal(size=(len(pairs), 2)), np.zeros(len(pairs))])
    way *= ((radius[pairs] + other) / np.linalg.norm(way, axis=1))[:, None]
    at, radius = np.concatenate([at, at[pairs] + way]), np.concatenate([radius, other])
    stay = apart(at, radius)
    return at[stay], radius[stay]


def scene(kind, seed):
    """(image (y, x) uint16, true beads (n, 3): x, y, radius um)."""
    width, inside, debris, per_mm3, touching, bright, channel = SCENES[kind]
    size = SIDE * PIXEL
    block = Block((size, size, 200.0), seed, width, 0.0, debris_per_mm3=debris)
    layer = OpticalSection(surface_um=60.0)
    at, radius = spheres(size, per_mm3, touching, layer, seed)
    if not inside:
        out = outline(block, at) < -0.9 * radius
        at, radius = at[out], radius[out]
    light = np.exp(0.2 * rng(seed, "bright").normal(size=len(at)))
    places = PixelPlaces.regular((SIDE, SIDE), PIXEL)
    amounts = maps(block, layer, places, np.zeros(2), beads=Beads(at, radius, light))
    amounts[:4] *= 1 - np.clip(amounts[4] / layer.transmission, 0, 1)
    photons = rng(seed, "photons").poisson(bright * emission(amounts, channel))
    top = layer.surface_um + layer.depth_um
    disc = disc_radius(at[:, 2], radius, top, top + layer.thickness_um)
    return (8 * photons).astype(np.uint16), np.column_stack([at[:, :2], disc])[disc > 0]


def detect(image, find):
    """(first guesses, catalogue, CPU s of proposing, CPU s of fitting)."""
    coarse = image.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    began = time.process_time()
    guesses = find(coarse, 2 * PIXEL)
    middle = time.process_time()
    guesses[:, :2] += PIXEL / 2
    table = fit_plane(
        image, guesses, pixel_um=(PIXEL, PIXEL), optics=Optics(), camera=estimate_camera(image[::3]), prior=RadiusPrior()
    )  # fmt: skip
    return guesses, flag_unlike(table), middle - began, time.process_time() - middle


def judge(guesses, table, beads):
    """beads, proposed, found, guesses, ok, false."""
    size = SIDE * PIXEL
    whole = ((beads[:, :2] > beads[:, 2:]) & (beads[:, :2] < size - beads[:, 2:])).all(1)
    wanted = beads[whole & (beads[:, 2] >= 14)]
    good = table[table.flag == "ok"][["x_um", "y_um"]].to_numpy()
    near = [
        int((cKDTree(p).query(wanted[:, :2])[0] < REACH_UM).sum()) if len(p) and len(wanted) else 0
        for p in (guesses[:, :2], good)
    ]
    false = int((cKDTree(beads[:, :2]).query(good)[0] >= REACH_UM).sum()) if len(good) else 0
    return len(wanted), *near, len(guesses), len(good), false


def plot(path, shown):
    """The first scene of each kind, with what each detector catalogued."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(
        2, len(shown) // 2, figsize=(3 * len(shown) // 2, 6.4), layout="constrained"
    )
    for ax, (title, image, beads, table) in zip(axes.T.ravel(), shown, strict=True):
        ax.imshow(np.sqrt(image[::2, ::2]), cmap="gray", extent=(0, SIDE * PIXEL, SIDE * PIXEL, 0))
        for x, y, r in beads:
            ax.add_patch(plt.Circle((x, y), r, fill=False, ec="cyan", lw=0.6))
        for row in table[table.flag == "ok"].itertuples():
            ax.add_patch(
                plt.Circle(
                    (row.x_um, row.y_um), 0.8 * row.radius_um, fill=False, ec="yellow", lw=0.8
                )
            )
        ax.set(title=title, xticks=[], yticks=[], xlim=(0, SIDE * PIXEL), ylim=(SIDE * PIXEL, 0))
    fig.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--weights", default="beads")
    parser.add_argument("--only", choices=("classical", "network"), help="one of the two")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    radii = BeadParameters().radii_um
    finders = {
        "classical": lambda plane, um: find_candidates(plane, um, radii_um=radii),
        "network": lambda plane, um: network_candidates(
            plane, um, radii_um=radii, weights=args.weights
        ),
    }
    finders = {n: f for n, f in finders.items() if args.only in (None, n)}
    for find in finders.values():
        detect(scene("touching", 1)[0], find)  # compiled and loaded
    rows, shown = [], []
    for kind in SCENES:
        for seed in range(args.first, args.first + args.seeds):
            image, beads = scene(kind, seed)
            for name, find in finders.items():
                guesses, table, t_find, t_fit = detect(image, find)
                rows.append(
                    (
                        kind,
                        name,
                        *judge(guesses, table, beads),
                        t_find,
                        t_fit,
                        table.snr[table.flag == "ok"].median(),
                    )
                )
                if seed == args.first:
                    shown.append((f"{kind}: {name}", image, beads, table))
    columns = [
        "scene",
        "detector",
        "beads",
        "proposed",
        "found",
        "guesses",
        "ok",
        "false",
        "t_find",
        "t_fit",
        "snr",
    ]
    table = pd.DataFrame(rows, columns=columns)
    total = table.groupby(["scene", "detector"], sort=False).agg(
        {c: "median" if c == "snr" else "sum" for c in columns[2:]}
    )
    lines = [
        "| scene | detector | S/N | beads | proposed | recall after the fit | false positives | guesses a scene | CPU s a scene: proposing, fitting |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (kind, name), t in total.iterrows():
        lines.append(
            f"| {kind} | {name} | {t.snr:.1f} | {t.beads:.0f} | {t.proposed / max(t.beads, 1):.1%} | {t.found / max(t.beads, 1):.1%} | "
            f"{t.false / max(t.ok, 1):.1%} of {t.ok:.0f} | {t.guesses / args.seeds:.0f} | {t.t_find / args.seeds:.2f}, {t.t_fit / args.seeds:.2f} |"
        )
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.figure:
        plot(args.figure, shown)


if __name__ == "__main__":
    main()
