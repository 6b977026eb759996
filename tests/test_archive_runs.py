"""Runs that go well: what is archived, what is not repeated, and why something would be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from archive_site import BEGIN, TAG, Site

from imaxt_nb.archive.batch import Request, exit_code, run_batch
from imaxt_nb.archive.executor import Outcome
from imaxt_nb.archive.plan import plan
from imaxt_nb.archive.record import Record, record_schema
from imaxt_nb.archive.templates import get_template

SECRET = "open sesame, please"
CONVERT = """
from pathlib import Path

folder = Path(run.data_root, run.sample, "raw")
folder.mkdir(exist_ok=True)
_ = (folder / "imc.txt").write_text(f"{run.sample} {n}")
"""
SEGMENT = """
from pathlib import Path

from imaxt_nb.core.progress import track

text = Path(run.data_root, run.sample, "raw/imc.txt").read_text()
assert run.sample != "bad" or missing_is_fine, "no nuclei here"
for _ in track(range(3), "regions"):
    pass
run.warn("a region is empty")
run.weights("nuclei", "0123")
_ = Path(run.data_root, run.sample, "cells.txt").write_text(text + str(seed))
"""
MODEL = """
from pydantic import SecretStr

from imaxt_nb.core.parameters import Parameters, param


class TokenParameters(Parameters):
    token: SecretStr = param(SecretStr(""), "how to get in")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("runs"))
    (made.root / "lib").mkdir()
    (made.root / "lib/token_model_of_test.py").write_text(MODEL)
    sys.path.insert(0, str(made.root / "lib"))
    before = os.environ.get("PYTHONPATH")
    os.environ |= {TAG: str(made.root), "PYTHONPATH": str(made.root / "lib")}
    made.template("imc/convert", CONVERT, parameters="n: int = 1", outputs=["raw/imc.txt"])
    made.template(
        "imc/segment",
        SEGMENT,
        parameters="seed: int = 0\nmissing_is_fine: bool = False",
        finish="run.finish(metrics={'cells': 3, 'f1': 0.5, 'how': 'watershed'})",
        inputs=["raw/imc.txt"],
        outputs=["cells.txt"],
    )
    made.template("studies/count", "print(name)", parameters="name: str = 'a'", scope="study")
    secret = "print('the token is', token)\nassert token == " + repr(SECRET)
    make_secret(made, secret)
    made.sample("t1", "bad")
    yield made
    made.close()
    sys.path.remove(str(made.root / "lib"))
    del os.environ[TAG]
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def make_secret(site: Site, code: str) -> None:
    """A template with a parameter model that has a secret."""
    path = site.template("imc/secret", code, parameters='token: str = ""')
    nb = json.loads(path.read_text())
    nb["metadata"]["imaxt"]["parameters"] = "token_model_of_test:TokenParameters"
    path.write_text(json.dumps(nb))


ROWS = [
    Request("imc/convert", "t1", {"n": "2"}, row=1),
    Request("imc/segment", "t1", {"seed": 7}, row=2),
    Request("imc/convert", "bad", row=3),
    Request("imc/segment", "bad", row=4),
    Request("studies/count", "cohort", {"name": "b"}, row=5),
    Request("imc/secret", "t1", {"token": SECRET}, row=6),
]


@pytest.fixture(scope="module")
def events() -> list[dict]:
    return []


@pytest.fixture(scope="module")
def outcomes(site: Site, events: list[dict]) -> list[Outcome]:
    return run_batch(ROWS, 2, site.settings, events.append)


def record_of(outcome: Outcome) -> Record:
    assert outcome.record is not None
    return outcome.record


def test_one_that_fails_stops_no_other(outcomes: list[Outcome], site: Site) -> None:
    status = [o.status for o in outcomes]
    assert status == ["succeeded"] * 3 + ["failed"] + ["succeeded"] * 2
    assert exit_code(outcomes) == 1
    assert site.survivors() == []


