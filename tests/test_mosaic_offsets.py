"""Offsets of pairs of tiles: exact where truth is known, refused where nothing is to be known."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from imaxt_nb.core.errors import BadInput
from imaxt_nb.mosaic.calibration import Calibration, identity
from imaxt_nb.mosaic.distortion import polynomial
from imaxt_nb.mosaic.neighbours import neighbours
from imaxt_nb.mosaic.offsets import Offset
from imaxt_nb.mosaic.orientation import find_orientation, the_orientation
from imaxt_nb.mosaic.pairs import (
    Link,
    agreement_asked,
    doubted,
    excess_allowed,
    measure_pair,
    reason_against,
    transform,
)
from imaxt_nb.mosaic.register import Registered, calibrated, register, register_widening
from imaxt_nb.mosaic.search import Search, plan_search
from imaxt_nb.mosaic.sparse import sharpen
from imaxt_nb.mosaic.strips import Strip, cut_strip, find_stabiliser, overlap_boxes

SIDE, STEP, REACH = 256, 216, 24


def scene(seed: int, size: tuple[int, int] = (760, 760), photons: float = 200) -> np.ndarray:
    """Structure everywhere, of a few pixels."""
    noise = np.random.default_rng(seed).normal(size=size)
    return (photons * (1 + ndi.gaussian_filter(noise, 2.5) * 4)).clip(0)


def view(image: np.ndarray, at: Any, seed: int, bend: Any = None) -> np.ndarray:
    """A noisy tile (c, y, x) whose ideal pixel (0, 0) is at a place of the scene; `bend` as a `Distortion`."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    if bend is not None:
        rows, cols = bend.ideal_of_raw(rows, cols)
    clean = ndi.map_coordinates(image, [rows + at[0], cols + at[1]], order=3)
    return np.random.default_rng(seed).poisson(clean.clip(0))[None].astype(np.float32)


def strips_of(
    a: np.ndarray, b: np.ndarray, expected: Any, calibration: Calibration | None = None
) -> tuple[Strip, Strip, Search]:
    """What two tiles that should lie `expected` px apart may both show, and how it is searched."""
    expected = np.asarray(expected, float)
    calibration = calibration or identity((SIDE, SIDE))
    root = find_stabiliser([[t[c] for t in (a, b)] for c in range(len(a))])
    boxes = overlap_boxes((SIDE, SIDE), expected, REACH)
    assert boxes is not None
    plan = plan_search(*boxes, expected, REACH)
    p, q = (cut_strip(t, box, calibration, root) for t, box in zip((a, b), boxes, strict=True))
    return p, q, plan


def link(
    a: np.ndarray, b: np.ndarray, expected: Any, calibration: Calibration | None = None
) -> Link:
    """The link of two tiles that should lie `expected` px apart."""
    p, q, plan = strips_of(a, b, expected, calibration)
    return measure_pair(p, q, transform(p, plan), transform(q, plan), plan)


@settings(max_examples=12, deadline=None)
@given(st.floats(-12, 12), st.floats(-12, 12), st.booleans(), st.integers(0, 99))
def test_any_displacement(dy: float, dx: float, below: bool, seed: int) -> None:
    nominal = np.array([STEP, 0.0] if below else [0.0, STEP])
    image, true = scene(seed), nominal + np.array([dy, dx])
    found = link(view(image, (40, 40), 1), view(image, true + 40, 2), nominal)
    assert found.accepted and found.offset is not None
    pull = (found.offset.displacement - true) / np.sqrt(np.diag(found.offset.covariance))
    assert np.abs(found.offset.displacement - true).max() < 0.1
    assert np.abs(pull).max() < 5


def test_errors_are_true_and_small() -> None:
    image, miss = scene(5), []
    for k in range(24):
        true = np.array([3 - 0.1 * k, STEP - 4 + 0.37 * k])
        found = link(view(image, (40, 40), 2 * k), view(image, true + 40, 2 * k + 1), (0, STEP))
        assert found.offset is not None
        miss.append((found.offset.displacement - true) / np.sqrt(np.diag(found.offset.covariance)))
    assert 0.6 < np.std(miss) < 1.5
    assert np.abs(np.mean(miss, axis=0)).max() < 0.8  # no preference for whole pixels


