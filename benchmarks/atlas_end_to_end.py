"""From TissueCyte files, shuffled slides and IMC regions to one atlas by the commands alone, and how far it is from the truth.

    python benchmarks/atlas_end_to_end.py OUT [--sections 8] [--grid 3] [--tile-px 640] [--seed 100] [--regions 2] [--out FILE]

OUT must not exist; it becomes a site with data, runs and the simulated files. Every step is an `imaxt` command of its own, as typed by a person. Errors
are distances from where the simulation put things, in the frame of the block; the sample's frame differs from it by one shift, which the beads of the
sections tell (its origin is a matter of convention) and which is taken away. The tiles of
the sections have a stage error of 1.5 um and no distortion: what is measured here is what comes after the mosaic.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from imaxt_nb.beads.tracks import common_shift
from imaxt_nb.federation.affine import apply
from imaxt_nb.federation.slide_beads import aligned_beads
from imaxt_nb.federation.slides import read_transforms
from imaxt_nb.mosaic.distortion import read_distortion
from imaxt_nb.sample.store import Sample
from imaxt_nb.simulate.axioscan import Scanner
from imaxt_nb.simulate.glass import Glass
from imaxt_nb.simulate.slides import Box, simulate_slides
from imaxt_nb.simulate.stpt import simulate_stpt

STEPS = (
    "convert stpt {stpt} --sample TT1",
    "run stpt/calibrate --sample TT1",
    "run stpt/mosaic --sample TT1",
    "run stpt/beads --sample TT1",
    "run stpt/align --sample TT1",
    "convert axioscan {slides}/axioscan --sample TT1",
    "run axioscan/mosaic --sample TT1",
    "run federation/axioscan --sample TT1",
    "convert imc {slides}/imc --sample TT1",
    "run imc/segment --sample TT1 -p nuclear_channel=Ir191 -p membrane_channels=panCK,ECadherin,CD45,Vimentin",
    "run federation/imc --sample TT1 -p pixels=never",  # for comparison: beads alone
    "run federation/imc --sample TT1",
    "run federation/atlas --sample TT1",
)
BEADS_ALONE = "sample_beads_alone.json"  # the document after federation/imc without pixels


def simulate(out, args):
    """The block's files."""
    few = {"beads_per_mm3": 90.0, "tissue": 0.5}
    simulate_stpt(
        out / "stpt", overlap=0.15, stage_error_um=1.5, distortion_um=0.0, sections=args.sections, grid=(args.grid, args.grid), channels=4, tile_px=args.tile_px,
        pixel_um=2.0, seed=args.seed, block=few,
    )  # fmt: skip
    box = Box(orphans=1, twice=1, regions=args.regions, region_um=800.0)
    simulate_slides(
        out / "slides",
        out / "stpt",
        box=box,
        scanner=Scanner(pixel_um=2.0, tile_px=768),
        seed=args.seed,
    )


def run(out):
    """All commands; seconds of each."""
    own = {"DATA_ROOT": out / "data", "RUNS_ROOT": out / "runs"}
    env = os.environ | {f"IMAXT_{k}": str(v) for k, v in own.items()}
    program, spent = Path(sys.executable).with_name("imaxt"), []
    for step in STEPS:
        words = step.format(stpt=out / "stpt", slides=out / "slides").split()
        began = time.monotonic()
        done = subprocess.run(
            [program, *words], env=env, capture_output=True, text=True, check=False
        )
        spent.append((" ".join(words[:2]), time.monotonic() - began))
        for line in (done.stdout + done.stderr).splitlines():
            if "warning" in line and "federation" in line:
                print("   ", line)
        if done.returncode:
            sys.exit(f"{step}\n{done.stdout}\n{done.stderr}")
        if "pixels=never" in step:
            shutil.copy(out / "data" / "TT1" / "sample.json", out / BEADS_ALONE)
        print(f"{spent[-1][1]:6.1f} s  imaxt {step}", flush=True)
    return spent