def test_the_record_of_a_run(outcomes: list[Outcome]) -> None:
    record = record_of(outcomes[1])
    assert record.parameters == {"sample": "t1", "seed": 7, "missing_is_fine": False}
    assert record.metrics == {"cells": 3, "f1": 0.5, "how": "watershed"}
    assert record.warnings == ["a region is empty"]
    assert record.seeds == {"seed": 7}
    assert [w.name for w in record.weights] == ["nuclei"]
    assert [(f.path, f.bytes) for f in record.inputs] == [("raw/imc.txt", 4)]
    assert [f.path for f in record.outputs] == ["cells.txt"]
    assert "imaxt_nb.core.progress" in record.library.modules
    assert not any(m.startswith("imaxt_nb.archive") for m in record.library.modules)
    assert record.template.file == "imc/01_segment.ipynb"
    assert record.peak_memory_mb and record.timings.cells and record.host.cpus
    jsonschema.validate(record.model_dump(mode="json"), record_schema())


def test_where_a_run_is_filed(outcomes: list[Outcome], site: Site) -> None:
    folder = Path(outcomes[1].folder or "")
    assert folder.parent == site.runs / "t1/imc-segment"
    assert folder.name.endswith(record_of(outcomes[1]).key[:8])
    assert Path(outcomes[4].folder or "").parent == site.runs / "cohort/studies-count"


def test_nothing_of_this_machine_in_the_archive(outcomes: list[Outcome], site: Site) -> None:
    """Neither paths nor environment variables."""
    for path in Path(outcomes[1].folder or "").rglob("*"):
        if path.is_file() and path.suffix != ".png":
            assert str(site.root) not in path.read_text(), path.name
            assert TAG not in path.read_text(), path.name


def test_a_secret_is_nowhere(outcomes: list[Outcome], site: Site) -> None:
    folder = Path(outcomes[5].folder or "")
    for path in [*folder.rglob("*"), *site.runs.glob("*.sqlite*")]:
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path.name
    assert "the token is **********" in (folder / "notebook.ipynb").read_text()


def test_events(outcomes: list[Outcome], events: list[dict]) -> None:
    kinds = [e["event"] for e in events if e["row"] == 2]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    assert {"cell", "progress", "warning"} <= set(kinds)
    finished = [e for e in events if e["event"] == "finished"]
    assert len(finished) == len(ROWS)


def test_the_next_batch_repeats_only_the_failure(outcomes: list[Outcome], site: Site) -> None:
    items = plan(ROWS, site.settings)
    assert [i.action for i in items] == ["skip", "skip", "skip", "run", "skip", "skip"]
    assert items[3].why.startswith("last run failed: cell 3 raised AssertionError")
    again = run_batch(ROWS[:3], 2, site.settings)
    assert [o.action for o in again] == ["reused"] * 3
    assert [o.run_id for o in again] == [o.run_id for o in outcomes[:3]]


def why(site: Site, *requests: Request) -> str:
    return plan(requests, site.settings)[-1].why


def test_plan_names_what_changed(outcomes: list[Outcome], site: Site) -> None:
    segment = Request("imc/segment", "t1", {"seed": 7})
    assert why(site, Request("imc/segment", "t1", {"seed": 8})) == "parameter seed: 7 -> 8"
    assert why(site, Request("imc/segment", "t1", {"seed": 7}, force=True)) == "forced"
    product, raw = site.data / "t1/cells.txt", site.data / "t1/raw/imc.txt"
    text = product.read_text()
    product.unlink()
    assert why(site, segment) == "output cells.txt missing"
    product.write_text("other")
    assert why(site, segment) == "output cells.txt changed"
    product.write_text(text)
    assert plan([segment], site.settings)[0].action == "skip"
    before = raw.read_text()
    raw.write_text("t1 3")
    assert why(site, segment) == "input raw/imc.txt changed"
    raw.write_text(before)
    first = Request("imc/convert", "t1", {"n": 5}, row=1)
    second = Request("imc/segment", "t1", {"seed": 7}, row=2)
    assert why(site, first, second) == "after row 1, which writes its input"


