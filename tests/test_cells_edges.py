"""Edges snapped to the image: what is promised for any brightness, noise, neighbours and place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift

from imaxt_nb.cells.edges import RING, band_px, snap_edges
from imaxt_nb.cells.score import score
from imaxt_nb.cells.synthetic import drawn_nuclei


def discs(places: list[tuple[int, int]], radius: float, side: int = 120) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for k, (cy, cx) in enumerate(places, 1):
        labels[(np.hypot(y - cy, x - cx) <= radius) & (labels == 0)] = k
    return labels


@settings(max_examples=25, deadline=None)
@given(
    gain=st.floats(0.01, 1000),
    offset=st.floats(-500, 500),
    radius=st.integers(8, 22),
    off=st.integers(-2, 2),
)
def test_the_edge_is_where_the_light_falls(
    gain: float, offset: float, radius: int, off: int
) -> None:
    """Polygons up to 2 px too small or large, any unit: half a pixel is left at most."""
    truth = discs([(60, 60)], radius)
    light = gaussian_filter(truth.astype(float), 1.0)
    noise = 0.02
    image = light + np.random.default_rng(radius).normal(0, noise, light.shape)
    found = snap_edges(
        gain * image + offset, discs([(60, 60)], radius + off), 2.0 * radius, gain * noise
    )
    assert abs(np.sqrt((found == 1).sum() / np.pi) - np.sqrt((truth == 1).sum() / np.pi)) < 0.5


def test_a_dim_nucleus_beside_a_bright_one_keeps_its_size() -> None:
    truth = discs([(60, 40), (60, 74)], 16)
    light = gaussian_filter(np.array([10.0, 210.0, 50.0])[truth], 1.0)
    found = snap_edges(light, truth, 32, 1.0)
    assert score(truth, found).pixel_f1 > 0.97
    for k in (1, 2):
        assert abs((found == k).sum() / (truth == k).sum() - 1) < 0.08


@pytest.mark.parametrize("image", [np.zeros((120, 120)), np.full((120, 120), np.nan)])
def test_without_light_the_polygons_stay(image: np.ndarray) -> None:
    truth = discs([(60, 40), (60, 74)], 16)
    assert (snap_edges(image, truth, 32, 0.0) == truth).all()


def test_crowded_nuclei_without_surroundings_keep_their_polygons() -> None:
    labels = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((30, 30), int)).astype(np.int32)
    image = np.random.default_rng(0).normal(100, 1, labels.shape)
    assert (snap_edges(image, labels, 30, 1.0) == labels).all()


def test_a_part_of_the_image_gives_the_same_edges() -> None:
    """An edge depends on the image near its nucleus only: what slides need to be painted in blocks."""
    rng = np.random.default_rng(5)
    image, truth = drawn_nuclei(rng, (260, 260), 20)
    image = image + rng.normal(0, 0.03, image.shape)
    polygons = shift(truth, (1, -1), order=0)
    whole = snap_edges(image, polygons, 20, 0.03)
    reach = int(np.ceil(2 * band_px(20) + RING * 20)) + 4
    far = reach + 45  # a nucleus that starts in the core may be this long
    part = snap_edges(image[60:220, 50:210], polygons[60:220, 50:210], 20, 0.03)
    core = (slice(far, 160 - far), slice(far, 160 - far))
    assert (whole != polygons).any()
    assert (part[core] == whole[60:220, 50:210][core]).all()
