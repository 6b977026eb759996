"""The table of cells: conventions that other programs rely on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from hypothesis import given, settings
from hypothesis import strategies as st

from imaxt_nb.analysis.simulated import simulated_cells
from imaxt_nb.analysis.tables import cells_anndata, check_cells, marker_table
from imaxt_nb.core.errors import BadInput
from imaxt_nb.core.files import digest_path
from imaxt_nb.core.frames import Frame, translation
from imaxt_nb.sample.channels import Channel

PANEL = [Channel("Yb172", "Yb", 172, "CD31"), Channel("Ir191", "Ir", 191, "DNA1")]


def region(ids: list[int], x: float = 0.0) -> SimpleNamespace:
    n = len(ids)
    table = pd.DataFrame(
        {
            "cell_id": np.array(ids, np.uint32),
            "x_um": x + np.arange(n) * 10.0,
            "y_um": np.full(n, 3.0),
        }
    )
    table = table.assign(area_um2=np.float32(50), at_edge=False)
    means = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    return SimpleNamespace(table=table, cell_means=means, nucleus_means=means + 1)


def test_contract():
    cells = cells_anndata("s1", {"a": region([4, 9]), "b": region([4])}, PANEL, cofactor=2)
    assert list(cells.obs_names) == ["s1_a_4", "s1_a_9", "s1_b_4"]
    assert list(cells.obs["cell_id"]) == [4, 9, 4]
    assert cells.obs["cell_id"].dtype == np.int64 and cells.obs["area_um2"].dtype == np.float64
    assert cells.obs["section"].tolist() == [-1] * 3
    assert list(cells.var_names) == ["CD31", "DNA1"] and list(cells.var["mass"]) == [172, 191]
    assert cells.X.dtype == np.float32
    np.testing.assert_allclose(cells.X, np.arcsinh(cells.layers["raw"] / 2), rtol=1e-6)
    np.testing.assert_array_equal(cells.layers["raw_nucleus"], cells.layers["raw"] + 1)
    check_cells(cells)


def test_empty_regions_are_named_once_and_in_order():
    cells = cells_anndata(
        "s1", {"a": region([1]), "b": region([])}, PANEL, empty_regions=["z", "b", "c", "z"]
    )
    assert cells.uns["imaxt"]["empty_regions"].tolist() == ["b", "z", "c"]
    assert list(cells.obs["region"].cat.categories) == ["a"]
    check_cells(cells)


def test_x_is_x():
    cells = cells_anndata("s1", {"a": region([1, 2, 3])}, PANEL)
    assert cells.obsm["spatial"][:, 0].tolist() == [0, 10, 20]
    assert cells.obsm["spatial"][:, 1].tolist() == [3, 3, 3]


def test_spatial3d_is_in_the_furthest_frame():
    frames = {
        f.name: f
        for f in (
            Frame("sample"),
            Frame("slide", "sample", translation(0, 0, 30).tolist()),
            Frame("imc:a", "slide", translation(100, 200).tolist()),
        )
    }
    cells = cells_anndata("s1", {"a": region([1]), "b": region([1])}, PANEL, frames=frames)
    assert cells.obs["frame"].tolist() == ["sample", "imc:b"]
    assert cells.obsm["spatial3d"].tolist() == [[100, 203, 30], [0, 3, 0]]


def test_regions_without_cells_are_recorded(tmp_path: Path):
    cells = cells_anndata("s1", {"none": region([]), "a": region([1])}, PANEL)
    assert list(cells.uns["imaxt"]["empty_regions"]) == ["none"]
    assert list(cells.obs["region"].cat.categories) == ["a"]
    nothing = cells_anndata("s1", {"none": region([])}, PANEL)
    nothing.write_h5ad(tmp_path / "t.h5ad")
    again = check_cells(read_h5ad(tmp_path / "t.h5ad"))
    assert again.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda r: setattr(r, "cell_means", r.cell_means[:, :1]),
            "region a: cell_means do not fit",
        ),
        (lambda r: setattr(r, "nucleus_means", r.nucleus_means * np.nan), "not all finite"),
        (lambda r: r.table.__setitem__("cell_id", [1, 1]), "positive and unique"),
        (lambda r: r.table.__setitem__("cell_id", [0, 1]), "positive and unique"),
    ],
)
def test_bad_measurements_are_refused(change, text):
    bad = region([1, 2])
    change(bad)
    with pytest.raises(BadInput, match=text):
        cells_anndata("s1", {"a": bad}, PANEL)


@given(st.lists(st.sampled_from(["DNA", "CD3", "", None, "Ir191"]), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_markers_are_always_unique(labels):
    channels = [Channel(f"Ir{190 + i}", "Ir", 190 + i, b) for i, b in enumerate(labels)]
    assert marker_table(channels).index.is_unique


def test_same_cells_same_bytes_and_others_can_open_them(tmp_path: Path):
    from spatialdata.models import TableModel

    for name in "ab":
        simulated_cells(200, seed=3).write_h5ad(tmp_path / name)
    assert digest_path(tmp_path / "a") == digest_path(tmp_path / "b")
    cells = check_cells(read_h5ad(tmp_path / "a"))
    TableModel().validate(cells)
    assert cells.uns["spatialdata_attrs"]["instance_key"] == "cell_id"


def test_check_says_all_that_is_missing():
    cells = simulated_cells(20)
    del cells.layers["raw"], cells.obsm["spatial3d"]
    with pytest.raises(BadInput, match=r"no layers\['raw'\]; no obsm\['spatial3d'\]") as e:
        check_cells(cells, file="cells.h5ad")
    assert "cells.h5ad" in str(e.value)
