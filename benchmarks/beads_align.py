"""Error of slice-to-slice alignment against the number of beads in a section (paper, Fig. 16).

    python benchmarks/beads_align.py [--blocks 5] [--seed 100] [--figure FILE] [--out FILE]

100 sections of 15 um that jump by 3 um and drift by 0.5 um a section, and, for six parameters, stretch and shear by 0.1 %. Centres have
errors of 0.1 um (a good S/N) or 0.5 um (a bad one) plus 0.3 um (cutting, stitching) that the errors don't tell; 10 % of the beads are missing, 5 % spurious.
Errors are distances from the truth, the mean over sections taken out; for six parameters at the beads, over all sections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from imaxt_nb.beads.align import align_sections
from imaxt_nb.beads.tracks import find_tracks
from imaxt_nb.core.compute import rng
from imaxt_nb.simulate.catalogues import Seeing, bead_population, section_catalogues

SECTIONS, STEP = 100, 15.0


def one(beads_per_section, error, seed):
    """(errors of shifts, pulls, errors of six parameters at the beads, beads a section)."""
    size = 8000.0
    per_mm3 = beads_per_section / (0.87 * size**2 * 82) * 1e9
    block = bead_population((size, size, SECTIONS * STEP), per_mm3=per_mm3, hole=0.4, seed=seed)
    random = rng(seed, "align")
    shifts = np.cumsum(random.normal((0, 0.5), 3, (SECTIONS, 2)), 0)
    table = section_catalogues(
        block,
        SECTIONS,
        shifts_um=shifts,
        seeing=Seeing(np.hypot(error, 0.3), missing=0.1, spurious=0.05),
        seed=seed,
    ).assign(x_um_err=error, y_um_err=error)
    z = {s + 1: s * STEP for s in range(SECTIONS)}
    found = align_sections(table, find_tracks(table), z)
    off = found.shift - shifts + shifts.mean(0)
    strain = random.normal(0, 0.001, (SECTIONS, 2, 2))
    middle, k = np.array([size / 2, size / 2]), table.section.to_numpy() - 1
    at = table[["x_um", "y_um"]].to_numpy()
    flat = at - shifts[k]
    bent = table.copy()
    bent[["x_um", "y_um"]] = at + np.einsum("nij,nj->ni", strain[k], flat - middle)
    six = align_sections(bent, find_tracks(bent, reach_um=25), z, parameters=6)
    real = table.bead_id.to_numpy() >= 0
    frame = six.to_frame(bent.section.to_numpy(), bent[["x_um", "y_um"]].to_numpy())[real]
    gap = frame - flat[real]
    design = np.column_stack([flat[real] - middle, np.ones(len(gap))])
    gap = gap - design @ np.linalg.lstsq(design, gap, rcond=None)[0]  # the frame itself is free
    per = np.array([np.median(np.hypot(*gap[k[real] == s].T)) for s in np.unique(k[real])])
    return np.hypot(*off.T), (off / found.error).ravel(), per, len(table) / SECTIONS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| beads a section | error of centres um | shifts: median error um | largest | width of pulls | six parameters: median error um |",
        "|---|---|---|---|---|---|",
    ]
    curves: dict = {}
    for error in (0.1, 0.5):
        for wanted in (5, 10, 20, 50, 100, 300):
            rows = [one(wanted, error, args.seed + b) for b in range(args.blocks)]
            off, pulls, six = (np.concatenate([r[k] for r in rows]) for k in (0, 1, 2))
            n = np.mean([r[3] for r in rows])
            lines.append(
                f"| {n:.0f} | {error:g} | {np.median(off):.3f} | {off.max():.2f} | {pulls.std():.2f} | {np.median(six):.2f} |"
            )
            print(lines[-1], flush=True)
            curves.setdefault(error, []).append((n, np.median(off), np.median(six)))
    text = "\n".join(lines) + f"\n\n{args.blocks} blocks of {SECTIONS} sections a row."
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.figure:
        figure(curves, args.figure)


def figure(curves, path):
    """Error against beads a section."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5, 3.2))
    for error, rows in curves.items():
        n, shift, six = np.array(rows).T
        line = ax.loglog(n, shift, "o-", label=f"shifts, centres to {error:g} µm")[0]
        ax.loglog(n, six, "s--", color=line.get_color(), label=f"six parameters, {error:g} µm")
    ax.set(xlabel="beads a section", ylabel="median error (µm)")
    ax.legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
