"""The gather against an independent interpolation; the cube of a sample, its faults, its resume, on a cluster."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from tile_factory import PIXEL_UM, scene, tile_sample
from tissuecyte import SIZE, tile_path, write_tissuecyte

from imaxt_nb.core.errors import BadInput, ImaxtError
from imaxt_nb.core.files import digest_path
from imaxt_nb.mosaic.calibration import Calibration, identity
from imaxt_nb.mosaic.canvas import canvas_of
from imaxt_nb.mosaic.fuse import Painter, optics_of, paint, plane_tiles
from imaxt_nb.mosaic.gather import gather
from imaxt_nb.mosaic.positions import PlaceParameters, place_sample
from imaxt_nb.mosaic.render import RenderParameters, render_sample
from imaxt_nb.readers.stpt import convert_stpt
from imaxt_nb.sample.store import Sample
from imaxt_nb.sample.tiles import RawTiles

STEP = 16


def lattice_of(shape: tuple[int, int], size: float) -> np.ndarray:
    nodes = [np.arange(-(-(n - 1) // STEP) + 1) * STEP for n in shape]
    y, x = np.meshgrid(*nodes, indexing="ij")
    return (size * np.stack([np.sin(y / 30) + x / 200, np.cos(x / 25) - y / 300])).astype(
        np.float32
    )


def keys_1981(image: np.ndarray, r: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = -1/2 from its definition, pixel by pixel."""

    def kernel(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        return np.where(t < 1, near, np.where(t < 2, far, 0))

    p, q = np.floor(r).astype(int), np.floor(c).astype(int)
    total = np.zeros(r.shape)
    for i in range(-1, 3):
        for j in range(-1, 3):
            total += kernel(r - p - i) * kernel(c - q - j) * image[p + i, q + j]
    return total


@settings(max_examples=25, deadline=None)
@given(
    row=st.floats(-3, 3),
    column=st.floats(-3, 3),
    size=st.floats(0, 4),
    order=st.sampled_from([1, 3]),
)
def test_gather_is_the_interpolation_that_it_says(
    row: float, column: float, size: float, order: int
) -> None:
    shape = (70, 90)
    image = np.random.default_rng(3).random(shape).astype(np.float32)
    lattice = lattice_of(shape, size)
    box = (20, 45, 20, 65)
    values, weights = gather(image, box, lattice, STEP, shift=(row, column), order=order)
    y, x = np.mgrid[20.0:45, 20:65] + np.array([row, column])[:, None, None]
    d = [map_coordinates(part.astype(float), [y / STEP, x / STEP], order=1) for part in lattice]
    if order == 1:
        expected = map_coordinates(image.astype(float), [y + d[0], x + d[1]], order=1)
    else:
        expected = keys_1981(image.astype(float), y + d[0], x + d[1])
    np.testing.assert_allclose(values, expected, atol=2e-4)
    assert (weights == 1).all() or np.allclose(weights, 1)


def test_gather_of_a_stack_is_that_of_its_channels_and_of_any_part() -> None:
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 4000, (3, 80, 75), dtype=np.uint16)
    lattice, weight = lattice_of((80, 75), 2), rng.random((80, 75)).astype(np.float32)
    flat = 0.5 + rng.random(stack.shape).astype(np.float32)
    whole, trust = gather(stack, (-4, 84, -4, 79), lattice, STEP, None, flat, weight, (0.3, 0.8))
    for k in range(3):
        one, w = gather(
            stack[k], (-4, 84, -4, 79), lattice, STEP, None, flat[k], weight, (0.3, 0.8)
        )
        assert np.array_equal(one, whole[k]) and np.array_equal(w, trust[k])
    part, _ = gather(stack, (30, 51, 22, 60), lattice, STEP, None, flat, weight, (0.3, 0.8))
    np.testing.assert_allclose(part, whole[:, 34:55, 26:64], rtol=1e-4)


def test_pixels_that_are_not_numbers_and_margins_are_left_out() -> None:
    image = np.full((40, 40), 7.0, np.float32)
    image[10, 10], image[:, :5] = np.nan, 1e30
    weight = np.ones((40, 40), np.float32)
    weight[:, :5] = 0
    values, weights = gather(image, (0, 40, 0, 40), weight=weight, shift=(0.25, 0.25))
    assert np.allclose(values[weights > 0], 7) and (values[weights == 0] == 0).all()
    assert weights[10, 10] == 0 and weights[9, 10] > 0 and (weights[:, :4] == 0).all()


@pytest.fixture
def places(tmp_path: Path) -> Path:
    return tmp_path