def test_plan_names_a_package(outcomes: list[Outcome], site: Site) -> None:
    record = record_of(outcomes[4])
    environment = record.environment.model_copy(update={"python": "3.10.0"})
    old = record.model_copy(update={"environment": environment, "key": "0" * 40})
    old.save(outcomes[4].folder or "")
    assert why(site, ROWS[4]).startswith("environment: Python 3.10.0 -> ")
    record.save(outcomes[4].folder or "")


def test_a_row_that_needs_a_failed_one_is_skipped(outcomes: list[Outcome], site: Site) -> None:
    site.template("imc/after", inputs=["cells.txt"])
    found = run_batch([ROWS[3], Request("imc/after", "bad", row=5)], 2, site.settings)
    assert [o.status for o in found] == ["failed", "skipped"]
    skipped = record_of(found[1])
    assert skipped.reason == "row 4 (imc/segment), which writes its input, is failed"


def test_by_hand_the_same_notebook_runs(site: Site, tmp_path: Path) -> None:
    """Without a supervisor the values are validated and nothing is archived."""
    script = "sample = 't1'; seed = {}; missing_is_fine = False\n" + BEGIN
    copy = tmp_path / "my copy.ipynb"
    shutil.copy(get_template(site.settings.templates, "imc/segment").path, copy)
    environment = site.environment | {"JPY_SESSION_NAME": str(copy)}

    def by_hand(seed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script.format(seed)],
            env=environment, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

    assert "by hand: parameters are valid" in by_hand("3").stdout
    assert "parameter seed" in by_hand("'three'").stderr


def test_begin_run_is_quick() -> None:
    """A kernel must not pay for the machinery around it."""
    script = (
        "import sys, imaxt_nb.archive.run\n"
        "print(*{'pandas', 'papermill', 'scanpy', 'sqlalchemy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "" and done.returncode == 0


def test_a_sample_that_is_not_there_stops_no_other_row(site: Site) -> None:
    """The row is refused, with a record that says why, and so is what needs it; the rest goes on."""
    site.template("imc/after", inputs=["cells.txt"])
    rows = [
        Request("imc/segment", "nobody", row=1),
        Request("imc/after", "nobody", row=2),
        Request("imc/segment", "t1", {"seed": 11}, row=3),
    ]
    found = run_batch(rows, 2, site.settings)
    assert [(o.action, o.status) for o in found] == [
        ("refused", "failed"),
        ("skipped", "skipped"),
        ("ran", "succeeded"),
    ]
    assert "there is no sample 'nobody'" in (record_of(found[0]).reason or "")
    assert exit_code(found) == 1


MOSAIC = """
from pathlib import Path

file = Path(run.data_root, run.sample, "flat.txt")
if flat == "measure":
    _ = file.write_text("1.0")
_ = Path(run.data_root, run.sample, "mosaic.txt").write_text(flat)
"""


def test_optional_products_count_when_the_parameters_say_so(site: Site) -> None:
    products = {"pattern": "fl*.txt"}
    site.template(
        "stpt/mosaic", MOSAIC, parameters='flat: str = "measure"', outputs=["mosaic.txt"],
        optional_inputs=[products | {"when": {"flat": "keep"}}],
        optional_outputs=[products | {"when": {"flat": "measure"}}],
    )  # fmt: skip
    site.sample("opt")

    def run(flat: str) -> Outcome:
        return run_batch([Request("stpt/mosaic", "opt", {"flat": flat})], 1, site.settings)[0]

    def paths(outcome: Outcome) -> tuple[list[str], list[str]]:
        record = record_of(outcome)
        return [f.path for f in record.inputs], [f.path for f in record.outputs]

    assert paths(run("none")) == ([], ["mosaic.txt"])
    assert paths(run("measure")) == ([], ["mosaic.txt", "flat.txt"])
    assert run("measure").action == "reused", "its own product does not change its key"
    assert paths(run("keep")) == (["flat.txt"], ["mosaic.txt"])
    (site.data / "opt/flat.txt").write_text("2.0")
    [row] = plan([Request("stpt/mosaic", "opt", {"flat": "keep"})], site.settings)
    assert "input flat.txt changed" in str(row)
