"""Prove that notebooks are clean and that the package is what they export. Run by `make check`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_BY_HAND = ("archive/migrations", "archive/assets", "archive/record.schema.json")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Content of every notebook, module and data file, by its path."""
    files = [p for pattern in ("*.ipynb", "*.py") for p in folder.rglob(pattern)]
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in files
        if ".ipynb_checkpoints" not in p.parts
    }


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Names whose content differs or that exist on one side only."""
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


def main() -> int:
    """Clean and export a copy of the tree, and compare."""
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "tree"
        copy.mkdir()
        for part in ("nbs", "templates"):
            shutil.copytree(ROOT / part, copy / part)
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / part, copy / part)
        for by_hand in ALLOWED_BY_HAND:
            source, target = ROOT / "imaxt_nb" / by_hand, copy / "imaxt_nb" / by_hand
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, target)
        for folder in ("nbs", "templates"):
            subprocess.run([tools / "nbdev-clean", "--fname", folder], cwd=copy, check=True)
        subprocess.run([tools / "nbdev-export"], cwd=copy, check=True)
        subprocess.run([sys.executable, ROOT / "docs" / "readme.py", copy], check=True)
        bad = [
            f"{part}/{f}: {what}"
            for part, what in (
                ("nbs", "not clean: run nbdev-clean"),
                ("templates", "not clean: run nbdev-clean --fname templates"),
                (
                    "imaxt_nb",
                    "differs from what the notebooks export: run nbdev-export, or delete it",
                ),
            )
            for f in changed(snapshot(ROOT / part), snapshot(copy / part))
        ]
        if (ROOT / "README.md").read_bytes() != (copy / "README.md").read_bytes():
            bad.append("README.md: not what nbs/index.ipynb gives: run make readme")
    print("\n".join(bad) or "notebooks are clean and agree with the package")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