def gauge(sample, out):
    """(x, y) shift of the sample's frame against the block's, and of depth, um."""
    beads = aligned_beads(sample.table("beads"), sample.table("sections"))
    truth = pd.read_parquet(out / "stpt" / "truth" / "beads.parquet")
    planes = pd.read_parquet(out / "stpt" / "truth" / "sections.parquet")
    at, true = beads[["x_um", "y_um"]].to_numpy(), truth[["x_um", "y_um"]].to_numpy()
    guess = np.median(at, axis=0) - np.median(true, axis=0)
    shift = guess + common_shift(true, at - guess, 500.0)[0]
    for reach in (20.0, 5.0):
        gap, which = cKDTree(true).query(at - shift, distance_upper_bound=reach)
        near = np.isfinite(gap)
        shift = np.median(at[near] - true[which[near]], axis=0)
    sections = sample.table("sections").merge(
        planes, on=["section", "plane"], suffixes=("", "_true")
    )
    left = at[near] - shift - true[which[near]]
    print(f"beads of sections: off by {np.median(np.hypot(*left.T)):.2f} um (median)")
    return np.append(shift, (sections.z_um - sections.z_um_true).median())


def judge_slides(sample, out, shift):
    """A line a slide that should have a place; true beads through the transform."""
    slides = pd.read_parquet(out / "slides" / "truth" / "slides.parquet").set_index("slide")
    beads = pd.read_parquet(out / "slides" / "truth" / "beads.parquet")
    found, rows = read_transforms(sample, "axioscan"), []
    table = sample.table("slides_axioscan").set_index("slide")
    for name, row in slides.iterrows():
        made = {
            "slide": name,
            "slice": row.slice,
            "status": table.status[name],
            "section": table.section[name],
            "same": table.same_section[name],
        }
        if name in found:
            t, own = found[name], beads[(beads.slide == name) & (beads.bead_id > 0)]
            origin = np.array(sample.image(f"axioscan_{name}").attrs["imaxt"]["origin_um"][::-1])
            at = t.to_sample(own[["slide_x_um", "slide_y_um"]].to_numpy() - origin) - shift
            off = np.hypot(*(at[:, :2] - own[["x_um", "y_um"]].to_numpy()).T)
            made |= {
                "off_um": np.median(off),
                "off_p95_um": np.percentile(off, 95),
                "said_um": t.error_um,
            }
            made |= {"z_off_um": t.z_um - shift[2] - row.z_um, "z_err_um": t.z_err_um}
        rows.append(made)
    return pd.DataFrame(rows)


