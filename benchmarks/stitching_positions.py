"""Positions of tiles against known truth: ours and the peers', on the same tiles in the same run.

Run: python benchmarks/stitching_positions.py --prototypes ../shared/prototypes/stitching [--seeds 100 101 102] [--own-seeds 103 ...]
     [--venvs FOLDER] [--data FOLDER] [--peers ashlar | --no-peers]
Writes benchmarks/results_stitching.md, but for what stands there below the line `MARKER`, which is written by hand. With `--data`, a row that was measured
is kept there, and not measured again: the script may be stopped, and run for one scenario or seed at a time. Defaults were tuned on seeds 0 to 4 only. Peers run on `--seeds`, ours on all.
The generator and the peers' runners are the prototypes'; each peer has an environment of its own, made with uv in `--venvs`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SCENARIOS = ("easy", "main", "hard", "distort")
PEERS = {
    "ashlar": ("ashlar==1.20.0", "run_ashlar.py", ["raw", "64", "2"]),
    "m2stitch": ("m2stitch==0.7.2", "run_m2stitch.py", ["raw"]),
    "multiview-stitcher": ("multiview-stitcher==0.1.62", "run_mvs.py", ["raw", "linear_two_pass"]),
}
PIXEL_UM = 0.56
REACH_PX, STAGE_ERROR_PX = 72, 15.0  # the defaults: 40 um, 8 um
OUT_PX, OUT_ERRORS = 3.0, 5.0  # what is off by more than both is wrong, not vague
MARKER = "<!-- by hand from here on: benchmarks/stitching_positions.py keeps it -->"


class Tiles:
    """The tiles of a data set, read one by one, as from a store."""

    def __init__(self, file: Path) -> None:
        header = np.load(file, mmap_mode="r")
        self.file, self.shape, self.dtype, self.offset = (
            file,
            header.shape,
            header.dtype,
            header.offset,
        )

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, k: int) -> Any:
        n = self.shape[1] * self.shape[2]
        flat = np.fromfile(
            self.file, self.dtype, n, offset=self.offset + k * n * self.dtype.itemsize
        )
        return flat.reshape(self.shape[1:])


# ---- ours, in a process of its own ----------------------------------------------------------------
def calibration_of(data: Path, tiles: Any, fit: bool) -> Any:
    """What ours corrects: nothing, or with `fit` a distortion found from these very tiles."""
    from imaxt_nb.mosaic.calibration import Calibration, identity

    shape = tiles.shape[1:]
    if not fit:
        return identity(shape)
    from imaxt_nb.mosaic.distortion_fit import fit_distortion
    from imaxt_nb.mosaic.neighbours import neighbour_pairs

    nominal = np.load(data / "truth.npz")["nominal"].astype(float)
    pairs = neighbour_pairs(list(range(len(tiles))), nominal, shape)
    found = fit_distortion(
        lambda k: np.asarray(tiles[k], np.float32), pairs, shape, reach_px=REACH_PX, side_px=96
    )
    return Calibration(np.ones(shape, np.float32), distortion=found.distortion)


def register_all(tiles: Any, nominal: Any, calibration: Any) -> Any:
    """Accepted links and placement."""
    from imaxt_nb.mosaic.neighbours import neighbours
    from imaxt_nb.mosaic.placement import links_of, place
    from imaxt_nb.mosaic.register import register_widening
    from imaxt_nb.mosaic.strips import find_stabiliser

    root = find_stabiliser([[tiles[k] for k in range(0, len(tiles), 5)]])
    pairs = neighbours(nominal, tiles.shape[1:])
    found, _ = register_widening(
        lambda k: tiles[k][None],
        pairs,
        nominal,
        calibration,
        root,
        REACH_PX,
        1.5 * STAGE_ERROR_PX,
        threads=2,
    )
    links = links_of(found, found.accepted, calibration.distortion)
    return found, place(links, nominal, STAGE_ERROR_PX)


def false_links(tiles: Any, index: Any, step: float, found: Any) -> tuple[list[Any], int]:
    """Links accepted between tiles that don't overlap, with what was expected there, of how many: all such pairs, pretended to be neighbours.

    `found`: the section's true pairs, which tell how far the stage strays.
    """
    from concurrent.futures import ThreadPoolExecutor

    from imaxt_nb.mosaic.calibration import identity
    from imaxt_nb.mosaic.pairs import (
        agreement_asked,
        doubted,
        excess_allowed,
        measure_pair,
        stage_scatter,
        transform,
    )
    from imaxt_nb.mosaic.search import plan_search
    from imaxt_nb.mosaic.strips import cut_strip, find_stabiliser, overlap_boxes

    shape, plain = tiles.shape[1:], identity(tiles.shape[1:])
    root = find_stabiliser([[tiles[k] for k in range(0, len(tiles), 5)]])

    def strip_of(tile: int, box: Any, plan: Any) -> Any:
        strip = cut_strip(tiles[tile][None], box, plain, root)
        return strip, transform(strip, plan)

    scatter = stage_scatter(found.links, found.expected, 1.5 * STAGE_ERROR_PX)
    asked = (scatter, agreement_asked(found.links), excess_allowed(found.links))
    accepted, total = list[Any](), 0
    for d in (np.array([0.0, step]), np.array([step, 0.0])):
        boxes = overlap_boxes(shape, d, REACH_PX)
        assert boxes is not None
        plan = plan_search(*boxes, d, REACH_PX)
        first, second = ([strip_of(k, box, plan) for k in range(len(tiles))] for box in boxes)
        pairs = [
            (a, b)
            for a in range(len(tiles))
            for b in range(len(tiles))
            if np.abs(index[a] - index[b]).max() > 1
        ]

        def links(q: tuple[int, int], p: Any = plan, f: Any = first, s: Any = second) -> Any:
            link = measure_pair(f[q[0]][0], s[q[1]][0], f[q[0]][1], s[q[1]][1], p)
            return doubted(link, p.expected, *asked)

        with ThreadPoolExecutor(2) as pool:
            accepted += [(k, plan.expected) for k in pool.map(links, pairs) if k.accepted]
        total += len(pairs)
    return accepted, total


def off(position: Any, error: Any, true: Any, frame: Any) -> Any:
    """Which tiles of the `frame` are wrong: off by more than 3 px and five of their errors."""
    miss = position - true
    miss -= np.median(miss[frame], axis=0)
    return frame & (np.hypot(*miss.T) > OUT_PX) & (np.abs(miss / error).max(axis=1) > OUT_ERRORS)


def about_false(link: Any, expected: Any, found: Any, nominal: Any, true: Any) -> dict[str, Any]:
    """What is known of a false link, and what it would do to tiles: it is put in place of each pair of neighbours (in its direction) that has no link."""
    from dataclasses import replace

    from imaxt_nb.mosaic.placement import links_of, place

    o, way = link.offset, int(np.argmax(expected))
    away = o.displacement - expected
    vacant = np.flatnonzero(~found.accepted & (np.argmax(np.abs(found.expected), axis=1) == way))
    moved = weak = 0
    for i in vacant:
        links = list(found.links)
        links[i] = replace(link, offset=replace(o, displacement=found.expected[i] + away))
        other = replace(found, links=links)
        p = place(links_of(other, other.accepted), nominal, STAGE_ERROR_PX)
        moved += int(off(p.position, p.error, true, p.island == 0).any())
        weak += int((p.chance > 0).any())
    scatter = np.linalg.eigvalsh(o.covariance)
    return {
        "away_px": float(np.hypot(*away)),
        "stated_px": float(np.sqrt(scatter[-1])),
        "agreement_err": o.agreement_err,
        "excess": o.excess,
        "significance": link.significance,
        "rich": link.rich,
        "put": len(vacant),
        "moved": moved,
        "weak": weak,
    }


def wrong_links(found: Any, true: Any) -> int:
    """Accepted links of true neighbours that are wrong, as `off` counts it."""
    n = 0
    for (a, b), k in zip(found.pairs, found.links, strict=True):
        if k.accepted:
            miss = k.offset.displacement - (true[b] - true[a])
            pull = np.sqrt(miss @ np.linalg.solve(k.offset.covariance, miss))
            n += int(np.hypot(*miss) > OUT_PX and pull > OUT_ERRORS)
    return n


def above(p: Any, nominal: Any, truth: Any) -> list[dict[str, Any]]:
    """The tied tiles that are more than 1 px off, as the score counts them, with what is said of them."""
    from stitching_bound import TIED, tied_tiles

    tied = tied_tiles(len(nominal), truth["edges"], truth["info"] > TIED)
    miss, stage = p.position - truth["true"], nominal - truth["true"]
    miss, stage = (k - np.median(k[tied], axis=0) for k in (miss, stage))
    status = np.where(p.island == 0, "registered", np.where(p.n_links > 0, "island", "stage"))
    status = np.where(p.chance > 0, "weak", status)
    out = []
    for k in np.flatnonzero(tied & (np.hypot(*miss.T) > 1)):
        own = {"tile": int(k), "px": float(np.hypot(*miss[k])), "status": str(status[k])}
        own |= {
            "stated": float(np.hypot(*p.error[k])),
            "pull": float(np.abs(miss[k] / p.error[k]).max()),
        }
        out.append(own | {"stage_px": float(np.hypot(*stage[k]))})
    return out


def ours(data: Path, scenario: str, null: bool) -> dict[str, Any]:
    """Figures of ours on one data set; time and memory include reading the tiles, not imports and compilation."""
    tiles, truth = Tiles(data / "tiles.npy"), np.load(data / "truth.npz")
    nominal, true = truth["nominal"].astype(float), truth["true"]
    some = [tiles[k] for k in range(2)]  # compiles
    strip = {
        "shape": (2, *tiles.shape[1:]),
        "__len__": lambda _: 2,
        "__getitem__": lambda _, k: some[k],
    }
    register_all(type("Some", (), strip)(), nominal[:2], calibration_of(data, tiles, False))
    out: dict[str, Any] = {}
    fit_start = time.perf_counter()
    calibration = calibration_of(data, tiles, scenario == "distort")
    out["fit_s"] = round(time.perf_counter() - fit_start, 2)
    before = psutil.Process().cpu_times()
    start = time.perf_counter()
    found, p = register_all(tiles, nominal, calibration)
    out["wall"] = time.perf_counter() - start
    after = psutil.Process().cpu_times()
    out["cpu"] = after.user + after.system - before.user - before.system
    frame = p.island == 0
    miss = p.position - true
    miss -= np.median(miss[frame], axis=0)
    away = nominal - true
    linked = p.n_links > 0
    out |= {
        "registered": int(frame.sum()),
        "own_median": float(np.median(np.hypot(*miss[frame].T))),
        "own_max": float(np.hypot(*miss[frame].T).max()),
        "pulls": (miss / p.error)[frame].ravel().tolist(),
        "unlinked": np.hypot(*miss[~linked].T).tolist(),
        # both to the tiles of the frame: a median of all tiles would know the ones that are asked for
        "unlinked_stage": np.hypot(*(away - np.median(away[frame], axis=0))[~linked].T).tolist(),
        "accepted": int(found.accepted.sum()),
        "out": int(off(p.position, p.error, true, frame).sum()),
        "wrong": wrong_links(found, true),
    }
    sys.path.insert(0, str(Path(os.environ["PROTOTYPES"])))
    from common import score  # type: ignore[import-not-found]

    out |= {k: v for k, v in score(p.position, str(data)).items() if k in ("med", "max", "n_info")}
    out["above"] = above(p, nominal, truth)
    if null:
        index, step = truth["ij"], float(nominal[truth["ij"][:, 0] == 1][0, 0])
        false, out["false_of"] = false_links(tiles, index, step, found)
        out["false"] = len(false)
        out["false_links"] = [about_false(*k, found, nominal, true) for k in false]
    return out


# ---- running ---------------------------------------------------------------------------------------
@contextmanager
def peak_memory(process: subprocess.Popen[str]) -> Iterator[list[float]]:
    """The highest resident memory of a process and its children while the block runs, MB."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            try:
                top = psutil.Process(process.pid)
                family = [top, *top.children(recursive=True)]
                peak[0] = max(peak[0], sum(p.memory_info().rss for p in family) / 2**20)
            except psutil.Error:
                pass

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    over.set()
    thread.join()


