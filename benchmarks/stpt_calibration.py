"""Flat, pedestal and distortion against the truth of simulated tiles, beside BaSiCPy on the same tiles in the same run.

    python benchmarks/stpt_calibration.py [--seeds 100 101 102] [--out results_stpt_calibration.md]
                                          [--environment FOLDER] [--prototypes ../shared/prototypes/stitching]

The tiles are those of the prototypes' generator (6 x 6 tiles of 1024 px). BaSiCPy runs in an environment of its own, made with uv
in FOLDER (a temporary one by default); `--no-basic` leaves it out. BaSiCPy is told the true pedestal; ours is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from imaxt_nb.mosaic.calibrate import CalibrationReport, calibrate_tiles
from imaxt_nb.mosaic.calibrate_choice import CalibrateParameters
from imaxt_nb.sample.channels import Channel

GAIN, READ, OFFSET = 8.0, 6.0, 100.0  # of the generator
BY_HAND = "<!-- written by hand below this line: the script keeps it -->"
BASIC = """
import sys, time, json, numpy as np, importlib.metadata as m
from basicpy import BaSiC
for folder in sys.argv[1:]:
    x = np.load(folder + "/tiles.npy").astype(np.float32) - 100
    t = time.perf_counter(); b = BaSiC(get_darkfield=False); b.fit(x); t = time.perf_counter() - t
    np.save(folder + "/basic.npy", np.asarray(b.flatfield, np.float32))
    print(json.dumps({"folder": folder, "wall": t, "version": m.version("basicpy")}))
"""


def tiles_of(folder: Path) -> tuple[Any, Any, np.ndarray]:
    """The generated tiles with the interface of `RawTiles`, their truth and the tiles (n, y, x)."""
    tiles, truth = np.load(folder / "tiles.npy"), np.load(folder / "truth.npz")
    n = len(tiles)
    nominal = truth["nominal"]
    stage = {"tile": range(n), "stage_x_um": nominal[:, 1], "stage_y_um": nominal[:, 0]}
    section = SimpleNamespace(
        table=pd.DataFrame(stage),
        present=np.ones((n, 1, 1), bool),
        read=lambda t, z, c, rows: tiles[t][rows],
    )
    raw = SimpleNamespace(
        sections=[1], section=lambda k: section, channels=[Channel("ch1")], pixel_um=(1.0, 1.0),
        tile_shape=tiles.shape[1:], orientation=np.eye(2, dtype=int),
    )  # fmt: skip
    return raw, truth, tiles


def stretched(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """BaSiCPy's flat at the size of a tile."""
    from scipy import ndimage as ndi

    factors = np.array(shape) / image.shape
    return image if image.shape == shape else ndi.zoom(image, factors, order=1)


def error(flat: np.ndarray, true: np.ndarray, use: np.ndarray) -> float:
    """R.m.s. of flat / true, percent, both of mean 1 over the pixels in use."""
    ratio = flat[use] / true[use]
    return float(100 * (ratio / ratio.mean()).std())


def noise_widths(report: CalibrationReport, true: np.ndarray) -> tuple[float, float, float]:
    """Robust width of (difference / photon noise) of cells in overlaps, before, after, and with the true flat and pedestal.

    1 is photon noise. A cell is divided by the flat's mean over the cell: fringes are finer than cells.
    """
    from scipy.ndimage import uniform_filter

    cells, c = report.cells[0], report.calibration
    widths = []
    flats = (np.ones_like(true), c.flat[0], true)
    for flat, pedestal in zip(flats, (c.dark[0, 0, 0], c.dark[0, 0, 0], OFFSET), strict=True):
        mean = uniform_filter(np.asarray(flat, np.float64), 16)
        parts = []
        for k in (0, 1):
            signal = cells[k] - pedestal
            variance = (GAIN * (cells[k] - OFFSET) + READ**2) / 256
            at = tuple(
                np.clip(np.rint(p).astype(int), 0, n - 1)
                for p, n in zip(cells[2 + 2 * k : 4 + 2 * k], c.tile_shape, strict=True)
            )
            f = mean[at]
            parts.append((signal / f, variance / np.square(f)))
        (a, va), (b, vb) = parts
        widths.append(float(1.4826 * np.median(np.abs(a - b) / np.sqrt(va + vb))))
    return widths[0], widths[1], widths[2]


