"""Flat, pedestal, stray light and distortion of tiles: right on tiles whose truth is known, honest where nothing can be known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage as ndi

from imaxt_nb.core.errors import BadInput, UsageError
from imaxt_nb.mosaic import calibrate_choice
from imaxt_nb.mosaic.calibrate import calibrate_sample, calibrate_tiles
from imaxt_nb.mosaic.calibrate_choice import CalibrateParameters
from imaxt_nb.mosaic.calibrate_flats import channel_flat
from imaxt_nb.mosaic.calibration import Calibration, load_calibration, save_calibration
from imaxt_nb.mosaic.distortion import (
    Distortion,
    from_json,
    polynomial,
    published,
    read_distortion,
    to_json,
    write_distortion,
)
from imaxt_nb.mosaic.flat import stack_flat, summarise
from imaxt_nb.mosaic.radial_prior import shrink_to_radial
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.store import Sample

N, PITCH, GRID = 256, 205, 4


class Section:
    """A section in memory, with the interface of `sample.tiles.TileSection`."""

    def __init__(self, number: int, pixels: np.ndarray, table: pd.DataFrame) -> None:
        self.number, self.pixels, self.table = number, pixels, table
        self.present = np.ones(pixels.shape[:3], bool)

    def read(self, tile: int, plane: int, channel: int, rows: slice = slice(None)) -> np.ndarray:
        return self.pixels[tile, plane, channel, rows]


def made(
    seed: int = 0, zeros: bool = False, nan: bool = False, empty: bool = False
) -> SimpleNamespace:
    """Tiles of a section with truth: two channels (the second black if `zeros`), stage axes (y, -x)."""
    rng = np.random.default_rng(seed)
    size = PITCH * (GRID - 1) + N + 40
    scene = 6 + 400 * ndi.gaussian_filter(rng.gamma(0.15, size=(size, size)), 2.0)
    if empty:
        scene = np.full((size, size), 6.0)
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    flat = 1 - 0.25 * ((x - 0.15) ** 2 + (y + 0.1) ** 2) / 2 + 0.06 * x
    flat /= flat.mean()
    k = np.zeros((2, 7))
    k[0, 3] = k[0, 5] = 1.0
    k[1, 4] = k[1, 6] = 0.7
    bend = polynomial(k, (N, N))
    ideal = np.stack(bend.ideal_of_raw(*np.indices((N, N), float)))
    spots = [(i, j) for i in range(GRID) for j in range(GRID)]
    nominal = np.array(spots) * float(PITCH)
    true = nominal + 20 + rng.normal(0, 3, nominal.shape)
    stray = 150 * np.exp(-np.arange(N) / 2.0)
    tiles = []
    for p in true:
        light = ndi.map_coordinates(scene, ideal + p[:, None, None], order=3)
        image = 100 + 8 * (rng.poisson(np.maximum(light, 0) * flat) + stray)
        tiles.append([image, np.zeros_like(image) if zeros else image])
    pixels = np.array(tiles, np.float32)[:, None]
    if nan:
        pixels[:, :, :, 40:50, 60:90] = np.nan
    stage = {
        "tile": range(len(spots)),
        "stage_x_um": -nominal[:, 0] / 2,
        "stage_y_um": nominal[:, 1] / 2,
    }
    section = Section(1, pixels, pd.DataFrame(stage))
    raw = SimpleNamespace(
        sections=[1], section=lambda number: section, channels=[Channel("a"), Channel("b")],
        pixel_um=(0.5, 0.5), tile_shape=(N, N), orientation=None, name="stpt",
    )  # fmt: skip
    return SimpleNamespace(raw=raw, flat=flat, bend=bend, true=true, section=section)


SETTINGS = CalibrateParameters(max_stage_error_um=10, max_error_px=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A calibrated sample; its second channel is black."""
    m = made(zeros=True)
    root = tmp_path_factory.mktemp("data")
    sample, warnings = Sample.create("S", str(root)), []
    report = calibrate_sample(sample, m.raw, SETTINGS, key="k", warn=warnings.append)
    return SimpleNamespace(**vars(m), sample=sample, report=report, warnings=warnings)


