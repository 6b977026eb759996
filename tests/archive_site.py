"""A site made of trivial templates, for tests of the archive with real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from imaxt_nb.archive.record import Record
from imaxt_nb.core.settings import Settings

BEGIN = "from imaxt_nb.archive.run import begin_run\n\nrun = begin_run(locals())"
TAG = "IMAXT_TEST_SITE"


def code_cell(source: str, *tags: str) -> dict[str, Any]:
    """A code cell of a notebook."""
    cell = {"cell_type": "code", "outputs": [], "execution_count": None, "source": source}
    return cell | {"metadata": {"tags": list(tags)}}


def make_template(
    root: Path,
    name: str,
    code: str | Sequence[str] = "pass",
    *,
    parameters: str = "",
    finish: str = "run.finish()",
    scope: str = "sample",
    tagged: bool = True,
    **metadata: Any,
) -> Path:
    """Write the template `<modality>/<step>`; `metadata`: inputs, outputs, resources, ..."""
    codes = [code] if isinstance(code, str) else code
    first = f'{scope}: str = ""\n{parameters}'.strip()
    cells = [code_cell(first, *["parameters"] * tagged), code_cell(BEGIN)]
    cells += [code_cell(c) for c in codes] + [code_cell(finish)]
    about = {"name": name, "title": name, "summary": "A test.", "scope": scope}
    nb = {"nbformat": 4, "nbformat_minor": 4, "cells": cells}
    nb["metadata"] = {"imaxt": about | {"inputs": [], "outputs": [], "resources": {}} | metadata}
    modality, step = name.split("/")
    path = root / modality / f"01_{step}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb))
    return path


class Site:
    """Folders and settings of a site under `root`."""

    def __init__(self, root: Path, runs: Path | None = None) -> None:
        self.root, self.templates = root, root / "templates"
        self.runs, self.data = runs or root / "runs", root / "data"
        self.settings = Settings(
            data_root=str(self.data),
            runs_root=str(self.runs),
            templates=str(self.templates),
            environment_level="python",
        )

    def template(self, name: str, code: str | Sequence[str] = "pass", **options: Any) -> Path:
        """Write a template."""
        return make_template(self.templates, name, code, **options)

    def sample(self, *names: str) -> None:
        """Make empty samples."""
        for name in names:
            (self.data / name).mkdir(parents=True, exist_ok=True)

    def batch(self, *rows: Mapping[str, str]) -> Path:
        """Write a CSV file."""
        path = self.root / "batch.csv"
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, list(dict.fromkeys(k for r in rows for k in r)))
            writer.writeheader()
            writer.writerows(rows)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which processes belong to this site."""
        names = ("data_root", "runs_root", "templates", "environment_level")
        values = {f"IMAXT_{n.upper()}": getattr(self.settings, n) for n in names}
        return os.environ | values | {TAG: str(self.root)}

    def start(self, file: Path, jobs: int = 1) -> subprocess.Popen[str]:
        """Start an `imaxt`-like process that runs a batch."""
        script = (
            "import sys\nfrom imaxt_nb.archive.batch import *\n"
            f"sys.exit(exit_code(run_batch(read_requests({str(file)!r}), {jobs})))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", script], env=self.environment, text=True, stderr=subprocess.PIPE
        )

    def records(self, pattern: str = "*/*") -> list[Record]:
        """Records of the runs that are over, the oldest first."""
        found = self.runs.glob(f"{pattern}/*/record.json")
        return [
            Record.load(p)
            for p in sorted(found, key=lambda p: p.parent.name)
            if not p.parent.name.startswith(".")
        ]

    def survivors(self) -> list[psutil.Process]:
        """Processes of this site that still run, kernels and their children included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TAG) == str(self.root):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [p for p in found if p.pid != os.getpid() and _lives(p)]

    def staging(self) -> list[Path]:
        """Runs that are not over."""
        return sorted(self.runs.glob("*/*/.staging-*"))

    def close(self) -> None:
        """End what a failed test left behind."""
        for process in self.survivors():
            process.send_signal(signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def until(condition: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Wait until a condition holds and return its value; fails after the time-out."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
