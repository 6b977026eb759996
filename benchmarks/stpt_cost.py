"""Cost of the whole chain, from TissueCyte's TIFFs to cube and pyramid, a tile position (2080 px, 4 channels).

    python benchmarks/stpt_cost.py [--grid 4x4] [--sections 2] [--raw FOLDER] [--out FOLDER] [--repeats 3]
    python benchmarks/stpt_cost.py --memory      # peak memory of rendering 2 and 20 sections
    python benchmarks/stpt_cost.py --floor [--raw FOLDER]   # what no such chain can do without, one thread

Core-seconds are user + system time of the process with all its threads. The yardstick is a plain copy of the same TIFFs
into the same Zarr codec. Bars: 1.0 core-seconds a tile position (the paper: 100 cores x 8 h for 100 sections of 100 tiles,
288), 6 times the plain copy, 1 GB for a worker, the same for 2 and for 20 sections. Calibration is a cost a sample: it is given
for the sample at hand, and for one of 10,000 positions. On a machine with other work core-seconds of both arms grow: compare the ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TILE, CHANNELS = 2080, 4
LARGE = (
    100 * 100
)  # the paper's sample; calibration looks at `max_tiles` and `max_pairs` of any sample


class Clock:
    """Core-seconds and seconds of named stages."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        made = work()
        self.rows.append((name, time.process_time() - cpu, time.perf_counter() - wall))
        return made


def simulate(out: Path, sections: int, grid: tuple[int, int]) -> None:
    """TissueCyte files at full size (seed 100)."""
    from imaxt_nb.simulate.stpt import simulate_stpt

    simulate_stpt(out, sections=sections, grid=grid, channels=CHANNELS, tile_px=TILE, seed=100)


def plain_copy(raw: Path, out: Path) -> None:
    """Every TIFF into a Zarr array of the same codec, chunks and shards, and nothing else."""
    import tifffile
    import zarr

    from imaxt_nb.sample.pyramid import compressor

    files = sorted(raw.glob("*/*.tif"))
    array = zarr.create_array(
        str(out),
        shape=(len(files), TILE, TILE),
        chunks=(1, TILE, TILE),
        dtype="uint16",
        compressors=compressor("uint16"),
        fill_value=0,
    )
    for k, file in enumerate(files):
        array[k] = tifffile.imread(file)


def chain(raw: Path, home: Path, known: str = "") -> tuple[Clock, int, str]:
    """Convert, calibrate (unless a calibration is `known`), place, render; the positions that there are; the calibration's folder."""
    from imaxt_nb.mosaic.calibrate import CalibrateParameters, calibrate_sample
    from imaxt_nb.mosaic.calibration import load_calibration
    from imaxt_nb.mosaic.positions import PlaceParameters, place_sample
    from imaxt_nb.mosaic.render import RenderParameters, render_sample
    from imaxt_nb.readers.stpt import convert_stpt
    from imaxt_nb.sample.store import Sample
    from imaxt_nb.sample.tiles import RawTiles

    clock, sample = Clock(), Sample.create("cost", str(home))
    clock("convert", lambda: convert_stpt(raw, sample))
    tiles = RawTiles.open(sample.path("raw", "stpt.zarr"))
    folder = sample.path("calibration", "stpt")
    if known:
        shutil.copytree(known, folder, dirs_exist_ok=True)
    else:
        clock("calibrate", lambda: calibrate_sample(sample, tiles, CalibrateParameters()))
    calibration = load_calibration(folder)
    # Told, as few tiles of a small grid have tissue in their overlaps; it is found once a sample.
    places = PlaceParameters(orientation=[[0, 1], [-1, 0]])
    clock("offsets and placement", lambda: place_sample(sample, tiles, calibration, places))
    table = sample.table("tiles")
    clock(
        "render, confidence, pyramids",
        lambda: render_sample(sample, tiles, table, calibration, RenderParameters()),
    )
    return clock, len(table), folder


