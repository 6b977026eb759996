"""A sample: local or remote, shared by processes, and strict about what it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData

from imaxt_nb.core.errors import BadInput
from imaxt_nb.core.files import digest_path
from imaxt_nb.core.frames import Frame
from imaxt_nb.sample import pyramid
from imaxt_nb.sample.channels import Channel, find_channel
from imaxt_nb.sample.places import is_finished, lock
from imaxt_nb.sample.store import Sample, list_samples


@pytest.fixture
def remote() -> str:
    fs = fsspec.filesystem("memory")
    if fs.exists("/remote"):
        fs.rm("/remote", recursive=True)
    return "memory://remote/site"


def test_site_setting_is_the_default(site: Path) -> None:
    Sample.create("a")
    assert list_samples() == ["a"] and (site / "data" / "a" / "sample.json").is_file()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "/etc"])
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    for use in (Sample.create, Sample.open):
        with pytest.raises(BadInput, match="not a usable sample name"):
            use(name, str(tmp_path / "data"))
    sample = Sample.create("a", str(tmp_path / "data"))
    with pytest.raises(BadInput, match="not a usable"):
        sample.write_image(name, np.zeros((1, 2, 2)), pixel_um=(1, 1))
    with pytest.raises(BadInput, match="not a usable"):
        sample.write_table(name, pd.DataFrame({"a": [1]}))
    assert {p.name for p in tmp_path.iterdir()} == {"data"}


def test_unknown_sample_lists_those_there_are(tmp_path: Path) -> None:
    Sample.create("hyperion", str(tmp_path))
    with pytest.raises(BadInput, match="did you mean 'hyperion'"):
        Sample.open("hyprion", str(tmp_path))


def test_file_url_is_a_folder(tmp_path: Path) -> None:
    sample = Sample.create("a", f"file://{tmp_path}")
    assert sample.root == str(tmp_path / "a")


def test_remote_round_trip(remote: str) -> None:
    sample = Sample.create("demo", remote)
    sample.add_frames([Frame("imc:slide")])
    pixels = np.random.default_rng(0).integers(0, 9, (2, 300, 20)).astype("uint16")
    for value in (pixels, pixels + 1):
        sample.write_image(
            "imc_a", value, pixel_um=(1, 2), labels={"cells": value[0]}, frame="imc:slide"
        )
        sample.write_table("cells", AnnData(value[0].astype("float32")))
    again = Sample.open("demo", remote)
    assert list_samples(remote) == ["demo"]
    assert again.images() == ["imc_a"] and again.tables() == ["cells"]
    image = again.image("imc_a")
    assert np.array_equal(image.data, pixels + 1) and image.frame == "imc:slide"
    assert np.array_equal(image.labels("cells"), pixels[0] + 1)
    assert np.array_equal(again.table("cells").X, pixels[0] + 1)
    assert is_finished(again.path("images/superseded/0001/imc_a.ome.zarr"))
    assert "imc_a" in again._repr_html_()
    assert "imc_a" in again.to_spatialdata().images


def test_half_written_remote_image_does_not_exist(remote: str) -> None:
    sample = Sample.create("demo", remote)
    place = sample.path("images/a.ome.zarr")
    # as if the process was killed: levels are there, the attributes of the root are not
    store = zarr.storage.FsspecStore.from_url(place)
    pyramid.create_level(store, "0", (1, 4, 4), "uint8", "cyx")[:] = 1
    assert sample.images() == []
    with pytest.raises(BadInput, match="unknown image"):
        sample.image("a")
    sample.write_image("a", np.zeros((1, 4, 4)), pixel_um=(1, 1))
    assert sample.images() == ["a"]


def test_failed_remote_write_is_deleted(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sample.create("demo", remote)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyramid, "write_level", full)
    with pytest.raises(OSError, match="No space"):
        sample.write_image("a", np.zeros((1, 4, 4)), pixel_um=(1, 1))
    assert not fsspec.filesystem("memory").exists("/remote/site/demo/images/a.ome.zarr")


def test_threads_add_frames_at_once(tmp_path: Path) -> None:
    sample = Sample.create("a", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: sample.add_frames([Frame(f"f{i:02d}")]), range(24)))
    assert list(sample.frames) == [f"f{i:02d}" for i in range(24)]


ADD = """
import sys
from imaxt_nb.core.frames import Frame
from imaxt_nb.sample.store import Sample
for i in range(15):
    Sample.create("a", sys.argv[1]).add_frames([Frame(f"{sys.argv[2]}{i:02d}")])