def test_flat_pedestal_and_distortion_are_the_true_ones(done: Any) -> None:
    c = done.report.calibration
    use = c.weight > 0
    ratio = c.flat[0][use] / done.flat[use]
    assert (ratio / ratio.mean()).std() < 0.02 < 0.05 < done.flat[use].std()
    doubt = done.report.figures["pedestal error a"]  # tiles have about 500 counts
    assert abs(c.dark[0, 0, 0] - 100) < 2 * doubt < 30
    at = np.meshgrid(*[np.linspace(0, N - 1, 21)] * 2, indexing="ij")
    wrong = (c.distortion.displacement(*at) - done.bend.displacement(*at)).reshape(2, -1).T
    plane = np.stack([np.ones(441), at[0].ravel(), at[1].ravel()], 1)
    wrong -= plane @ np.linalg.lstsq(plane, wrong, rcond=None)[0]
    assert np.hypot(*wrong.T).max() < 0.3
    for i, offset in done.report.offsets.items():
        a, b = (done.report.pairs[i].a[1], done.report.pairs[i].b[1])
        assert np.abs(offset - (done.true[b] - done.true[a])).max() < 1


def test_the_flat_says_how_wrong_it_is(done: Any) -> None:
    c = done.report.calibration
    use = c.weight > 0
    ratio = c.flat[0][use] / done.flat[use]
    claimed = done.report.figures["flat_errors"][0]
    assert 0.3 * claimed < (ratio / ratio.mean()).std() < 1.5 * claimed < 0.025


def test_stray_light_is_dropped_and_the_orientation_found(done: Any) -> None:
    top, bottom, left, right = done.report.figures["margins_px"]
    assert 7 <= left <= 12 and (top, bottom, right) == (0, 0, 0)
    assert (done.report.calibration.weight == 0).sum() == left * N
    assert done.report.figures["orientation"] == [[0, 1], [-1, 0]]


def test_stray_light_of_tiles_that_are_too_alike_is_dropped_and_said(done: Any) -> None:
    """Intercepts tell nothing where all tiles are equally bright: the flat was wrong by 10 % there, and claimed 2."""
    m, warnings = made(seed=2), []
    p = SETTINGS.model_copy(update={"distortion": "S"})
    report = calibrate_tiles(done.sample, m.raw, p, warn=warnings.append)
    assert 7 <= report.figures["margins_px"][2] <= 13
    assert any("channel a" in w and "too alike" in w for w in warnings)
    use = report.calibration.weight > 0
    ratio = report.calibration.flat[0][use] / m.flat[use]
    claimed = report.figures["flat_errors"][0]
    assert (ratio / ratio.mean()).std() < min(0.02, 1.5 * claimed)


