"""README.md from nbs/index.ipynb: its text, its code and the pictures among its committed outputs (nbdev-readme needs Quarto)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
PICTURES = "docs/_static/readme"


def build_readme(root: Path) -> dict[str, bytes]:
    """The content of README.md and of its pictures, by path relative to `root`."""
    nb = nbformat.read(root / "nbs" / "index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\| *hide", c.source)]
    for cell in nb.cells:
        cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    text, resources = MarkdownExporter().from_notebook_node(
        nb, {"output_files_dir": PICTURES, "unique_key": "index"}
    )
    pictures = {name: data for name, data in resources["outputs"].items() if name.endswith(".png")}
    note = "<!-- Made from nbs/index.ipynb by `make readme`: edit there. -->\n"
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return {"README.md": (note + text).encode(), **pictures}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, data in build_readme(ROOT).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
