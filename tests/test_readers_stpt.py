"""TissueCyte folders: every trap of the format, every damage, and conversions that were interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tissuecyte import PREFIX, edit_mosaic, tile_image, tile_path, write_tissuecyte

from imaxt_nb.cli.main import invoke
from imaxt_nb.core.errors import BadInput, ImaxtError
from imaxt_nb.core.files import STAGING, digest_path
from imaxt_nb.readers.mosaic_file import FLOATS, INTEGERS, RENAMED, MosaicFile, parse_mosaic
from imaxt_nb.readers.stpt import convert_stpt
from imaxt_nb.sample.store import Sample
from imaxt_nb.sample.tiles import RawTiles


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample.create("TT1", str(tmp_path / "data"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tissuecyte(tmp_path / "TT1")


def opened(sample: Sample) -> RawTiles:
    return RawTiles.open(sample.path("raw", "stpt.zarr"))


def notes_of(sample: Sample, section: int) -> str:
    return "; ".join(opened(sample).section(section).notes)


# What is whole


@pytest.mark.parametrize("gz", [False, True])
def test_everything_arrives_bit_for_bit(tmp_path: Path, sample: Sample, gz: bool) -> None:
    root = write_tissuecyte(tmp_path / "TT1", planes=2, channels=3, gz=gz)
    summary = convert_stpt(root, sample)
    assert list(summary.table.status) == ["ok", "ok"] and not summary.notes
    raw = opened(sample)
    assert (raw.grid, raw.n_planes, raw.tile_shape, raw.dtype) == ((2, 3), 2, (24, 32), np.uint16)
    assert (raw.pixel_um, raw.section_step_um, raw.plane_step_um) == ((0.5, 0.5), 15, 7)
    assert [c.name for c in raw.channels] == ["ch1", "ch2", "ch3"] and raw.orientation is None
    assert sample.modalities == ["stpt"] and raw.name == "stpt"
    for number in raw.sections:
        section = raw.section(number)
        assert (
            section.present.all() and section.status == "ok" and section.z_um == 15 * (number - 1)
        )
        assert section.metadata["Sample ID"] == "TT1" and len(section.metadata["XPos"]) == 6
        for tile, plane, channel in np.ndindex(section.present.shape):
            expected = tile_image(number, tile, plane, channel)
            assert np.array_equal(section.read(tile, plane, channel), expected)
    # stage x runs down the rows, along columns the tiles were taken in a serpentine
    table = raw.section(1).table
    assert list(table.row) == [0, 0, 0, 1, 1, 1] and list(table.column) == [0, 1, 2, 2, 1, 0]
    assert np.allclose(table.stage_x_um, 5000 - 10.8 * table.row)
    assert np.allclose(table.stage_y_um, 2000.1 + 14.4 * table.column)


def test_one_chunk_an_image_and_one_file_a_tile(root: Path, sample: Sample) -> None:
    convert_stpt(root, sample)
    pixels = opened(sample).section(1).pixels
    assert pixels.chunks == (1, 1, 1, 24, 32) and pixels.shards == (1, 1, 2, 24, 32)
    assert pixels.metadata.dimension_names == ("tile", "plane", "c", "y", "x")
    files = [
        f
        for f in Path(sample.path("raw/stpt.zarr/sections/0001/pixels/c")).rglob("*")
        if f.is_file()
    ]
    assert len(files) == 6


def test_the_command_and_its_table(
    tmp_path: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tissuecyte(tmp_path / "TT1", planned=9)
    tile_path(root, 2, 3, 0, 1).unlink()
    command = ["convert", "stpt", str(root), "--sample", "TT1"]
    assert invoke([*command, "--orientation=-y,x"]) == 0
    text = capsys.readouterr().out
    assert "9 sections are planned, 2 are there" in text
    header, first, second = text.splitlines()[-3:]
    assert header.split() == ["section", "status", "tiles", "channels", "planes", "note"]
    assert first.split() == ["1", "ok", "6", "2", "1"]
    assert second.split()[:2] == ["2", "partial"] and "no file: channel ch2, tiles 3" in second
    raw = opened(Sample.open("TT1", str(site / "data")))
    assert raw.orientation is not None and raw.orientation.tolist() == [[0, -1], [1, 0]]
    assert invoke([*command, "--orientation=-y,x"]) == 0
    assert "nothing was done" in capsys.readouterr().out
    assert invoke([*command, "--orientation=x"]) == 2
    assert "expected one of" in capsys.readouterr().err


# What is planned and what is there


def test_missing_tiles_channels_and_sections_are_recorded(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=5, planned=8)
    for channel in (0, 1):
        tile_path(root, 1, 4, 0, channel).unlink()
    for tile in range(6):
        tile_path(root, 2, tile, 0, 1).unlink()
    shutil.rmtree(root / "TT1-0003")
    for file in (root / "TT1-0004").glob("*.tif"):
        file.unlink()
    summary = convert_stpt(root, sample)
    assert list(summary.table.status) == ["partial", "partial", "empty", "empty", "ok"]
    assert list(summary.table.tiles) == ["5 of 6", "6", "0 of 6", "0 of 6", "6"]
    raw = opened(sample)
    assert raw.sections == [1, 2, 3, 4, 5] and raw.planned_sections == 8
    assert any("8 sections are planned, 4 are there" in n for n in raw.notes)
    assert list(raw.section(1).table.status) == ["ok"] * 4 + ["missing", "ok"]
    assert raw.section(2).notes == ["no file: channel ch2, tiles 0-5"]
    assert raw.section(3).notes[0] == "there is no folder of this section"
    assert set(raw.section(3).table.stage_from) == {"section 2"}
    assert raw.section(4).notes == ["no image of any of 6 tiles"]
    assert set(raw.section(4).table.stage_from) == {"recorded"}
    with pytest.raises(BadInput, match="no such image"):
        raw.section(1).read(4, 0, 0)


def test_zscan_0_means_one_layer(tmp_path: Path, sample: Sample) -> None:
    convert_stpt(write_tissuecyte(tmp_path / "TT1", planes=3, files_planes=1, Zscan=0), sample)
    raw = opened(sample)
    assert (raw.n_planes, raw.plane_step_um) == (1, 0)
    assert all(raw.section(n).status == "ok" for n in (1, 2))


def test_keys_of_november_2024(tmp_path: Path, sample: Sample) -> None:
    old = dict.fromkeys(("xres", "yres", "zres", "sectionres"))
    new = {"xRes_um": 0.6, "yRes_um": 0.4, "zscan_resolution_um": 2, "section_depth": 20}
    convert_stpt(write_tissuecyte(tmp_path / "TT1", planes=2, **old, **new), sample)
    raw = opened(sample)
    assert (raw.pixel_um, raw.section_step_um, raw.plane_step_um) == ((0.4, 0.6), 20, 4)


def test_startnum(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=1, startnum=1000)
    for file in (root / "TT1-0001").glob("*.tif"):
        index, channel = file.stem.removeprefix(f"{PREFIX}-").split("_")
        file.rename(file.with_name(f"{PREFIX}-{1000 + int(index)}_{channel}.tif"))
    convert_stpt(root, sample)
    section = opened(sample).section(1)
    assert section.status == "ok" and not section.notes
    assert np.array_equal(section.read(5, 0, 1), tile_image(1, 5, 0, 1))


def test_numbers_that_contradict_the_plan(tmp_path: Path, sample: Sample) -> None:
    """Sections that were counted on from another first number; and one with more files than tiles."""
    root = write_tissuecyte(tmp_path / "TT1", startnum=7000)
    extra = tile_path(root, 1, 0).with_name(f"{PREFIX}-99_01.tif")
    shutil.copy(tile_path(root, 1, 0), extra)
    convert_stpt(root, sample)
    section = opened(sample).section(1)
    assert section.status == "ok" and np.array_equal(section.read(3, 0, 0), tile_image(1, 3, 0, 0))
    notes = notes_of(sample, 1)
    assert "tiles counted from 0 (default), not 7000 (startnum)" in notes
    assert "1 file(s) outside of 2 x 3 tiles, 1 plane(s): numbers 99" in notes


def test_more_channels_than_planned(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", channels=3)
    for number in (1, 2):
        edit_mosaic(root, number, "channels:3", "channels:2")
    shutil.copy(tile_path(root, 1, 0), root / "TT1-0001" / f"{PREFIX}-0_77.tif")
    convert_stpt(root, sample)
    raw = opened(sample)
    assert len(raw.channels) == 3 and raw.section(1).status == "ok"
    assert any("2 channels are planned, there are files of 3" in n for n in raw.notes)
    assert any("1 file(s) of channels above 3 are not used" in n for n in raw.notes)


def test_a_tile_taken_twice(root: Path, sample: Sample) -> None:
    tifffile.imwrite(root / "TT1-0001/10072019-1400-2_01.tif", np.zeros((24, 32), "uint16"))
    shutil.copy(tile_path(root, 1, 1), root / "TT1-0001/x-1_01.tif.gz")
    convert_stpt(root, sample)
    section = opened(sample).section(1)
    assert np.array_equal(section.read(2, 0, 0), tile_image(1, 2, 0, 0))
    assert "several acquisitions" in notes_of(sample, 1) and "there twice" in notes_of(sample, 1)


def test_a_subset_of_the_sections(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=4)
    for number in (1, 2):
        shutil.rmtree(root / f"TT1-{number:04d}")
    convert_stpt(root, sample)
    raw = opened(sample)
    assert raw.sections == [3, 4] and raw.section(3).status == "ok" and raw.section(3).z_um == 30
    assert any("sections before 3 are not in the folder" in n for n in raw.notes)


# Mosaic files


def test_windows_text_and_latin_1(root: Path, sample: Sample) -> None:
    file = root / "TT1-0001/Mosaic_TT1-0001.txt"
    text = file.read_text() + "Description:Mäuse, 20 µm: links\x85\nno key here\n"
    file.write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    convert_stpt(root, sample)
    section = opened(sample).section(1)
    assert section.status == "ok" and section.notes == ["1 line(s) without a key"]
    assert section.metadata["Description"].startswith("Mäuse, 20 µm: links")


def test_a_lost_and_a_damaged_mosaic_file(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=4)
    (root / "TT1-0002/Mosaic_TT1-0002.txt").unlink()
    (root / "TT1-0003/Mosaic_TT1-0003.txt").write_bytes(os.urandom(50).replace(b":", b"x"))
    edit_mosaic(root, 4, "mrows:2", "mrows:two")
    convert_stpt(root, sample)
    raw = opened(sample)
    assert [raw.section(n).status for n in raw.sections] == ["ok"] * 4
    assert "no Mosaic file" in notes_of(sample, 2) and "is not used" in notes_of(sample, 3)
    assert "mrows: found 'two'" in notes_of(sample, 4)
    assert set(raw.section(2).table.stage_from) == {"section 1"}


def test_positions_that_are_missing(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=2, grid=(3, 3))
    edit_mosaic(root, 1, "XPos-108:49892\nYPos144:20145\n", "XPos-108:\nYPos144:20145\n")
    file = root / "TT1-0002/Mosaic_TT1-0002.txt"
    file.write_text("\n".join(ln for ln in file.read_text().splitlines() if "Pos" not in ln))
    convert_stpt(root, sample)
    first, second = opened(sample).section(1).table, opened(sample).section(2).table
    assert list(first.stage_from) == ["recorded"] * 4 + ["grid"] + ["recorded"] * 4
    assert np.allclose(first.stage_x_um, 5000 - 10.8 * first.row)
    assert np.allclose(first.stage_y_um, 2000.1 + 14.4 * first.column)
    assert set(second.stage_from) == {"grid"}
    assert "no stage position: tiles 0-8" in notes_of(sample, 2)


def test_no_position_at_all_and_none_for_more_tiles(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=1)
    file = root / "TT1-0001/Mosaic_TT1-0001.txt"
    bare = "\n".join(ln for ln in file.read_text().splitlines() if "Pos" not in ln)
    file.write_text(bare)
    convert_stpt(root, sample)
    table = opened(sample).section(1).table
    assert set(table.stage_from) == {"grid"} and "rows from left to right" in notes_of(sample, 1)
    assert table.stage_x_um.tolist() == pytest.approx([0, 14.4, 28.8] * 2)
    file.write_text(bare.replace("mrowres:10.8", ""))
    (root / "Mosaic_TT1.txt").unlink()
    convert_stpt(root, sample)
    table = opened(sample).section(1).table
    assert set(table.stage_from) == {"unknown"} and table.stage_x_um.isna().all()


def test_more_positions_than_tiles(root: Path, sample: Sample) -> None:
    file = root / "TT1-0001/Mosaic_TT1-0001.txt"
    file.write_text(file.read_text() + "XPos0:1\nYPos0:1\nXPos0:2\n")
    convert_stpt(root, sample)
    notes = notes_of(sample, 1)
    assert "8 XPos but 7 YPos" in notes and "8 stage positions for 6 tiles" in notes
    assert set(opened(sample).section(1).table.stage_from) == {"recorded"}


def test_a_grid_that_is_not_told(tmp_path: Path, sample: Sample) -> None:
    convert_stpt(write_tissuecyte(tmp_path / "TT1", mrows=None, mcolumns=None), sample)
    raw = opened(sample)
    assert raw.grid == (2, 3) and "from the stage positions" in raw.notes[0]


@pytest.mark.parametrize("key, option", [("xres", "pixel_um"), ("sectionres", "section_step_um")])
def test_a_length_that_is_not_told(tmp_path: Path, sample: Sample, key: str, option: str) -> None:
    root = write_tissuecyte(tmp_path / "TT1", **{key: None})
    with pytest.raises(BadInput, match=f"field: {key}.*--{option.replace('_', '-')}"):
        convert_stpt(root, sample)
    convert_stpt(root, sample, **{option: 0.7})
    raw = opened(sample)
    assert (raw.section_step_um if key == "sectionres" else raw.pixel_um[1]) == 0.7


def test_repeated_keys() -> None:
    mosaic = parse_mosaic(b"rows:3\ncolumns:4\nrows:5\nNote:a\nNote:a\n")
    assert mosaic.rows == 5 and mosaic.metadata["rows"] == ["3", "5"]
    assert mosaic.notes == ["rows is repeated with other values: the last one counts"]


keys = st.sampled_from(
    [*INTEGERS, *FLOATS, *RENAMED, "XPos12", "YPos-3", "XPos", "acqDate", "Sample ID"]
)
values = st.one_of(st.text(max_size=12), st.integers().map(str), st.floats().map(str))
lines = st.tuples(keys, values).map(":".join)
files = st.lists(st.one_of(lines, st.text(max_size=20)), max_size=30).map("\n".join)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        files.map(lambda t: t.encode("utf-8", "replace")),
        files.map(lambda t: t.encode("utf-16", "replace")),
    )
)
@example(b"\xff\xfe\x00")
@example("rows:\u0663\nXPos\u0664:\u0665".encode())
@example(b"XPos0:" + b"9" * 400)
@example(b"rows:1e999\ncolumns:nan\nstartnum:1_0")
def test_any_bytes_parse_or_are_bad_input(content: bytes) -> None:
    try:
        mosaic = parse_mosaic(content, "Mosaic_x.txt")
    except BadInput as error:
        assert "Mosaic_x.txt" in str(error)
        return
    assert isinstance(mosaic, MosaicFile) and mosaic.stage_um.shape[1:] == (2,)
    for name, (low, high) in INTEGERS.items():
        value = getattr(mosaic, name)
        assert value is None or (isinstance(value, int) and low <= value <= high)
    for name in FLOATS:
        value = getattr(mosaic, name)
        assert value is None or 0 < value < np.inf
    assert not np.isinf(mosaic.stage_um).any()


# Damaged images


def test_damaged_images_are_missing_with_a_reason(root: Path, sample: Sample) -> None:
    good = tile_path(root, 1, 0).read_bytes()
    tile_path(root, 1, 0).write_bytes(good[:-50])
    tile_path(root, 1, 1).write_bytes(b"")
    tile_path(root, 1, 2).write_bytes(os.urandom(999))
    tifffile.imwrite(tile_path(root, 1, 3), np.zeros((24, 31), "uint16"))
    tifffile.imwrite(tile_path(root, 1, 4), np.zeros((24, 32), "uint8"))
    tile_path(root, 1, 5).write_bytes(good[:20])
    summary = convert_stpt(root, sample)
    assert list(summary.table.status) == ["partial", "ok"] and summary.table.tiles[0] == "6"
    section = opened(sample).section(1)
    assert not section.present[:, 0, 0].any() and section.present[:, 0, 1].all()
    names = [f"{PREFIX}-{i}_01.tif" for i in range(6)]
    assert all(any(name in note for note in section.notes) for name in names)
    notes = notes_of(sample, 1)
    assert "cut off" in notes and "the file is empty" in notes
    assert "found 24 x 31 uint16, expected 24 x 32 uint16" in notes and "24 x 32 uint8" in notes
    assert str(root) not in notes


def test_gzipped_files_that_are_cut_off_or_no_gzip(tmp_path: Path, sample: Sample) -> None:
    root = write_tissuecyte(tmp_path / "TT1", sections=1, gz=True)
    first, second = (Path(f"{tile_path(root, 1, k)}.gz") for k in (0, 1))
    first.write_bytes(first.read_bytes()[:-30])
    second.write_bytes(b"no gzip at all")
    assert list(convert_stpt(root, sample).table.status) == ["partial"]
    section = opened(sample).section(1)
    assert section.present[:, 0, 0].tolist() == [False] * 2 + [True] * 4
    assert all(any(p.name in note for note in section.notes) for p in (first, second))


def test_tiles_of_another_size_than_planned(tmp_path: Path, sample: Sample) -> None:
    convert_stpt(write_tissuecyte(tmp_path / "TT1", rows=832, columns=832), sample)
    raw = opened(sample)
    assert raw.tile_shape == (24, 32) and raw.section(2).status == "ok"
    assert "rows x columns is 832 x 832, but the tiles are 24 x 32" in raw.notes


def test_nothing_that_can_be_read(root: Path, sample: Sample) -> None:
    for file in root.rglob("*.tif"):
        file.write_bytes(b"II*\0")
    with pytest.raises(BadInput, match=r"no image could be read.*_01\.tif"):
        convert_stpt(root, sample)
    assert not list(Path(sample.path("raw")).glob(f"{STAGING}*")) and sample.modalities == []


def test_folders_that_are_not_of_a_sample(tmp_path: Path, root: Path, sample: Sample) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="no sections"):
        convert_stpt(tmp_path / "none", sample)
    with pytest.raises(BadInput, match="the folder above this section's"):
        convert_stpt(root / "TT1-0001", sample)
    shutil.copytree(root / "TT1-0001", root / "TT2-0001")
    convert_stpt(root, sample)  # the sample's own Mosaic file tells which is meant
    assert "sections of TT2 are not used" in opened(sample).notes
    (root / "Mosaic_TT1.txt").unlink()
    with pytest.raises(BadInput, match="several samples"):
        convert_stpt(root.rename(tmp_path / "both"), sample)


# Again, killed, full


def test_other_files_supersede(root: Path, sample: Sample) -> None:
    convert_stpt(root, sample)
    before = opened(sample).key
    assert convert_stpt(root, sample).unchanged
    tifffile.imwrite(tile_path(root, 2, 0), tile_image(9, 0, 0, 0))
    assert not convert_stpt(root, sample).unchanged
    assert opened(sample).key != before
    old = RawTiles.open(sample.path("raw/superseded/0001/stpt.zarr"))
    assert np.array_equal(old.section(2).read(0, 0, 0), tile_image(2, 0, 0, 0))


def test_a_copy_with_other_times_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        copy = tmp_path / name / "TT1"
        shutil.copytree(root, copy, copy_function=shutil.copyfile)
        sample = Sample.create(name, str(tmp_path / "data"))
        convert_stpt(copy, sample)
        digests.append(digest_path(sample.path("raw/stpt.zarr")))
    assert digests[0] == digests[1]


KILLED = """
import sys, time
from imaxt_nb.readers import stpt, tile_conversion
from imaxt_nb.sample.store import Sample

