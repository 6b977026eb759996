"""Wall time of a run over the template's own work: 20 trivial runs with -j 2, and papermill's own.

    python benchmarks/runs_overhead.py [--runs 20] [--jobs 2]

A temporary site with a template that does nothing; every run is archived in full (record, report,
thumbnail, crate, catalogue). For comparison the same notebook by papermill's command line, twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from imaxt_nb.archive.batch import Request, run_batch
from imaxt_nb.core.settings import Settings


def cell(source: str, *tags: str) -> dict:
    """A code cell."""
    parts = {"cell_type": "code", "outputs": [], "execution_count": None, "source": source}
    return parts | {"metadata": {"tags": list(tags)}}


def make_site(root: Path, runs: int) -> tuple[Settings, Path]:
    """A site with one template and as many samples as runs."""
    begin = "from imaxt_nb.archive.run import begin_run\n\nrun = begin_run(locals())"
    cells = [cell('sample: str = ""\nn: int = 1', "parameters"), cell(begin)]
    cells += [cell("print(n)"), cell("run.finish(metrics={'n': n})")]
    about = {"name": "demo/nothing", "title": "Nothing", "summary": "Does nothing."}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = {"nbformat": 4, "nbformat_minor": 4, "cells": cells}
    nb["metadata"] = {"imaxt": about, "kernelspec": kernel}
    path = root / "templates/demo/01_nothing.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(nb))
    for i in range(runs):
        (root / f"data/s{i:02d}").mkdir(parents=True)
    folders = {
        n: str(root / n.removesuffix("_root")) for n in ("data_root", "runs_root", "templates")
    }
    return Settings(**folders), path


def measure(runs: int, jobs: int) -> dict[str, float]:
    """Seconds a run for a batch, and where they went."""
    with tempfile.TemporaryDirectory() as folder:
        settings, template = make_site(Path(folder), runs)
        began = time.perf_counter()
        outcomes = run_batch(
            [Request("demo/nothing", f"s{i:02d}", row=i + 1) for i in range(runs)], jobs, settings
        )
        wall = time.perf_counter() - began
        assert all(o.ok for o in outcomes), [o.reason for o in outcomes if not o.ok]
        records = [o.record for o in outcomes]
        assert not any(r.warnings for r in records), records[0].warnings
        began = time.perf_counter()
        assert all(o.action == "reused" for o in run_batch(
            [Request("demo/nothing", f"s{i:02d}", row=i + 1) for i in range(runs)], jobs, settings
        ))  # fmt: skip
        again = time.perf_counter() - began
        timings = {
            f"median {name}": statistics.median(getattr(r.timings, name) for r in records)
            for name in ("kernel_start_s", "execute_s", "report_s", "total_s")
        }
        return {
            "seconds a run": wall / runs,
            "seconds a run that is up to date": again / runs,
            **timings,
            "seconds a run, papermill's command line": papermill_cli(template, Path(folder)),
        }


def papermill_cli(template: Path, folder: Path, times: int = 2) -> float:
    """Seconds a run of the same notebook by papermill's command line; nothing is archived."""
    nb = json.loads(template.read_text())
    nb["cells"] = [nb["cells"][0], nb["cells"][2]]
    source = folder / "plain.ipynb"
    source.write_text(json.dumps(nb))
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(source),
        str(folder / "out.ipynb"),
        "-p",
        "n",
        "2",
    ]
    began = time.perf_counter()
    for _ in range(times):
        subprocess.run(command, check=True, capture_output=True)
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    for name, value in measure(options.runs, options.jobs).items():
        print(f"{name:45} {value:6.2f}")
    print(f"{os.cpu_count()} processors, load before {load:.1f}")
