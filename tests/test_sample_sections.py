"""Volumes written section by section: the bytes of `write_image`, after a kill, a full disk, on a cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imaxt_nb.core.compute import get_client
from imaxt_nb.core.errors import BadInput, ImaxtError
from imaxt_nb.core.files import digest_path
from imaxt_nb.sample.images import Image, write_image
from imaxt_nb.sample.pyramid import halve_mean
from imaxt_nb.sample.sections import finish_image, sectioned_image, write_section

SCRIPT = """
import os, resource, signal, sys
import imaxt_nb.sample.sections as sections
sys.path.insert(0, {tests!r})
from test_sample_sections import write_volume

mode, place = sys.argv[1:]
if mode == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
if mode == "kill":
    put, count = sections._put, [0]
    def counted(*args):
        count[0] += 1
        if count[0] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        put(*args)
    sections._put = counted
write_volume(place)
"""


class Painter:
    """Random sections of two channels; section 1 compresses badly."""

    shape = (2, 3, 430, 390)

    def plane(self, section: int, channel: int) -> np.ndarray:
        rng = np.random.default_rng([section, channel])
        top = 60_000 if section == 1 else 3
        return rng.integers(0, top, self.shape[-2:], dtype=np.uint16)

    def __call__(self, section: int, area: Any) -> Iterator[Any]:
        for c in range(2):
            yield 0, (c,), self.plane(section, c)[area[0] : area[1], area[2] : area[3]]


def write_volume(place: str) -> dict[int, dict[str, Any]]:
    """The whole volume; which sections were there already."""
    plan: Any = dict(axes="czyx", shape=Painter.shape, dtype="uint16", pixel_um=(15, 1, 1), key="k")
    with sectioned_image(place, **plan) as image:
        there = image.done
        for section in range(3):
            if section not in there:
                write_section([image], section, Painter(), {"number": section})
        finish_image(image, {"imaxt": {"key": "k"}})
    return there


def run(mode: str, place: Path) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, mode, str(place)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("whole") / "v.ome.zarr"
    assert write_volume(str(place)) == {}
    return digest_path(place)


def test_killed_in_a_section_it_resumes_to_the_same_bytes(tmp_path: Path, undisturbed: str) -> None:
    place = tmp_path / "v.ome.zarr"
    done = run("kill", place)
    assert done.returncode == -9 and not place.exists()
    assert write_volume(str(place)) == {0: {"number": 0}}
    assert digest_path(place) == undisturbed
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".staging")] == []


def test_a_full_disk_is_a_clean_error_and_resumes(tmp_path: Path, undisturbed: str) -> None:
    place = tmp_path / "v.ome.zarr"
    done = run("full", place)
    assert done.returncode == 1
    assert "section 1 can't be written" in done.stderr and "1 of 3 sections are kept" in done.stderr
    assert not place.exists()
    assert write_volume(str(place)) == {0: {"number": 0}}
    assert digest_path(place) == undisturbed


def test_another_key_or_none_starts_anew(tmp_path: Path) -> None:
    place = str(tmp_path / "v.ome.zarr")
    common: Any = dict(axes="czyx", shape=Painter.shape, dtype="uint16", pixel_um=(15, 1, 1))
    for key, again in (("a", "b"), ("", "")):
        with (
            pytest.raises(ImaxtError, match="unfinished"),
            sectioned_image(place, key=key, **common) as image,
        ):
            write_section([image], 0, Painter())
        with (
            pytest.raises(ImaxtError, match="unfinished"),
            sectioned_image(place, key=again, **common) as image,
        ):
            assert image.done == {}


def test_what_was_there_moves_aside(tmp_path: Path) -> None:
    place = tmp_path / "v.ome.zarr"
    write_volume(str(place))
    write_volume(str(place))
    assert (tmp_path / "superseded" / "0001" / "v.ome.zarr" / "zarr.json").exists()
    assert [c.name for c in Image(str(place)).channels] == ["channel0", "channel1"]


def test_an_error_of_the_painter_keeps_the_sections(tmp_path: Path) -> None:
    place = str(tmp_path / "v.ome.zarr")
    plan: Any = dict(axes="czyx", shape=Painter.shape, dtype="uint16", pixel_um=(15, 1, 1), key="k")

    def broken(section: int, area: Any) -> Iterator[Any]:
        raise BadInput("a chunk is broken")
        yield

    with (
        pytest.raises(ImaxtError, match="a chunk is broken"),
        sectioned_image(place, **plan) as image,
    ):
        write_section([image], 0, Painter())
        write_section([image], 1, broken)
    with pytest.raises(ImaxtError, match="unfinished"), sectioned_image(place, **plan) as image:
        assert list(image.done) == [0]


def test_a_tree_of_leaves_gives_the_levels_of_write_image(tmp_path: Path) -> None:
    """Odd sizes over 3 x 2 leaves; two images in one go."""
    rng = np.random.default_rng(0)
    shape = (1, 8300, 4231)
    volume = rng.integers(0, 250, shape, dtype=np.uint8)
    trust = np.repeat(rng.random((1, 1, shape[2]), np.float32), shape[1], axis=1)

    def paint(section: int, area: Any) -> Iterator[Any]:
        cut = np.s_[section, area[0] : area[1], area[2] : area[3]]
        yield 0, (), volume[cut]
        yield 1, (), trust[cut]

    plan: Any = dict(axes="zyx", shape=shape, pixel_um=(1, 1, 1), key="k")
    with (
        sectioned_image(str(tmp_path / "a.ome.zarr"), dtype="uint8", **plan) as a,
        sectioned_image(str(tmp_path / "t.ome.zarr"), dtype="float32", **plan) as t,
        get_client("threads:2"),
    ):
        write_section([a, t], 0, paint)
        finish_image(a)
        finish_image(t)
    for name, data in (("a", volume), ("t", trust)):
        write_image(str(tmp_path / f"{name}2.ome.zarr"), data, axes="zyx", pixel_um=(1, 1, 1))
        levels = Image(str(tmp_path / f"{name}.ome.zarr")).levels
        assert len(levels) == 7
        for k in range(len(levels)):
            first, second = (tmp_path / f"{n}.ome.zarr" / str(k) for n in (name, f"{name}2"))
            assert digest_path(first) == digest_path(second)


@pytest.mark.parametrize("axes, shape", [("yx", (9, 9)), ("zyx", (9, 9)), ("zyx", (0, 9, 9))])
def test_what_is_no_volume_is_refused(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    with (
        pytest.raises(BadInput, match="not a volume"),
        sectioned_image(
            str(tmp_path / "v"), axes=axes, shape=shape, dtype="u1", pixel_um=(1, 1, 1)
        ),
    ):
        pass


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_halving_is_the_rounded_mean(dtype: str) -> None:
    rng = np.random.default_rng(4)
    top = 250 if dtype == "uint8" else 32_000
    block = (rng.random((2, 31, 44)) * top).astype(dtype)
    even = np.pad(block, ((0, 0), (0, 1), (0, 0)), mode="edge").astype(np.float64)
    mean = even.reshape(2, 16, 2, 22, 2).mean(axis=(2, 4))
    wanted = np.rint(mean) if np.dtype(dtype).kind in "iu" else mean
    np.testing.assert_allclose(halve_mean(block), wanted.astype(dtype), rtol=1e-6)
    assert (halve_mean(np.full((4, 4), np.iinfo("u2").max, "u2")) == 65535).all()