def cost(raw: Path, scratch: Path, repeats: int) -> None:
    """The table: each repeat with its copy, after a run that compiles; calibrated once more in the first of them."""
    chain(raw, scratch / "first")
    rows: dict[str, list[tuple[float, float]]] = {}
    known, positions = "", 1
    for k in range(repeats):
        clock, positions, folder = chain(raw, scratch / f"run{k}", known)
        known = known or folder
        clock("plain copy", partial(plain_copy, raw, scratch / f"copy{k}.zarr"))
        for name, cpu, wall in clock.rows:
            rows.setdefault(name, []).append((cpu / positions, wall))
        print(f"repeat {k + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
    print(
        f"{positions} tile positions of {CHANNELS} x {TILE} x {TILE}; {platform.machine()}, {os.cpu_count()} cores\n"
    )
    print("| stage | core-seconds a tile position | seconds in all |\n|---|---|---|")
    for name, each in rows.items():
        print(f"| {name} | {_listed([c for c, _ in each])} | {_listed([w for _, w in each], 1)} |")
    (sample,) = (cpu * positions for cpu, _ in rows.pop("calibrate"))
    copies = [cpu for cpu, _ in rows.pop("plain copy")]
    totals = [sum(cpu for cpu, _ in run) for run in zip(*rows.values(), strict=True)]
    for what, more in (
        ("without calibration", 0.0),
        ("a sample of these positions", sample / positions),
        (f"a sample of {LARGE} positions", sample / LARGE),
    ):
        print(
            f"| **whole chain, {what}** | **{_listed([t + more for t in totals])}** (bar 1.0) | |"
        )
        ratios = [(t + more) / c for t, c in zip(totals, copies, strict=True)]
        print(f"| over the plain copy of the same repeat | {_listed(ratios, 1)} x (bar 6) | |")


def floor(raw: Path, scratch: Path) -> None:
    """Core-seconds a tile position of what any chain must do once: read and digest files, pack, write, unpack, gather, pack, write."""
    from numcodecs.blosc import Blosc

    from imaxt_nb.mosaic.gather import accumulate
    from imaxt_nb.readers.tile_images import read_image

    files = sorted(raw.glob("*/*.tif"))[: 9 * CHANNELS]
    pack, parts = Blosc("lz4", 1, Blosc.BITSHUFFLE), dict.fromkeys(FLOOR, 0.0)
    flat, weight = (
        np.full((CHANNELS, TILE, TILE), 1.1, np.float32),
        np.ones((TILE, TILE), np.float32),
    )
    lattice = np.full((2, 131, 131), 0.3, np.float32)
    for k in range(0, len(files), CHANNELS):
        marks = [time.process_time()]
        images = [read_image(f)[0] for f in files[k : k + CHANNELS]]
        marks.append(time.process_time())
        packed = [pack.encode(np.ascontiguousarray(i)) for i in images]
        marks.append(time.process_time())
        (scratch / "tile").write_bytes(b"".join(packed))
        marks.append(time.process_time())
        tile = np.stack(
            [np.frombuffer(pack.decode(p), np.uint16).reshape(TILE, TILE) for p in packed]
        )
        marks.append(time.process_time())
        for top in range(0, TILE, 64):
            num, den = np.zeros((2, CHANNELS, min(64, TILE - top), TILE), np.float32)
            accumulate(tile, flat, flat, weight, lattice, 16, (top + 0.3, 0.4), 3, num, den)
        marks.append(time.process_time())
        packed = [pack.encode(i) for i in tile]
        marks.append(time.process_time())
        (scratch / "mosaic").write_bytes(b"".join(packed))
        marks.append(time.process_time())
        if k:  # the first one compiles
            parts = {n: v + d for (n, v), d in zip(parts.items(), np.diff(marks), strict=True)}
    n = len(files) // CHANNELS - 1
    print(f"load {os.getloadavg()[0]:.1f}\n\n| part | core-seconds a tile position |\n|---|---|")
    for name, spent in parts.items():
        print(f"| {name} | {spent / n:.3f} |")
    print(f"| in all | {sum(parts.values()) / n:.3f} |")


FLOOR = (
    "read files, digest, decode TIFF", "pack raw tiles", "write them", "read and unpack them",
    "gather each pixel once, with dark and flat", "pack the mosaic", "write it",
)  # fmt: skip


def _listed(values: list[float], digits: int = 3) -> str:
    return ", ".join(f"{v:.{digits}f}" for v in values)


def render_many(sections: int, home: Path) -> None:
    """Render that many sections of 3 x 3 tiles (the same pixels) with one thread; print the peak in MB."""
    import pandas as pd

    from imaxt_nb.mosaic.calibration import Calibration, load_calibration, save_calibration
    from imaxt_nb.mosaic.distortion import TERMS, polynomial
    from imaxt_nb.mosaic.render import RenderParameters, render_sample
    from imaxt_nb.sample.channels import Channel
    from imaxt_nb.sample.store import Sample
    from imaxt_nb.sample.tiles import RawTiles, TileHeader, create_tiles

    sample, shape = Sample.create("memory", str(home)), (TILE, TILE)
    image = np.random.default_rng(0).poisson(200, shape).astype(np.uint16)
    header = TileHeader(
        "stpt",
        [Channel(f"c{k}") for k in range(CHANNELS)],
        (0.5, 0.5),
        shape,
        image.dtype,
        section_step_um=15,
    )
    at = np.array([(r, c) for r in range(3) for c in range(3)])
    table = pd.DataFrame(
        {"tile": range(9), "row": at[:, 0], "column": at[:, 1], "stage_from": "file"}
    )
    table[["stage_y_um", "stage_x_um"]] = at * 0.9 * TILE * 0.5
    place = sample.path("raw", "stpt.zarr")
    with create_tiles(place, header, "key") as writer:
        for number in range(1, sections + 1):
            draft = writer.begin(number, 9)
            for tile in range(9):
                draft.put(tile, 0, [image] * CHANNELS)
            draft.commit(table, z_um=15.0 * number, notes=[], metadata={}, sources={})
        writer.finish("key", {})
    tiles = pd.concat([table.assign(section=n + 1, plane=0) for n in range(sections)])
    tiles = tiles.assign(x_um=tiles["stage_x_um"], y_um=tiles["stage_y_um"], status="registered")
    cal = np.ones((CHANNELS, *shape), np.float32)
    bent = polynomial(np.full((2, len(TERMS)), 1.0), shape)
    folder = sample.path("calibration", "stpt")
    save_calibration(folder, Calibration(cal[0], cal * 50, cal, bent))
    del cal
    whole = load_calibration(folder)  # as a step does: a dark level of one value takes no room
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    render_sample(sample, RawTiles.open(place), tiles, whole, RenderParameters())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {sections} sections of 3 x 3 tiles, {CHANNELS} channels | {after:.0f} MB | ({before:.0f} MB before rendering) |"
    )