def distortion_error(report: CalibrationReport, folder: Path) -> float:
    """Largest error over the field, px, without constant and linear parts."""
    amount = json.loads((folder / "params.json").read_text())["distort"]
    n = report.calibration.tile_shape[0]
    half = (n - 1) / 2
    ideal = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 41)] * 2, indexing="ij"))
    raw = ideal.copy()
    for _ in range(100):  # the generator: ideal = raw + amount u |u|^2
        u = (raw - half) / half
        raw = ideal - amount / np.sqrt(2) / 2 * u * (u**2).sum(0)
    wrong = (report.calibration.distortion.displacement(*ideal) - (raw - ideal)).reshape(2, -1).T
    plane = np.stack([np.ones(len(wrong)), ideal[0].ravel(), ideal[1].ravel()], 1)
    wrong -= plane @ np.linalg.lstsq(plane, wrong, rcond=None)[0]
    return float(np.hypot(*wrong.T).max())


def run_basic(folders: list[Path], environment: Path) -> dict[str, Any]:
    """BaSiCPy in its own environment: seconds and version, by folder."""
    python = environment / "bin/python"
    uv = Path(sys.executable).with_name("uv")
    if not python.exists():
        subprocess.run([uv, "venv", "-q", "--python", "3.11", environment], check=True)
        command = [
            uv,
            "pip",
            "install",
            "-q",
            "--only-binary",
            ":all:",
            "--python",
            python,
            "basicpy==2.0.0",
        ]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [python, "-c", BASIC, *map(str, folders)], capture_output=True, text=True, check=True
    )
    lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    return {x["folder"]: x for x in lines}


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--scenarios", nargs="+", default=["easy", "main", "hard", "distort"])
    parser.add_argument(
        "--prototypes", type=Path, default=root.parent / "shared/prototypes/stitching"
    )
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--no-basic", action="store_true")
    parser.add_argument("--out", type=Path, default=root / "benchmarks/results_stpt_calibration.md")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = []
        for scenario in a.scenarios:
            for seed in a.seeds:
                folders.append(work / f"{scenario}-{seed}")
                command = [
                    sys.executable,
                    a.prototypes / "make_data.py",
                    folders[-1],
                    "--scenario",
                    scenario,
                    "--seed",
                    str(seed),
                ]
                subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
        basic = {} if a.no_basic else run_basic(folders, a.environment or work / "basic")
        rows = [measure(folder, basic.get(str(folder))) for folder in folders]
    table = pd.DataFrame(rows)
    version = next((b["version"] for b in basic.values()), "not run")
    text = f"BaSiCPy {version}; numpy {np.__version__}; flats: r.m.s. error in percent\n\n{as_markdown(table)}\n"
    command = "python benchmarks/stpt_calibration.py --seeds " + " ".join(map(str, a.seeds))
    a.out.write_text(f"# Calibration of tiles\n\n`{command}`\n\n{text}{by_hand(a.out)}")
    print(text)


def by_hand(page: Path) -> str:
    """What people wrote on the page, below the tables: a new run keeps it."""
    _, mark, kept = (page.read_text() if page.exists() else "").partition(BY_HAND)
    return f"\n{mark}{kept}" if mark else ""


def as_markdown(table: pd.DataFrame) -> str:
    """A table that GitHub shows."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def measure(folder: Path, basic: dict[str, Any] | None) -> dict[str, Any]:
    """All figures of a set of tiles."""
    raw, truth, tiles = tiles_of(folder)
    warnings: list[str] = []
    start = time.perf_counter()
    settings = CalibrateParameters(max_stage_error_um=60)
    report = calibrate_tiles(None, raw, settings, warn=warnings.append)
    wall = time.perf_counter() - start
    c, true = report.calibration, truth["ff"]
    use = c.weight > 0
    before, after, best = noise_widths(report, true)
    row = {"tiles": folder.name, "uncorrected": round(error(np.ones_like(true), true, use), 2)}
    row["median stack"] = round(error(np.median(tiles - OFFSET, axis=0), true, use), 2)
    if basic is not None:
        row["BaSiCPy"] = round(
            error(stretched(np.load(folder / "basic.npy"), true.shape), true, use), 2
        )
        row["its s"] = round(basic["wall"], 1)
    row["ours"] = round(error(c.flat[0], true, use), 2)
    row["pedestal (true 100)"] = round(float(c.dark[0, 0, 0]), 2)
    row["overlaps / noise, before"], row["after"] = round(before, 2), round(after, 2)
    row["by the true flat"] = round(best, 2)
    fitted = c.distortion is not None
    row["distortion error px"] = round(distortion_error(report, folder), 3) if fitted else "-"
    row["predicted px"] = round(report.fit.predicted_error_px, 3) if report.fit else "-"
    row["all s"] = round(wall, 1)
    if warnings:
        print(folder.name, *warnings, sep="\n  ", file=sys.stderr)
    return row


if __name__ == "__main__":
    main()
