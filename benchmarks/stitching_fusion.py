"""Fusion to disk at known positions: pixels per second and core, ours and ASHLAR's, on the same tiles in the same run.

Ours reads compressed raw tiles and writes a compressed Zarr with its pyramid, and the confidence with its own; ASHLAR
gets its tiles in memory and writes its pyramidal OME-TIFF. Bar: 4 times ASHLAR's pixels per second and core.

    python benchmarks/stitching_fusion.py [--ashlar PYTHON] [--seed 100] [--out FOLDER]

Without `--ashlar` an environment for it is made with uv. The generator is ../shared/prototypes/stitching/make_data.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
GENERATOR = ROOT.parent / "shared" / "prototypes" / "stitching" / "make_data.py"
VERSION, REPEATS = "1.20.0", 3

PEER = """
import json, sys, time
import numpy as np
from ashlar import reg, __version__
tiles = np.load(sys.argv[1] + "/tiles.npy")
true = np.load(sys.argv[1] + "/truth.npz")["true"]
class Metadata(reg.Metadata):
    def __init__(self): self._positions = true.copy()
    _num_images = num_images = property(lambda s: len(true))
    num_channels = property(lambda s: 1)
    pixel_size = property(lambda s: 1.0)
    pixel_dtype = property(lambda s: np.dtype("uint16"))
    def tile_position(self, i): return true[i]
    def tile_size(self, i): return np.array(tiles.shape[1:])
class Reader(reg.Reader):
    def __init__(self): self.metadata = Metadata(); self.path = "memory"
    def read(self, series, c): return tiles[series]
class Known:
    reader, metadata = Reader(), Metadata()
    positions = true - true.min(0)
shape = tuple(np.ceil(Known.positions.max(0) + tiles.shape[1:]).astype(int))
for n in range(int(sys.argv[3])):
    wall, cpu = time.perf_counter(), time.process_time()
    mosaic = reg.Mosaic(Known(), shape, verbose=False)
    reg.PyramidWriter([mosaic], f"{sys.argv[2]}/ashlar{n}.ome.tif", verbose=False).run()
    print(json.dumps(dict(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu,
                          pixels=int(np.prod(shape)), version=__version__)), flush=True)
"""


def generate(out: Path, seed: int) -> None:
    """Tiles with their true positions: scenario main, 6 x 6 tiles of 1024 px."""
    command = [sys.executable, str(GENERATOR), str(out), "--scenario", "main", "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def environment(folder: Path) -> str:
    """A Python that has ASHLAR."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, f"ashlar=={VERSION}"], check=True
    )
    return str(python)


def peer(python: str, data: Path, out: Path) -> list[dict[str, Any]]:
    """ASHLAR's runs."""
    command = [python, "-c", PEER, str(data), str(out), str(REPEATS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def raw_sample(data: Path, out: Path, channels: int, repeat: int) -> Any:
    """A sample with the generated tiles as `raw/stpt.zarr`, `channels` times."""
    import pandas as pd

    from imaxt_nb.sample.channels import Channel
    from imaxt_nb.sample.store import Sample
    from imaxt_nb.sample.tiles import RawTiles, TileHeader, create_tiles

    tiles, truth = np.load(data / "tiles.npy", mmap_mode="r"), np.load(data / "truth.npz")
    sample = Sample.create(f"fusion{channels}_{repeat}", str(out))
    names = [Channel(f"c{k}") for k in range(channels)]
    header = TileHeader("stpt", names, (1.0, 1.0), tiles.shape[1:], tiles.dtype)
    place = sample.path("raw", "stpt.zarr")
    with create_tiles(place, header, "key") as writer:
        draft = writer.begin(1, len(tiles))
        for k, image in enumerate(tiles):
            draft.put(k, 0, [np.asarray(image)] * channels)
        table = pd.DataFrame({"tile": range(len(tiles)), "stage_from": "file"})
        table[["row", "column"]] = truth["ij"]
        table[["stage_y_um", "stage_x_um"]] = truth["nominal"]
        draft.commit(table, z_um=0.0, notes=[], metadata={}, sources={})
        writer.finish("key", {})
    table = table.assign(section=1, plane=0, status="registered")
    table[["y_um", "x_um"]] = truth["true"]
    return sample, RawTiles.open(place), table


def ours(data: Path, out: Path, channels: int, corrected: bool) -> list[dict[str, Any]]:
    """Our runs; `corrected`: dark, flat and a distortion of 4 px on the way as well."""
    from imaxt_nb.mosaic.calibration import Calibration
    from imaxt_nb.mosaic.render import RenderParameters, render_sample

    sample, raw, table = raw_sample(data, out, channels, int(corrected))
    shape = raw.tile_shape
    calibration: Any = Calibration(np.ones(shape, np.float32))
    if corrected:
        from imaxt_nb.mosaic.distortion import TERMS, polynomial

        flat = np.load(data / "truth.npz")["ff"].astype(np.float32)[None].repeat(channels, 0)
        bend = polynomial(np.full((2, len(TERMS)), 0.7), shape)
        calibration = Calibration(
            calibration.weight, np.full(flat.shape, 100, np.float32), flat, bend
        )
    runs = []
    for n in range(REPEATS + 1):  # the first one compiles
        wall, cpu = time.perf_counter(), time.process_time()
        render_sample(sample, raw, table, calibration, RenderParameters(image=f"m{n}"))
        made = sample.image(f"m{n}").data.shape
        runs.append(
            {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "pixels": int(np.prod(made)),
            }
        )
    return runs[1:]


def rate(runs: list[dict[str, Any]]) -> float:
    """Mpx/s and core of the best run."""
    return max(r["pixels"] / r["cpu"] for r in runs) / 1e6


def main() -> None:
    """The table."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--ashlar", default="", help="a Python that has ASHLAR")
    ask.add_argument("--seed", type=int, default=100)
    ask.add_argument(
        "--data", type=Path, default=None, help="tiles of the generator, if made before"
    )
    ask.add_argument(
        "--out", type=Path, default=None, help="working folder (default: a temporary one)"
    )
    a = ask.parse_args()
    os.environ.setdefault("IMAXT_DASK", "threads:1")
    with tempfile.TemporaryDirectory(dir=a.out) as scratch:
        data = a.data or Path(scratch, "data")
        if not (data / "truth.npz").is_file():
            generate(data, a.seed)
        theirs = peer(a.ashlar or environment(Path(scratch, "ashlar")), data, Path(scratch))
        plain = ours(data, Path(scratch), 1, False)
        full = ours(data, Path(scratch), 4, True)
    base = rate(theirs)
    print(f"6 x 6 tiles of 1024 px, seed {a.seed}; {platform.machine()}, {os.cpu_count()} cores\n")
    print("| fusion to disk, known positions | Mpx/s and core | over ASHLAR |\n|---|---|---|")
    print(f"| ASHLAR {theirs[0]['version']}, one channel, OME-TIFF with pyramid | {base:.1f} | 1 |")
    for name, runs in (
        ("ours, one channel, compressed Zarr with pyramid, confidence with pyramid", plain),
        ("ours, four channels with dark, flat field and distortion", full),
    ):
        print(f"| {name} | {rate(runs):.1f} | {rate(runs) / base:.1f} |")


if __name__ == "__main__":
    main()
