"""Raw tiles on disk: what a section is, and what outlives an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from imaxt_nb.core.errors import BadInput, ImaxtError
from imaxt_nb.core.files import STAGING
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.places import resumable
from imaxt_nb.sample.tiles import RawTiles, TileHeader, TileWriter, create_tiles

HEADER = TileHeader(
    kind="tiles",
    channels=[Channel("a"), Channel("b", label="beads")],
    pixel_um=(0.5, 0.25),
    tile_shape=(6, 7),
    dtype=np.dtype("float32"),
    n_planes=2,
    plane_step_um=7,
    orientation=np.array([[0, -1], [1, 0]]),
    metadata={"Sample ID": "µ"},
    notes=["one"],
)
TABLE = pd.DataFrame(
    {"tile": [0, 1], "row": 0, "column": [0, 1], "stage_from": ["recorded", "unknown"]}
)
TABLE = TABLE.assign(stage_x_um=[3.5, np.nan], stage_y_um=[0.0, np.nan])
IMAGE = np.arange(42, dtype="float32").reshape(6, 7)


def fill(writer: TileWriter, number: int) -> None:
    draft = writer.begin(number, 2)
    draft.put(0, 0, [IMAGE, None])
    draft.put(0, 1, [IMAGE * np.nan, IMAGE + 1])
    draft.put(1, 0, [None, None])
    draft.commit(
        TABLE, z_um=15.0, notes=["tile 1 is lost"], metadata={"k": "v"}, sources={"f": "d"}
    )


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "raw/tiles.zarr")


def test_everything_comes_back(place: str) -> None:
    with create_tiles(place, HEADER, "key") as writer:
        fill(writer, 7)
        writer.finish("content", {"Mosaic.txt": "digest"})
    raw = RawTiles.open(place)
    for name in (
        "kind",
        "channels",
        "pixel_um",
        "tile_shape",
        "dtype",
        "n_planes",
        "metadata",
        "notes",
    ):
        assert getattr(raw, name) == getattr(HEADER, name)
    assert raw.orientation is not None and np.array_equal(raw.orientation, HEADER.orientation)
    assert (raw.name, raw.key, raw.sections, raw.grid) == ("tiles", "content", [7], None)
    section = raw.section(7)
    assert (section.number, section.z_um, section.status) == (7, 15, "partial")
    assert (section.notes, section.sources) == (["tile 1 is lost"], {"f": "d"})
    assert section.present.tolist() == [[[True, False], [True, True]], [[False] * 2] * 2]
    assert (
        np.array_equal(section.read(0, 1, 1), IMAGE + 1) and np.isnan(section.read(0, 1, 0)).all()
    )
    pd.testing.assert_frame_equal(section.table[TABLE.columns], TABLE, check_dtype=False)
    assert list(section.table.status) == ["ok", "missing"]
    for index in ((0, 0, 1), (1, 0, 0), (2, 0, 0), (-1, 0, 0)):
        with pytest.raises(BadInput, match="section 7"):
            section.read(*index)
    with pytest.raises(BadInput, match="expected: 7"):
        raw.section(1)


def test_attributes_are_strict_json_and_absent_images_take_no_room(place: str) -> None:
    with create_tiles(place, HEADER, "key") as writer:
        fill(writer, 1)
        writer.finish("content", {})
    for file in Path(place).rglob("zarr.json"):
        json.loads(file.read_text(), parse_constant=pytest.fail)
    chunks = Path(place, "sections/0001/pixels/c")
    assert sorted(f.relative_to(chunks).parts[:2] for f in chunks.rglob("*") if f.is_file()) == [
        ("0", "0"),
        ("0", "1"),
    ]


def test_an_interrupted_section_is_written_again(place: str) -> None:
    with pytest.raises(OSError, match="full"):
        with create_tiles(place, HEADER, "key") as writer:
            fill(writer, 1)
            writer.begin(2, 2).put(1, 1, [IMAGE, IMAGE])
            raise OSError("full")
    with create_tiles(place, HEADER, "key") as writer:
        assert writer.done == [1]
        fill(writer, 2)
        writer.finish("content", {})
    assert not RawTiles.open(place).section(2).present[1].any()


def test_another_request_starts_anew_and_bad_input_leaves_nothing(place: str) -> None:
    home = Path(place).parent
    for error in (OSError, BadInput):
        with pytest.raises(error):
            with create_tiles(place, HEADER, "key") as writer:
                fill(writer, 1)
                raise error("no")
        assert len(list(home.glob(f"{STAGING}*"))) == (error is OSError)
    with pytest.raises(OSError), create_tiles(place, HEADER, "key") as writer:
        fill(writer, 1)
        raise OSError
    with create_tiles(place, HEADER, "other") as writer:
        assert writer.done == []
        writer.finish("content", {})
    assert not list(home.glob(f"{STAGING}*")) and RawTiles.open(place).sections == []


def test_one_writer_at_a_time(place: str) -> None:
    with resumable(place, "a") as where:
        zarr.create_group(where, attributes={"x": 1})
        with pytest.raises(ImaxtError, match="another process"), resumable(place, "a"):
            pass


def test_what_is_no_store_of_tiles(place: str) -> None:
    with pytest.raises(BadInput, match="no converted tiles"):
        RawTiles.open(place)
    zarr.create_group(place, attributes={"imaxt": {"kind": "imc"}})
    with pytest.raises(BadInput, match=r"not a store of tiles.*imc"):
        RawTiles.open(place)
