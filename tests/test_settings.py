"""Settings: file < environment < command line, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaxt_nb.core.errors import UsageError
from imaxt_nb.core.settings import load_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATA_ROOT", "RUNS_ROOT", "TEMPLATES", "DATABASE_URL", "DASK", "SETTINGS"):
        monkeypatch.delenv(f"IMAXT_{name}", raising=False)
    (tmp_path / "settings.ini").write_text("[imaxt]\ndata_root = from_file\ndask = local:2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_order_of_strength(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().data_root == str(folder / "from_file")
    monkeypatch.setenv("IMAXT_DATA_ROOT", "from_environment")
    assert load_settings().data_root == str(folder / "from_environment")
    assert load_settings(data_root="from_call").data_root == str(folder / "from_call")
    assert load_settings().dask == "local:2"


def test_contract_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "IMAXT_DATA_ROOT": "/a",
        "IMAXT_RUNS_ROOT": "/b",
        "IMAXT_TEMPLATES": "/c",
        "IMAXT_DATABASE_URL": "postgresql://h/d",
        "IMAXT_DASK": "tcp://h:1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    s = load_settings()
    assert [s.data_root, s.runs_root, s.database_url, s.dask] == [
        "/a",
        "/b",
        "postgresql://h/d",
        "tcp://h:1",
    ]


def test_a_foreign_settings_file_is_not_ours(folder: Path) -> None:
    inner = folder / "other"
    inner.mkdir()
    (inner / "settings.ini").write_text("[DEFAULT]\nlib_name = something\n")
    assert load_settings(inner).data_root == str(folder / "from_file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[imaxt]\ndata_rot = x\n", "unknown setting"),
        ("[imaxt]\nenvironment_level = all\n", "environment_level"),
        ("[imaxt\n", "cannot read"),
    ],
)
def test_a_wrong_file_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "settings.ini").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_settings()


def test_a_named_file_must_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAXT_SETTINGS", str(folder / "none.ini"))
    with pytest.raises(UsageError, match="no such file"):
        load_settings()
