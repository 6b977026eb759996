"""The RO-Crate of a run: what the profile asks for, without this machine's paths, always the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from run_factory import make_run, record_of

from imaxt_nb.archive.crate import CRATE_FILE, PROFILE, crate, write_crate


def entities(folder: Path) -> dict[str, dict]:
    return {e["@id"]: e for e in json.loads((folder / CRATE_FILE).read_text())["@graph"]}


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        return (
            [value["@id"]]
            if set(value) == {"@id"}
            else [r for v in value.values() for r in references(v)]
        )
    return [r for v in value for r in references(v)] if isinstance(value, list) else []


def test_the_rocrate_library_reads_it(tmp_path: Path) -> None:
    from rocrate.rocrate import ROCrate

    folder, record = make_run(tmp_path, n=1)
    read = ROCrate(folder)
    assert read.root_dataset["conformsTo"]["@id"] == PROFILE
    (action,) = (e for e in read.get_entities() if e.type == "CreateAction")
    assert action["instrument"]["name"] == record.template.title
    assert (
        action["actionStatus"] == "http://schema.org/CompletedActionStatus"
        or action["actionStatus"].id
    )
    assert {e["name"] for e in action["object"]} >= {"sigma_px", "hyperion/raw/imc.zarr"}
    assert {e["name"] for e in action["result"]} >= {"cells", "hyperion/tables/cells.h5ad"}
    assert {e.id for e in read.data_entities} >= {"report.html", "notebook.ipynb", "record.json"}


def test_process_run_crate_has_what_the_profile_asks_for(tmp_path: Path) -> None:
    folder, record = make_run(tmp_path)
    graph = entities(folder)
    assert graph[CRATE_FILE]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert {"name", "description", "datePublished", "license"} <= set(graph["./"])
    action = graph[f"#run/{record.run_id}"]
    assert action["startTime"].startswith("2026-11-20T09:00:00") and "endTime" in action
    assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareSourceCode"
    assert {"@id": action["@id"]} in graph["./"]["mentions"]
    digest = hashlib.sha256((folder / "report.html").read_bytes()).hexdigest()
    assert graph["report.html"]["sha256"] == digest
    outside = {"http://schema.org/CompletedActionStatus", "https://w3id.org/ro/crate/1.1"}
    assert {r for e in graph.values() for r in references(list(e.values()))} <= set(graph) | outside


def test_what_the_notebook_left_in_the_folder_is_a_result(tmp_path: Path) -> None:
    folder, record = make_run(tmp_path)
    (folder / "a table.csv").write_text("x,y")
    (folder / "model").mkdir()
    (folder / "heartbeat").touch()  # of a run in progress
    write_crate(folder, record)
    graph = entities(folder)
    left = {"@id": "a%20table.csv"}, {"@id": "model/"}
    assert all(e in graph["./"]["hasPart"] for e in left) and "heartbeat" not in graph
    assert all(e in graph[f"#run/{record.run_id}"]["result"] for e in left)
    assert graph["a%20table.csv"]["sha256"] == hashlib.sha256(b"x,y").hexdigest()
    assert graph["model/"]["@type"] == "Dataset"


@pytest.mark.parametrize("status", ["failed", "timeout", "killed", "cancelled", "lost"])
def test_a_failure_is_told(tmp_path: Path, status: str) -> None:
    folder, record = make_run(tmp_path, status=status, page=False)
    write_crate(folder, record)
    action = entities(folder)[f"#run/{record.run_id}"]
    assert action["actionStatus"]["@id"].endswith("FailedActionStatus")
    assert action["error"]


def test_no_machine_paths_and_the_same_bytes_twice(tmp_path: Path) -> None:
    files = [{"path": str(tmp_path / "a b.mcd"), "digest": "0" * 40, "bytes": 3}]
    folder, record = make_run(
        tmp_path, page=False, inputs=files, parameters={"p": [1, float("nan"), None]}
    )
    write_crate(folder, record)
    first = (folder / CRATE_FILE).read_text()
    assert str(tmp_path) not in first and "a%20b.mcd" in first
    write_crate(folder, record)
    assert (folder / CRATE_FILE).read_text() == first


def test_a_run_that_never_started_has_a_date(tmp_path: Path) -> None:
    record = record_of("s", "a/b", status="cancelled", started_at=None, finished_at=None)
    root = next(e for e in crate(tmp_path, record)["@graph"] if e["@id"] == "./")
    assert root["datePublished"] == "2026-11-20"
