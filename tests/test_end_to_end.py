"""The commands of the README, as a user types them, from raw files to the gallery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline import imaxt

from imaxt_nb.core.files import digest_path


def test_products_keep_their_contract(done: Path) -> None:
    import anndata as ad
    import numpy as np

    from imaxt_nb.sample.store import Sample

    sample = Sample.open("sim", str(done / "data"))
    maps, name = sorted(sample.images(), reverse=True)
    assert name.startswith("imc_") and maps == name.replace("imc_", "maps_", 1)
    image = sample.image(name)
    cells, nuclei = (np.asarray(image.labels(n)) for n in ("cells", "nuclei"))
    assert cells.dtype == np.uint32
    assert set(np.unique(nuclei)) == set(np.unique(cells))
    assert ((nuclei == 0) | (nuclei == cells)).all()
    table = ad.read_h5ad(done / "data/sim/tables/cells.h5ad")
    assert table.n_obs == len(np.unique(cells)) - 1
    region = table.obs["region"].iloc[0]
    assert table.obs_names[0] == f"sim_{region}_{table.obs['cell_id'].iloc[0]}"
    assert np.allclose(table.X, np.arcsinh(table.layers["raw"]), atol=1e-5)
    analysed = ad.read_h5ad(done / "data/sim/tables/cells_analysis.h5ad")
    assert list(analysed.obs_names) == list(table.obs_names)
    assert {"leiden"} <= set(analysed.obs) and "X_umap" in analysed.obsm


def test_every_run_has_its_whole_record(done: Path) -> None:
    import jsonschema

    import imaxt_nb

    schema = json.loads((Path(imaxt_nb.__file__).parent / "archive/record.schema.json").read_text())
    records = sorted((done / "runs/sim").glob("*/*/record.json"))
    assert [p.parent.parent.name for p in records] == ["analysis-cells", "imc-segment"]
    for path in records:
        record = json.loads(path.read_text())
        jsonschema.validate(record, schema)
        assert record["status"] == "succeeded"
        for output in record["outputs"]:
            assert digest_path(done / "data/sim" / output["path"]) == output["digest"]
        names = {p.name for p in path.parent.iterdir()}
        assert names >= {
            "notebook.ipynb",
            "report.html",
            "thumbnail.png",
            "params.json",
            "record.json",
            "ro-crate-metadata.json",
            "log.jsonl",
        }
        assert str(Path.home()) not in path.read_text()


def test_a_second_request_is_skipped_and_the_plan_says_why(done: Path) -> None:
    before = sorted(done.glob("runs/sim/*/*/record.json"))
    imaxt("run", "imc/segment", "--sample", "sim", site=done)
    assert sorted(done.glob("runs/sim/*/*/record.json")) == before
    text = imaxt("plan", "--why", "imc/segment", "--sample", "sim", "-p", "sigma_um=1.7", site=done)
    assert "sigma_um" in text


def test_same_inputs_same_bytes(done: Path, again: Path) -> None:
    for product in ("raw/imc.zarr", "images", "tables/cells.h5ad", "tables/cells_analysis.h5ad"):
        assert digest_path(again / "data/sim" / product) == digest_path(
            done / "data/sim" / product
        ), product


def test_what_a_script_reads(done: Path) -> None:
    runs = json.loads(imaxt("status", "--json", site=done))
    assert {r["status"] for r in runs} == {"succeeded"}
    shown = json.loads(imaxt("show", runs[0]["run_id"], "--json", site=done))
    assert shown["run_id"] == runs[0]["run_id"]
    schema = json.loads(imaxt("params", "imc/segment", "--schema", site=done))
    assert "nuclear_channel" in schema["properties"]
    gallery = Path(json.loads(imaxt("report", "build", "--json", site=done))["gallery"])
    assert "sim" in gallery.read_text()
    assert imaxt("db", "rebuild", site=done)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["run", "imc/segmnt", "--sample", "sim"], 2),
        (["run", "imc/segment", "--sample", "sim", "-p", "sigma=1"], 2),
        (["run", "imc/segment", "--sample", "sim", "-p", "sigma_um=wide"], 2),
        (["run", "imc/segment"], 2),
        (["run", "imc/segment", "--sample", "nobody"], 3),
        (["run", "imc/segment", "--sample", "../sim"], 3),
        (["convert", "imc", "no-such-folder", "--sample", "x"], 3),
        (["batch", "no-such.csv"], 2),
        (["nonsense"], 2),
    ],
)
def test_exit_codes(done: Path, args: list[str], code: int) -> None:
    before = sorted(done.glob("runs/*/*/*"))
    imaxt(*args, site=done, code=code)
    assert sorted(done.glob("runs/*/*/*")) == before


def test_unknown_channel_is_a_failed_run_that_names_the_nearest(done: Path) -> None:
    imaxt(
        "run", "imc/segment", "--sample", "sim", "-p", "nuclear_channel=Ir1911", site=done, code=1
    )
    (failed,) = json.loads(imaxt("status", "--json", "--status", "failed", site=done))
    record = json.loads(imaxt("show", failed["run_id"], "--json", site=done))
    assert "did you mean 'Ir191'" in record["error"]["message"]


def test_batch_goes_on_and_finishes_the_rest(simulated: Path, tmp_path: Path) -> None:
    imaxt("convert", "imc", str(simulated), "--sample", "b1", site=tmp_path)
    rows = [
        "sample,template,nuclear_channel,method",
        "b1,imc/segment,Ir191,classical",
        "b1,imc/segment,Xx000,classical",
    ]
    (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
    imaxt("batch", str(tmp_path / "s.csv"), "-j", "2", site=tmp_path, code=1)
    statuses = sorted(
        r["status"] for r in json.loads(imaxt("status", "--all", "--json", site=tmp_path))
    )
    assert statuses == ["failed", "succeeded"]
    imaxt("batch", str(tmp_path / "s.csv"), "-j", "2", site=tmp_path, code=1)
    again = json.loads(imaxt("status", "--all", "--json", site=tmp_path))
    assert sorted(r["status"] for r in again) == ["failed", "failed", "succeeded"]


def test_real_hyperion_files(shared_data: Path, hyperion: tuple[Path, str]) -> None:
    raw, (site, told) = shared_data / "imc_hyperion", hyperion
    out = json.loads(told)
    assert len(out) == len(list(raw.rglob("*.txt"))) == 9
    assert [r["status"] for r in out].count("empty") == 1
    (segment,) = (site / "runs/hyperion/imc-segment").glob("*/record.json")
    record = json.loads(segment.read_text())
    assert any("empty" in w for w in record["warnings"])
    assert record["metrics"]["n_cells"] > 0