def main() -> None:
    """Command line."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--grid", default="4x4")
    ask.add_argument("--sections", type=int, default=2)
    ask.add_argument("--raw", type=Path, help="a TissueCyte folder (default: simulated)")
    ask.add_argument("--out", type=Path, help="working folder (default: a temporary one)")
    ask.add_argument("--repeats", type=int, default=1)
    ask.add_argument("--memory", action="store_true")
    ask.add_argument("--floor", action="store_true")
    ask.add_argument("--render", type=int, help=argparse.SUPPRESS)
    a = ask.parse_args()
    os.environ.setdefault("IMAXT_DASK", "threads:1" if a.memory or a.render else "threads:2")
    with tempfile.TemporaryDirectory(dir=a.out) as scratch:
        if a.render:
            render_many(a.render, Path(scratch))
        elif a.memory:
            print("| peak of a worker (one thread) | | |\n|---|---|---|", flush=True)
            for n in (2, 20):
                subprocess.run(
                    [
                        sys.executable,
                        __file__,
                        "--render",
                        str(n),
                        *(["--out", str(a.out)] if a.out else []),
                    ],
                    check=True,
                )
        else:
            raw = a.raw or Path(scratch, "raw")
            if a.raw is None:
                rows, columns = map(int, a.grid.split("x"))
                simulate(raw, a.sections, (rows, columns))
            if a.floor:
                floor(raw, Path(scratch))
            else:
                cost(raw, Path(scratch), a.repeats)


if __name__ == "__main__":
    main()
