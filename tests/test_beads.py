"""Beads: bad input, properties of the fit, tracks and alignment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imaxt_nb.beads.align import align_sections
from imaxt_nb.beads.detect import find_candidates, from_labels, noise_of, paint
from imaxt_nb.beads.model import Optics, profile
from imaxt_nb.beads.profile import Camera, fit_beads
from imaxt_nb.beads.tracks import find_tracks
from imaxt_nb.core.compute import rng
from imaxt_nb.core.errors import BadInput
from imaxt_nb.simulate.catalogues import bead_population, section_catalogues

PIXEL = (1.0, 1.0)


def bead(x: float, y: float, radius: float, size: int = 160, u: float = 10.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    rho = np.hypot(columns - x, rows - y)
    return profile(rho, radius**2 - u**2, u, Optics())[:, 0].reshape(size, size)


def image(seed: int, brightness: float = 30.0) -> np.ndarray:
    return rng(seed, "image").poisson(8 + brightness * bead(80.3, 77.6, 45)).astype(float)


def test_a_fit_does_not_depend_on_units_of_brightness_or_on_an_offset() -> None:
    guess = np.array([[78.0, 80, 42]])
    one = fit_beads(image(1), guess, pixel_um=PIXEL)
    other = fit_beads(image(1) * 7 + 100, guess, pixel_um=PIXEL, camera=Camera(7, 0, 100))
    for column in ("x_um", "y_um", "radius_um", "x_um_err", "snr"):
        assert other[column][0] == pytest.approx(one[column][0], rel=1e-4)


def test_pixels_may_be_oblong_and_some_missing() -> None:
    full = image(2)
    thin = full.reshape(80, 2, 160).mean(1)
    thin[10:14, :] = np.nan
    fit = fit_beads(thin, np.array([[80.0, 77, 42]]), pixel_um=(2.0, 1.0)).iloc[0]
    assert fit.flag == "ok"
    assert (fit.x_um, fit.y_um) == pytest.approx((80.3, 77.6 - 0.5), abs=0.2)


def test_a_touching_neighbour_does_not_pull() -> None:
    pair = rng(3, "pair").poisson(8 + 30 * (bead(60, 80, 30, 200) + bead(119.5, 80, 31, 200)))
    fits = fit_beads(pair, np.array([[61.0, 79, 29], [118.0, 81, 30]]), pixel_um=PIXEL)
    assert list(fits.flag) == ["ok", "ok"]
    assert np.abs(fits.x_um - [60, 119.5]).max() < 0.15


@pytest.mark.parametrize(
    "picture, flags",
    [
        (np.full((160, 160), 8.0), {"failed"}),
        (np.full((160, 160), np.nan), {"failed"}),
        (
            np.where(np.add.outer(np.arange(160), np.arange(160)) > 160, 60.0, 8.0),
            {"poor", "large", "moved", "failed", "cut"},
        ),
    ],
)
def test_what_is_no_bead_is_flagged(picture: np.ndarray, flags: set[str]) -> None:
    fit = fit_beads(picture, np.array([[80.0, 80, 40]]), pixel_um=PIXEL)
    assert fit.flag[0] in flags


def test_a_bead_cut_by_the_border_is_flagged() -> None:
    fit = fit_beads(image(4)[:, 85:], np.array([[-4.0, 78, 43]]), pixel_um=PIXEL)
    assert fit.flag[0] != "ok"


def test_detection_of_nothing_and_labels_there_and_back() -> None:
    flat = rng(5, "flat").poisson(50, (300, 300))
    assert len(find_candidates(flat, 4.0)) == 0
    assert noise_of(flat) == pytest.approx(0.5, abs=0.05)
    beads = np.array([[100.0, 200, 40], [300, 120, 30]])
    back = from_labels(paint(beads, (100, 100), 4.0), 4.0)
    assert np.abs(back - beads).max() < 1.5


def test_alignment_without_beads_and_with_three() -> None:
    table = section_catalogues(bead_population((3000, 3000, 200), seed=1), 5, seed=1)
    with pytest.raises(BadInput, match="nothing to align by"):
        align_sections(table[:0], find_tracks(table[:0]))
    three = table[table.bead_id.isin(table.bead_id.value_counts().index[:3])].reset_index(drop=True)
    found = align_sections(three, find_tracks(three))
    assert np.abs(found.shift).max() < 1.5


def test_a_catalogue_with_nan_keeps_the_other_rows() -> None:
    table = section_catalogues(bead_population((4000, 4000, 200), seed=2), 6, seed=2)
    whole = align_sections(table, find_tracks(table))
    broken = pd.concat([table, table[:5].assign(x_um=np.nan)], ignore_index=True)
    track = find_tracks(broken)
    assert (track[-5:] == -1).all()
    assert np.allclose(align_sections(broken, track).shift, whole.shift)


def test_sections_in_two_parts_are_tied_by_the_walk_and_say_so() -> None:
    shifts = np.zeros((20, 2))
    table = section_catalogues(
        bead_population((4000, 4000, 300), seed=3), 20, shifts_um=shifts, seed=3
    )
    table = table[(table.section < 7) | (table.section > 14)].reset_index(drop=True)
    depth = {s: 15.0 * (s - 1) for s in range(1, 21)}
    found = align_sections(table, find_tracks(table), depth)
    assert list(found.section[found.status == "interpolated"]) == list(range(7, 15))
    assert np.isfinite(found.shift).all() and np.isfinite(found.error).all()
    with pytest.raises(BadInput, match="not aligned"):
        found.to_frame(np.array([99]), np.zeros((1, 2)))
