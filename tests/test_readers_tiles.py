"""Generic tile scans: folders by pattern, OME-TIFF with stage positions, CZI mosaics."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imaxt_nb.cli.main import invoke
from imaxt_nb.core.errors import BadInput, ImaxtError
from imaxt_nb.readers.stage_grid import extrapolate, grid_of, order_of, orders
from imaxt_nb.readers.tile_pattern import compile_pattern
from imaxt_nb.readers.tiles import convert_tiles
from imaxt_nb.sample.store import Sample
from imaxt_nb.sample.tiles import RawTiles

PATTERN = "r{row}-c{column}.tif"


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample.create("scan", str(tmp_path / "data"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """2 x 3 tiles of 20 x 30 uint16."""
    home = tmp_path / "in"
    home.mkdir()
    for row, column in np.ndindex(2, 3):
        tifffile.imwrite(home / f"r{row}-c{column}.tif", tile(row, column))
    return home


def tile(row: int, column: int) -> np.ndarray:
    return (np.arange(600).reshape(20, 30) + 1000 * row + 100 * column).astype("uint16")


def opened(sample: Sample, name: str = "tiles") -> RawTiles:
    return RawTiles.open(sample.path("raw", f"{name}.zarr"))


# A folder of images


def test_pattern(folder: Path, sample: Sample) -> None:
    convert_tiles(
        folder, sample, pattern=PATTERN, overlap=(0.1, 0.2), pixel_um=(0.5, 0.4), name="tma"
    )
    raw = opened(sample, "tma")
    assert (raw.grid, raw.dtype, raw.pixel_um) == ((2, 3), np.uint16, (0.5, 0.4))
    assert raw.orientation is not None and raw.orientation.tolist() == [[1, 0], [0, 1]]
    assert sample.modalities == ["tma"]
    section = raw.section(1)
    assert section.table.stage_x_um.tolist() == pytest.approx([0, 9.6, 19.2] * 2)
    assert section.table.stage_y_um.tolist() == pytest.approx([0] * 3 + [9] * 3)
    for k, (row, column) in enumerate(np.ndindex(2, 3)):
        assert np.array_equal(section.read(k, 0, 0), tile(row, column))


def test_missing_and_damaged_tiles(folder: Path, sample: Sample) -> None:
    (folder / "r0-c1.tif").unlink()
    whole = (folder / "r1-c2.tif").read_bytes()
    (folder / "r1-c2.tif").write_bytes(whole[:-9])
    summary = convert_tiles(folder, sample, pattern=PATTERN, pixel_um=1)
    assert summary.table.loc[0, ["status", "tiles"]].tolist() == ["partial", "4 of 6"]
    section = opened(sample).section(1)
    assert list(section.table.status) == ["ok", "missing", "ok", "ok", "ok", "missing"]
    assert section.notes[0] == "no file: channel ch1, tiles 1"
    assert section.notes[1].startswith("r1-c2.tif: cut off")
    (folder / "r1-c2.tif").write_bytes(whole)
    assert not convert_tiles(folder, sample, pattern=PATTERN, pixel_um=1).unchanged
    assert opened(sample).section(1).status == "partial"


def test_sections_channels_planes_and_numbered_tiles(tmp_path: Path, sample: Sample) -> None:
    home = tmp_path / "in"
    for section, number, plane, channel in np.ndindex(3, 4, 2, 2):
        name = ["DAPI", "CD3"][channel]
        file = home / f"s{section + 4:02d}" / f"scan_t{number + 1}_z{plane}_{name}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            file, np.full((8, 9), 100 * section + 10 * number + 2 * plane + channel, "uint8")
        )
    shutil.rmtree(home / "s05")
    options = {"grid": (2, 2), "order": "serpentine rows", "pixel_um": 1, "section_step_um": 5}
    convert_tiles(home, sample, pattern="s{section}/*_t{tile}_z{plane}_{channel}.tif", **options)
    raw = opened(sample)
    assert [c.name for c in raw.channels] == ["CD3", "DAPI"] and raw.n_planes == 2
    assert raw.sections == [4, 5, 6] and raw.section(5).status == "empty"
    section = raw.section(6)
    assert section.z_um == 25 and section.status == "ok"
    order = orders(2, 2)["serpentine rows"]
    for number, plane, channel in np.ndindex(4, 2, 2):
        row, column = order[number]
        value = 200 + 10 * number + 2 * plane + (1 - channel)
        assert (section.read(2 * row + column, plane, channel) == value).all()


def test_colour_images(tmp_path: Path, sample: Sample) -> None:
    home = tmp_path / "in"
    home.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 12, 14, 4), "uint8")
    for k in range(2):
        Image.fromarray(pixels[k]).save(home / f"{k}_0.png")
    convert_tiles(home, sample, pattern="{row}_{column}.png", pixel_um=1)
    raw = opened(sample)
    assert [c.name for c in raw.channels] == ["red", "green", "blue"]
    assert np.array_equal(raw.section(1).read(1, 0, 2), pixels[1, ..., 2])


def test_what_a_pattern_needs(folder: Path, sample: Sample) -> None:
    wrong = {
        "--pixel-um": {"pattern": PATTERN},
        "r0-c0.tif": {"pattern": "x{row}_{column}.tif", "pixel_um": 1},
        "not a pattern": {"pattern": "{row}.tif", "pixel_um": 1},
        "needs the grid": {"pattern": "r0-c{tile}.tif", "pixel_um": 1},
        "more tiles": {"pattern": "r0-c{tile}.tif", "pixel_um": 1, "grid": (1, 2)},
        "serpentine": {"pattern": PATTERN, "pixel_um": 1, "order": "spiral"},
        "0 to 0.95": {"pattern": PATTERN, "pixel_um": 1, "overlap": 1.0},
        "pixel_um": {"pattern": PATTERN, "pixel_um": 0.0},
        "--pattern": {},
    }
    for text, options in wrong.items():
        with pytest.raises(BadInput, match=text):
            convert_tiles(folder, sample, **options)
    assert sample.modalities == []


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="{}*rowcolumntile_.x[(\\/", max_size=30))
def test_any_pattern_compiles_or_is_bad_input(pattern: str) -> None:
    try:
        assert {"row", "tile"} & set(compile_pattern(pattern).groupindex)
    except BadInput as error:
        assert "pattern" in str(error)


def test_the_command(folder: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "tiles", str(folder), "--sample", "S", "--pattern", PATTERN]
    assert invoke([*command, "--overlap", "0.1x0.2"]) == 3
    assert "--pixel-um" in capsys.readouterr().err and not (site / "data/S").exists()
    assert invoke([*command, "--overlap", "0.1x0.2", "--pixel-um", "0.5"]) == 0
    assert capsys.readouterr().out.split()[-5:] == ["1", "ok", "6", "1", "1"]
    assert invoke([*command, "--overlap", "much", "--pixel-um", "0.5"]) == 2
    raw = RawTiles.open(str(site / "data/S/raw/tiles.zarr"))
    assert raw.section(1).table.stage_x_um.max() == pytest.approx(24)


# OME-TIFF


def write_ome(file: Path, places: list[tuple[float, float] | None], **extra: object) -> np.ndarray:
    """Images of (z 2, c 3, y 16, x 18) at stage positions in mm."""
    images = np.random.default_rng(1).integers(0, 999, (len(places), 2, 3, 16, 18), "uint16")
    with tifffile.TiffWriter(file) as writer:
        for image, place in zip(images, places, strict=True):
            meta = {"axes": "ZCYX", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}
            meta |= {"PhysicalSizeY": 0.5, "PhysicalSizeZ": 3, "Channel": {"Name": list("abc")}}
            if place is not None:
                x, y = ([v] * 6 for v in place)
                units = {"PositionXUnit": ["mm"] * 6, "PositionYUnit": ["mm"] * 6}
                meta["Plane"] = {"PositionX": x, "PositionY": y, **units}
            writer.write(image, photometric="minisblack", metadata=meta | extra)
    return images


def test_ome_tiff_of_several_images(tmp_path: Path, sample: Sample) -> None:
    places: list[tuple[float, float] | None] = [
        (1.0, 5.0),
        (1.0081, 5.0),
        (1.0081, 4.9928),
        (1.0, 4.9928),
    ]
    images = write_ome(tmp_path / "scan.ome.tif", places)
    convert_tiles(tmp_path / "scan.ome.tif", sample)
    raw = opened(sample)
    assert (raw.grid, raw.n_planes, raw.plane_step_um, raw.pixel_um) == ((2, 2), 2, 3, (0.5, 0.5))
    assert [c.name for c in raw.channels] == list("abc") and raw.orientation is None
    section = raw.section(1)
    assert section.table.stage_x_um.tolist() == pytest.approx([1000, 1008.1, 1008.1, 1000])
    assert section.table[["row", "column"]].values.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]
    for t, z, c in np.ndindex(4, 2, 3):
        assert np.array_equal(section.read(t, z, c), images[t, z, c])
    assert "<OME" in raw.metadata["ome_xml"]["scan.ome.tif"]
    assert convert_tiles(tmp_path / "scan.ome.tif", sample).unchanged


def test_ome_tiff_files_of_one_image_each(tmp_path: Path, sample: Sample) -> None:
    home = tmp_path / "in"
    home.mkdir()
    images = [write_ome(home / f"f{k}.ome.tif", [(0.0081 * k, 0.0)]) for k in range(3)]
    (home / "f3.ome.tif").write_bytes(b"II*\0 damaged")
    convert_tiles(home, sample, orientation=[[1, 0], [0, -1]])
    raw = opened(sample)
    assert raw.sections == [1] and raw.grid == (1, 3)
    assert raw.orientation is not None and raw.orientation.tolist() == [[1, 0], [0, -1]]
    assert np.array_equal(raw.section(1).read(2, 1, 1), images[2][0, 1, 1])
    assert any("f3.ome.tif is not used" in n for n in raw.notes)


def test_ome_tiff_without_positions_or_cut_off(tmp_path: Path, sample: Sample) -> None:
    write_ome(tmp_path / "a.ome.tif", [None])
    with pytest.raises(BadInput, match="no stage positions"):
        convert_tiles(tmp_path / "a.ome.tif", sample)
    write_ome(tmp_path / "b.ome.tif", [(0.0, 0.0), None, (0.0081, 0.0)])
    convert_tiles(tmp_path / "b.ome.tif", sample)
    section = opened(sample).section(1)
    assert section.status == "ok" and section.notes == ["1 image(s) without a stage position"]
    assert list(section.table.stage_from) == ["recorded", "unknown", "recorded"]


# CZI


def test_real_czi(shared_data: Path, sample: Sample) -> None:
    pytest.importorskip("czifile")
    convert_tiles(shared_data / "tiles_czi_mosaic", sample)
    raw = opened(sample)
    assert raw.pixel_um == pytest.approx((1.0833333, 1.0833333)) and raw.grid == (1, 2)
    assert [c.name for c in raw.channels] == ["EGFP"] and raw.tile_shape == (624, 924)
    section = raw.section(1)
    assert section.status == "ok" and "<ImageDocument" in raw.metadata["czi_xml"]["mosaic_test.czi"]
    assert section.table.stage_x_um.tolist() == pytest.approx([0, 832 * 1.0833333])
    # the true shift is (825, -2) pixels, not the (832, 0) of the stage
    left, right = (section.read(t, 0, 0).astype(float) for t in (0, 1))
    ours = np.corrcoef(left[:-2, 825:].ravel(), right[2:, :99].ravel())[0, 1]
    stage = np.corrcoef(left[:, 832:].ravel(), right[:, :92].ravel())[0, 1]
    assert ours > 0.95 > stage


def test_damaged_czi(shared_data: Path, tmp_path: Path, sample: Sample) -> None:
    pytest.importorskip("czifile")
    content = (shared_data / "tiles_czi_mosaic/mosaic_test.czi").read_bytes()
    for k, n in enumerate((0, 100, 40_000)):
        file = tmp_path / f"cut{k}.czi"
        file.write_bytes(content[:n])
        with pytest.raises(BadInput, match=f"cut{k}.czi"):
            convert_tiles(file, sample)
    file = tmp_path / "cut.czi"
    file.write_bytes(
        content[: len(content) * 6 // 10]
    )  # within the second tile; the directory is lost
    convert_tiles(file, sample)
    section = opened(sample).section(1)
    assert section.present.ravel().tolist() == [True, False]
    assert "cut.czi (tile 1, channel 1)" in section.notes[0]


def test_czi_without_czifile(
    tmp_path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "czifile", None)
    (tmp_path / "a.czi").touch()
    with pytest.raises(ImaxtError, match=r"\.\[czi\]"):
        convert_tiles(tmp_path / "a.czi", sample)


def test_real_tma(shared_data: Path, sample: Sample) -> None:
    convert_tiles(
        shared_data / "tiles_tma_4x3",
        sample,
        pattern="r{row}-c{column}.png",
        overlap=0.11,
        pixel_um=1,
    )
    raw = opened(sample)
    assert (raw.grid, raw.dtype, raw.tile_shape) == ((4, 3), np.uint8, (512, 512))
    first = np.asarray(Image.open(shared_data / "tiles_tma_4x3/r3-c1.png"))
    assert np.array_equal(raw.section(1).read(10, 0, 0), first)


# Rows and columns


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(sorted(orders(1, 1))),
    st.integers(0, 7),
    st.integers(0, 99),
)
def test_rows_and_columns_of_any_stage(
    rows: int, columns: int, name: str, turn: int, seed: int
) -> None:
    """Whatever the order and the axes of the stage, each tile keeps its neighbours."""
    order = orders(rows, columns)[name]
    stage = order[:, ::-1] * (900.0, 1000.0)
    stage = stage[:, ::-1] if turn & 4 else stage
    stage = stage * (1 - 2 * (turn & 1), 1 - (turn & 2))
    stage = stage + np.random.default_rng(seed).normal(0, 10, stage.shape)
    pairs = grid_of(stage, 250.0, (rows, columns))
    assert pairs is not None and len(np.unique(pairs, axis=0)) == rows * columns
    near = np.abs(order[:, None] - order[None]).sum(axis=2) == 1
    assert np.array_equal(np.abs(pairs[:, None] - pairs[None]).sum(axis=2) == 1, near)
    known, found = order_of(pairs, rows, columns)
    if rows > 1 and columns > 1 and known:
        lost = stage.copy()
        lost[-1] = np.nan
        filled = extrapolate(lost, found)
        assert filled is not None and np.abs(filled[-1] - stage[-1]).max() < 120
