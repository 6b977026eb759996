"""IMC files: everything that can be read is read, everything that can't is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from imaxt_nb.core.errors import BadInput
from imaxt_nb.core.files import digest_path
from imaxt_nb.core.frames import Frame, apply_affine, translation
from imaxt_nb.readers.imc import convert_imc, raw_regions
from imaxt_nb.readers.imc_txt import COORDINATES, rasterise, read_txt
from imaxt_nb.sample.store import Sample

RAW = "imc_hyperion/datasets/210308_ImcTestData/raw"
NAMES = ["Ag107", "Pr141", "Sm147", "Eu153", "Yb172"]


def text_of(counts: np.ndarray, names: tuple[str, ...] = ("DNA1(Ir191Di)", "(Pr141Di)")) -> str:
    lines = ["\t".join([*COORDINATES, *names])]
    for i, (y, x) in enumerate(np.ndindex(counts.shape[1:])):
        values = "\t".join(f"{v:.3f}" for v in counts[:, y, x])
        lines.append(f"{i}\t{i}\t1\t{x}\t{y}\t{i}\t{values}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def counts() -> np.ndarray:
    y, x = np.mgrid[:20, :30]
    blob = np.exp(-((x - 14) ** 2 + (y - 9) ** 2) / 40) * 30
    return np.stack([blob, blob / 2]).round(3).astype("float32")


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample.create("s", str(tmp_path / "data"))


@pytest.fixture
def real(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of one real .mcd with its text twins and no .schema."""
    home = tmp_path / "real"
    home.mkdir()
    for file in (shared_data / RAW / "20210305_NE_mockData2").iterdir():
        if file.suffix in (".mcd", ".txt"):
            shutil.copyfile(file, home / file.name)
    return home


def damage(home: Path, fraction: float) -> Path:
    mcd = next(home.glob("*.mcd"))
    content = mcd.read_bytes()
    mcd.write_bytes(content[: int(len(content) * fraction)])
    return mcd


# The real data


def test_real_folder(shared_data: Path, sample: Sample) -> None:
    summary = convert_imc(shared_data / "imc_hyperion", sample)
    regions = raw_regions(sample)
    expected = [f"20210305_NE_mockData{k}_00{i}" for k in (1, 2, 3) for i in (1, 2, 3)]
    assert [r.name for r in regions] == expected == list(summary.table.region)
    assert [r.status for r in regions] == ["empty"] + ["ok"] * 8
    assert "no signal" in regions[0].note and regions[0].data is not None
    assert all([c.name for c in r.channels] == NAMES and r.pixel_um == (1, 1) for r in regions)
    assert regions[1].channels[4].label == "H3K27Ac"
    for region in regions:
        stem = region.name[:-4]
        twin = shared_data / RAW / stem / f"{stem}_ROI_{region.name[-3:]}_{region.name[-1]}.txt"
        assert np.allclose(read_txt(twin)[0], region.data, atol=0.006)
        assert region.metadata["Template"] == "mock_panel"
    assert sample.modalities == ["imc"]


def test_real_positions_panoramas_and_schema_are_kept(shared_data: Path, sample: Sample) -> None:
    convert_imc(shared_data / RAW / "20210305_NE_mockData3", sample)
    region = raw_regions(sample)[0]
    assert region.origin_um == (17057.5, 13484.5)
    frame = sample.frames["imc:20210305_NE_mockData3_001"]
    assert frame.parent == "imc:20210305_NE_mockData3" and "ROIPoint" in frame.how
    # the last pixel is at the far corner, and the slide's y axis points up
    assert np.allclose(apply_affine(frame.affine, [[63, 49, 0]])[0, :2], [17120.5, 13435.5])
    slide = zarr.open_group(sample.path("raw/imc.zarr/slides/20210305_NE_mockData3"), mode="r")
    own = slide.attrs["imaxt"]
    assert own["schema_xml"].startswith("<MCDSchema") and "AblationFrequency" in own["schema_xml"]
    assert own["panoramas"]["1"]["points_um"][0] == [16984, 13776]
    panorama = slide["panoramas/1"][:]
    assert panorama.shape == (4, 364, 279) and panorama[:3].std() > 10