def test_nothing_is_found_where_there_is_nothing() -> None:
    draw = np.random.default_rng(3)
    flat = [draw.poisson(30, (1, SIDE, SIDE)).astype(np.float32) for _ in range(2)]
    assert link(flat[0], flat[1], (0, STEP)).reason in ("empty", "faint")
    zero = np.zeros((1, SIDE, SIDE), np.float32)
    assert not link(zero, zero, (0, STEP)).accepted


def test_beads_that_look_alike_are_told_apart() -> None:
    def bead(radius: float, at: tuple[int, int], seed: int) -> np.ndarray:
        y, x = np.mgrid[0:SIDE, 0:SIDE]
        rest = radius**2 - (y - at[0]) ** 2 - (x - at[1]) ** 2
        image = 4 + 150 * np.sqrt(rest.clip(0)) / radius
        return (
            np.random.default_rng(seed)
            .poisson(ndi.gaussian_filter(image, 1))[None]
            .astype(np.float32)
        )

    right = STEP + 10
    same = link(bead(14, (120, 236), 1), bead(14, (124, 236 - right), 2), (0, STEP))
    other = link(bead(14, (120, 236), 1), bead(10, (124, 236 - right), 3), (0, STEP))
    assert same.accepted and same.offset is not None
    assert np.abs(same.offset.displacement - [-4, right]).max() < 0.3
    assert other.significance > 6
    scatter = np.zeros(2), np.full(2, 20.0)
    assert (
        doubted(other, np.array([0.0, STEP]), scatter, agreement_asked([same]), 1).reason
        == "different"
    )
    assert doubted(same, np.array([0.0, STEP]), scatter, agreement_asked([same]), 1).accepted


def test_one_dim_bead_in_a_blank_overlap() -> None:
    """Pixels that show nothing must not drown the few that do."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    miss = []
    for k in range(6):
        true, tiles = np.array([3.0 - 0.3 * k, STEP + 1.4 * k]), []
        for at, seed in ((np.zeros(2), 2 * k), (true, 2 * k + 1)):
            rest = 14**2 - (y + at[0] - 120) ** 2 - (x + at[1] - 238) ** 2
            image = ndi.gaussian_filter(3 + 12 * np.sqrt(rest.clip(0)) / 14, 1)
            tiles.append(np.random.default_rng(seed).poisson(image)[None].astype(np.float32))
        found = link(*tiles, (0, STEP))
        assert found.accepted and found.offset is not None
        miss.append(found.offset.displacement - true)
    assert np.sqrt(np.mean(np.square(miss))) < 0.5


def test_the_rim_of_a_bead_at_the_border() -> None:
    """Eight pixels of a bead that lies in the other tile: correlation would slide them on to its middle."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    miss, stated = [], []
    for k in range(8):
        true, tiles = np.array([3.0 - 0.3 * k, STEP + 12 + 0.3 * k]), []
        for at, seed in ((np.zeros(2), 2 * k), (true, 2 * k + 1)):
            rest = 40**2 - (y + at[0] - 120) ** 2 - (x + at[1] - (STEP + 20 - 40)) ** 2
            image = ndi.gaussian_filter(4 + 120 * np.sqrt(rest.clip(0)) / 40, 1)
            tiles.append(np.random.default_rng(seed).poisson(image)[None].astype(np.float32))
        found = link(*tiles, (0, STEP))
        assert found.accepted and found.offset is not None
        miss.append(found.offset.displacement - true)
        stated.append(np.sqrt(np.diag(found.offset.covariance)))
    assert np.abs(miss).max() < 1
    assert 0.5 < np.sqrt(np.mean(np.square(np.array(miss) / stated))) < 1.6


def example(rich: bool, excess: float = 0.0) -> Link:
    """A link that all tests believe."""
    at, error = np.array([0.0, 900.0]), 0.01 * np.eye(2)
    return Link(Offset(at, error, 1.0, 0.01, excess, 50.0, 0.005), 30.0, True, "", rich)


def test_one_lucky_pair_is_no_rule() -> None:
    links = [example(True)] * 20 + [example(False)] * 20
    blank = Link(None, 3.0, False, "empty")
    pairs, expected = np.zeros((40, 2), int), np.tile([0.0, 900.0], (40, 1))
    for lucky, believed in ((1, 40), (6, 20)):
        chance = [replace(example(False), significance=40.0)] * lucky + [blank] * (40 - lucky)
        r = Registered(pairs, expected, links, chance, [expected[0]] * 40)
        found, floor = calibrated(r, 20.0)
        assert found.accepted.sum() == believed and (floor > 40) == (believed == 20)


