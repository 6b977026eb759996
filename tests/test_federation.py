"""Federation: what must be said of slides that have no place, two places, or too few beads."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from imaxt_nb.core.compute import rng
from imaxt_nb.core.errors import BadInput
from imaxt_nb.federation.affine import apply, chain, fit_affine, inverse
from imaxt_nb.federation.order import sort_slides
from imaxt_nb.federation.sections import match_slide
from imaxt_nb.federation.stack import Stack, stack_sections
from imaxt_nb.federation.warp import fit_warp
from imaxt_nb.simulate.catalogues import (
    Handling,
    bead_population,
    section_catalogues,
    simulate_slide,
)

SIZE = (8000, 8000, 500)


@pytest.fixture(scope="module")
def block() -> pd.DataFrame:
    return bead_population(SIZE, seed=21)


@pytest.fixture(scope="module")
def stack(block: pd.DataFrame) -> Stack:
    return stack_sections(section_catalogues(block, 34, seed=21))


@pytest.mark.parametrize("flip", [False, True])
def test_either_face_finds_its_section_and_affine(
    block: pd.DataFrame, stack: Stack, flip: bool
) -> None:
    slide = simulate_slide(block, 225.0, handling=Handling(deform_um=0, flip=flip), seed=4)
    match = match_slide(slide.beads, stack, offset_um=5.5)
    assert (match.status, match.section, match.flip) == ("matched", 16, flip)
    real = slide.beads[slide.beads.bead_id >= 0]
    true = block.set_index("bead_id").loc[real.bead_id, ["x_um", "y_um"]].to_numpy()
    off = np.hypot(*(apply(match.fit.matrix, real[["x_um", "y_um"]]) - true).T)
    assert np.median(off) < 1.0
    assert match.error_um < 2.0


def test_same_input_same_answer(block: pd.DataFrame, stack: Stack) -> None:
    slide = simulate_slide(block, 300.0, seed=5).beads
    one, two = match_slide(slide, stack), match_slide(slide, stack)
    assert (one.fit.matrix == two.fit.matrix).all() and one.z_um == two.z_um


def test_a_slide_of_another_sample_is_an_orphan_with_evidence(stack: Stack) -> None:
    for seed in range(4):
        other = bead_population(SIZE, seed=100 + seed)
        match = match_slide(simulate_slide(other, 200.0, seed=seed).beads, stack)
        assert match.status == "orphan" and "chance" in match.why and match.section is None


def test_a_slice_cut_before_the_first_section_is_an_orphan(
    block: pd.DataFrame, stack: Stack
) -> None:
    match = match_slide(simulate_slide(block, -60.0, seed=6).beads, stack, offset_um=5.5)
    assert match.status == "orphan" and "before the first" in match.why


@pytest.mark.parametrize("n", [0, 3])
def test_too_few_beads_are_said(block: pd.DataFrame, stack: Stack, n: int) -> None:
    match = match_slide(simulate_slide(block, 225.0, seed=7).beads[:n], stack)
    assert match.status == "too few beads" and f"{n} beads" in match.why


def test_beads_on_one_side_only(block: pd.DataFrame, stack: Stack) -> None:
    side = block[block.x_um < 1800]
    slide = simulate_slide(side, 225.0, handling=Handling(deform_um=0), seed=8)
    match = match_slide(slide.beads, stack, offset_um=5.5)
    assert match.status == "matched" and abs(match.z_um - 230.5) < 20
    here, there = (
        match.fit.error_at(apply(inverse(match.fit.matrix), np.array([[x, 4000.0]])))[0]
        for x in (900, 7500)
    )
    assert there > 3 * here  # the far side is not known, and that is said


def test_nan_rows_are_left_out_and_said(block: pd.DataFrame, stack: Stack) -> None:
    slide = simulate_slide(block, 225.0, seed=9).beads
    slide.loc[:4, "x_um"] = np.nan
    match = match_slide(slide, stack, offset_um=5.5)
    assert match.status == "matched" and "5 rows" in match.why
    with pytest.raises(BadInput, match="y_um"):
        match_slide(slide.drop(columns="y_um"), stack)


def test_a_lattice_is_ambiguous(stack: Stack) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(0, 8000, 400.0)] * 2), -1).reshape(-1, 2)
    rows = [
        pd.DataFrame({"section": s, "z_um": 15.0 * s, "x_um": grid[:, 0], "y_um": grid[:, 1]})
        for s in range(3)
    ]
    part = grid[(grid < 5000).all(1)] + rng(1, "lattice").normal(0, 1, (169, 2))
    match = match_slide(
        pd.DataFrame(part, columns=["x_um", "y_um"]), stack_sections(pd.concat(rows))
    )
    assert match.status == "ambiguous" and match.rivals


def test_two_slides_of_one_section_are_named(block: pd.DataFrame, stack: Stack) -> None:
    box = {
        n: simulate_slide(block, z, seed=s).beads
        for n, z, s in (("a", 225.0, 1), ("b", 225.0, 2), ("c", 90.0, 3))
    }
    order = sort_slides({n: match_slide(t, stack, offset_um=5.5) for n, t in box.items()})
    assert order.slide.iloc[0] == "c"
    assert dict(zip(order.slide, order.same_section, strict=True)) == {"a": "b", "b": "a", "c": ""}


def test_fifty_thousand_detections_take_bounded_time(stack: Stack) -> None:
    junk = pd.DataFrame(rng(2, "junk").uniform(0, 8000, (50_000, 2)), columns=["x_um", "y_um"])
    began = time.process_time()
    assert match_slide(junk, stack).status == "orphan"
    assert time.process_time() - began < 30


def test_affines_chain_and_weights_drop_outliers() -> None:
    random = rng(3, "affine")
    p = random.uniform(0, 5000, (30, 2))
    m = np.array([[0.0, -1.01, 5.0], [0.99, 0.02, -7.0]])
    t = apply(m, p)
    t[:4] += 200
    fit = fit_affine(p, t, 0.1)
    assert np.allclose(fit.matrix, m, atol=1e-3) and (fit.weight[:4] < 0.1).all()
    assert np.allclose(chain(inverse(m), m), np.eye(2, 3), atol=1e-9)
    assert fit_warp(apply(fit.matrix, p[4:]), t[4:]).error_um < 0.1
