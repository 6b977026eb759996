"""The step federation/imc with few beads: beads and pixels of the section correct the chain as far as they are surer, and say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from imaxt_nb.beads.detect import paint
from imaxt_nb.core.compute import rng
from imaxt_nb.core.frames import ROOT, Frame
from imaxt_nb.federation.affine import apply
from imaxt_nb.federation.region_beads import ImcFederationParameters
from imaxt_nb.federation.regions import federate_regions
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.store import Sample

SIDE = 700
TO_SLIDE = np.array([[0.8, -0.6, 700.0], [0.6, 0.8, 300.0]])  # of the region
TO_SAMPLE = np.array(
    [[1.01, 0.0, -40.0], [0.004, -0.99, 1600.0]]
)  # of the slide, as its far beads say
LOCAL = np.array([2.4, -1.8])  # what the slice is deformed by at the region


@dataclass
class Region:
    """What the step needs of a converted region."""

    data: Any
    channels: list[Channel]
    name: str = "r1"
    status: str = "ok"
    note: str = ""
    pixel_um: tuple[float, float] = (1.0, 1.0)
    slide: str = "a"
    affine: Any = field(default=None)


def counts(places: np.ndarray, shape: tuple[int, int], pixel_um: float, draw: Any) -> np.ndarray:
    """(y, x) uint16 of nuclei at (x, y) um."""
    image, at = np.zeros(shape), np.rint(places / pixel_um).astype(int)
    inside = ((at >= 0) & (at < shape[::-1])).all(1)
    np.add.at(image, tuple(at[inside, ::-1].T), 4000.0)
    smooth = gaussian_filter(image, 3.0 / pixel_um) / pixel_um**2
    return draw.poisson(smooth).astype(np.uint16)


def box_of(root: Path, *, cells: bool, shared: int) -> tuple[Sample, Region]:
    """A sample after federation/axioscan, and a region of it with five beads, `shared` of them in the section; without `cells` slide and section show nothing of them."""
    draw = rng(4, "regions")
    own = np.array([[90.0, 100], [600, 130], [330, 350], [120, 590], [580, 610]])
    nuclei = draw.uniform(0, SIDE, (1500, 2))
    nuclei = nuclei[(np.hypot(*(nuclei[:, None] - own).transpose(2, 0, 1)) > 60).all(1)]
    far = draw.uniform(-3000, 5000, (60, 2))
    discs = np.column_stack([own, draw.uniform(30, 45, 5)])
    bead = draw.poisson(0.3 + 25.0 * (paint(discs, (SIDE, SIDE), 1.0) > 0))
    region = Region(
        np.stack([bead, counts(nuclei, (SIDE, SIDE), 1.0, draw)]).astype(np.float32),
        [Channel("Pd105", label="Beads"), Channel("Ir191", label="DNA1")],
    )
    sample, here = Sample.create("S", str(root)), apply(TO_SLIDE, own)
    glass, block = apply(TO_SLIDE, nuclei), apply(TO_SAMPLE, apply(TO_SLIDE, nuclei)) + LOCAL
    sample.add_frames([Frame(ROOT), Frame("stpt", ROOT, np.eye(3, 4).tolist())])
    seen = counts(glass, (1400, 1400), 1.0, draw) if cells else np.zeros((1400, 1400), np.uint16)
    sample.write_image("axioscan_a", seen[None, None], axes="czyx", pixel_um=(15.0, 1.0, 1.0))
    half = block[draw.random(len(block)) < 0.5]
    plane = counts(half, (800, 800), 2.0, draw) if cells else np.zeros((800, 800), np.uint16)
    sample.write_image(
        "stpt", plane[None, None], axes="czyx", pixel_um=(15.0, 2.0, 2.0), frame="stpt"
    )
    slide = np.concatenate([here + draw.normal(0, 1.0, here.shape), far])
    section = np.concatenate([apply(TO_SAMPLE, here[:shared]) + LOCAL, apply(TO_SAMPLE, far)])
    beads = pd.DataFrame(slide, columns=["x_um", "y_um"]).assign(
        slide="a", x_um_err=0.3, y_um_err=0.3
    )
    rows = pd.DataFrame(section, columns=["x_um", "y_um"]).assign(section=1, plane=0, z_um=0.0)
    pairs = pd.DataFrame(far, columns=["x_um", "y_um"]).assign(slide="a", error_um=0.3)
    pairs[["sample_x_um", "sample_y_um"]] = apply(TO_SAMPLE, far) + draw.normal(0, 0.3, far.shape)
    shifts = {"section": [1], "plane": [0], "z_um": [0.0], "dx_um": [0.0], "dy_um": [0.0]}
    placed = {
        "slide": ["a"],
        "status": ["matched"],
        "section": [1],
        "z_um": [5.0],
        "z_err_um": [0.3],
    }
    placed |= {"flip": [True], "warped": [False], "kind": ["affine"]}
    tables = {"beads_axioscan": beads, "beads": rows, "pairs_axioscan": pairs}
    tables |= {"sections": pd.DataFrame(shifts), "slides_axioscan": pd.DataFrame(placed)}
    for name, table in tables.items():
        sample.write_table(name, table)
    return sample, region


def off(sample: Sample) -> float:
    """How far the region's frame is from the truth, um."""
    at = rng(1, "lattice").uniform(0, SIDE, (50, 2))
    affine = np.array(sample.frames["imc:r1"].affine)[:2][:, [0, 1, 3]]
    true = apply(TO_SAMPLE, apply(TO_SLIDE, at)) + LOCAL
    return float(np.median(np.hypot(*(apply(affine, at) - true).T)))


def settings(**more: Any) -> ImcFederationParameters:
    return ImcFederationParameters(detector="classical", **more)


def test_pixels_refine_a_region_of_few_beads(tmp_path: Path) -> None:
    sample, region = box_of(tmp_path, cells=True, shared=0)
    found = federate_regions(sample, [region], settings(pixels="never"))
    before, alone = found.table.iloc[0], off(sample)
    assert before.way == "chain" and alone > 2.0
    found = federate_regions(sample, [region], settings())
    row = found.table.iloc[0]
    assert (row.link, row.way) == ("beads", "chain, pixels") and row.n_patches > 20
    assert off(sample) < 0.4 and off(sample) < 2 * row.error_um < before.error_um
    assert row.left_out_um < 0.5 * row.before_um
    how = sample.frames["imc:r1"].how
    assert "pixels of the section (" in how and "um left out" in how
    assert sample.frames["imc:r1"].error_um == pytest.approx(row.error_um, abs=1e-3)


def test_beads_of_the_section_correct_the_chain_and_pixels_may_tell_nothing(tmp_path: Path) -> None:
    sample, region = box_of(tmp_path, cells=False, shared=3)
    federate_regions(sample, [region], settings(pixels="never"))
    before = sample.frames["imc:r1"].affine
    assert off(sample) < 0.5  # the chain is off by 3
    row = federate_regions(sample, [region], settings()).table.iloc[0]
    assert (row.link, row.way, row.n_patches) == ("beads", "chain, beads", 0)
    assert sample.frames["imc:r1"].affine == before
    assert "pixels of the section tell nothing" in row.why