# A damaged .mcd


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.4, 0.7, 0.95, 0.97])
def test_truncated_mcd_with_twins(real: Path, sample: Sample, fraction: float) -> None:
    damage(real, fraction)
    convert_imc(real, sample)
    regions = raw_regions(sample)
    assert [r.name[-4:] for r in regions] == ["_001", "_002", "_003"]
    assert {r.status for r in regions} == {"ok"}
    assert all("read from the .txt twin: unreadable .mcd" in r.note for r in regions)
    assert [c.name for c in regions[0].channels] == NAMES
    assert "1 um assumed" in _own(sample, regions[0].name)["pixel_from"]


def _own(sample: Sample, region: str) -> dict:
    return zarr.open_group(sample.path("raw/imc.zarr", region), mode="r").attrs["imaxt"]


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.97])
def test_truncated_mcd_without_twins(real: Path, sample: Sample, fraction: float) -> None:
    mcd = damage(real, fraction)
    for text in real.glob("*.txt"):
        text.unlink()
    with pytest.raises(BadInput, match=r"nothing could be read.*unreadable \.mcd"):
        convert_imc(mcd, sample)
    assert not Path(sample.path("raw/imc.zarr")).exists() and sample.modalities == []
    assert list(Path(sample.path("raw")).iterdir()) == []


def test_damaged_file_does_not_lose_the_others(
    real: Path, sample: Sample, counts: np.ndarray
) -> None:
    damage(real, 0.5)
    for text in real.glob("*.txt"):
        text.unlink()
    (real / "case_ROI_001_1.txt").write_text(text_of(counts))
    summary = convert_imc(real, sample)
    assert list(summary.table.status) == ["damaged", "ok"]
    damaged, good = raw_regions(sample)
    assert damaged.data is None and "unreadable .mcd" in damaged.note
    assert str(real) not in damaged.note  # the product doesn't depend on where the files were
    assert np.array_equal(good.data, counts)


