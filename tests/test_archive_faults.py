"""Whatever goes wrong in a run, its record tells the truth and no process stays behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from archive_site import TAG, Site, until

from imaxt_nb.archive.batch import Request, run_batch, run_one
from imaxt_nb.archive.executor import Outcome
from imaxt_nb.archive.processes import MARK, marked
from imaxt_nb.archive.record import Record
from imaxt_nb.archive.recover import reap
from imaxt_nb.cli.runs import summary

SLEEP = "import time\n\n(run.folder / 'here').touch()\ntime.sleep(60)"
CHILD = """
import subprocess

script = "import subprocess as s; s.Popen(['sleep', '300'], start_new_session=True)"
_ = subprocess.run(["python3", "-c", script], stdout=subprocess.DEVNULL)
"""
FAULTS = {
    "sigkill": "import os\n\nos.kill(os.getpid(), 9)",
    "timeout": SLEEP,
    "memory": "x = bytearray(600 * 2**20)\nimport time\n\ntime.sleep(60)",
    "raises": "raise ValueError('no nuclei')",
    "exits": "import os\n\nos._exit(3)",
    "quits": "import sys\n\nsys.exit()",
    "writes_nothing": "pass",
    "orphan": CHILD,
    "overrides": "pass",
    "no_report": "(run.folder / 'report.html').mkdir()",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("faults"))
    os.environ[TAG] = str(made.root)
    yield made
    del os.environ[TAG]
    made.close()


@pytest.fixture(scope="module")
def outcomes(site: Site) -> dict[str, Outcome]:
    """All faults that a template can cause, by two workers that survive them."""
    for name, code in FAULTS.items():
        options = {
            "timeout": {"resources": {"timeout_s": 1.5}},
            "memory": {"resources": {"memory_gb": 0.5}},
            "writes_nothing": {"outputs": ["tables/cells.h5ad"]},
            "overrides": {"parameters": "n: int = 1"},
        }.get(name, {})
        site.template(f"fault/{name}", [code, "after = 1"], **options)
    site.template("fault/unfinished", "pass", finish="False and run.finish()")
    site.sample("t1")
    rows = [Request(f"fault/{n}", "t1", row=i) for i, n in enumerate([*FAULTS, "unfinished"], 1)]
    nb = json.loads((site.templates / "fault/01_overrides.ipynb").read_text())
    nb["cells"][1]["source"] = f"n = 2\n{nb['cells'][1]['source']}"
    (site.templates / "fault/01_overrides.ipynb").write_text(json.dumps(nb))
    found = run_batch(rows, 2, site.settings)
    return {r.template.removeprefix("fault/"): o for r, o in zip(rows, found, strict=True)}


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("sigkill", "killed", "killed by SIGKILL"),
        ("timeout", "timeout", "longer than 1.5 s"),
        ("memory", "killed", "memory limit exceeded"),
        ("raises", "failed", "cell 3 raised ValueError: no nuclei"),
        ("exits", "failed", "exit code 3"),
        ("quits", "failed", "without run.finish()"),
        ("unfinished", "failed", "without run.finish()"),
        ("writes_nothing", "failed", "tables/cells.h5ad was not written"),
        ("overrides", "failed", "n is 2, requested was 1"),
        ("orphan", "succeeded", None),
    ],
)
def test_the_record_tells_the_truth(
    outcomes: dict[str, Outcome], fault: str, status: str, reason: str | None
) -> None:
    outcome = outcomes[fault]
    assert (outcome.action, outcome.status) == ("ran", status)
    assert outcome.record is not None and outcome.record.status == status
    assert not outcome.record.warnings
    assert reason is None or reason in str(outcome.record.reason)
    assert outcome.record.finished_at is not None


def test_a_report_that_could_not_be_written_is_told(outcomes: dict[str, Outcome]) -> None:
    told = [summary("t1", outcomes[name].as_json()) for name in ("no_report", "raises")]
    assert outcomes["no_report"].ok and "no report: IsADirectoryError" in told[0]
    assert "report.html\n" not in f"{told[0]}\n" and told[1].endswith("/report.html")


def test_no_process_survives(site: Site, outcomes: dict[str, Outcome]) -> None:
    assert site.survivors() == []
    assert site.staging() == []


def test_the_notebook_tells_the_truth(outcomes: dict[str, Outcome]) -> None:
    """papermill alone would mark every cell of a killed notebook 'completed'."""
    folder = Path(outcomes["sigkill"].folder or "")
    nb = json.loads((folder / "notebook.ipynb").read_text())
    states = [c["metadata"]["papermill"]["status"] for c in nb["cells"]]
    assert states == ["completed", "completed", "completed", "killed", "pending", "pending"]
    assert nb["metadata"]["imaxt"]["run"]["status"] == "killed"


def test_details_of_a_failure(outcomes: dict[str, Outcome]) -> None:
    killed, raised = outcomes["sigkill"].record, outcomes["raises"].record
    assert killed is not None and killed.exit.signal == signal.SIGKILL
    assert raised is not None and raised.error is not None
    assert (raised.error.type, raised.error.message) == ("ValueError", "no nuclei")
    memory = outcomes["memory"].record
    assert memory is not None and (memory.peak_memory_mb or 0) > 500


def test_the_report_of_a_failure_is_there(outcomes: dict[str, Outcome]) -> None:
    for name in outcomes.keys() - {"no_report"}:
        names = {p.name for p in Path(outcomes[name].folder or "").iterdir()}
        assert {"notebook.ipynb", "report.html", "thumbnail.png", "record.json"} <= names
        assert not names & {"request.json", "heartbeat", "ballast"}
        assert "heartbeat" not in Path(outcomes[name].folder or "", "report.html").read_text()


# -- processes of ours that are ended ------------------------------------------------------


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Site]:
    """A site with a template that sleeps, and a batch of two such rows."""
    made = Site(tmp_path)
    made.template("slow/sleep", [SLEEP, CHILD], outputs=["x"])
    made.sample("t1", "t2")
    made.batch(*({"sample": s, "template": "slow/sleep"} for s in ("t1", "t2")))
    yield made
    made.close()


def start_sleeping(site: Site) -> subprocess.Popen[str]:
    """An imaxt process whose first row sleeps."""
    process = site.start(site.root / "batch.csv")
    until(lambda: list(site.runs.glob("*/*/.staging-*/here")))
    return process


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(process.pid).children()
    return next(c for c in children if any("imaxt_nb.archive.worker" in a for a in c.cmdline()))


def test_ctrl_c_cancels(sleeper: Site) -> None:
    process = start_sleeping(sleeper)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    (record,) = sleeper.records()
    assert (record.status, record.reason) == ("cancelled", "imaxt received SIGINT")
    assert sleeper.survivors() == [] and sleeper.staging() == []


def test_imaxt_killed_worker_closes(sleeper: Site) -> None:
    process = start_sleeping(sleeper)
    process.kill()
    until(lambda: not sleeper.survivors())
    (record,) = sleeper.records()
    assert record.status == "cancelled" and "imaxt process" in str(record.reason)
    assert sleeper.staging() == []


def test_worker_killed_parent_closes(sleeper: Site) -> None:
    """The parent puts the run on record as lost and goes on with the next row."""
    process = start_sleeping(sleeper)
    worker_of(process).kill()
    until(lambda: len(list(sleeper.runs.glob("t2/*/.staging-*/here"))) == 1)
    (record,) = sleeper.records()
    assert record.status == "lost" and "vanished" in str(record.reason)
    process.terminate()
    assert process.wait(30) == 1
    assert [r.status for r in sleeper.records()] == ["lost", "cancelled"]
    assert sleeper.survivors() == []


def test_everything_killed_next_command_closes(sleeper: Site) -> None:
    process = start_sleeping(sleeper)
    worker = worker_of(process)
    process.kill()
    worker.kill()
    process.wait()
    until(lambda: not sleeper.survivors())  # the kernel dies with its supervisor
    assert len(sleeper.staging()) == 1 and not sleeper.records()
    (record,) = reap(sleeper.settings)
    assert record.status == "lost" and sleeper.staging() == []
    (kept,) = sleeper.records()
    assert kept.run_id == record.run_id


def test_the_next_batch_finishes_the_rest(tmp_path: Path) -> None:
    """What was done is not repeated, what was interrupted is."""
    site = Site(tmp_path)
    gate = f"from pathlib import Path\nimport time\n\n(run.folder / 'here').touch()\nslow = run.sample == 't2' and not Path({str(tmp_path / 'go')!r}).exists()\ntime.sleep(60 * slow)"
    write = "_ = Path(run.data_root, run.sample, 'x').write_text('x')"
    site.template("slow/wait", [gate, write], outputs=["x"])
    site.sample("t1", "t2", "t3")
    file = site.batch(*({"sample": s, "template": "slow/wait"} for s in ("t1", "t2", "t3")))
    first = site.start(file)
    until(lambda: list(site.runs.glob("t2/*/.staging-*/here")))
    first.terminate()
    assert first.wait(30) == 1
    (tmp_path / "go").touch()
    assert site.start(file).wait(60) == 0
    assert site.records()[1].reason == "imaxt received SIGTERM"
    status = [(r.subject, r.status) for r in site.records()]
    expected = [("t1", "succeeded"), ("t2", "cancelled"), ("t2", "succeeded"), ("t3", "succeeded")]
    assert status == expected
    assert site.survivors() == []


def test_two_imaxt_processes_run_a_step_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write = "from pathlib import Path\nimport time\n\ntime.sleep(1)\n_ = Path(run.data_root, run.sample, 'x').write_text('x')"
    site.template("slow/write", write, outputs=["x"])
    site.sample("t1")
    file = site.batch({"sample": "t1", "template": "slow/write"})
    both = [site.start(file), site.start(file)]
    assert [p.wait(60) for p in both] == [0, 0]
    (record,) = site.records()
    assert record.status == "succeeded"


# -- a full disk ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB for the runs."""
    mount = tmp_path / "small"
    mount.mkdir()
    if platform.system() != "Linux" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a small file system can be mounted by root on Linux only")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)])
    if done.returncode:
        pytest.skip("this system does not allow to mount a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.parametrize("where", ["notebook", "disk"])
def test_full_disk(
    tmp_path: Path, small_disk: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says so, and there is room for it, even when a run filled the disk."""
    site = Site(tmp_path, runs=small_disk)
    monkeypatch.setenv(TAG, str(site.root))
    code = {
        "notebook": "import random\n\nprint(random.Random(1).randbytes(3_000_000).hex())",
        "disk": "_ = (run.folder / 'extra').write_bytes(bytes(4_000_000))",
    }[where]
    site.template("fault/fill", code)
    site.sample("t1")
    outcome = run_one(Request("fault/fill", "t1"), site.settings)
    assert outcome.status == "failed"
    assert "No space left" in str(outcome.reason)
    (record,) = site.records()
    assert isinstance(record, Record) and record.status == "failed"
    assert site.survivors() == []


def test_a_process_is_known_from_its_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """When `Popen` returns, a program is there whose environment is empty for a moment still."""
    for n in range(20):
        with subprocess.Popen(["sleep", "60"], env=os.environ | {MARK: f"first {n}"}) as child:
            alone = [psutil.Process(child.pid)]  # looking at all others would take long enough
            monkeypatch.setattr(psutil, "process_iter", lambda found=alone: iter(found))
            try:
                assert [p.pid for p in marked(f"first {n}")] == [child.pid]
            finally:
                child.kill()
