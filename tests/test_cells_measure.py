"""Measurement: equal to skimage, streaming, labels that skip, anisotropic pixels, faults."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import regionprops

from imaxt_nb.cells.measure import measure
from imaxt_nb.core.errors import BadInput

SHAPE = (13, 17)
labels = arrays(np.int32, SHAPE, elements=st.sampled_from([0, 0, 1, 2, 5, 9, 1000]))
seeds = st.integers(0, 2**32 - 1)
pitch = st.sampled_from([(1.0, 1.0), (0.5, 2.0), (1.3, 0.7)])


def counts(seed: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.gamma(1.0, 5.0, (channels, *SHAPE)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(cells=labels, seed=seeds, pixel_um=pitch)
def test_equal_to_regionprops(cells: np.ndarray, seed: int, pixel_um: tuple) -> None:
    data = counts(seed)
    nuclei = np.where(np.random.default_rng(seed).uniform(size=SHAPE) < 0.5, cells, 0)
    found = measure(data, nuclei, cells, pixel_um)
    for mask, prefix, means in (
        (cells, "", found.cell_means),
        (nuclei, "nucleus_", found.nucleus_means),
    ):
        props = {p.label: p for p in regionprops(mask, np.moveaxis(data, 0, -1), spacing=pixel_um)}
        for row, mean in zip(found.table.itertuples(index=False), means, strict=True):
            if row.cell_id not in props:
                assert getattr(row, f"{prefix}area_um2") == 0 and np.isnan(mean).all()
                continue
            p = props[row.cell_id]
            np.testing.assert_allclose(mean, p.mean_intensity, rtol=1e-5)
            near = {"rtol": 1e-6, "atol": 1e-6}
            np.testing.assert_allclose(getattr(row, f"{prefix}area_um2"), p.area, **near)
            xy = [getattr(row, f"{prefix}{a}_um") for a in "yx"]
            np.testing.assert_allclose(xy, p.centroid, **near)
            axes = [getattr(row, f"{prefix}{a}_axis_um") for a in ("major", "minor")]
            expected = [p.axis_major_length, p.axis_minor_length]
            np.testing.assert_allclose(axes, expected, rtol=1e-5, atol=1e-5)
            if p.axis_major_length > 0:
                eccentricity = getattr(row, f"{prefix}eccentricity")
                np.testing.assert_allclose(eccentricity, p.eccentricity, atol=1e-4)
    assert list(found.table.cell_id) == sorted(set(np.unique(cells)) - {0})


def test_orientation_is_that_of_skimage() -> None:
    y, x = np.indices((60, 60)) - 30.0
    for angle in (-1.2, -0.4, 0.0, 0.3, 1.0):
        u, v = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
        mask = ((u / 20) ** 2 + (v / 7) ** 2 < 1).astype(int)
        row = measure(np.ones((1, 60, 60)), mask, mask).table.iloc[0]
        assert row.orientation_rad == pytest.approx(regionprops(mask)[0].orientation, abs=1e-6)
        assert row.orientation_rad == pytest.approx(angle, abs=0.02)


@pytest.mark.parametrize("chunks", [(1, 4, 17), (3, 5, 9), (2, 13, 17)])
def test_streams_block_by_block(chunks: tuple) -> None:
    cells = np.random.default_rng(0).integers(0, 9, SHAPE)
    data = counts(1)
    whole = measure(data, cells, cells)
    lazy = measure(da.from_array(data, chunks=chunks), da.from_array(cells, chunks=6), cells)
    assert lazy.table.equals(whole.table)
    np.testing.assert_allclose(lazy.cell_means, whole.cell_means, rtol=1e-6)
    np.testing.assert_allclose(lazy.nucleus_means, whole.nucleus_means, rtol=1e-6)


def test_huge_labels() -> None:
    cells = np.zeros(SHAPE, np.uint64)
    cells[2:5, 2:5], cells[7:9, 7:12] = 3, 4_000_000_000
    found = measure(counts(0), cells, cells)
    assert list(found.table.cell_id) == [3, 4_000_000_000]
    assert list(found.table.area_um2) == [9, 10]


def test_edges_and_single_pixels() -> None:
    cells = np.zeros(SHAPE, int)
    cells[0, 5], cells[6, 6], cells[12, 16] = 1, 2, 3
    table = measure(counts(0), cells, cells).table
    assert list(table.at_edge) == [True, False, True]
    assert list(table.major_axis_um) == [0, 0, 0] and list(table.eccentricity) == [0, 0, 0]


def test_no_cells_and_no_channels() -> None:
    nothing = np.zeros(SHAPE, int)
    empty = measure(counts(0), nothing, nothing)
    assert len(empty) == 0 and empty.cell_means.shape == (0, 3)
    one = measure(np.zeros((0, *SHAPE)), nothing + 1, nothing + 1)
    assert one.cell_means.shape == (1, 0) and one.table.area_um2[0] == nothing.size


@pytest.mark.parametrize(
    ("data", "nuclei", "cells", "pixel_um", "says"),
    [
        (counts(0), np.zeros(SHAPE), np.zeros(SHAPE, int), (1, 1), "integers"),
        (counts(0), np.zeros(SHAPE, int), np.zeros(SHAPE, bool), (1, 1), "integers"),
        (counts(0)[:, :-1], np.zeros(SHAPE, int), np.zeros(SHAPE, int), (1, 1), "fit together"),
        (counts(0)[0], np.zeros(SHAPE, int), np.zeros(SHAPE, int), (1, 1), "fit together"),
        (counts(0), np.zeros(SHAPE, int), np.full(SHAPE, -1), (1, 1), "negative"),
        (counts(0), np.full(SHAPE, 3), np.full(SHAPE, 2), (1, 1), "no cell has"),
        (counts(0), np.full(SHAPE, -2), np.full(SHAPE, 2), (1, 1), "no cell has"),
        (counts(0) * np.nan, np.full(SHAPE, 2), np.full(SHAPE, 2), (1, 1), "not finite"),
        (counts(0), np.full(SHAPE, 2), np.full(SHAPE, 2), (0, 1), "positive"),
    ],
)
def test_faults(data, nuclei, cells, pixel_um, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        measure(data, nuclei, cells, pixel_um)