def test_the_cube_is_the_scene_in_micrometres(places: Path) -> None:
    sample, raw, tiles = tile_sample(places, planes=2)
    rows = render_sample(sample, raw, tiles, identity((120, 120)), RenderParameters())
    cube, trust = sample.image("stpt"), sample.image("stpt_confidence")
    assert cube.axes == "czyx" and trust.axes == "zyx" and trust.data.dtype == np.float32
    assert cube.pixel_um == (7.5, PIXEL_UM, PIXEL_UM) == trust.pixel_um
    assert rows["z_um"].tolist() == [15, 22.5, 30, 37.5, 45, 52.5]
    pixels, seen = cube.data.compute(), trust.data.compute() > 0
    assert pixels.shape[1:] == seen.shape and cube.frame is not None
    origin = np.array(sample.frames[cube.frame].affine)[:, 3]
    assert np.allclose(cube.attrs["imaxt"]["origin_um"], origin[[1, 0]])
    row, col = np.mgrid[0 : pixels.shape[2], 0 : pixels.shape[3]]
    y, x = row + origin[1] / PIXEL_UM, col + origin[0] / PIXEL_UM
    for z, section in enumerate(rows["section"]):
        for c in range(2):
            wrong = (pixels[c, z] - scene(y, x, c, section))[3:-3, 3:-3][seen[z][3:-3, 3:-3]]
            assert abs(wrong.mean()) < 1 and wrong.std() < 5
        assert (pixels[:, z][:, ~seen[z]] == 0).all()
        assert seen[z].mean() > 0.9


def test_edges_are_complete_whatever_the_fraction(places: Path) -> None:
    _, raw, tiles = tile_sample(places, sections=1, grid=1)
    for shift in (0.0, 0.2, 0.4999, 0.77):
        moved = tiles.assign(x_um=shift * PIXEL_UM, y_um=-shift * PIXEL_UM)
        optics = optics_of(identity((120, 120)))
        canvas = canvas_of(moved, optics.extent, raw.pixel_um)
        painter = Painter(raw, (plane_tiles(moved, 1, 0, canvas),), optics, "float32")
        mosaic, trust = paint(painter, canvas)
        assert min(canvas.shape) >= 120 and (trust > 0).sum() == 120 * 120
        assert (mosaic[0][trust > 0] > 0).all()


def test_missing_images_have_no_confidence_and_too_many_are_refused(places: Path) -> None:
    lost = ((1, 0, 0), (1, 0, 1), (2, 3, 1))
    sample, raw, tiles = tile_sample(places, lost=lost)
    heard: list[str] = []
    whole = identity((120, 120))
    rows = render_sample(sample, raw, tiles, whole, RenderParameters(), "k", heard.append)
    assert rows["missing"].tolist() == [2, 1, 0]
    assert heard == [f"section {s}: {n} of 8 tile images are missing" for s, n in ((1, 2), (2, 1))]
    trust = sample.image("stpt_confidence").data.compute()
    pixels = sample.image("stpt").data.compute()
    assert not trust[0, 10:90, 10:90].any() and trust[2, 10:90, 10:90].all()
    half = trust[1, 140:180, 140:180] / trust[2, 140:180, 140:180]
    assert np.allclose(half, 0.5) and not pixels[1, 1, 140:180, 140:180].any()
    with pytest.raises(BadInput, match="3 of 24"):
        render_sample(
            sample, raw, tiles, whole, RenderParameters(max_bad_percent=10), "k2", heard.append
        )
    with pytest.raises(BadInput, match="too many tile images"):
        render_sample(
            sample, raw, tiles.assign(x_um=np.nan), whole, RenderParameters(), "k3", heard.append
        )


def test_calibration_of_other_tiles_is_refused_and_pedestal_keeps_noise(places: Path) -> None:
    sample, raw, tiles = tile_sample(places, sections=1)
    n = (120, 120)
    dark = np.full((2, *n), 4000, np.float32)
    p = RenderParameters(pedestal=3000)
    render_sample(sample, raw, tiles, Calibration(np.ones(n, np.float32), dark), p)
    pixels = sample.image("stpt").data.compute()
    assert 500 < np.median(pixels[pixels > 0]) < 1500
    with pytest.raises(BadInput, match="not of these tiles"):
        render_sample(sample, raw, tiles, identity((90, 90)), p)


