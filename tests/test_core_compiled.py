"""Machine code on disk is of the code that is there: a change of what a function calls, in another file, is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SAY = "from toy.outer import outer; print(outer(1.0), sum(outer.stats.cache_hits.values()))"  # value, hits


def say(home: Path) -> list[str]:
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    env |= {"PYTHONPATH": str(home)}
    done = subprocess.run([sys.executable, "-c", SAY], env=env, capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.split()


def test_a_callee_in_another_file_that_changes_is_compiled_again(tmp_path: Path) -> None:
    toy = tmp_path / "toy"
    toy.mkdir()
    start = "from imaxt_nb.core.compiled import njit\n"
    (toy / "__init__.py").write_text("")
    (toy / "outer.py").write_text(
        f"{start}from .inner import inner\n\n\n@njit\ndef outer(x):\n    return inner(x) * 10\n"
    )
    inner = f"{start}\n\n@njit\ndef inner(x):\n    return x + "
    (toy / "inner.py").write_text(inner + "1\n")
    assert say(tmp_path) == ["20.0", "0"]
    assert say(tmp_path) == ["20.0", "1"]  # from the cache
    (toy / "inner.py").write_text(inner + "2\n")  # `numba.njit(cache=True)` would say 20 again
    assert say(tmp_path) == ["30.0", "0"]
    assert len(list((toy / "__pycache__").glob("numba-outer-*"))) == 1  # the former code is gone