def run(command: list[str], env: dict[str, str]) -> tuple[dict[str, Any], float]:
    """The last line of JSON that a command prints, and its peak memory in MB."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    with peak_memory(process) as peak:
        text, errors = process.communicate(timeout=3600)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)}\n{errors[-2000:]}")
    return json.loads(lines[-1]), peak[0]


def make_peers(folder: Path, names: list[str]) -> dict[str, Path]:
    """The interpreters of the peers' environments, made where they are missing."""
    uv, made = str(Path(sys.executable).parent / "uv"), {}
    for name in names:
        requirement, _, _ = PEERS[name]
        home = folder / name
        if not home.exists():
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(home)], check=True)
            python = str(home / "bin" / "python")
            subprocess.run(
                [uv, "pip", "install", "-q", "--python", python, requirement], check=True
            )
        made[name] = home / "bin" / "python"
    return made


def data_set(folder: Path, prototypes: Path, scenario: str, seed: int) -> Path:
    """Tiles with truth, generated once."""
    out = folder / f"{scenario}_{seed}"
    if not (out / "truth.npz").exists():
        script = str(prototypes / "make_data.py")
        command = [sys.executable, script, str(out), "--scenario", scenario, "--seed", str(seed)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (out / "clean.npy").unlink()
    return out


def measure_own(data: Path, scenario: str, seed: int, runners: Path, null: bool) -> dict[str, Any]:
    """The row of ours on one data set."""
    env = os.environ | {"PROTOTYPES": str(runners)}
    own = [sys.executable, __file__, "--worker", str(data), scenario]
    figures, memory = run(own, env)
    if null:  # apart, as it needs memory of its own
        more, _ = run([*own, "--null"], env)
        figures |= {k: more[k] for k in ("false", "false_of", "false_links")}
    about = {"program": "imaxt_nb", "scenario": scenario, "seed": seed, "load": os.getloadavg()[0]}
    return about | {"peak_mb": memory} | figures


def measure_peer(
    name: str, python: Path, data: Path, scenario: str, seed: int, runners: Path
) -> dict[str, Any]:
    """The row of a peer; without figures if it gave up on these tiles."""
    _, script, arguments = PEERS[name]
    row = {"program": name, "scenario": scenario, "seed": seed, "load": os.getloadavg()[0]}
    try:
        figures, memory = run(
            [str(python), str(runners / script), str(data), *arguments], dict(os.environ)
        )
    except (RuntimeError, subprocess.TimeoutExpired) as e:
        print(str(e).splitlines()[-1])
        return row
    row |= {k: figures[k] for k in ("med", "max", "wall", "cpu")}
    return row | {"peak_mb": memory, "version": figures["peer"].split()[1]}


def kept(file: Path | None, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row that was measured before, or one that is measured now."""
    if file is not None and file.exists():
        return dict(json.loads(file.read_text()))
    row = make()
    if file is not None:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(row))
    quiet = ("pulls", "unlinked", "unlinked_stage", "false_links", "above")
    print({k: v for k, v in row.items() if k not in quiet}, flush=True)
    return row


# ---- report ----------------------------------------------------------------------------------------
def spread(values: Any, digits: int = 2) -> str:
    """Lowest to highest."""
    low, high = values.min(), values.max()
    return (
        f"{low:.{digits}f}"
        if f"{low:.{digits}f}" == f"{high:.{digits}f}"
        else f"{low:.{digits}f}-{high:.{digits}f}"
    )


def robust_width(values: list[float]) -> float:
    """1 for a normal distribution of width 1."""
    return float(1.4826 * np.median(np.abs(values)))


def table(rows: Any, seeds: list[int]) -> list[str]:
    """Programs side by side, each on the seeds that it ran."""
    head = [
        "| scenario | program | data sets | median px | worst px | within | CPU s | wall s (under load) | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    common = rows[rows["seed"].isin(seeds)].dropna(subset=["med"])
    for (scenario, program), g in common.groupby(["scenario", "program"], sort=False):
        head.append(
            f"| {scenario} | {program} | {len(g)} | {spread(g['med'], 3)} | {spread(g['max'])} | {int((g['max'] <= (3 if scenario == 'hard' else 1)).sum())} of {len(g)} | {spread(g['cpu'], 1)} | {spread(g['wall'], 0)} | {spread(g['peak_mb'], 0)} |"
        )
    return head


def own_table(rows: Any) -> list[str]:
    """What ours claims of itself, on all seeds."""
    out = [
        "| scenario | seeds | registered of 36 | median px | worst registered px | pulls, robust width (90 % are within) | wrong: links, registered tiles | tiles without links: px (stage px) | false links |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for scenario, g in rows[rows["program"] == "imaxt_nb"].groupby("scenario", sort=False):
        pulls = [x for values in g["pulls"] for x in values]
        alone, stage = ([x for v in g[n] for x in v] for n in ("unlinked", "unlinked_stage"))
        checked = g.dropna(subset=["false"]) if "false" in g else g[:0]
        false = (
            f"{int(checked['false'].sum())} of {int(checked['false_of'].sum())}"
            if len(checked)
            else ""
        )
        apart = (
            f"{np.median(alone):.1f} ({np.median(stage):.1f}), worst {max(alone):.0f} ({max(stage):.0f})"
            if alone
            else ""
        )
        out.append(
            f"| {scenario} | {len(g)} | {spread(g['registered'], 0)} | {spread(g['own_median'], 3)} | {spread(g['own_max'])} | {robust_width(pulls):.2f} ({np.percentile(np.abs(pulls), 90):.1f}) | {int(g['wrong'].sum())} of {int(g['accepted'].sum())}, {int(g['out'].sum())} of {int(g['registered'].sum())} | {apart} | {false} |"
        )
    return out


def seed_table(rows: Any) -> list[str]:
    """The worst tile of each data set, by the prototypes' score, programs side by side."""
    done = rows.dropna(subset=["med"])
    programs = list(dict.fromkeys(done["program"]))
    out = [
        f"| scenario | seed | tiles | median px | {' | '.join(f'worst px, {p}' for p in programs)} | stated wrong by | without links: px (stage px) | CPU s |",
        "|" + "---|" * (len(programs) + 7),
    ]
    for (scenario, seed), g in done.groupby(["scenario", "seed"], sort=False):
        by = g.set_index("program")
        own = by.loc["imaxt_nb"]
        worst = [f"{by['max'][p]:.2f}" if p in by.index else "" for p in programs]
        alone = (
            f"{len(own['unlinked'])}: {np.median(own['unlinked']):.1f} ({np.median(own['unlinked_stage']):.1f})"
            if len(own["unlinked"])
            else ""
        )
        out.append(
            f"| {scenario} | {seed} | {own['registered']:.0f} of {own['n_info']:.0f} | {own['med']:.3f} | {' | '.join(worst)} | {robust_width(own['pulls']):.2f} | {alone} | {own['cpu']:.1f} |"
        )
    return out


def listed(rows: Any, name: str) -> Any:
    """Our rows, each with every item of its list `name`."""
    for r in rows[rows["program"] == "imaxt_nb"].itertuples():
        items = getattr(r, name)
        for k in items if isinstance(items, list) else ():
            yield r, k


def above_table(rows: Any) -> list[str]:
    """A row a tile."""
    out = [
        "| scenario | seed | tile | off px | stated px | pull | called | stage px |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r, k in listed(rows, "above"):
        out.append(
            f"| {r.scenario} | {r.seed} | {k['tile']} | {k['px']:.2f} | {k['stated']:.2f} | {k['pull']:.1f} | {k['status']} | {k['stage_px']:.1f} |"
        )
    return out


def false_table(rows: Any) -> list[str]:
    """A row a link that was accepted between tiles that don't overlap."""
    if "false_links" not in rows:
        return []
    out = [
        "## False links",
        "",
        "Accepted between tiles that don't overlap. *Stated*: the error of its vaguer direction. *Moved*: it is put in place of each pair of neighbours without a link, in turn; in how many of these any registered tile is wrong (off by more than 3 px and",
        "five of its errors), and in how many a tile is called `weak`.",
        "",
        "| scenario | seed | from the stage's place px | stated px | agreement known to | excess | significance | fine structure | put in place of | moved | weak |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r, k in listed(rows, "false_links"):
        out.append(
            f"| {r.scenario} | {r.seed} | {k['away_px']:.0f} | {k['stated_px']:.2f} | {k['agreement_err']:.3f} | {k['excess']:.3f} | {k['significance']:.0f} | {'yes' if k['rich'] else 'no'} | {k['put']} | {k['moved']} | {k['weak']} |"
        )
    return [*out, ""]


def speed(rows: Any, seeds: list[int]) -> str:
    """Ours against the peer that needs least CPU, on the data sets that both did."""
    common = rows[rows["seed"].isin(seeds)].dropna(subset=["med"])
    cpu = common.pivot_table(index=["scenario", "seed"], columns="program", values="cpu")
    out = []
    for peer in cpu.columns.drop("imaxt_nb", errors="ignore"):
        both = cpu[["imaxt_nb", peer]].dropna()
        if len(both):
            ours, theirs = both.mean()
            out.append(
                f"{peer} {theirs:.1f} s, ours {ours:.1f} s: {theirs / ours:.1f} x ({len(both)} data sets)"
            )
    return "CPU a data set, mean: " + "; ".join(out) + "." if out else ""


def measured_rows(folder: Path, scenarios: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    """The rows that are there, in the order of scenarios, seeds and programs."""
    names = [f"{c}_{s}_{p}.json" for c in scenarios for s in seeds for p in ("imaxt_nb", *PEERS)]
    return [json.loads((folder / n).read_text()) for n in names if (folder / n).exists()]


def report(rows: list[dict[str, Any]], a: argparse.Namespace) -> None:
    """Print and write the results."""
    import pandas as pd  # not above: it would count as memory of ours

    frame = pd.DataFrame(rows)
    lines = [
        "# Positions of tiles",
        "",
        f"`python benchmarks/stitching_positions.py --seeds {' '.join(map(str, a.seeds))} --own-seeds {' '.join(map(str, a.own_seeds))}`; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {date.today():%d %B %Y}; load {os.getloadavg()[1]:.0f}.",
        "6 x 6 tiles of 1024 x 1024 uint16, 10 % overlap, raw (flat field not corrected), stage errors of 10 px. Errors as the prototypes score them: of tiles that",
        "overlaps with any structure tie to the main body (`info` > 30), after one common shift; *within* counts data sets whose worst such tile is within the bar",
        "(1 px; hard: 3 px). Tuned on seeds below 100 only.",
        "",
        *table(frame, a.seeds + a.own_seeds),
        "",
        speed(frame, a.seeds),
        "",
        "Ours on all seeds: *registered* are tiles that firm links (error below 1 px both ways) tie to the largest island; *wrong* is off by more than 3 px and five errors; false links: accepted among pairs of tiles that don't overlap.",
        "",
        *own_table(frame),
        "",
        "## Each data set",
        "",
        "*Tiles*: registered, of those that structure ties. *Stated wrong by*: robust width of the pulls of registered tiles, 1 if the stated errors are true.",
        "",
        *seed_table(frame),
        "",
        "## Tiles above 1 px",
        "",
        "Of the tied ones. *Stated*: length of the error that is said of it; *pull*: the larger one of rows and columns; *stage px*: by how much the stage is off there.",
        "",
        *above_table(frame),
        "",
        *false_table(frame),
    ]
    print("\n".join(lines))
    file = Path(__file__).parent / "results_stitching.md"
    _, marker, own = file.read_text().partition(MARKER) if file.exists() else ("", "", "")
    file.write_text("\n".join([*lines, MARKER]) + (own if marker else "\n"))


def main() -> None:
    """Run all and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prototypes", type=Path, default=Path("../shared/prototypes/stitching"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102])
    parser.add_argument("--own-seeds", type=int, nargs="*", default=list(range(103, 110)))
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--report", action="store_true", help="of the rows in --data, no runs")
    parser.add_argument(
        "--null-seeds", type=int, default=4, help="seeds on which false links are counted"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--null", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        print(json.dumps(ours(Path(a.worker[0]), a.worker[1], a.null)))
        return
    if a.report:
        rows = measured_rows(a.data / "rows", a.scenarios, a.seeds + a.own_seeds)
        report(rows, a)
        return
    with tempfile.TemporaryDirectory() as temporary:
        data_folder, venvs = a.data or Path(temporary), a.venvs or Path(temporary) / "venvs"
        # the runners append to a log beside themselves: use a copy
        runners = Path(temporary) / "runners"
        subprocess.run(["cp", "-r", str(a.prototypes), str(runners)], check=True)
        peers = {} if a.no_peers else make_peers(venvs, a.peers)
        rows: list[dict[str, Any]] = []
        null_seeds = (a.seeds + a.own_seeds)[: a.null_seeds]
        for scenario in a.scenarios:
            for seed in a.seeds + a.own_seeds:
                data = data_set(data_folder, runners, scenario, seed)
                null = scenario in ("main", "hard") and seed in null_seeds

                def file(program: str) -> Path | None:
                    name = f"{scenario}_{seed}_{program}.json"  # noqa: B023
                    return None if a.data is None else a.data / "rows" / name

                args = (data, scenario, seed, runners)
                rows.append(kept(file("imaxt_nb"), lambda: measure_own(*args, null)))  # noqa: B023
                for name, python in peers.items() if seed in a.seeds else ():
                    row = kept(file(name), lambda: measure_peer(name, python, *args))  # noqa: B023
                    rows.append(row)
                if a.data is None:
                    subprocess.run(["rm", "-r", str(data)], check=True)
    report(rows, a)


if __name__ == "__main__":
    main()