"""


def test_processes_add_frames_at_once(tmp_path: Path) -> None:
    script = [sys.executable, "-c", ADD, str(tmp_path)]
    children = [subprocess.Popen([*script, name]) for name in ("p", "q")]
    assert [c.wait() for c in children] == [0, 0]
    assert len(Sample.open("a", str(tmp_path)).frames) == 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"schema_version": "1.0"}', "field: name"),
        ('{"name": "b"}', "of another sample"),
        ('{"name": "a", "schema_version": "2.0"}', "schema_version"),
        ('{"name": "a", "frames": [{"name": "f"}]}', "frames.0.affine"),
        ('{"name": "a", "frames": [{"name": "f", "affine": [[NaN,0,0,0]]}]}', "frames"),
    ],
)
def test_broken_sample_json_names_file_and_field(
    tmp_path: Path, content: str, message: str
) -> None:
    sample = Sample.create("a", str(tmp_path))
    Path(sample.path("sample.json")).write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        Sample.open("a", str(tmp_path))
    assert "sample.json" in str(caught.value)


def test_unknown_fields_of_sample_json_are_kept(tmp_path: Path) -> None:
    sample = Sample.create("a", str(tmp_path))
    file = Path(sample.path("sample.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"donor": "d1"}))
    sample.add_frames([Frame("f")])
    assert json.loads(file.read_text())["donor"] == "d1"


def test_frames_need_their_parents(tmp_path: Path) -> None:
    sample = Sample.create("a", str(tmp_path))
    with pytest.raises(BadInput, match="broken chain"):
        sample.add_frames([Frame("roi", "slide")])
    assert sample.frames == {}


def test_a_lock_held_for_long_is_an_error(tmp_path: Path) -> None:
    place = str(tmp_path / "sample.json")
    with lock(place), pytest.raises(TimeoutError), lock(place, timeout_s=0.1):
        pass


def test_tables_have_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    script = (
        "import sys, pandas as pd, numpy as np\n"
        "from anndata import AnnData\n"
        "from imaxt_nb.sample.store import Sample\n"
        "obs = pd.DataFrame({'region': pd.Categorical(['a', 'b']), 'area': [1.0, 2]}, ['r1', 'r2'])\n"
        "t = AnnData(np.ones((2, 3), 'float32'), obs=obs, layers={'raw': np.ones((2, 3))})\n"
        "t.uns['spatialdata_attrs'] = {'region': ['a', 'b'], 'region_key': 'region'}\n"
        "Sample.create('s', sys.argv[1]).write_table('cells', t)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", str(tmp_path / "a")])
        exec(script, {})
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "b")], check=True)
    first, second = (digest_path(tmp_path / n / "s/tables/cells.h5ad") for n in "ab")
    assert first == second


def test_a_second_table_supersedes(tmp_path: Path) -> None:
    sample = Sample.create("a", str(tmp_path))
    for value in (1, 2):
        sample.write_table("beads", pd.DataFrame({"x_um": [value]}))
    assert sample.table("beads").x_um[0] == 2
    old = pd.read_parquet(sample.path("tables/superseded/0001/beads.parquet"))
    assert old.x_um[0] == 1 and sample.tables() == ["beads"]


def test_channels_are_found_by_any_name() -> None:
    panel = [Channel("Yb172", "Yb", 172, "DNA2"), Channel("Pr141", "Pr", 141, "KRT5")]
    for wanted in ("Yb172", "yb(172)", "172Yb", "dna2", " Yb172 DNA2 "):
        assert find_channel(panel, wanted) == 0
    with pytest.raises(BadInput, match="Known: Yb172, DNA2, Pr141, KRT5"):
        find_channel(panel, "CD45")
    with pytest.raises(BadInput, match="ambiguous"):
        find_channel([*panel, Channel("Yb172", "Yb", 172)], "Yb172")


def test_core_import_stays_fast_and_spatialdata_is_lazy() -> None:
    code = (
        "import sys, imaxt_nb.sample.store, imaxt_nb.readers.imc\n"
        "heavy = {'spatialdata', 'anndata', 'dask', 'zarr', 'matplotlib', 'readimc', 'scipy', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
