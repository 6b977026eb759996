"""Slides to sections from bead catalogues: right sections, orphans, registration error, time (paper, Figs 19 and 21).

    python benchmarks/federation.py [--blocks 5] [--slides 40] [--seed 100] [--figure FILE] [--out FILE]

Catalogues are those of `simulate.catalogues`: a block of 10 x 10 x 1.5 mm with 100 sections of 15 um; slices 15 um thick with any rotation,
either face up, 1 % scale and shear, local deformation, 30 % of the beads missing, 10 % spurious. Orphans: slices of another
block, and slices cut 30 um and more before the first section. Parameters were chosen on seeds below 100.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from imaxt_nb.core.compute import rng
from imaxt_nb.federation.affine import apply
from imaxt_nb.federation.sections import match_slide
from imaxt_nb.federation.stack import stack_sections
from imaxt_nb.federation.warp import fit_warp
from imaxt_nb.simulate.catalogues import (
    Handling,
    bead_population,
    section_catalogues,
    simulate_slide,
)

STEP, SLICE, OPTICAL = 15.0, 15.0, 4.0
OFFSET = (
    SLICE - OPTICAL
) / 2  # the middle of a slice below the middle of its section's optical plane


def true_section(z):
    """The section with which the slice from z on is cut."""
    return round(z / STEP) + 1


def one(block, stack, z, seed, deform):
    """A slide's figures."""
    slide = simulate_slide(block, z, handling=Handling(deform_um=deform), seed=seed)
    began = time.process_time()
    match = match_slide(slide.beads, stack, offset_um=OFFSET)
    spent = time.process_time() - began
    row = {"status": match.status, "section": match.section, "true": true_section(z), "s": spent}
    row |= {"beads": len(slide.beads), "z_off": np.nan}
    if match.fit is not None and match.status == "matched":
        real = slide.beads[slide.beads.bead_id >= 0]
        at = real[["x_um", "y_um"]].to_numpy()
        truth = block.set_index("bead_id").loc[real.bead_id, ["x_um", "y_um"]].to_numpy()
        mapped = apply(match.fit.matrix, at)
        points, targets = (
            slide.beads[["x_um", "y_um"]].to_numpy()[match.pairs[:, 0]],
            stack.points[match.pairs[:, 1]],
        )
        warp = fit_warp(apply(match.fit.matrix, points), targets)
        row["affine"] = np.median(np.hypot(*(mapped - truth).T))
        row["affine_loo"] = match.error_um
        row["warped_loo"] = warp.error_um
        row["warped"] = np.median(np.hypot(*(mapped + warp.at(mapped)[0] - truth).T))
        row["z_off"] = match.z_um - (z + OFFSET)
        row["z_err"] = match.z_err_um
        row["loo"] = np.hypot(*warp.leave_one_out.T)
    return row


def block_of(seed, per_mm3):
    """Beads and their searchable sections."""
    beads = bead_population(seed=seed, per_mm3=per_mm3)
    return beads, stack_sections(section_catalogues(beads, 100, seed=seed))


def run(args, per_mm3, deform):
    """Rows of slides, of strangers, of slices before the first section."""
    slides, strangers, before = [], [], []
    for b in range(args.blocks):
        seed = args.seed + b
        beads, stack = block_of(seed, per_mm3)
        other = bead_population(seed=seed + 1000, per_mm3=per_mm3)
        random = rng(seed, "slides")
        for k in range(args.slides):
            z = STEP * int(random.integers(0, 99))
            slides.append(one(beads, stack, z, 1000 * seed + k, deform))
            if k % 2 == 0:
                strangers.append(one(other, stack, z, 1000 * seed + k, deform))
            if k % 4 == 0:
                before.append(
                    one(beads, stack, -random.uniform(30, 60) - SLICE / 2, 1000 * seed + k, deform)
                )
    return slides, strangers, before


def figure(rows, path):
    """Cumulative distribution of the leave-one-bead-out error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(5, 3.2))
    for name, slides in rows.items():
        errors = np.sort(np.concatenate([r["loo"] for r in slides if "loo" in r]))
        errors = errors[np.isfinite(errors)]
        ax.plot(errors, np.linspace(0, 1, len(errors)), label=name)
    ax.set(xlabel="leave-one-bead-out error (µm)", ylabel="part of the beads", xlim=(0, 15))
    ax.legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=80)


def line(name, slides, strangers, before):
    """A row of the table."""
    right = np.mean([r["status"] == "matched" and r["section"] == r["true"] for r in slides])
    named = np.mean([r["status"] == "orphan" for r in strangers])
    early = np.mean([r["status"] == "orphan" for r in before])
    got = [r for r in slides if "affine" in r]
    med = {
        k: np.median([r[k] for r in got])
        for k in ("affine", "affine_loo", "warped", "warped_loo", "s", "beads")
    }
    pull = np.std([r["z_off"] / r["z_err"] for r in got])
    z = np.sqrt(np.mean([r["z_off"] ** 2 for r in got]))
    return (
        f"| {name} | {med['beads']:.0f} | {right:.1%} | {named:.1%} | {early:.1%} | {z:.1f} | {pull:.2f} | {med['affine']:.2f} | "
        f"{med['affine_loo']:.2f} | {med['warped']:.2f} | {med['warped_loo']:.2f} | {med['s']:.2f} | {max(r['s'] for r in slides):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument(
        "--cases", nargs="*", default=["25:5", "25:0", "8:5"], help="beads a mm3 : deformation um"
    )
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| beads/mm3, deformation um | beads a slide | right section | strangers named | cut before named | z error um | z pulls | "
        "affine: error um | affine: left out | warped: error um | warped: left out | CPU s a slide | most |",
        "|" + "---|" * 13,
    ]
    curves = {}
    for case in args.cases:
        density, deform = map(float, case.split(":"))
        slides, strangers, before = run(args, density, deform)
        lines.append(line(case.replace(":", ", "), slides, strangers, before))
        print(lines[-1], flush=True)
        wrong = [r for r in slides if r["section"] != r["true"]]
        print("  wrong:", [(r["status"], r["section"], r["true"], r["beads"]) for r in wrong][:12])
        curves[f"{density:g} beads/mm³, deformed by {deform:g} µm"] = slides
    text = "\n".join(lines) + f"\n\n{args.blocks * args.slides} slides a row."
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.figure:
        figure(curves, args.figure)


if __name__ == "__main__":
    main()
