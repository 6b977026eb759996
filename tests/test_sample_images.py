"""OME-Zarr images: strictly valid, opened by the field's readers, the same bytes each time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imaxt_nb.core.errors import BadInput
from imaxt_nb.core.files import STAGING, digest_path
from imaxt_nb.sample import pyramid
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.images import Image, write_image

CHANNELS = [Channel("Ir191", "Ir", 191, "DNA1"), Channel("Pr141", "Pr", 141)]


def example(shape: tuple[int, int] = (301, 533)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (np.arange(shape[0] * shape[1]).reshape(shape) // 5000).astype("uint32")
    return rng.poisson(3, (2, *shape)).astype("float32"), labels


@pytest.fixture
def image(tmp_path: Path) -> Image:
    pixels, labels = example()
    return write_image(
        str(tmp_path / "demo.ome.zarr"),
        pixels,
        pixel_um=(0.5, 0.25),
        channels=CHANNELS,
        labels={"cells": labels, "nuclei": labels},
        attrs={"imaxt": {"key": "k"}},
    )


def validate(place: str) -> None:
    from ome_zarr_models.v05 import Image as StrictImage
    from ome_zarr_models.v05.image_label import ImageLabel

    StrictImage.from_zarr(zarr.open_group(place, mode="r"))
    for name in Image(place).label_names():
        ImageLabel.from_zarr(zarr.open_group(f"{place}/labels/{name}", mode="r"))


def test_strictly_valid(image: Image) -> None:
    validate(image.place)


@pytest.mark.parametrize("axes", ["yx", "cyx", "zyx", "czyx"])
def test_all_axes_are_valid(tmp_path: Path, axes: str) -> None:
    shape = tuple({"c": 2, "z": 3, "y": 300, "x": 70}[a] for a in axes)
    pixels = np.arange(np.prod(shape), dtype="uint16").reshape(shape)
    n = len(axes.removeprefix("c"))
    labels = {"cells": pixels[0] if "c" in axes else pixels}
    place = str(tmp_path / "a.ome.zarr")
    made = write_image(place, pixels, axes=axes, pixel_um=(2.0, 1.0, 0.5)[-n:], labels=labels)
    validate(place)
    assert (made.axes, made.pixel_um) == (axes, (2.0, 1.0, 0.5)[-n:])
    assert np.array_equal(made.data, pixels)
    assert np.array_equal(made.labels("cells"), labels["cells"])
    assert made._repr_html_()


def test_ome_zarr_py_opens_it(image: Image) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    location = parse_url(image.place, mode="r")
    assert location is not None
    nodes = list(Reader(location)())
    assert [tuple(a.shape) for a in nodes[0].data] == [(2, 301, 533), (2, 151, 267), (2, 76, 134)]
    assert nodes[0].metadata["channel_names"] == ["Ir191 DNA1", "Pr141"]
    scale = nodes[0].metadata["coordinateTransformations"][0][0]["scale"]
    assert scale == [1.0, 0.5, 0.25]


def test_napari_reader_opens_it(image: Image) -> None:
    reader = pytest.importorskip("napari_ome_zarr")
    read = reader.napari_get_reader(image.place)
    assert read is not None
    layers = read(image.place)
    kinds = [layer[2] for layer in layers]
    assert kinds.count("image") >= 1 and kinds.count("labels") == 2


def test_display_windows_ignore_hot_pixels(tmp_path: Path) -> None:
    pixels, _ = example()
    pixels[0, 5, 5] = 1e6
    made = write_image(str(tmp_path / "a.ome.zarr"), pixels, pixel_um=(1, 1))
    window = made.ome["omero"]["channels"][0]["window"]
    assert window["end"] < 20 < window["max"] == 1e6


def test_same_content_same_bytes(tmp_path: Path) -> None:
    pixels, labels = example()
    digests = set()
    for name, chunks in [("a", (1, 100, 100)), ("b", (2, 301, 64))]:
        place = str(tmp_path / name / "x.ome.zarr")
        source = da.from_array(pixels, chunks=chunks)
        write_image(place, source, pixel_um=(1, 1), channels=CHANNELS, labels={"cells": labels})
        digests.add(digest_path(place))
    assert len(digests) == 1


def test_large_images_are_sharded_and_memory_is_bounded(tmp_path: Path) -> None:
    pixels = da.ones((1, 2100, 2100), chunks=(1, 512, 512), dtype="uint8")
    place = str(tmp_path / "a.ome.zarr")
    made = write_image(place, pixels, pixel_um=(1, 1))
    validate(place)
    array = made.group["0"]
    assert array.shards == (1, 2048, 2048) and array.chunks == (1, 512, 512)
    assert len(list(Path(place, "0").rglob("c/*/*/*"))) == 4
    assert made.levels[1].sum().compute() == 1050**2


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pixels=hnp.arrays(
        dtype=st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"]),
        shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
        elements=st.integers(0, 100),
    ),
    chunk=st.tuples(st.integers(1, 3), st.integers(1, 41), st.integers(1, 41)),
    smallest=st.integers(1, 64),
)
def test_any_small_array_round_trips(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray, chunk: Any, smallest: int
) -> None:
    place = str(tmp_path_factory.mktemp("h") / "a.ome.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "SMALLEST", smallest)
        patch.setattr(pyramid, "CHUNK", 16)
        patch.setattr(pyramid, "SHARD", 32)
        labels = pixels[0].astype("uint8")
        source = da.from_array(pixels, chunks=chunk)
        made = write_image(place, source, pixel_um=(1, 1), labels={"a": labels})
    assert np.array_equal(made.data, pixels) and made.data.dtype == pixels.dtype
    assert np.array_equal(made.labels("a"), labels)
    assert max(made.levels[-1].shape[-2:]) <= smallest
    for fine, coarse in zip(made.levels, made.levels[1:], strict=False):
        assert np.array_equal(coarse, pyramid.halve_mean(np.asarray(fine)))
    for fine, coarse in zip(made.label_levels("a"), made.label_levels("a")[1:], strict=False):
        assert np.array_equal(coarse, np.asarray(fine)[::2, ::2])
    validate(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": "xyc"}, "unknown axes"),
        ({"pixel_um": (1, float("nan"))}, "pixel pitch"),
        ({"channels": CHANNELS[:1]}, "channels don't fit"),
        ({"labels": {"cells": np.zeros((3, 3), int)}}, "not a label image"),
        ({"labels": {"cells": np.zeros((301, 533))}}, "not a label image"),
        ({"labels": {"../x": np.zeros((301, 533), int)}}, "usable label name"),
        ({"labels": {"cells": np.full((301, 533), -1)}}, "labels out of range"),
        ({"attrs": {"ome": {}}}, "belongs to the standard"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"pixel_um": (1, 1), "channels": CHANNELS} | change
    with pytest.raises(BadInput, match=message):
        write_image(str(tmp_path / "a.ome.zarr"), example()[0], **arguments)
    assert list(tmp_path.iterdir()) == []


def test_disk_full_keeps_the_old_state(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest_path(image.place)
    monkeypatch.setattr(pyramid, "write_level", _full_after(2, pyramid.write_level))
    with pytest.raises(OSError, match="No space left"):
        write_image(image.place, example()[0], pixel_um=(1, 1))
    assert digest_path(image.place) == before
    assert [p.name for p in tmp_path.iterdir()] == ["demo.ome.zarr"]


def _full_after(n: int, write: Any) -> Any:
    calls = iter(range(n))

    def guarded(*args: Any) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args)

    return guarded


KILLED = """
import sys, dask.array as da
from imaxt_nb.sample.images import write_image
def slow(block):
    import time
    print("writing", flush=True); time.sleep(60)
    return block
data = da.zeros((1, 600, 600), chunks=(1, 512, 512)).map_blocks(slow, dtype=float)
write_image(sys.argv[1], data, pixel_um=(1, 1))
"""


def test_killed_while_writing_keeps_the_old_state(tmp_path: Path, image: Image) -> None:
    before = digest_path(image.place)
    script = [sys.executable, "-c", textwrap.dedent(KILLED), image.place]
    child = subprocess.Popen(script, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert digest_path(image.place) == before
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(STAGING)] == [
        "demo.ome.zarr"
    ]
