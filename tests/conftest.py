"""Fixtures that every test may use: the real data when it is there, and a site of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pipeline import hyperion_through, imaxt, through

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


FIRST = ("test_end_to_end", "test_beads_sample", "test_mosaic_commands", "test_cells_nuclei")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker has one left in the end; whichever test comes first waits for all journeys."""
    rank = {name: k for k, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if "journeys" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def journeys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sites where samples went through all steps: those that the collected tests want, all at the same time.

    Most of a step is one core's work (imports, compilation), so three take hardly longer than two.
    """
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    made: dict[str, Callable[[Path], Any]] = {}
    if wanted & {"done", "again"}:
        raw = request.getfixturevalue("simulated")
        made |= dict.fromkeys(wanted & {"done", "again"}, lambda site: through(site, raw, "sim"))
    if "hyperion" in wanted and SHARED.is_dir():
        made["hyperion"] = lambda site: hyperion_through(site, SHARED / "imc_hyperion")
    sites = {name: tmp_path_factory.mktemp(name) for name in sorted(made)}
    with ThreadPoolExecutor(len(sites) or 1) as pool:
        results = {name: pool.submit(made[name], site) for name, site in sites.items()}
    return {name: (sites[name], result) for name, result in results.items()}


def _arrived(journeys: Any, name: str) -> tuple[Path, Any]:
    """The site and what the journey gave; an error on the way is the error of the tests that want it alone."""
    site, result = journeys[name]
    return site, result.result()


@pytest.fixture(scope="session")
def done(journeys: Any) -> Path:
    """A site where the sample went through all steps."""
    return _arrived(journeys, "done")[0]


@pytest.fixture(scope="session")
def again(journeys: Any) -> Path:
    """Another one, the same in all."""
    return _arrived(journeys, "again")[0]


@pytest.fixture(scope="session")
def hyperion(shared_data: Path, journeys: Any) -> tuple[Path, str]:
    """A site where the real Hyperion files went through all steps, and what their conversion said."""
    return _arrived(journeys, "hyperion")
