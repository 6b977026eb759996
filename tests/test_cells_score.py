"""Scores against brute force, and what they call each kind of error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from imaxt_nb.cells.dataset import read_dataset
from imaxt_nb.cells.score import THRESHOLDS, match, overlaps, score
from imaxt_nb.cells.star import candidates, nms, star_targets, to_labels
from imaxt_nb.core.errors import BadInput

small = arrays(np.int32, (6, 7), elements=st.sampled_from([0, 0, 1, 2, 3, 40]))


def ids(labels: np.ndarray) -> list[int]:
    return [int(i) for i in np.unique(labels) if i]


def brute_iou(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    table = np.zeros((len(ids(truth)), len(ids(predicted))))
    for i, t in enumerate(ids(truth)):
        for j, p in enumerate(ids(predicted)):
            a, b = truth == t, predicted == p
            table[i, j] = (a & b).sum() / (a | b).sum()
    return table


@settings(max_examples=150, deadline=None)
@given(truth=small, predicted=small)
def test_equal_to_brute_force(truth: np.ndarray, predicted: np.ndarray) -> None:
    iou = brute_iou(truth, predicted)
    n, m = iou.shape
    precisions = []
    for threshold in THRESHOLDS:
        good = (iou >= threshold).astype(float)
        tp = int(good[linear_sum_assignment(-good)].sum()) if good.size else 0
        assert len(match(overlaps(truth, predicted), threshold)) == tp
        precisions.append(tp / (n + m - tp) if n + m else 1.0)
        if threshold == 0.5:
            f1 = 2 * tp / (n + m) if n + m else 1.0
    found = score(truth, predicted)
    assert found.object_f1_50 == pytest.approx(f1)
    assert found.ap_50_90 == pytest.approx(np.mean(precisions))
    both = (truth > 0) & (predicted > 0)
    area = (truth > 0).sum() + (predicted > 0).sum()
    assert found.pixel_f1 == pytest.approx(2 * both.sum() / area if area else 1.0)
    assert (found.n_truth, found.n_predicted) == (n, m)


def test_kinds_of_errors() -> None:
    truth = np.zeros((10, 40), int)
    predicted = truth.copy()
    truth[2:8, 2:10] = 1  # split in two
    predicted[2:8, 2:6], predicted[2:8, 6:10] = 1, 2
    truth[2:8, 12:16], truth[2:8, 16:20] = 2, 3  # merged into one
    predicted[2:8, 12:20] = 3
    truth[2:8, 23:27] = 4  # missed
    predicted[2:8, 30:34] = 4  # spurious
    found = score(truth, predicted)
    assert (found.split, found.merged, found.missed, found.spurious) == (1, 1, 1, 1)


@given(labels=small)
@settings(max_examples=30, deadline=None)
def test_perfect_is_one(labels: np.ndarray) -> None:
    found = score(labels, labels * 7)
    assert found.object_f1_50 == found.ap_50_90 == found.pixel_f1 == 1
    assert (found.split, found.merged, found.missed, found.spurious) == (0, 0, 0, 0)


def test_faults() -> None:
    labels = np.ones((4, 4), int)
    for truth, predicted in ((labels, labels[1:]), (labels * 1.0, labels), (labels, -labels)):
        with pytest.raises(BadInput):
            score(truth, predicted)
    with pytest.raises(BadInput, match=r"0\.5 up"):
        match(overlaps(labels, labels), 0.3)


def test_labels_that_skip_numbers_of_float_type_at_the_border(tmp_path: Path) -> None:
    """As files have them: they become 1..n, whole, and serve as truth and as targets."""
    labels = np.zeros((64, 72), np.float32)
    labels[:20, :18], labels[30:50, 52:], labels[60:, 20:30] = 7, 40, 3000
    for name, array in (("images", (labels > 0) * np.uint16(900)), ("labels", labels)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", array)
    (item,) = read_dataset(tmp_path)
    assert np.array_equal(np.unique(item.labels), [0, 1, 2, 3]) and item.labels.dtype.kind in "iu"
    assert np.array_equal(item.labels > 0, labels > 0)
    back = to_labels(nms(candidates(*star_targets(item.labels), 0.3)), labels.shape)
    assert score(item.labels, back).object_f1_50 == 1
    tifffile.imwrite(tmp_path / "labels/a.tif", labels + np.float32(0.5))
    with pytest.raises(BadInput, match=r"whole numbers.*a\.tif"):
        read_dataset(tmp_path)