def test_differences_that_noise_does_not_explain() -> None:
    expected, scatter = np.array([0.0, 900.0]), (np.zeros(2), np.full(2, 10.0))
    least = agreement_asked([example(True)] * 5)
    most = excess_allowed([example(True, e) for e in (-0.01, 0.0, 0.002, 0.003, 0.004, 0.01)])
    for rich, excess, asked, believed in (
        (False, 0.02, least, True),
        (False, 0.06, least, False),
        (False, 0.06, 0.85, True),  # a poor calibration
        (True, 0.05, least, True),
        (True, 0.13, least, False),  # others of the section differ by less
    ):
        k = doubted(example(rich, excess), expected, scatter, asked, most)
        assert k.accepted == believed and k.reason in ("", "different")
    assert excess_allowed([example(True)] * 5) == np.inf


def test_what_lies_beyond_a_border_does_not_agree_with_itself() -> None:
    """A bright bead that only the first tile sees, close to where the second begins."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    rest = 40**2 - (y - 120) ** 2 - (x - (STEP - 20 - 40)) ** 2
    images = (4 + 120 * np.sqrt(rest.clip(0)) / 40, np.full((SIDE, SIDE), 4.0))
    rng = np.random.default_rng(0)
    tiles = [rng.poisson(ndi.gaussian_filter(i, 1))[None].astype(np.float32) for i in images]
    a, b, plan = strips_of(*tiles, (0, STEP))
    for right in (STEP - 23.0, STEP - 22.0):  # where the rim just looks in
        found = sharpen(a, b, np.array([0.0, right]), 2.0)
        assert found is None or reason_against(found, found.signal, plan.expected, plan.reach, 8.0)


def test_offsets_do_without_pandas() -> None:
    """Offsets and placement alone need a quarter less memory without it."""
    code = "import sys, imaxt_nb.mosaic.register, imaxt_nb.mosaic.placement, imaxt_nb.mosaic.neighbours as n; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_masked_pixels_and_silent_channels() -> None:
    image, true = scene(7), np.array([2.0, STEP - 5.0])
    a, b = view(image, (40, 40), 1), view(image, true + 40, 2)
    a[0, 100:140, 225:250] = np.nan
    b[0, :, :3] = 60_000  # light that does not belong there
    weight = np.ones((SIDE, SIDE), np.float32)
    weight[:, :3] = 0
    silent = np.zeros_like(a)
    pair = [np.concatenate([t, silent]) for t in (a, b)]
    found = link(pair[0], pair[1], (0, STEP), Calibration(weight))
    assert found.accepted and found.offset is not None
    assert np.abs(found.offset.displacement - true).max() < 0.1


def test_channels_add_up() -> None:
    image, true = scene(8, photons=12), np.array([-3.0, STEP + 2.0])
    a, b = (
        [view(image, at, k + s) for s in range(0, 40, 10)]
        for k, at in ((1, (40, 40)), (2, true + 40))
    )
    one, four = link(a[0], b[0], (0, STEP)), link(np.concatenate(a), np.concatenate(b), (0, STEP))
    assert one.offset is not None and four.offset is not None
    ratio = np.trace(four.offset.covariance) / np.trace(one.offset.covariance)
    assert 0.15 < ratio < 0.4


def test_distortion_is_taken_out() -> None:
    k = np.zeros((2, 7))
    k[0, 3] = k[0, 5] = k[1, 4] = k[1, 6] = 1.5
    bend, image, true = polynomial(k, (SIDE, SIDE)), scene(9), np.array([4.0, STEP - 3.0])
    a, b = view(image, (40, 40), 1, bend), view(image, true + 40, 2, bend)
    plain = link(a, b, (0, STEP))
    found = link(a, b, (0, STEP), Calibration(np.ones((SIDE, SIDE), np.float32), distortion=bend))
    assert found.offset is not None and np.abs(found.offset.displacement - true).max() < 0.06
    assert plain.offset is None or np.abs(plain.offset.displacement - true).max() > 1


@pytest.fixture(scope="module")
def grid() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Nine tiles, their nominal and true places."""
    nominal = np.stack(np.divmod(np.arange(9), 3), 1) * 176.0
    true = nominal + np.random.default_rng(4).normal(0, 4, (9, 2)) + 25
    true[4] += [33, -30]  # beyond the first search
    image = scene(11)
    return [view(image, t, k) for k, t in enumerate(true)], nominal, true


