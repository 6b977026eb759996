"""Sphinx: the site is the notebooks themselves, as they are committed, with their outputs; nothing is executed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
LIBRARY = HERE / "library"

project = "imaxt_nb"
author = "The imaxt_nb developers"
project_copyright = "2026, the imaxt_nb developers"
extensions = ["myst_nb"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "library/contents.md"]
html_theme = "furo"
html_title = "imaxt_nb"
html_static_path = ["_static"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence"]  # no math: MathJax would be fetched from elsewhere
myst_heading_anchors = 3
nb_ipywidgets_js = {}
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "misc.highlighting_failure"]


def _cell_source(cell: dict) -> str:
    """The cell without nbdev's directives."""
    text = "".join(cell["source"])
    return re.sub(r"^#\|.*\n?", "", text, flags=re.M).strip("\n")


def _normalise(path: Path) -> dict:
    """A notebook as a reader of the site wants it: no directives, no hidden cells, a subtitle in italics."""
    nb = json.loads(path.read_text("utf-8"))
    cells = []
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            if re.search(r"^#\| *(hide|default_exp)", "".join(cell["source"]), flags=re.M):
                continue
            cell |= {"execution_count": None, "source": _cell_source(cell)}
            if not cell["source"]:
                continue
            for output in cell["outputs"]:
                if output["output_type"] == "execute_result":
                    output["execution_count"] = None
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        cells.append(cell)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return nb | {"cells": cells, "metadata": {"kernelspec": kernel}}


def _page(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(_normalise(source), ensure_ascii=False), "utf-8")
    return target.relative_to(HERE).with_suffix("").as_posix()


def _toc(caption: str, pages: list[str]) -> str:
    return "\n".join(
        [":::{toctree}", f":caption: {caption}", ":maxdepth: 1", "", *pages, ":::", ""]
    )


def build_library() -> None:
    """Copy notebooks, templates and the project's own pages below `docs/library`, with an index."""
    shutil.rmtree(LIBRARY, ignore_errors=True)
    tocs = []
    templates = [
        _page(p, LIBRARY / "templates" / p.parent.name / p.name)
        for p in sorted((ROOT / "templates").glob("*/*.ipynb"))
    ]
    tocs.append(_toc("Pipeline templates", templates))
    for room in sorted(p for p in (ROOT / "nbs").iterdir() if p.is_dir() and p.name[:2].isdigit()):
        pages = [_page(p, LIBRARY / room.name / p.name) for p in sorted(room.glob("*.ipynb"))]
        tocs.append(_toc(room.name[3:].capitalize(), pages))
    pages = []
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md"):
        target = LIBRARY / "project" / Path(name).name.lower()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((ROOT / name).read_text("utf-8"), "utf-8")
        pages.append(target.relative_to(HERE).with_suffix("").as_posix())
    tocs.append(_toc("Project", pages))
    _page(ROOT / "nbs" / "index.ipynb", LIBRARY / "start.ipynb")
    (LIBRARY / "contents.md").write_text("\n".join(tocs), "utf-8")


build_library()