whole = tile_conversion._convert
count = 0
def slow(plan, draft, place, refs):
    done = whole(plan, draft, place, refs)
    if draft.number == 2 and place[0] >= 2:
        print(1, flush=True)
        time.sleep(60)
    return done
tile_conversion._convert = slow
stpt.convert_stpt(sys.argv[1], Sample.create("TT1", sys.argv[2]))
"""


def test_killed_and_resumed_is_bit_identical(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "TT1-0002", root / "TT1-0003")
    whole = Sample.create("TT1", str(tmp_path / "whole"))
    convert_stpt(root, whole)
    command = [sys.executable, "-c", KILLED, str(root), str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.read(1) == "1"
    process.send_signal(signal.SIGKILL)
    process.wait()
    sample = Sample.create("TT1", str(tmp_path / "data"))
    with pytest.raises(BadInput, match="no converted tiles"):
        opened(sample)
    [draft] = Path(sample.path("raw")).glob(f"{STAGING}resume-*")
    first = draft / "sections/0001/pixels/zarr.json"
    before = first.stat().st_mtime_ns
    time.sleep(0.01)
    convert_stpt(root, sample)
    after = Path(sample.path("raw/stpt.zarr/sections/0001/pixels/zarr.json")).stat().st_mtime_ns
    assert after == before  # the first section was not converted again
    assert not list(Path(sample.path("raw")).glob(f"{STAGING}*"))
    assert digest_path(sample.path("raw/stpt.zarr")) == digest_path(whole.path("raw/stpt.zarr"))


FULL = """
import resource, sys
from imaxt_nb.cli.main import invoke
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
sys.exit(invoke(["convert", "stpt", sys.argv[1], "--sample", "TT1", "--data-root", sys.argv[2]]))
"""


def test_a_full_disk_is_a_clean_error_and_resumes(root: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (24, 32), "uint16")
    tifffile.imwrite(tile_path(root, 2, 1), noise)  # doesn't compress: the file that is too large
    limit = 3000
    command = [sys.executable, "-c", FULL, str(root), str(tmp_path / "data"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "no space left" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "convert again to go on" in done.stderr
    [draft] = (tmp_path / "data/TT1/raw").glob(f"{STAGING}resume-*")
    assert (draft / "sections/0001").is_dir()
    sample = Sample.open("TT1", str(tmp_path / "data"))
    convert_stpt(root, sample)
    assert np.array_equal(opened(sample).section(2).read(1, 0, 0), noise)


def test_two_conversions_at_a_time(root: Path, sample: Sample) -> None:
    from imaxt_nb.sample.places import lock

    with lock(sample.path("raw", "stpt.zarr")):
        with pytest.raises(ImaxtError, match="written by another process"):
            convert_stpt(root, sample)


def test_an_object_store(root: Path) -> None:
    sample = Sample.create("TT1", "memory://stpt-tests")
    convert_stpt(root, sample)
    assert convert_stpt(root, sample).unchanged
    assert np.array_equal(opened(sample).section(2).read(5, 0, 1), tile_image(2, 5, 0, 1))
