"""Beads on cubes, from TissueCyte files on: recall, false positives, centre errors, section shifts.

    python benchmarks/beads_detection.py --data FOLDER [--seeds 101 102] [--brightness 1.0 0.1] [--out FILE]

For each seed a block with tissue, beads and debris is simulated, converted, calibrated, mosaicked, its beads are catalogued and its sections
aligned, all by the commands that a user has. What is in FOLDER already is not made again, so that a change of the beads' steps
costs minutes. Truth: every bead whose optical section has a radius of 14 um or more (what detection looks for) and that lies
in the mosaic with its whole disc; it is where the tile that shows it was placed. A mosaic has no origin of its own, so a section's true
shift is the block's, plus the median of placed less true origins of its registered tiles, less what each tile is off by in all sections (a stretch that
sections share moves nothing between them); tiles that keep the stage's place say nothing of where their section is. Errors are against the median
of all sections, so that one that is broken counts once; pulls are against their mean, as the errors are said. `all tiles` is the former measure: the median of all tiles, errors of mean zero. Pulls of centres are of mosaics with true places and optics: of
pixel noise alone. Parameters were chosen on seeds below 100.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from imaxt_nb.beads.camera import estimate_camera
from imaxt_nb.beads.catalogue import fit_plane
from imaxt_nb.beads.profile import RadiusPrior
from imaxt_nb.beads.sample import BeadParameters, bead_channel, open_cube, planes_of
from imaxt_nb.mosaic.canvas import canvas_of, usable_extent
from imaxt_nb.mosaic.fuse import Optics, Painter, feathered, paint, plane_tiles
from imaxt_nb.sample.store import Sample
from imaxt_nb.sample.tiles import RawTiles
from imaxt_nb.simulate.detector import Detector
from imaxt_nb.simulate.stpt import read_truth, simulate_stpt

LEAST_UM, REACH_UM, SIDE_UM = 14.0, 10.0, 832.0


def imaxt(folder, *arguments):
    """A command with its data in the folder."""
    place = {"IMAXT_DATA_ROOT": str(folder / "data"), "IMAXT_RUNS_ROOT": str(folder / "runs")}
    command = [str(Path(sys.executable).with_name("imaxt")), *arguments]
    subprocess.run(command, env=os.environ | place, check=True, stdout=subprocess.DEVNULL)


def prepare(folder, seed, brightness, sections, grid):
    """The cube of a seed, unless it is there; returns the sample's name."""
    name = f"B{seed}"
    raw = folder / f"raw_{name}"
    if not (raw / "truth" / "params.json").is_file():
        block = {"beads_per_mm3": 60.0, "debris_per_mm3": 15.0}
        simulate_stpt(
            raw, sample=name, sections=sections, grid=grid, tile_px=832, pixel_um=1.0, overlap=0.1,
            detector=Detector(brightness=brightness), block=block, seed=seed,
        )  # fmt: skip
    if not (folder / "data" / name / "images" / "stpt.ome.zarr").is_dir():
        imaxt(folder, "convert", "stpt", str(raw), "--sample", name)
        imaxt(folder, "run", "stpt/calibrate", "--sample", name)
        imaxt(folder, "run", "stpt/mosaic", "--sample", name)
    return name, raw


def visible(truth, section, tiles):
    """Beads of a section (n, 3): x, y in the mosaic, where the tile whose middle is nearest shows them; projected radius."""
    optics, step = truth.params["optics"], truth.params["acquisition"]["section_step_um"]
    top = (section - 1) * step + optics["depth_um"]
    nearest = truth.beads.z_um.clip(top, top + optics["thickness_um"])
    radius = np.sqrt((truth.beads.radius_um**2 - (truth.beads.z_um - nearest) ** 2).clip(lower=0))
    shift = truth.sections.set_index("section").loc[section, ["dx_um", "dy_um"]].to_numpy(float)
    at = (truth.beads[["x_um", "y_um"]] + shift)[radius > 3].to_numpy()
    here = tiles[tiles.section == section]
    true, placed = here[["x_um_true", "y_um_true"]].to_numpy(), here[["x_um", "y_um"]].to_numpy()
    nearest = cKDTree(true).query(at - SIDE_UM / 2)[1]
    return np.column_stack([at + (placed - true)[nearest], radius[radius > 3]])


def both_tiles(sample, truth):
    """Tiles as placed and (`_true`) as they were."""
    return sample.table("tiles").merge(
        truth.tiles, on=["section", "plane", "tile"], suffixes=("", "_true")
    )