def test_search_widens(grid: Any) -> None:
    tiles, nominal, true = grid
    root = find_stabiliser([[t[0] for t in tiles]])
    pairs = neighbours(nominal, (SIDE, SIDE))
    args = (lambda k: tiles[k], pairs, nominal, identity((SIDE, SIDE)), root, 20)
    assert register(*args).accepted.sum() < 12
    found, _ = register_widening(*args)
    assert found.accepted.all()
    d = np.array([k.offset.displacement for k in found.links if k.offset])
    assert np.abs(d - true[pairs[:, 1]] + true[pairs[:, 0]]).max() < 0.15
    assert not any(k.accepted for k in found.chance)


def test_each_image_is_read_once_and_missing_ones_are_left_out(grid: Any) -> None:
    tiles, nominal, _ = grid
    count = dict.fromkeys(range(9), 0)

    def read(k: int) -> Any:
        count[k] += 1
        return None if k == 0 else tiles[k]

    pairs = neighbours(nominal, (SIDE, SIDE))
    root = find_stabiliser([[t[0] for t in tiles]])
    found = register(read, pairs, nominal, identity((SIDE, SIDE)), root, 60)
    assert set(count.values()) == {1}
    assert [k.reason == "missing" for k in found.links] == (pairs == 0).any(axis=1).tolist()


def test_orientation_is_found_or_refused(grid: Any) -> None:
    tiles, nominal, _ = grid
    m = np.array([[0, 1], [-1, 0]])
    stage, side = nominal[:, ::-1] @ m * 0.5, (SIDE, SIDE)  # pixels of half a um
    found = find_orientation(lambda k: tiles[k][0], stage, (0.5, 0.5), side, 24)
    assert np.array_equal(the_orientation(found), m)
    dark = np.random.default_rng(1).poisson(9, (SIDE, SIDE))
    empty = find_orientation(lambda k: dark, stage, (0.5, 0.5), side, 24)
    with pytest.raises(BadInput, match=r"must be given.*raw\.zarr"):
        the_orientation(empty, "raw.zarr")
    with pytest.raises(BadInput, match="no tiles overlap"):
        find_orientation(lambda k: tiles[k][0], stage * 9, (0.5, 0.5), side, 24)


def test_wrong_tile_size(grid: Any) -> None:
    tiles, _, _ = grid
    root = find_stabiliser([[tiles[0][0]]])
    with pytest.raises(BadInput, match="wrong tile size"):
        cut_strip(tiles[0], (0, 9, 0, 9), identity((SIDE, SIDE + 1)), root)


def test_real_tma_closes(shared_data: Path) -> None:
    """Offsets round every 2 x 2 block add up to a pixel: these tiles are bent by three pixels along an overlap."""
    from PIL import Image

    names = [shared_data / f"tiles_tma_4x3/r{r}-c{c}.png" for r in range(4) for c in range(3)]
    tiles = [np.asarray(Image.open(n))[None] for n in names]
    side = tiles[0].shape[1:]
    nominal = np.stack(np.divmod(np.arange(12), 3), 1) * (np.array(side) * 0.89)
    root = find_stabiliser([[t[0] for t in tiles]])
    pairs = neighbours(nominal, side)
    found, _ = register_widening(lambda k: tiles[k], pairs, nominal, identity(side), root, 30)
    d = {
        tuple(p): k.offset.displacement
        for p, k in zip(pairs.tolist(), found.links, strict=True)
        if k.accepted and k.offset
    }
    loops = [
        d[k, k + 1] + d[k + 1, k + 4] - d[k + 3, k + 4] - d[k, k + 3]
        for k in range(8)
        if {(k, k + 1), (k + 1, k + 4), (k + 3, k + 4), (k, k + 3)} <= d.keys()
    ]
    assert found.accepted.all() and len(loops) == 6
    assert not any(k.accepted for k in found.chance)
    assert np.median(np.hypot(*np.array(loops).T)) < 1.0
