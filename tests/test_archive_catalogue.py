"""The catalogue: the same as the files, open to several processes, honest about versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_factory import make_run, record_of
from sqlalchemy import inspect, text

from imaxt_nb.archive.catalogue import Catalogue
from imaxt_nb.archive.database import open_engine
from imaxt_nb.archive.tables import REVISION, Base
from imaxt_nb.core.errors import BadInput, UsageError

TESTS = Path(__file__).parent


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'catalogue.sqlite'}"


def fill(root: Path, runs: int = 6) -> None:
    for n in range(runs):
        make_run(root, f"s{n % 2}", n=n, status="failed" if n == 3 else "succeeded", page=False)


def test_migrations_make_the_declared_tables(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = Catalogue(url).engine
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    config = Config()
    config.set_main_option("script_location", "imaxt_nb.archive:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    indexed = {c for i in inspect(engine).get_indexes("runs") for c in i["column_names"]}
    assert indexed >= {
        "run_id",
        "subject",
        "step",
        "key",
        "status",
        "started_at",
        "finished_at",
        "seconds",
    }


def test_adding_twice_is_adding_once_and_the_last_word_counts(url: str) -> None:
    catalogue = Catalogue(url)
    for status in ("running", "succeeded", "succeeded"):
        record = record_of("s", "imc/segment", n=1, status=status)
        catalogue.add(record, f"s/imc-segment/{record.run_id}")
    (run,) = catalogue.runs()
    assert (run.status, run.seconds, run.started_at) == (
        "succeeded",
        record.timings.total_s,
        record.started_at,
    )
    with catalogue.engine.connect() as c:
        counts = [
            c.scalar(text(f"SELECT count(*) FROM {t}"))
            for t in ("parameters", "metrics", "files", "warnings")
        ]
    assert counts == [3, 4, 2, 1]


def test_questions(url: str, tmp_path: Path) -> None:
    fill(tmp_path / "runs")
    catalogue = Catalogue(url)
    assert catalogue.rebuild(tmp_path / "runs").added == 6
    newest = catalogue.runs()
    assert [r.run_id for r in newest] == sorted((r.run_id for r in newest), reverse=True)
    assert {r.subject for r in catalogue.runs(subject="s1")} == {"s1"}
    assert len(catalogue.runs(limit=2)) == 2
    failed = catalogue.runs(status="failed")
    assert [r.reason for r in failed] == [
        "BadInput: unknown channel 'Yb1720'; did you mean 'Yb172'?"
    ]
    assert (
        catalogue.find(failed[0].key) == [] and catalogue.find(failed[0].key, status=None) == failed
    )
    assert catalogue.find(newest[0].key[:8]) == newest[:1]
    assert catalogue.find("%" * 8, status=None) == []
    assert len(catalogue.metrics("cells")) == 5
    assert newest[0].as_json()["started_at"].endswith("+00:00")


def test_rebuild_follows_the_files(url: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    fill(root)
    catalogue = Catalogue(url)
    catalogue.rebuild(root)
    before = catalogue.runs()
    folders = sorted(root.glob("*/*/*"))
    (folders[0] / "record.json").write_text("{}")
    shutil.copytree(folders[1], folders[1].with_name(".staging-1-x"))
    shutil.copytree(folders[1], root / "s0" / "superseded" / "0001")
    result = catalogue.rebuild(root)
    assert result.added == 5
    assert [p for p, _ in result.unreadable] == [folders[0] / "record.json"]
    assert {r.run_id for r in before} - {r.run_id for r in catalogue.runs()} == {folders[0].name}


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from run_factory import record_of
from imaxt_nb.archive.catalogue import Catalogue
catalogue = Catalogue(sys.argv[2])
for n in range(12):
    record = record_of(f"s{sys.argv[3]}", "imc/segment", n=n)
    catalogue.add(record, f"{record.subject}/{record.step}/{record.run_id}")
    same = record_of("shared", "imc/segment", n=n)
    catalogue.add(same, f"shared/{same.step}/{same.run_id}")
"""


def test_four_processes_add_at_once_to_a_database_that_is_not_there_yet(url: str) -> None:
    start = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(TESTS), url, str(i)]) for i in range(4)
    ]
    assert [p.wait(120) for p in start] == [0, 0, 0, 0]
    catalogue = Catalogue(url)
    assert len(catalogue.runs()) == 5 * 12
    assert len(catalogue.metrics("cells")) == 5 * 12


def test_a_newer_database_is_refused_with_a_clear_message(url: str) -> None:
    with Catalogue(url).engine.execution_options(writes=True).begin() as c:
        c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadInput, match=r"newer version of imaxt_nb.*found: 9999"):
        Catalogue(url)


def test_damaged_database_and_wrong_urls(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(os.urandom(8192))
    with pytest.raises(BadInput, match="imaxt db rebuild"):
        Catalogue(f"sqlite:///{tmp_path}/x.sqlite")
    with pytest.raises(UsageError, match="not a usable database URL") as e:
        open_engine("nosuch://user:secret@host/db")
    assert "secret" not in str(e.value)


def test_opening_an_up_to_date_catalogue_does_not_load_alembic(url: str) -> None:
    Catalogue(url)
    code = f"import sys; from imaxt_nb.archive.catalogue import Catalogue; Catalogue({url!r}); assert 'alembic' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_adding_is_quick(url: str) -> None:
    catalogue = Catalogue(url)
    records = [record_of("s", "imc/segment", n=n) for n in range(50)]
    start = time.process_time()
    for r in records:
        catalogue.add(r, f"s/{r.step}/{r.run_id}")
    assert (time.process_time() - start) / 50 < 0.1


@pytest.mark.skipif(
    "IMAXT_TEST_POSTGRES" not in os.environ, reason="IMAXT_TEST_POSTGRES names no server"
)
def test_postgres() -> None:
    engine = open_engine(os.environ["IMAXT_TEST_POSTGRES"])
    with engine.begin() as c:
        c.execute(
            text("DROP TABLE IF EXISTS warnings, files, metrics, parameters, runs, alembic_version")
        )
    catalogue = Catalogue(os.environ["IMAXT_TEST_POSTGRES"])
    for _ in range(2):
        catalogue.add(record_of("s", "imc/segment", n=1), "s/imc-segment/x")
    assert len(catalogue.runs()) == 1
