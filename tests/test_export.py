"""`imaxt export ometiff`: the pixels, names and sizes that other programs read; memory and old files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from pipeline import imaxt

from imaxt_nb.cli.main import invoke
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.images import Image, write_image
from imaxt_nb.sample.ometiff import export_ometiff
from imaxt_nb.sample.store import Sample

NS = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}


@pytest.mark.parametrize(
    "axes, shape, dtype",
    [
        ("yx", (513, 300), "uint8"),
        ("cyx", (3, 700, 900), "uint16"),
        ("zyx", (4, 600, 513), "float32"),
        ("czyx", (2, 3, 530, 1025), "uint16"),
        ("cyx", (1, 64, 64), "float32"),
    ],
)
def test_all_levels_come_back(
    tmp_path: Path, axes: str, shape: tuple[int, ...], dtype: str
) -> None:
    data = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    pitch = (15.0, 0.5, 0.25)[-len(axes.removeprefix("c")) :]
    names = [Channel(f"n{i}", label="µ & <x>") for i in range(shape[0])] if axes[0] == "c" else None
    place = str(tmp_path / "i.ome.zarr")
    image = write_image(place, data, axes=axes, pixel_um=pitch, channels=names)
    file = export_ometiff(image, tmp_path / "i.ome.tif")
    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        assert tiff.is_ome and len(tiff.series) == 1 and tiff.pages[0].is_tiled
        assert len(series.levels) == len(image.levels)
        for written, level in zip(series.levels, image.levels, strict=True):
            assert np.array_equal(np.squeeze(written.asarray()), np.squeeze(level.compute()))
        pixels = ElementTree.fromstring(tiff.ome_metadata or "").find(".//o:Pixels", NS)
    with tifffile.TiffFile(file) as tiff:  # as OME-TIFF 6 wants it: below each plane, and marked
        for plane in tiff.pages:
            below = [(p.shape, p.subfiletype, p.is_tiled) for p in plane.pages or ()]
            assert below == [(tuple(v.shape[-2:]), 1, True) for v in image.levels[1:]]
    assert pixels is not None
    sizes = {a: float(pixels.get(f"PhysicalSize{a.upper()}", 0)) for a in axes.removeprefix("c")}
    assert list(sizes.values()) == list(pitch)
    assert {pixels.get("PhysicalSizeXUnit"), pixels.get("PhysicalSizeYUnit")} == {"µm"}
    found = [c.get("Name") for c in pixels.findall("o:Channel", NS)]
    assert found == [c.title for c in names] if names else True


def test_the_command(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = np.arange(2 * 50 * 60, dtype=np.uint16).reshape(2, 50, 60)
    Sample.create("S1").write_image("slide", data, pixel_um=(0.5, 0.5))
    for _ in range(2):
        imaxt("export", "ometiff", "--sample", "S1", "--image", "slide", site=site)
    assert np.array_equal(tifffile.imread("S1_slide.ome.tif"), data)
    old = tmp_path / "superseded" / "0001" / "S1_slide.ome.tif"
    assert old.read_bytes() == (tmp_path / "S1_slide.ome.tif").read_bytes()


def test_unknown_names_are_bad_input(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sample.create("S1").write_image("slide", np.ones((1, 9, 9), "u1"), pixel_um=(1, 1))
    assert invoke(["export", "ometiff", "--sample", "S1", "--image", "slid"]) == 3
    assert "did you mean 'slide'" in capsys.readouterr().err
    assert invoke(["export", "ometiff", "--sample", "S2", "--image", "slide"]) == 3


def broken(array: object, what: str) -> Iterator[np.ndarray]:
    yield np.ones((512, 512), "u2")
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_in_a_line(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imaxt_nb.sample.ometiff._tiles", broken)
    Sample.create("S1").write_image("slide", np.ones((1, 600, 600), "u2"), pixel_um=(1, 1))
    out = tmp_path / "out" / "i.ome.tif"
    command = ["export", "ometiff", "--sample", "S1", "--image", "slide", "--out", str(out)]
    assert invoke(command) == 1 and not out.exists()
    assert capsys.readouterr().err.startswith("Error: no space left: ")


def test_a_killed_export_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "i.ome.zarr")
    write_image(place, np.ones((1, 600, 600), "u2"), pixel_um=(1, 1))
    monkeypatch.setattr("imaxt_nb.sample.ometiff._tiles", broken)
    with pytest.raises(OSError, match="No space"):
        export_ometiff(Image(place), tmp_path / "i.ome.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.ome.zarr"]