def test_the_flat_claims_the_error_of_its_pedestal() -> None:
    """Dim tiles: a pedestal that is wrong by its error makes a flat that is wrong by about what is claimed for it."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-1 : 1 : 96 * 1j, -1 : 1 : 96 * 1j]
    shape = 1 - 0.3 * (x**2 + y**2) / 2
    tiles = [summarise(100 + 8 * rng.poisson(4 * shape), 2) for _ in range(40)]
    (flat, sure), (_, unsure) = (
        channel_flat(tiles, 100.0, lambda p: None, 2, shape.shape, "imaxt", e) for e in (0.0, 3.0)
    )
    wrong, _ = channel_flat(tiles, 97.0, lambda p: None, 2, shape.shape, "imaxt")
    moved = float((wrong / flat).std())
    assert 0.7 * moved < np.sqrt(unsure**2 - sure**2) < 1.4 * moved


def test_a_black_channel_has_a_flat_of_one_and_a_warning(done: Any) -> None:
    assert (done.report.calibration.flat[1] == 1).all()
    assert any("channel b" in w and "zeros" in w for w in done.warnings)


def test_overlaps_agree_better_after_the_flat(done: Any) -> None:
    before, after = (np.median(np.abs(done.report.differences(0, c))) for c in (False, True))
    assert after < 0.6 * before


def test_saved_and_loaded_it_is_the_same_and_knows_its_origin(done: Any) -> None:
    found = load_calibration(done.sample.path("calibration", "stpt"))
    np.testing.assert_array_equal(found.flat, done.report.calibration.flat)
    assert found.attrs["key"] == "k"
    assert found.distortion.origin["sample"] == "S"
    assert (
        found.distortion.residuals["median_after_px"]
        < found.distortion.residuals["median_before_px"]
    )


def test_the_same_seed_gives_the_same_calibration(done: Any) -> None:
    again = calibrate_tiles(done.sample, done.raw, SETTINGS, warn=lambda w: None, workers=1)
    np.testing.assert_array_equal(again.calibration.flat, done.report.calibration.flat)
    np.testing.assert_array_equal(
        again.calibration.distortion.coefficients, done.report.calibration.distortion.coefficients
    )


def test_another_sample_uses_the_distortion(done: Any) -> None:
    m, other = made(seed=1), Sample.create("T", done.sample.root.rpartition("/")[0])
    p = SETTINGS.model_copy(update={"distortion": "S"})
    report = calibrate_tiles(other, m.raw, p, warn=lambda w: None)
    loaded = report.calibration.distortion
    np.testing.assert_array_equal(
        loaded.coefficients, done.report.calibration.distortion.coefficients
    )
    assert report.fit is None and len(report.offsets) > 10
    with pytest.raises(UsageError, match=r"no distortion\.json"):
        calibrate_tiles(other, m.raw, p.model_copy(update={"distortion": "nobody"}))


def test_empty_tiles_give_no_distortion_and_say_so(done: Any) -> None:
    warnings: list[str] = []
    report = calibrate_tiles(done.sample, made(empty=True).raw, SETTINGS, warn=warnings.append)
    assert report.calibration.distortion is None
    assert any("overlaps are not used" in w for w in warnings)
    assert any("noise alone" in w for w in warnings)
    assert np.isfinite(report.calibration.flat).all()


@pytest.mark.parametrize("tiles", [5, 1])
def test_too_few_tiles_are_refused(done: Any, tiles: int) -> None:
    m, warnings = made(), []
    m.section.present[tiles:] = False
    report = calibrate_tiles(done.sample, m.raw, SETTINGS, warn=warnings.append)
    assert (report.calibration.flat == 1).all()
    told = [w.partition(":")[0] for w in warnings if "channel" in w]
    assert told == ["channel a", "channel b"] and all(
        "too few for a flat" in w for w in warnings[-2:]
    )


def test_nan_pixels_count_for_nothing(done: Any) -> None:
    m = made(nan=True)
    report = calibrate_tiles(done.sample, m.raw, SETTINGS, warn=lambda w: None)
    assert np.isfinite(report.calibration.flat).all()
    use = report.calibration.weight > 0
    ratio = report.calibration.flat[0][use] / m.flat[use]
    assert (ratio / ratio.mean()).std() < 0.02


def test_basic_without_its_package_is_an_error_that_names_it(done: Any) -> None:
    p = SETTINGS.model_copy(update={"engine": "basic", "distortion": "none"})
    with pytest.raises(UsageError, match="basicpy"):
        calibrate_tiles(done.sample, made().raw, p, warn=lambda w: None)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(float, (2, 10), elements=st.floats(-2, 2)))
def test_the_inverse_of_a_distortion_is_its_inverse(k: np.ndarray) -> None:
    d = polynomial(k, (200, 240))
    rows, columns = np.meshgrid(np.linspace(0, 199, 9), np.linspace(0, 239, 9), indexing="ij")
    i, j = d.ideal_of_raw(rows, columns)
    r, c = d.raw_of_ideal(i, j)
    np.testing.assert_allclose([r, c], [rows, columns], atol=1e-6)
    same = from_json(json.loads(json.dumps(to_json(d))))
    np.testing.assert_array_equal(same.coefficients, d.coefficients)


def test_a_file_of_the_published_form_moves_corners_by_31_px(tmp_path: Path) -> None:
    a, b = (-0.398, 22.02, 4.97, 1.49), (0.248, -1.91, -3.19, 1.55)
    file = str(tmp_path / "distortion.json")
    write_distortion(file, published(a, b, (974.4, 1037.6), (2010, 2068)))
    d = read_distortion(file)
    assert d.form == "signed" and d.largest_px() == pytest.approx(31, abs=0.3)
    r, c = -0.9744, -1.0376
    expected = 0.398 + r * (22.02 * c**2 + 4.97 * r**2 + 1.49 * r**2 * c)
    assert d.displacement(0, 0)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"form": "spline"}, "unknown form"),
        ({"terms": ["u9"] * 10}, "unknown term"),
        ({"scale": 0}, "scale"),
        ({"coefficients": {"row": [1], "column": [1]}}, "coefficients"),
        ({"centre": None}, "not a distortion"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    file = tmp_path / "d.json"
    value = to_json(polynomial(np.zeros((2, 7)), (9, 9))) | change
    if "coefficients" in change:
        value["form"] = "signed"
    file.write_text(json.dumps(value))
    with pytest.raises(BadInput, match=text) as e:
        read_distortion(str(file))
    assert "d.json" in str(e.value)


def test_what_the_data_say_is_not_shrunk_and_what_they_do_not_follows_the_strong_terms() -> None:
    x, c = np.zeros(20), np.eye(20) * 0.01**2
    x[3], x[5], x[11], x[13] = 5.0, 12.0, -1.0, -1.0
    kept, _, lens, _ = shrink_to_radial(x, c)
    np.testing.assert_allclose(kept, x, atol=0.02)
    assert lens < 1e-6  # mixed terms that differ so are a scanner's
    weak = c.copy()
    weak[3, 3] = 9.0  # the pure cube is hardly known
    x[3] = 9.0
    followed, covariance, *_ = shrink_to_radial(x, weak)
    assert followed[3] == pytest.approx((9 / 9 + 12 / 8.4**2) / (1 / 9 + 1 / 8.4**2), abs=0.1)
    assert 2.5 < np.sqrt(covariance[3, 3]) < 3  # and the error owns up to it
    x[[3, 5, 14, 16]], weak[16, 16] = (
        12.0,
        9.0,
    )  # alike in rows and columns: a lens, whose cubes are tied
    tied, covariance, lens, _ = shrink_to_radial(x, weak)
    assert lens > 0.9 and tied[3] == pytest.approx(12, abs=0.1)
    assert np.sqrt(covariance[3, 3]) < 0.6


def test_what_is_too_weak_to_be_seen_is_an_error_of_what_it_leads_astray() -> None:
    """Two terms that data hardly tell apart, as a pure cube and a deviation are in strips: the one that may be 0 is not taken for 0."""
    x, c = np.zeros(20), np.eye(20) * 0.01**2
    x[5], x[11], x[13] = 12.0, -1.0, -1.0
    true = x.copy()
    true[3], true[7] = 4.0, 0.7  # u³ and u³v
    both = np.array(
        [[1.0, -0.19], [-0.19, 0.04]]
    )  # their sum is known, (3.8 sigma of the weak term are seen)
    c[np.ix_([3, 7], [3, 7])] = both
    wrong = []
    for seed in range(6):
        noise = np.random.default_rng(seed).multivariate_normal(np.zeros(20), c)
        found, covariance, *_ = shrink_to_radial(true + noise, c)
        e = (found - true)[[3, 7]]
        wrong.append(e @ np.linalg.solve(covariance[np.ix_([3, 7], [3, 7])] + 1e-6 * np.eye(2), e))
    assert np.mean(wrong) < 6  # two on average


def test_flats_do_not_depend_on_the_brightness_of_tiles() -> None:
    rng = np.random.default_rng(0)
    shape = (1 + 0.2 * np.linspace(-1, 1, 96))[None] * np.ones((96, 1))
    levels = rng.uniform(20, 2000, 24)
    tiles = [summarise(rng.poisson(v * shape).astype(float), 4) for v in levels]
    flat = stack_flat(tiles, 4).expand((96, 96), 4)
    assert (flat / shape - 1).std() < 0.01


def test_a_calibration_of_other_tiles_is_refused(tmp_path: Path) -> None:
    bend = Distortion(np.zeros((2, 10)), (5, 5), 5.0, (11, 12))
    c = Calibration(np.ones((11, 11), np.float32), distortion=bend)
    save_calibration(str(tmp_path), c)
    with pytest.raises(BadInput, match="distortion"):
        load_calibration(str(tmp_path)).check(1, (11, 11), "somewhere")


def test_a_distortion_that_mends_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms that overlaps hardly see fit their noise, and would bend the tiles: the sample is left as it is."""
    said: list[str] = []
    for after, kept in ((0.11, False), (0.02, True)):
        bend = polynomial(
            np.ones((2, 10)),
            (64, 64),
            residuals={"median_before_px": 0.1, "median_after_px": after},
        )
        fit = SimpleNamespace(distortion=bend, predicted_error_px=0.01)
        monkeypatch.setattr(calibrate_choice, "fit_distortion", lambda *_, fit=fit, **__: fit)
        found, left = calibrate_choice.measured_distortion(
            None, [], [], (64, 64), (0, 0, 0, 0), 8, CalibrateParameters(), said.append, 1
        )
        assert (found is fit) == kept and left is not None
        doubt = left.common_modes((58.0, 0.0))  # one that is left alone is an error of all places
        assert (
            (left is bend) == kept and (left.largest_px() > 0) == kept and bool(doubt.size) != kept
        )
    assert len(said) == 1 and "0.11" in said[0]