def offsets(tiles):
    """Median of placed less true tile origins (x, y), by section."""
    gap = {c: tiles[f"{c}_um"] - tiles[f"{c}_um_true"] for c in "xy"}
    return pd.DataFrame(gap).groupby(tiles.section).median()


def registered_offsets(tiles):
    """The same of registered tiles, less what each tile is off by in all sections."""
    wide = {
        c: tiles.pivot(index="section", columns="tile", values=c)
        for c in ("x_um", "y_um", "x_um_true", "y_um_true", "status")
    }
    registered, found = wide["status"] == "registered", {}
    for c in "xy":
        gap = (wide[f"{c}_um"] - wide[f"{c}_um_true"]).where(registered)
        common = gap.sub(gap.median(axis=1), axis=0).median(axis=0)
        found[c] = (gap - common).median(axis=1)
    return pd.DataFrame(found)


def score(sample, truth):
    """One row a section: true, found, false, and the matched rows with their errors."""
    table, image, rows, matched = sample.table("beads"), sample.image("stpt"), [], []
    origin, tiles = np.array(sample.frames[image.frame].affine)[:2, 3], both_tiles(sample, truth)
    size = np.array(image.data.shape[:-3:-1]) * image.pixel_um[:0:-1]
    trust = sample.image("stpt_confidence").data
    for row in planes_of(image):
        section = row["section"]
        beads = visible(truth, section, tiles)
        covered = np.asarray(trust[row["z"]]) > 0
        at = beads[:, :2] - origin
        whole = ((at > beads[:, 2:]) & (at < size - beads[:, 2:])).all(1)
        whole &= np.array(
            [
                disc_is_in(covered, *p, r, image.pixel_um)
                for p, r in zip(at, beads[:, 2], strict=True)
            ]
        )
        wanted = whole & (beads[:, 2] >= LEAST_UM)
        good = table[(table.section == section) & (table.flag == "ok")]
        distance, nearest = cKDTree(beads[:, :2]).query(good[["x_um", "y_um"]].to_numpy())
        hit = distance < REACH_UM
        found = np.isin(np.flatnonzero(wanted), nearest[hit]).sum()
        candidates = table[(table.section == section) & np.isfinite(table.x_um)]
        proposed = (
            cKDTree(candidates[["x_um", "y_um"]].to_numpy()).query(beads[wanted, :2])[0] < REACH_UM
        )
        rows.append(
            (section, wanted.sum(), found, len(good), (~hit).sum(), proposed.sum(), len(candidates))
        )
        error = good[["x_um", "y_um"]].to_numpy() - beads[nearest, :2]
        matched.append(good.assign(ex=error[:, 0], ey=error[:, 1])[hit])
    names = ["section", "beads", "found", "ok", "false", "proposed", "candidates"]
    return pd.DataFrame(rows, columns=names), pd.concat(matched)


def disc_is_in(covered, x, y, r, pixel):
    """Whether the rim of a disc lies on pixels that a tile has seen."""
    angle = np.linspace(0, 2 * np.pi, 33)
    rows = np.rint((y + r * np.sin(angle)) / pixel[-2]).astype(int)
    columns = np.rint((x + r * np.cos(angle)) / pixel[-1]).astype(int)
    inside = (rows >= 0) & (rows < covered.shape[0]) & (columns >= 0) & (columns < covered.shape[1])
    return bool(inside.all() and covered[rows, columns].all())


def shift_errors(sample, truth):
    """Found less true shift of every section, those over the error that was given, and errors by all tiles."""
    found = sample.table("sections").drop_duplicates("section").set_index("section")
    block, tiles = (
        truth.sections.set_index("section")[["dx_um", "dy_um"]],
        both_tiles(sample, truth),
    )
    shift, given = (found[[f"d{c}_{k}" for c in "xy"]].to_numpy() for k in ("um", "err_um"))
    off, former = (
        shift - block.to_numpy() - f(tiles).to_numpy() for f in (registered_offsets, offsets)
    )
    pulls = (off - np.nanmean(off, axis=0)) / given  # errors are said of shifts of mean zero
    return off - np.nanmedian(off, axis=0), pulls, former - former.mean(0)


