"""Slides to sections from bead catalogues: right sections, orphans, registration error, time (paper, Figs 19 and 21).

    python benchmarks/federation.py [--blocks 5] [--slides 40] [--seed 100] [--figure FILE] [--out FILE]

Catalogues are those of `simulate.catalogues`: a block of 10 x 10 x 1.5 mm with 100 sections of 15 um; slices 15 um thick with any rotation,
either face up, 1 % scale and shear, local deformation, 30 % of the beads missing, 10 % spurious. Orphans: slices of another
block, and slices cut 30 um and more before the first section. The slides of a block go through the step's own path, `federation.slides.federate`, as
one box: the offset of slices and sections is not told. Parameters were chosen on seeds below 100.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from imaxt_nb.beads.catalogue import spheres
from imaxt_nb.beads.tracks import find_tracks
from imaxt_nb.core.compute import rng
from imaxt_nb.federation.affine import apply
from imaxt_nb.federation.slides import federate
from imaxt_nb.federation.stack import stack_sections
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


def oracle(at, truth):
    """Median distance that the best affine leaves: least squares on the true places of the slide's beads, which nobody has."""
    design = np.column_stack([at, np.ones(len(at))])
    return np.median(np.hypot(*(truth - design @ np.linalg.lstsq(design, truth)[0]).T))


def figures(block, slide, name, f, z):
    """A slide's figures."""
    match = f.matches[name]
    row = {"status": match.status, "section": match.section, "true": true_section(z)}
    row |= {"beads": len(slide.beads), "z_off": np.nan}
    if name in f.transforms:
        real = slide.beads[slide.beads.bead_id >= 0]
        at = real[["x_um", "y_um"]].to_numpy()
        truth = block.set_index("bead_id").loc[real.bead_id, ["x_um", "y_um"]].to_numpy()
        t, pairs = f.transforms[name], f.pairs[f.pairs.slide == name]
        row["affine"] = np.median(np.hypot(*(apply(t.matrix, at) - truth).T))
        row["affine_loo"], row["oracle"] = t.fit.error_um, oracle(at, truth)
        row["used"] = np.median(np.hypot(*(t.plane(at) - truth).T))
        row["used_loo"], row["warped"] = t.error_um, t.warp is not None
        table = f.table.set_index("slide").loc[name]
        row["z_votes"] = table.z_votes_um - (z + OFFSET)
        row["z_off"], row["z_err"] = t.z_um - (z + OFFSET), t.z_err_um
        row["loo"] = pairs.loo_um.to_numpy()
    return row


def block_of(seed, per_mm3):
    """Beads and their searchable sections, with the spheres that `stpt/beads` would find."""
    beads = bead_population(seed=seed, per_mm3=per_mm3)
    sections = section_catalogues(beads, 100, seed=seed)
    track = find_tracks(sections)
    found = spheres(sections, track).set_index("track_id").reindex(track)
    names = ["z_um", "z_um_err", "radius_um", "radius_um_err"]
    sections[[f"sphere_{n}" for n in names]] = found[names].to_numpy()
    return beads, stack_sections(sections)


def run(args, per_mm3, deform):
    """Rows of slides, of strangers, of slices before the first section; CPU seconds a slide; every block's box goes through the step at once."""
    slides, strangers, before, spent = [], [], [], []
    handling = Handling(deform_um=deform)
    for b in range(args.blocks):
        seed = args.seed + b
        beads, stack = block_of(seed, per_mm3)
        other = bead_population(seed=seed + 1000, per_mm3=per_mm3)
        random, box, depth = rng(seed, "slides"), {}, {}
        for k in range(args.slides):
            z, own = STEP * int(random.integers(0, 99)), 1000 * seed + k
            box[f"slide{k}"], depth[f"slide{k}"] = (
                simulate_slide(beads, z, handling=handling, seed=own),
                z,
            )
            if k % 2 == 0:
                box[f"other{k}"], depth[f"other{k}"] = (
                    simulate_slide(other, z, handling=handling, seed=own),
                    z,
                )
            if k % 4 == 0:
                early = -random.uniform(30, 60) - SLICE / 2
                box[f"early{k}"], depth[f"early{k}"] = (
                    simulate_slide(beads, early, handling=handling, seed=own),
                    early,
                )
        began = time.process_time()
        f = federate({name: s.beads for name, s in box.items()}, stack)
        spent.append((time.process_time() - began) / len(box))
        print(
            f"  block {b}: offset {f.offset.offset_um:.2f} +- {f.offset.error_um:.2f} um, {f.offset.how}",
            flush=True,
        )
        for name, slide in box.items():
            rows = {"s": slides, "o": strangers, "e": before}[name[0]]
            rows.append(figures(beads, slide, name, f, depth[name]))
    return slides, strangers, before, spent


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


def line(name, slides, strangers, before, spent):
    """A row of the table."""
    right = np.mean([r["status"] == "matched" and r["section"] == r["true"] for r in slides])
    named = np.mean([r["status"] == "orphan" for r in strangers])
    early = np.mean([r["status"] == "orphan" for r in before])
    got = [r for r in slides if "affine" in r]
    med = {
        k: np.median([r[k] for r in got])
        for k in ("affine", "oracle", "affine_loo", "used", "used_loo", "beads")
    }
    pull = np.std([r["z_off"] / r["z_err"] for r in got])
    z, votes = (np.sqrt(np.mean([r[k] ** 2 for r in got])) for k in ("z_off", "z_votes"))
    warped = np.mean([r["warped"] for r in got])
    return (
        f"| {name} | {med['beads']:.0f} | {right:.1%} | {named:.1%} | {early:.1%} | {votes:.1f} | {z:.2f} | {pull:.2f} | {med['affine']:.2f} | {med['oracle']:.2f} | "
        f"{med['affine_loo']:.2f} | {warped:.0%} | {med['used']:.2f} | {med['used_loo']:.2f} | {np.mean(spent):.2f} |"
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
        "| beads/mm3, deformation um | beads a slide | right section | strangers named | cut before named | z of votes: error um | z: error um | z: pulls | "
        "affine: error um | the best affine (least squares on the truth): um | affine: left out | with local deformation | used: error um | used: left out | CPU s a slide |",
        "|" + "---|" * 15,
    ]
    curves = {}
    for case in args.cases:
        density, deform = map(float, case.split(":"))
        slides, strangers, before, spent = run(args, density, deform)
        lines.append(line(case.replace(":", ", "), slides, strangers, before, spent))
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
