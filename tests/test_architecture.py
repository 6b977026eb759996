"""The house rules that a machine can check: who imports whom, size of modules, lazy imports, no local names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "imaxt_nb"
MAY_IMPORT = {
    "core": set(),
    "sample": {"core"},
    "readers": {"core", "sample"},
    "simulate": {"core", "readers"},
    "networks": {"core", "sample"},
    "mosaic": {"core", "sample"},
    "beads": {"core", "sample", "networks"},
    "federation": {"core", "sample", "beads"},
    "cells": {"core", "sample", "networks"},
    "tissue": {"core", "sample"},
    "merfish": {"core", "sample"},
    "analysis": {"core", "sample"},
    "archive": {"core"},
}
HEAVY = {
    "scanpy",
    "squidpy",
    "spatialdata",
    "datashader",
    "tensorflow",
    "matplotlib",
    "papermill",
    "anndata",
    "sqlalchemy",
}


def imported_rooms(module: Path) -> set[str]:
    """Rooms of the package that a module imports, at its top or inside its functions."""
    rooms = set()
    here = module.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                full = [*here[: len(here) - node.level + 1], *parts]
            elif parts[:1] == ["imaxt_nb"]:
                full = parts[1:]
            else:
                continue
            rooms |= {full[0]} if full else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("imaxt_nb.")}
    return rooms


MODULES = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE and "migrations" not in p.parts]


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_the_design_allows(module: Path) -> None:
    room = module.relative_to(PACKAGE).parts[0]
    if room != "cli":
        assert imported_rooms(module) - {room} <= MAY_IMPORT[room]


def test_exported_modules_hold_one_concept() -> None:
    long = {}
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        n = sum(len(s.splitlines()) for s in sources if re.search(r"^#\| *export", s, re.M))
        if n > 300:
            long[notebook.name] = n
    assert not long


def test_nothing_heavy_is_imported_by_the_command_line() -> None:
    code = "import sys, imaxt_nb.cli.main as m; m.invoke(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_no_path_of_a_machine_and_no_registry_in_tracked_files() -> None:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    here = [re.escape(f"{ROOT}/"), re.escape(f"{Path.home()}/")]
    wrong = re.compile("|".join([*here, "index-url", "find-links", r"//pypi\.", "pythonhosted"]))
    bad = []
    for name in done.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix not in {".png"} and path != Path(__file__):
            text = path.read_text("utf-8", errors="ignore")
            bad += [f"{name}: {m.group(0)}" for m in wrong.finditer(text)]
    assert not bad


def test_nbdev_and_our_settings_coexist(monkeypatch: pytest.MonkeyPatch) -> None:
    """nbdev 3 reads pyproject.toml only; settings.ini is ours and both load in the same folder."""
    from nbdev.config import get_config

    from imaxt_nb.core.settings import load_settings

    monkeypatch.chdir(ROOT)
    for name in ("IMAXT_DATA_ROOT", "IMAXT_TEMPLATES"):
        monkeypatch.delenv(name, raising=False)
    assert (ROOT / "settings.ini").is_file()
    assert Path(get_config().lib_path).name == "imaxt_nb"
    assert load_settings().templates == str(ROOT / "templates")