def test_from_damaged_files_to_the_mosaic(tmp_path: Path) -> None:
    """A truncated TIFF, a section without a tile, a channel of zeros: all else is there, what is lost is said."""
    root = write_tissuecyte(tmp_path / "TT1", sections=3)
    for file in root.rglob("*_02.tif"):
        tifffile.imwrite(file, np.zeros(SIZE, np.uint16))
    for file in (root / "TT1-0002").glob("*.tif"):
        file.unlink()
    for channel in (0, 1):
        cut = tile_path(root, 1, 0, channel=channel)
        cut.write_bytes(cut.read_bytes()[:-50])
    sample, heard = Sample.create("TT1", str(tmp_path / "data")), list[str]()
    convert_stpt(root, sample)
    raw, whole = RawTiles.open(sample.path("raw", "stpt.zarr")), identity(SIZE)
    p = PlaceParameters(orientation=[[0, 1], [-1, 0]], max_stage_error_um=1)
    tiles = place_sample(sample, raw, whole, p, "k", heard.append)
    assert tiles.groupby("section")["status"].agg(lambda s: (s == "missing").sum()).tolist() == [1, 6, 0]  # fmt: skip
    few = RenderParameters(max_bad_percent=50)
    rows = render_sample(sample, raw, tiles, whole, few, "k", heard.append)
    assert rows["missing"].tolist() == [2, 12, 0] and rows["status"].tolist()[1] == "empty"
    said = [text for text in heard if "tile images are missing" in text]
    assert said == [f"section {s}: {n} of 12 tile images are missing" for s, n in ((1, 2), (2, 12))]
    cube, trust = (sample.image(n).data.compute() for n in ("stpt", "stpt_confidence"))
    assert not trust[0, :15, :20].any() and not trust[1].any() and trust[2, 1:-1, 1:-1].all()
    assert trust[0, 25:, 35:-1].all() and cube[0, 0, 25:, 35:].all()
    assert not cube[1].any() and cube[0, 2].all() == trust[2].all()
    with pytest.raises(BadInput, match="14 of 36"):
        render_sample(sample, raw, tiles, whole, RenderParameters(), "again", heard.append)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import imaxt_nb.sample.sections as sections
from test_mosaic_render import render_all
put, count = sections._put, [0]
def counted(*args):
    count[0] += 1
    if count[0] == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    put(*args)
sections._put = counted
render_all(sys.argv[1])
"""


def render_all(root: str) -> None:
    from imaxt_nb.sample.store import Sample
    from imaxt_nb.sample.tables import read_table
    from imaxt_nb.sample.tiles import RawTiles

    sample = Sample.open("toy", root)
    raw = RawTiles.open(sample.path("raw", "stpt.zarr"))
    tiles = read_table(sample.path("tables"), "tiles")
    render_sample(sample, raw, tiles, identity(raw.tile_shape), RenderParameters(), "key")


def digests(root: Path) -> dict[str, str]:
    return {p.name: digest_path(p) for p in (root / "toy" / "images").glob("[!.]*.ome.zarr")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("whole")
    sample, _, tiles = tile_sample(root)
    sample.write_table("tiles", tiles)
    render_all(str(root))
    return digests(root)


def test_killed_while_rendering_it_resumes_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    sample, _, tiles = tile_sample(tmp_path)
    sample.write_table("tiles", tiles)
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9 and digests(tmp_path) == {}
    render_all(str(tmp_path))
    assert digests(tmp_path) == undisturbed and len(undisturbed) == 2
    render_all(str(tmp_path))
    assert not (tmp_path / "toy" / "images" / "superseded").exists()


def test_two_processes_of_a_cluster_give_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, _, tiles = tile_sample(tmp_path)
    sample.write_table("tiles", tiles)
    monkeypatch.setenv("IMAXT_DASK", "local:2")
    render_all(str(tmp_path))
    assert digests(tmp_path) == undisturbed


def test_a_damaged_chunk_loses_its_image_only(tmp_path: Path) -> None:
    sample, raw, tiles = tile_sample(tmp_path)
    folder = Path(sample.path("raw", "stpt.zarr", "sections", "0002", "pixels", "c"))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(files) == 4  # a file a tile
    files[3].write_bytes(files[3].read_bytes()[: files[3].stat().st_size // 3])
    heard: list[str] = []
    whole, p = identity((120, 120)), RenderParameters(max_bad_percent=10)
    render_sample(sample, raw, tiles, whole, p, "key", heard.append)
    assert len(heard) == 2 and all("section 2, tile 3" in text for text in heard)
    trust = sample.image("stpt_confidence").data.compute()
    inner = (slice(None), slice(10, 190), slice(10, 190))
    assert trust[inner][[0, 2]].all() and not trust[1, 150:190, 150:190].any()
    assert trust[1, 10:90, 10:90].all()
    again: list[str] = []  # finished: nothing is done, and what is missing is said again
    render_sample(sample, raw, tiles, whole, p, "key", again.append)
    assert again == heard
    with pytest.raises(BadInput, match="2 of 24"):
        p = RenderParameters(max_bad_percent=5)
        render_sample(sample, raw, tiles, whole, p, "other", heard.append)


def test_a_full_disk_keeps_the_planes_before_and_resumes_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import imaxt_nb.sample.sections as sections

    sample, _, tiles = tile_sample(tmp_path)
    sample.write_table("tiles", tiles)
    put = sections._put

    def full(level: Any, lead: Any, z: int, *rest: Any) -> None:
        if z == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(level, lead, z, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(sections, "_put", full)
        with pytest.raises(
            ImaxtError, match=r"No space left on device \(1 of 3 sections are kept;"
        ):
            render_all(str(tmp_path))
    render_all(str(tmp_path))
    assert digests(tmp_path) == undisturbed
