"""The STPT simulator: same seed same bytes, an exact truth, files as a TissueCyte writes them."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from imaxt_nb.cli.main import cli
from imaxt_nb.core.errors import BadInput
from imaxt_nb.simulate.acquisition import Acquisition, tile_table
from imaxt_nb.simulate.bead_profile import OpticalSection, bead_profile
from imaxt_nb.simulate.block import Block, beads_in
from imaxt_nb.simulate.detector import Detector
from imaxt_nb.simulate.lens import Lens, random_lens
from imaxt_nb.simulate.slab import PixelPlaces, emission, maps
from imaxt_nb.simulate.stpt import Microscope, read_truth, simulate_stpt
from imaxt_nb.simulate.tissuecyte import TissueCyte

SMALL = {
    "sections": 2,
    "grid": (2, 3),
    "tile_px": 96,
    "overlap": 0.25,
    "channels": 2,
    "planes": 2,
    "seed": 4,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_stpt(tmp_path_factory.mktemp("stpt") / "raw", sample="TT1", **SMALL)


def microscope(seed: int = 1, tissue: float = 0.62, **settings: object) -> Microscope:
    a = Acquisition(**({"tile_px": 256, "overlap": 0.3, "grid": (2, 2), "channels": 1} | settings))
    return Microscope(
        acquisition=a,
        block=Block(
            (*a.size_um, 60.0), seed=seed, tissue=tissue, beads_per_mm3=150, debris_per_mm3=0
        ),
        optics=OpticalSection(),
        lens=Lens((a.tile_px, a.tile_px), 0.02 * a.tile_px),
        detector=Detector(noise=False),
        seed=seed,
    )


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_bytes_on_any_number_of_threads(written: Path, tmp_path: Path) -> None:
    simulate_stpt(tmp_path, sample="TT1", workers=1, **SMALL)
    assert digests(tmp_path) == digests(written)


def test_another_seed_another_world(written: Path, tmp_path: Path) -> None:
    simulate_stpt(tmp_path, sample="TT1", **(SMALL | {"seed": 5}))
    name = next(written.glob("TT1-0001/*-0_01.tif")).relative_to(written)
    assert (tifffile.imread(tmp_path / name) != tifffile.imread(written / name)).mean() > 0.5
    one, two = read_truth(tmp_path), read_truth(written)
    assert (one.tiles.x_um != two.tiles.x_um).all() and (one.flat != two.flat).any()


def test_a_tile_does_not_depend_on_the_rest(written: Path, tmp_path: Path) -> None:
    simulate_stpt(tmp_path, sample="TT1", **(SMALL | {"channels": 1}))
    for path in tmp_path.rglob("*_01.tif"):
        assert path.read_bytes() == (written / path.relative_to(tmp_path)).read_bytes()


def test_names_and_numbers(written: Path) -> None:
    names = sorted(p.name for p in (written / "TT1-0002").glob("*.tif"))
    found = [re.fullmatch(r"(\d{8}-\d{4})-(\d+)_(\d\d)\.tif", n) for n in names]
    assert all(found) and len({m[1] for m in found if m}) == 1
    numbers = {(int(m[2]), int(m[3])) for m in found if m}
    assert numbers == {
        (12 + layer * 6 + tile, c) for layer in (0, 1) for tile in range(6) for c in (1, 2)
    }
    text = (written / "TT1-0002/Mosaic_TT1-0002.txt").read_text()
    keys = [line.partition(":")[0] for line in text.splitlines()]
    assert sum(k.startswith("XPos") for k in keys) == sum(k.startswith("YPos") for k in keys) == 6
    for line in (
        "mrows:2",
        "mcolumns:3",
        "layers:2",
        "Zscan:1",
        "startnum:12",
        "xres:0.56",
        "rows:96",
    ):
        assert line in text.splitlines()
    assert "XPos" not in (written / "Mosaic_TT1.txt").read_text()
    with tifffile.TiffFile(written / "TT1-0002" / names[0]) as tif:
        page = tif.pages[0]
        assert (page.shape, page.dtype, page.compression) == ((96, 96), np.uint16, 1)


def test_new_keys_and_gzip(written: Path, tmp_path: Path) -> None:
    simulate_stpt(tmp_path, sample="TT1", keys="2024", compress=True, **(SMALL | {"sections": 1}))
    text = (tmp_path / "TT1-0001/Mosaic_TT1-0001.txt").read_text()
    assert "\nxRes_um:0.56\n" in text and "\nsection_depth:15.0\n" in text and "\nxres:" not in text
    packed = next(tmp_path.glob("TT1-0001/*-3_02.tif.gz"))
    plain = next(written.glob("TT1-0001/*-3_02.tif"))
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()


def test_the_reader_finds_the_nominal_grid(written: Path) -> None:
    from imaxt_nb.readers.mosaic_file import parse_mosaic

    truth = read_truth(written)
    assert truth.params["acquisition"]["orientation"] == [[0, 1], [-1, 0]]
    file = written / "TT1-0001/Mosaic_TT1-0001.txt"
    stage = parse_mosaic(file.read_bytes(), file.name).stage_um
    rows = truth.tiles[(truth.tiles.section == 1) & (truth.tiles.plane == 0)]
    np.testing.assert_allclose(stage, rows[["stage_x_um", "stage_y_um"]])
    # the image's x is the stage's y, its y is minus the stage's x
    moved = stage - stage[0]
    step = Acquisition(tile_px=96, overlap=0.25).step_um
    np.testing.assert_allclose(moved[:, 1], rows.column * step, atol=0.11)
    np.testing.assert_allclose(-moved[:, 0], rows.row * step, atol=0.11)
    assert rows.column.tolist() == [0, 1, 2, 2, 1, 0]


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([((1, 0), (0, 1)), ((0, 1), (-1, 0)), ((-1, 0), (0, -1)), ((0, -1), (-1, 0))]),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from(["serpentine", "rows"]),
)
def test_orientation_takes_stage_to_mosaic(orientation: tuple, grid: tuple, order: str) -> None:
    a = Acquisition(sections=1, grid=grid, orientation=orientation, order=order, stage_error_um=0)
    table = tile_table(a, seed=0)
    stage = table[["stage_x_um", "stage_y_um"]].to_numpy()
    xy = (stage - stage[0]) @ np.array(orientation).T
    np.testing.assert_allclose(
        xy, table[["x_um", "y_um"]] - table.loc[0, ["x_um", "y_um"]].to_numpy(float), atol=0.11
    )
    assert len(table[["row", "column"]].drop_duplicates()) == grid[0] * grid[1]


def undistorted(scope: Microscope, image: np.ndarray) -> np.ndarray:
    """The tile on its ideal grid, by a cubic spline at raw = ideal + displacement; flat and dark removed."""
    from scipy.ndimage import map_coordinates

    light = (image.astype(float) - scope.dark[0]) / scope.flat[0] / scope.detector.gain
    r, c = np.indices(image.shape, float)
    d = scope.lens.displacement(r, c)
    return map_coordinates(light, [r + d[0], c + d[1]], order=5, mode="nearest")


def test_overlaps_agree_after_true_distortion_and_places() -> None:
    scope = microscope()
    pixel = scope.acquisition.pixel_um
    origins = np.array([[10.0, 50.0], [10.0 + 170 * pixel, 50.0 + 13 * pixel]])
    a, b = (undistorted(scope, scope.images(1, 0, 0, o)[0]) for o in origins)
    one, two = a[13 + 20 : -20, 170 + 20 : -20], b[20:-33, 20 : 256 - 170 - 20]
    noise = np.sqrt(1 / 12) / scope.detector.gain
    assert one.std() > 30 * noise
    assert np.median(np.abs(one - two)) < 3 * noise  # rounding and the test's own interpolation
    raw = scope.images(1, 0, 0, origins[0])[0], scope.images(1, 0, 0, origins[1])[0]
    raw_one, raw_two = raw[0][33:-20, 190:-20] / 8.0, raw[1][20:-33, 20:66] / 8.0
    assert np.median(np.abs(raw_one - raw_two)) > 10 * np.median(np.abs(one - two))


def test_rendered_beads_are_where_the_truth_says() -> None:
    scope = microscope(tissue=0.0, sections=1)
    section = scope.section(1, 0)
    tile = scope.acquisition.tile_px * scope.acquisition.pixel_um
    beads = beads_in(scope.block, (0, 4000, 0, 4000, 0, 50))
    n = 0
    for centre, radius in zip(beads.centre_um, beads.radius_um, strict=True):
        if radius > 0.8 * tile / 2 or n == 6:
            continue
        origin = centre[:2] - (tile / 2 + 1.23, tile / 2 - 0.77)
        others = np.delete(beads.centre_um, (beads.centre_um == centre).all(1).argmax(), axis=0)
        if (np.hypot(*(others[:, :2] - centre[:2]).T) < tile).any():
            continue
        image = maps(scope.block, section, scope.places, origin)[4]
        x, y = scope.places.offset_um
        # every pixel has its own area on the block, which the distortion changes
        area = np.gradient(x, axis=1) * np.gradient(y, axis=0) - np.gradient(
            x, axis=0
        ) * np.gradient(y, axis=1)
        found = [(v * image * area).sum() / (image * area).sum() for v in (x, y)] + origin
        assert np.abs(found - centre[:2]).max() < 0.01 * scope.acquisition.pixel_um * 2
        n += 1
    assert n >= 3


def test_another_lens_is_in_the_truth(tmp_path: Path) -> None:
    simulate_stpt(tmp_path / "a", sections=1, grid=(1, 1), channels=1, tile_px=64, lens_seed=7)
    lens = read_truth(tmp_path / "a").lens
    assert lens == random_lens((64, 64), 20 * 64 / 2080 / 0.56, 7)
    assert lens != random_lens((64, 64), 20 * 64 / 2080 / 0.56, 8)
    there = np.load(tmp_path / "a" / "truth" / "distortion_lattice16.npy")
    np.testing.assert_array_equal(there, lens.lattice())
    assert lens.displacement(*lens.centre) == (0, 0)


def test_truth_tables_hold_what_was_imaged(written: Path) -> None:
    truth = read_truth(written)
    assert len(truth.tiles) == 2 * 2 * 6 and len(truth.sections) == 4
    assert truth.sections.z_um.tolist() == [22, 27, 37, 42]
    assert truth.flat.shape == truth.dark.shape == (2, 96, 96)
    np.testing.assert_allclose(truth.flat.mean((1, 2)), 1, atol=1e-5)
    assert truth.dark.min() >= 100 and truth.dark[:, 0, 0].min() > 200
    assert truth.params["seed"] == 4 and truth.lens.largest_px == pytest.approx(
        20 * 96 / 2080 / 0.56
    )
    block = truth.params["block"]
    assert truth.beads.radius_um.between(30, 60).all() and block["beads_per_mm3"] == 12


def test_sections_show_the_same_block_shifted_by_the_drift() -> None:
    """Block point p is at p + (dx, dy) in the mosaic: the image of a section is that of the undrifted block, moved."""
    scope = microscope(sections=2, stage_error_um=0.0)
    shift = np.array([3 * 0.56, -2 * 0.56])
    still = maps(scope.block, scope.section(1, 0), PixelPlaces.regular((80, 80), 0.56), (60, 60))
    moved = maps(
        scope.block, scope.section(1, 0), PixelPlaces.regular((80, 80), 0.56), (60, 60) - shift
    )
    np.testing.assert_allclose(moved[:, :-2, 3:], still[:, 2:, :-3], atol=2e-3)


def test_noise_is_that_of_the_model(written: Path) -> None:
    """variance = gain x (mean - offset) + read noise^2 + 1/12, over repeated images of one place."""
    scope = microscope(tile_px=96)
    noisy = replace(scope, detector=Detector())
    repeats = np.stack(
        [noisy.images(1, 0, t, np.array([60.0, 60.0]))[0] for t in range(60)]
    ).astype(float)
    exact = scope.images(1, 0, 0, np.array([60.0, 60.0]))[0].astype(float)
    expected = 8 * (exact - 100) + 36 + 1 / 12
    assert abs((repeats.var(0, ddof=1) / expected).mean() - 1) < 0.01
    pull = (repeats.mean(0) - exact) / np.sqrt(expected / 60)
    assert abs(pull.mean()) < 0.1 and 0.95 < pull.std() < 1.1


def test_stray_light_and_flat_are_in_the_tiles() -> None:
    scope = microscope(tissue=0.0, seed=2)
    scope = replace(scope, block=replace(scope.block, beads_per_mm3=0.0))
    image = scope.images(1, 0, 0, np.array([-900.0, -900.0]))[0].astype(float)
    seen = (image - scope.dark[0])[20:, 30:]
    assert np.corrcoef(seen.ravel(), scope.flat[0][20:, 30:].ravel())[0, 1] > 0.9
    assert image[:, 0].mean() > 2 * image[:, 60:].mean()


def test_beads_fade_with_depth_and_are_cut_by_the_layer() -> None:
    at = OpticalSection(depth_um=20, thickness_um=4, attenuation_um=100)
    profile = bead_profile(22.0, 45.0, at)
    assert profile is not None
    assert profile.values[0] == pytest.approx(at.transmission, rel=1e-4)
    rim = profile.step_um * np.argmin(np.abs(profile.values - at.transmission / 2))
    assert rim == pytest.approx(45, abs=0.2)
    cap = bead_profile(22.0 + 46.0, 45.0, at)  # the layer's lower side just reaches into the sphere
    assert cap is not None and cap.values[0] < 0.3 * profile.values[0] and cap.reach_um > 45
    assert bead_profile(22.0 + 47.1, 45.0, at) is None


def test_density_of_beads_is_what_was_asked(tmp_path: Path) -> None:
    block = Block((5000.0, 5000.0, 400.0), seed=9, tissue=0.0, beads_per_mm3=12)
    n = len(beads_in(block, (0, 5000, 0, 5000, 0, 400)).radius_um)
    assert abs(n - 120) < 4 * np.sqrt(120)
    tissue = Block((5000.0, 5000.0, 400.0), seed=9, tissue=0.8, beads_per_mm3=12)
    assert len(beads_in(tissue, (0, 5000, 0, 5000, 0, 400)).radius_um) < n


def test_channels_see_different_things() -> None:
    block = Block((2000.0, 2000.0, 60.0), seed=3)
    amounts = maps(
        block, OpticalSection(blur_um=3), PixelPlaces.regular((300, 300), 6.0), (100, 100)
    )
    vessel, cell = amounts[2] > 0.2, amounts[3] > 0.5
    assert vessel.sum() > 30 and cell.sum() > 30
    bright = {c: emission(amounts, c) for c in ("autofluorescence", "vessels", "cells", "beads")}
    assert bright["vessels"][vessel].mean() > 3 * bright["cells"][vessel].mean()
    assert bright["cells"][cell].mean() > 3 * bright["vessels"][cell].mean()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sections": 0}, "sections"),
        ({"grid": (0, 2)}, "grid"),
        ({"channels": 9}, "channels"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": float("nan")}, "overlap"),
        ({"tile_px": 3}, "tile_px"),
        ({"distortion_um": 500}, "distortion"),
        ({"keys": "1999"}, "keys"),
        ({"sample": "../up"}, "sample"),
        ({"order": "spiral"}, "order"),
        ({"orientation": ((1, 0), (1, 0))}, "orientation"),
        ({"rows": 3}, "unknown setting"),
        ({"block": {"beads_per_mm3": -1}}, "beads_per_mm3"),
    ],
)
def test_refusals_come_before_files(tmp_path: Path, arguments: dict, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        simulate_stpt(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path) -> None:
    small = [
        "--sections",
        "1",
        "--grid",
        "1x2",
        "--tile-px",
        "64",
        "--channels",
        "1",
        "--seed",
        "3",
    ]
    run = CliRunner().invoke(
        cli, ["simulate", "stpt", str(tmp_path / "a"), *small, "--orientation=-x,y", "--json"]
    )
    assert run.exit_code == 0, run.output
    truth = read_truth(tmp_path / "a")
    assert truth.params["acquisition"]["orientation"] == [[-1, 0], [0, 1]]
    files = TissueCyte(
        tmp_path / "a", "simulated", Acquisition(sections=1, grid=(1, 2), tile_px=64, channels=1)
    )
    assert all(files.image(1, 0, tile, 0).is_file() for tile in (0, 1))
