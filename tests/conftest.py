"""Fixtures that every test may use: the real data when it is there, and a site of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import imaxt, through

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; the test is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the real data are not here: ../shared/data beside the project")
    return SHARED


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site of its own: data and runs under a temporary folder."""
    for name in ("data_root", "runs_root"):
        monkeypatch.setenv(f"IMAXT_{name.upper()}", str(tmp_path / name.removesuffix("_root")))
    monkeypatch.setenv("IMAXT_DASK", "threads:2")
    for name in ("IMAXT_DATABASE_URL", "IMAXT_TEMPLATES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated region of 250 x 250 um."""
    out = tmp_path_factory.mktemp("raw") / "imc"
    imaxt("simulate", "imc", str(out), "--size-um", "250x250", "--seed", "5", site=out.parent)
    return out


@pytest.fixture(scope="session")
def done(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site where the sample went through all steps."""
    site = tmp_path_factory.mktemp("site")
    through(site, simulated, "sim")
    return site