def judge_cells(sample, out, shift):
    """Errors of the atlas' IMC cells: each is the true cell whose place on the region it has, within 3 um."""
    atlas = sample.table("atlas_cells")
    regions = pd.read_parquet(out / "slides" / "truth" / "regions.parquet").set_index("region")
    truth, cells = (
        pd.read_parquet(out / "slides" / "truth" / "cells.parquet"),
        sample.table("cells"),
    )
    rows = []
    for region, own in atlas[atlas.modality == "imc"].groupby("region", observed=True):
        place = regions.loc[region]
        matrix = np.array([[place[f"a{i}{j}"] for j in range(3)] for i in range(2)], float)
        here = cells[own.cell.to_numpy()].obsm["spatial"]
        on_slide = here @ matrix[:, :2].T + matrix[:, 2]
        there = truth[truth.slide == place.slide]
        gap, which = cKDTree(there[["slide_x_um", "slide_y_um"]]).query(
            on_slide, distance_upper_bound=3.0
        )
        near = np.isfinite(gap)
        off = (
            own[["x_um", "y_um", "z_um"]].to_numpy()[near]
            - shift
            - there[["x_um", "y_um", "z_um"]].to_numpy()[which[near]]
        )
        plane = np.hypot(*off[:, :2].T)
        # segmentation finds centres to about 1 um: what all cells of a region share is registration
        rows.append({
            "region": region, "cells": len(own), "matched": int(near.sum()), "off_um": np.median(plane), "common_um": np.hypot(*np.median(off[:, :2], axis=0)),
            "z_rms_um": np.sqrt(np.mean(off[:, 2] ** 2)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def in_section(sample, out, section, points):
    """Where the mosaic of a section, moved as aligned, has block points (n, 2): as its nearest tile was placed and undistorted."""
    truth = pd.read_parquet(out / "stpt" / "truth" / "tiles.parquet")
    params = json.loads((out / "stpt" / "truth" / "params.json").read_text())
    tiles = sample.table("tiles").merge(
        truth, on=["section", "plane", "tile"], suffixes=("", "_true")
    )
    tiles = tiles[tiles.section == section]
    moved = pd.read_parquet(out / "stpt" / "truth" / "sections.parquet").set_index("section")
    at = points + moved.loc[section, ["dx_um", "dy_um"]].to_numpy(float)
    pixel, px = params["acquisition"]["pixel_um"], params["acquisition"]["tile_px"]
    true = tiles[["x_um_true", "y_um_true"]].to_numpy()
    near = cKDTree(true).query(at - px * pixel / 2)[1]
    column, row = ((at - true[near]) / pixel).T
    known = sample.path("calibration", "stpt", "distortion.json")
    if Path(known).exists():
        row, column = read_distortion(known).ideal_of_raw(row, column)
    placed = tiles[["x_um", "y_um"]].to_numpy()[near] + pixel * np.column_stack([column, row])
    found = sample.table("sections").set_index("section").loc[section, ["dx_um", "dy_um"]]
    return placed - found.to_numpy(float)


def judge_regions(sample, out, shift):
    """A line a placed region, of a lattice over it: off from the block's truth and from the section's mosaic, as used and by beads alone; and what is said."""
    truth = out / "slides" / "truth"
    slides, regions = (
        pd.read_parquet(truth / f"{n}s.parquet").set_index(n) for n in ("slide", "region")
    )
    alone = json.loads((out / BEADS_ALONE).read_text())["frames"]
    alone = {f["name"]: f["affine"] for f in (alone if isinstance(alone, list) else alone.values())}
    at = np.stack(np.meshgrid(*[np.arange(50.0, 800.0, 100.0)] * 2), -1).reshape(-1, 2)
    sections, rows = sample.table("slides_axioscan").set_index("slide").section, []
    for row in sample.table("regions_imc").query("status == 'matched'").to_dict("records"):
        name, place = row["region"], regions.loc[row["region"]]
        slide = slides.loc[place.slide]
        to_slide, on_glass = (
            np.array([[t[f"a{i}{j}"] for j in range(3)] for i in range(2)], float)
            for t in (place, slide)
        )
        glass = Glass(on_glass[:, :2], on_glass[:, 2], slide.deform_um, slide.smooth_um, slide.seed)
        block = glass.to_block(apply(to_slide, at))
        mosaic = in_section(sample, out, int(sections[row["slide"]]), block)
        made = {"region": name, "link": row["link"], "way": row["way"], "said_um": row["error_um"]}
        ways = {"": sample.frames[f"imc:{name}"].affine, "beads_": alone[f"imc:{name}"]}
        for key, affine in ways.items():
            here = apply(np.array(affine)[:2][:, [0, 1, 3]], at)
            for against, true in (("block", block + shift[:2]), ("section", mosaic)):
                made[f"{key}off_{against}_um"] = np.median(np.hypot(*(here - true).T))
        rows.append(made)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sections", type=int, default=8)
    parser.add_argument("--grid", type=int, default=3)
    parser.add_argument("--tile-px", type=int, default=640)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--regions", type=int, default=2)
    parser.add_argument("--judge", action="store_true", help="only judge what is in the folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    spent = []
    if not args.judge:
        simulate(args.folder, args)
        spent = run(args.folder)
    sample = Sample.open("TT1", str(args.folder / "data"))
    shift = gauge(sample, args.folder)
    judged = [f(sample, args.folder, shift) for f in (judge_slides, judge_regions, judge_cells)]
    text = "\n\n".join(
        t.round(2).to_string(index=False)
        for t in (*judged, sample.table("regions_imc").drop(columns="why"))
    )
    text += f"\n\nseconds: {sum(s for _, s in spent):.0f} ({', '.join(f'{n} {s:.0f}' for n, s in spent)})"
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