def test_schema_beside_a_truncated_mcd_saves_what_is_whole(
    shared_data: Path, tmp_path: Path, sample: Sample
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for file in (shared_data / RAW / "20210305_NE_mockData2").glob("*2.[ms]c*"):
        shutil.copyfile(file, folder / file.name)
    damage(folder, 0.7)
    convert_imc(folder, sample)
    regions = raw_regions(sample)
    assert [r.status for r in regions] == ["ok", "damaged", "damaged"]
    assert "described by 20210305_NE_mockData2.schema" in regions[0].note
    assert "cut off" in regions[1].note and regions[1].origin_um == (15694.5, 13246.5)
    twin = shared_data / RAW / "20210305_NE_mockData2/20210305_NE_mockData2_ROI_001_1.txt"
    assert np.allclose(read_txt(twin)[0], regions[0].data, atol=0.006)


def test_schema_beside_a_lost_description_saves_all(
    shared_data: Path, tmp_path: Path, sample: Sample
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for k in (2, 3):
        for file in (shared_data / RAW / f"20210305_NE_mockData{k}").glob(f"*{k}.[ms]c*"):
            shutil.copyfile(file, folder / file.name)
    for mcd in folder.glob("*.mcd"):  # the schema, at the end, is lost; all blocks are there
        content = mcd.read_bytes()
        mcd.write_bytes(content[: content.rfind("<MCDSchema".encode("utf-16-le"))])
    convert_imc(folder, sample)
    # of the second file's last acquisition the older .schema doesn't know where it starts
    assert [r.status for r in raw_regions(sample)] == ["ok"] * 5 + ["damaged"]
    assert "older than this acquisition" in raw_regions(sample)[5].note
    for region in raw_regions(sample)[:5]:
        stem = region.name[:-4]
        twin = shared_data / RAW / stem / f"{stem}_ROI_{region.name[-3:]}_{region.name[-1]}.txt"
        assert np.allclose(read_txt(twin)[0], region.data, atol=0.006)


def _overwrite(mcd: Path, old: str, new: str) -> None:
    """Change the schema inside an .mcd, keeping its length."""
    a, b = old.encode("utf-16-le"), new.encode("utf-16-le")
    content = mcd.read_bytes()
    assert len(a) == len(b) and a in content
    mcd.write_bytes(content.replace(a, b))


def test_one_damaged_acquisition_is_replaced_by_its_twin(real: Path, sample: Sample) -> None:
    mcd = next(real.glob("*.mcd"))
    _overwrite(mcd, "<DataEndOffset>514089<", "<DataEndOffset>914089<")
    convert_imc(mcd, sample)
    regions = raw_regions(sample)
    assert [r.status for r in regions] == ["ok"] * 3
    assert [bool(r.note) for r in regions] == [False, True, False]
    assert "read from the .txt twin" in regions[1].note and "cut off" in regions[1].note
    assert regions[1].origin_um == (15694.5, 13246.5)  # the place is the schema's


def test_one_damaged_acquisition_without_twin(real: Path, sample: Sample) -> None:
    mcd = next(real.glob("*.mcd"))
    _overwrite(mcd, "<MaxX>59<", "<MaxX>79<")
    next(real.glob("*ROI_002_2.txt")).unlink()
    convert_imc(mcd, sample)
    regions = raw_regions(sample)
    assert [r.status for r in regions] == ["ok", "damaged", "ok"]
    assert "incomplete acquisition" in regions[1].note


def test_acquisition_stopped_at_once_is_empty(real: Path, sample: Sample) -> None:
    mcd = next(real.glob("*.mcd"))
    _overwrite(mcd, "<DataEndOffset>514089<", "<DataEndOffset>398921<")
    convert_imc(mcd, sample)
    region = raw_regions(sample)[1]
    assert (region.status, region.data, region.note) == ("empty", None, "nothing was acquired")


@pytest.mark.parametrize(
    ("old", "new", "expected"), [("X>1<", "X>2<", (1, 2)), ("X>1<", "X>0<", (1, 1))]
)
def test_pitch_comes_from_the_file(
    real: Path, sample: Sample, old: str, new: str, expected: tuple[float, float]
) -> None:
    tag = "AblationDistanceBetweenShots"
    _overwrite(next(real.glob("*.mcd")), f"<{tag}{old}", f"<{tag}{new}")
    convert_imc(real, sample)
    region = raw_regions(sample)[0]
    assert region.pixel_um == expected
    assumed = "assumed" in _own(sample, region.name)["pixel_from"]
    assert assumed == (expected == (1, 1))


# Text files


def test_text_alone(tmp_path: Path, sample: Sample, counts: np.ndarray) -> None:
    file = tmp_path / "case_ROI_004_7.txt"
    file.write_text(text_of(counts))
    convert_imc(file, sample)
    (region,) = raw_regions(sample)
    assert (region.name, region.status, region.pixel_um) == ("case_007", "ok", (1, 1))
    assert np.array_equal(region.data, counts)
    assert region.origin_um is None and sample.frames["imc:case_007"].parent is None
    assert [c.title for c in region.channels] == ["Ir191 DNA1", "Pr141"]


FAULTS = {
    "missing column": (lambda t: t.replace("\tY\t", "\t"), "missing column.*line 1, column 5"),
    "no channels": (lambda t: "\n".join(COORDINATES), "missing column|no channel"),
    "no metal": (lambda t: t.replace("(Pr141Di)", "Pr"), r"unreadable header(.|\n)*line 1"),
    "text": (lambda t: t.replace("\t3\t1\t33", "\t3\tx\t33"), "line 35, column Y; found: x"),
    "NaN": (lambda t: t.replace("\t3\t1\t33", "\t3\tnan\t33"), "line 35, column Y; found: nan"),
    "nothing": (lambda t: t.replace("\t3\t1\t33", "\t\t1\t33"), "line 35, column X"),
    "cut line": (lambda t: t[:-9], "incomplete line.*line 601"),
    "cut rows": (lambda t: "\n".join(t.split("\n")[:-9]) + "\n", "incomplete acquisition"),
    "too many": (lambda t: t.replace("\t3\t1\t33", "\t3\t1\t1\t33"), "too many.*line 35"),
    "twice": (lambda t: t.replace("\t4\t1\t34", "\t3\t1\t34"), "twice.*x=3, y=1"),
    "half pixel": (lambda t: t.replace("\t3\t1\t33", "\t3.5\t1\t33"), "no whole number"),
    "negative": (lambda t: t.replace("\t3\t1\t33", "\t-3\t1\t33"), "outside.*x=-3"),
    "bytes": (lambda t: "\x00\x01binary", "missing column"),
    "empty file": (lambda t: "", "missing column"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_text_names_the_place(
    tmp_path: Path, sample: Sample, counts: np.ndarray, fault: str
) -> None:
    change, message = FAULTS[fault]
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(change(text_of(counts)))
    with pytest.raises(BadInput, match=message) as caught:
        convert_imc(file, sample)
    assert "case_ROI_001_1.txt" in str(caught.value)
    assert list(Path(sample.path("raw")).iterdir()) == []


def test_cut_short_keeps_complete_rows_when_asked(
    tmp_path: Path, sample: Sample, counts: np.ndarray
) -> None:
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(text_of(counts)[:-200])
    with pytest.raises(BadInput, match="incomplete"):
        convert_imc(file, sample)
    convert_imc(file, sample, strict=False)
    (region,) = raw_regions(sample)
    assert region.note == "cut short: the first 19 of 20 rows"
    assert np.array_equal(region.data, counts[:, :19])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), height=st.integers(1, 8), width=st.integers(1, 8))
def test_raster_never_invents_pixels(data: st.DataObject, height: int, width: int) -> None:
    order = data.draw(st.permutations(range(height * width)))
    keep = data.draw(st.integers(0, height * width))
    flat = np.array(order[:keep], dtype=int)
    y, x = np.divmod(flat, width)
    values = flat[:, None] + 1.0
    if keep == height * width:
        image, note = rasterise(values, x, y, (height, width))
        assert np.array_equal(image[0].ravel(), np.arange(flat.size) + 1) and not note
        return
    with pytest.raises(BadInput, match="incomplete"):
        rasterise(values, x, y, (height, width))
    try:
        image, note = rasterise(values, x, y, (height, width), strict=False)
    except BadInput:
        return
    assert (image > 0).all() and image.shape[2] == width and "cut short" in note


def test_folder_with_other_text_and_same_names(
    tmp_path: Path, sample: Sample, counts: np.ndarray
) -> None:
    for folder in ("one", "two"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "case_1.txt").write_text(text_of(counts))
    (tmp_path / "in" / "README.txt").write_text("notes\n")
    summary = convert_imc(tmp_path / "in", sample)
    assert [r.name for r in raw_regions(sample)] == ["case_001", "case_2_001"]
    assert "README.txt" in summary.note


@pytest.mark.parametrize("name", ["none", "a.csv", "folder"])
def test_nothing_to_read(tmp_path: Path, sample: Sample, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(BadInput, match=r"no such file|not an IMC file|no IMC files"):
        convert_imc(tmp_path / name, sample)


# The product


def test_same_files_again_do_nothing_and_others_supersede(
    tmp_path: Path, sample: Sample, counts: np.ndarray
) -> None:
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(text_of(counts))
    assert not convert_imc(file, sample).unchanged
    first = digest_path(sample.path("raw/imc.zarr"))
    again = convert_imc(file, sample)
    assert again.unchanged and "nothing was done" in repr(again)
    assert not Path(sample.path("raw/superseded")).exists()
    file.write_text(text_of(counts + 1))
    assert not convert_imc(file, sample).unchanged
    assert digest_path(sample.path("raw/superseded/0001/imc.zarr")) == first
    file.write_text(text_of(counts))
    convert_imc(file, sample)
    assert digest_path(sample.path("raw/imc.zarr")) == first


def test_disk_full_keeps_the_old_state(
    tmp_path: Path, sample: Sample, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(text_of(counts))
    convert_imc(file, sample)
    before = digest_path(sample.path("raw/imc.zarr"))
    file.write_text(text_of(counts + 1))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imaxt_nb.readers.imc.write_level", full)
    with pytest.raises(OSError, match="No space left"):
        convert_imc(file, sample)
    assert digest_path(sample.path("raw/imc.zarr")) == before
    assert [p.name for p in Path(sample.path("raw")).iterdir()] == ["imc.zarr"]


def test_converting_again_keeps_refined_frames(
    tmp_path: Path, sample: Sample, counts: np.ndarray
) -> None:
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(text_of(counts))
    convert_imc(file, sample)
    placed = Frame("imc:case", "sample", translation(5).tolist(), how="registered", run_id="r1")
    sample.add_frames([Frame("sample"), placed])
    file.write_text(text_of(counts + 1))
    convert_imc(file, sample)
    assert sample.frames["imc:case"] == placed


def test_remote_sample(tmp_path: Path, counts: np.ndarray) -> None:
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(text_of(counts))
    sample = Sample.create("remote", "memory://imc-tests")
    convert_imc(file, sample)
    (region,) = raw_regions(sample)
    assert np.array_equal(region.data, counts)
    assert convert_imc(file, sample).unchanged


def test_two_samples_from_the_same_files_are_equal(
    tmp_path: Path, sample: Sample, counts: np.ndarray
) -> None:
    file = tmp_path / "case_ROI_001_1.txt"
    file.write_text(text_of(counts))
    other = Sample.create("other", str(tmp_path / "data"))
    for s in (sample, other):
        convert_imc(file, s)
    digests = {digest_path(s.path("raw/imc.zarr")) for s in (sample, other)}
    assert len(digests) == 1
