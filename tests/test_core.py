"""Names, files, parameters and seeds: what the other rooms rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaxt_nb.core.compute import rng
from imaxt_nb.core.errors import BadInput, UsageError
from imaxt_nb.core.files import canonical_json, digest_path, staged
from imaxt_nb.core.identifiers import check_name, slug
from imaxt_nb.core.parameters import Parameters, param, validate


@given(st.text())
def test_a_slug_is_always_a_usable_name(text: str) -> None:
    name = slug(text)
    assert check_name(name) == name
    assert slug(name) == name


@given(st.text(max_size=120))
def test_a_checked_name_never_leaves_its_folder(text: str) -> None:
    try:
        name = check_name(text)
    except BadInput:
        return
    assert Path("/base", name).resolve().parent == Path("/base")


def test_staged_keeps_the_old_state_when_killed(tmp_path: Path) -> None:
    target = tmp_path / "product"
    target.write_text("old")
    code = (
        "import os, signal, sys\nfrom imaxt_nb.core.files import staged\n"
        "with staged(sys.argv[1]) as p:\n    p.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -9
    assert target.read_text() == "old"
    assert len(list(tmp_path.glob(".staging-*"))) == 1
    with staged(target) as p:
        p.write_text("new")
    assert not list(tmp_path.glob(".staging-*"))
    assert target.read_text() == "new"
    assert (tmp_path / "superseded/0001/product").read_text() == "old"


def test_digest_sees_content_and_names_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "c").mkdir(parents=True)
        (tmp_path / name / "c" / "x").write_bytes(b"1")
    os.utime(tmp_path / "a/c/x", (1, 1))
    assert digest_path(tmp_path / "a") == digest_path(tmp_path / "b")
    (tmp_path / "b/c/x").rename(tmp_path / "b/c/y")
    assert digest_path(tmp_path / "a") != digest_path(tmp_path / "b")


def test_canonical_json_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


class Model(Parameters):
    size_px: int = param(3, "size", unit="px", ge=1)
    names: list[str] = param([], "names")
    level: float | None = param(None, "level")


@given(
    st.lists(st.text(alphabet="abcXYZ019_", min_size=1)),
    st.integers(1, 10**6),
    st.none() | st.floats(-1e6, 1e6),
)
def test_text_and_values_mean_the_same(names: list[str], size: int, level: float | None) -> None:
    text = {
        "names": ",".join(names),
        "size_px": str(size),
        "level": "none" if level is None else repr(level),
    }
    assert validate(Model, text) == validate(
        Model, {"names": names, "size_px": size, "level": level}
    )


@pytest.mark.parametrize(
    "values",
    [{"size": "3"}, {"size_px": "three"}, {"size_px": "0"}, {"size_px": "1.5"}, {"level": "nan"}],
)
def test_wrong_parameters_are_refused_by_name(values: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        validate(Model, values)


def test_streams_are_the_same_in_every_process() -> None:
    code = "from imaxt_nb.core.compute import rng; print(rng(7, 'nuclei', 3).integers(1 << 60))"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(there) == rng(7, "nuclei", 3).integers(1 << 60)