def noise_pulls(sample, truth, p):
    """(n, 2) centre errors over given errors of beads on mosaics rendered with true places and true optics.

    What is left is the pixels' noise as the renderer hands it on: interpolated, averaged in overlaps, divided by the flat field.
    """
    raw = RawTiles.open(sample.path("raw", "stpt.zarr"))
    channel, shape = bead_channel(open_cube(sample, "stpt"), p), truth.flat.shape[1:]
    weight, lattice = np.ones(shape, np.float32), truth.lens.lattice()
    ramp = feathered(weight, 5.0)
    optics = Optics(ramp, truth.dark, truth.flat, lattice, 16, usable_extent(weight, lattice))
    tiles = truth.tiles.assign(status="registered")
    canvas = canvas_of(tiles, optics.extent, raw.pixel_um)
    pulls = []
    for number in raw.sections:
        painter = Painter(raw, (plane_tiles(tiles, number, 0, canvas),), optics, "uint16", 3)
        colours, seen = paint(painter, canvas)
        picture = np.where(seen > 0, colours[channel].astype(np.float32), np.nan)
        same = tiles.assign(x_um_true=tiles.x_um, y_um_true=tiles.y_um)
        beads = visible(truth, number, same) - [*canvas.origin_um[::-1], 0]
        size = np.array(canvas.shape[::-1]) * raw.pixel_um[0]
        inside = (
            (beads[:, :2] > beads[:, 2:] + 20) & (beads[:, :2] < size - beads[:, 2:] - 20)
        ).all(1)
        fit = fit_plane(
            picture,
            beads,
            pixel_um=(raw.pixel_um[0],) * 2,
            optics=p.optics,
            camera=estimate_camera(picture[::4]),
            prior=RadiusPrior(p.radius_um, p.radius_sd_um),
        )
        good = inside & (beads[:, 2] >= LEAST_UM) & (fit.flag == "ok").to_numpy()
        off = (fit[["x_um", "y_um"]].to_numpy() - beads[:, :2])[good]
        pulls.append(off / fit[["x_um_err", "y_um_err"]].to_numpy()[good])
    return np.concatenate(pulls)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--brightness", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--sections", type=int, default=6)
    parser.add_argument("--grid", type=int, nargs=2, default=(4, 4))
    parser.add_argument("--prepare-only", action="store_true")
    parser.add_argument("--detector")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| seed | brightness | S/N, 10 %, 50 % | beads a section | proposed | recall | false positives | centre scatter x, y (um) | "
        "median error given (um) | shifts: median, largest error (um) | pulls of shifts: width, robust | all tiles: median, largest (um) | pulls of centres: x, y |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, brightness in zip(args.seeds, args.brightness, strict=True):
        name, raw = prepare(args.data, seed, brightness, args.sections, tuple(args.grid))
        if args.prepare_only:
            continue
        detector = [] if args.detector is None else ["-p", f"detector={args.detector}"]
        imaxt(args.data, "run", "stpt/beads", "--sample", name, *detector)
        imaxt(args.data, "run", "stpt/align", "--sample", name)
        sample, truth = Sample.open(name, str(args.data / "data")), read_truth(raw)
        rows, matched = score(sample, truth)
        print(rows.to_string(index=False), flush=True)
        total = rows.sum()
        error = matched[["ex", "ey"]] - matched.groupby("section")[["ex", "ey"]].transform("median")
        scatter = 1.4826 * error.abs().median()
        given = np.median(matched[["x_um_err", "y_um_err"]].to_numpy())
        off, pulls, former = shift_errors(sample, truth)
        print(np.round(off, 3).tolist(), np.round(pulls, 2).tolist(), flush=True)
        size, old, noise = (
            np.hypot(*off.T),
            np.hypot(*former.T),
            noise_pulls(sample, truth, BeadParameters()).std(0),
        )
        snr = np.percentile(matched.snr, [10, 50])
        lines.append(
            f"| {seed} | {brightness:g} | {snr[0]:.1f}, {snr[1]:.1f} | {total.beads / len(rows):.0f} | "
            f"{total.proposed / total.beads:.1%} of {total.candidates:.0f} | "
            f"{total.found / total.beads:.1%} of {total.beads:.0f} | {total.false / total.ok:.1%} of {total.ok:.0f} | "
            f"{scatter.ex:.3f}, {scatter.ey:.3f} | {given:.3f} | {np.median(size):.3f}, {size.max():.3f} | "
            f"{pulls.std():.2f}, {1.4826 * np.median(abs(pulls)):.2f} | {np.median(old):.3f}, {old.max():.3f} | {noise[0]:.2f}, {noise[1]:.2f} |"
        )
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
