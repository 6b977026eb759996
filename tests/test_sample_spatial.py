"""A sample as SpatialData: lazy, in micrometres, and never half a pixel off."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from skimage.measure import regionprops
from spatialdata import get_centroids, read_zarr
from spatialdata.transformations import get_transformation

from imaxt_nb.core.frames import Frame, apply_affine, to_ancestor
from imaxt_nb.sample.store import Sample

ROI = Frame("imc:roi", "imc:slide", [[0, 1, 0, 900], [-1, 0, 0, 70], [0, 0, 1, 20]])


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    made = Sample.create("s", str(tmp_path / "data"))
    made.add_frames([Frame("sample"), Frame("imc:slide", "sample"), ROI])
    rng = np.random.default_rng(0)
    labels = np.zeros((303, 281), "uint32")
    for k in range(1, 40):
        y, x = rng.integers(0, 290), rng.integers(0, 270)
        labels[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = k
    made.write_image(
        "imc_roi", labels[None], pixel_um=(2, 0.5), labels={"cells": labels}, frame="imc:roi"
    )
    ids = np.unique(labels)[1:]
    obs = pd.DataFrame({"cell_id": ids}, index=[f"c{i}" for i in ids])
    obs["labels_element"] = pd.Categorical(["imc_roi_cells"] * len(ids))
    table = AnnData(np.ones((len(ids), 1), "float32"), obs=obs)
    table.uns["spatialdata_attrs"] = {
        "region": ["imc_roi_cells"],
        "region_key": "labels_element",
        "instance_key": "cell_id",
    }
    made.write_table("cells", table)
    return made


def skimage_um(sample: Sample) -> pd.DataFrame:
    """Centroids by skimage: pixel centres at integers, times the pitch."""
    found = regionprops(sample.image("imc_roi").labels("cells").compute())
    rows = {r.label: (r.centroid[1] * 0.5, r.centroid[0] * 2) for r in found}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["x", "y"]).sort_index()


@pytest.mark.parametrize("system", ["imc:roi", "imc:slide", "sample"])
def test_centroids_are_where_skimage_finds_them(sample: Sample, system: str) -> None:
    sdata = sample.to_spatialdata()
    found = get_centroids(sdata["imc_roi_cells"], coordinate_system=system).compute().sort_index()
    expected = skimage_um(sample).to_numpy()
    if system != "imc:roi":
        _, affine = to_ancestor(sample.frames, "imc:roi")
        expected = apply_affine(affine, np.column_stack([expected, expected[:, 0] * 0]))[:, :2]
    assert np.allclose(found[["x", "y"]], expected, atol=1e-9)


def test_pixels_stay_on_disk_and_levels_agree(sample: Sample) -> None:
    element = sample.to_spatialdata()["imc_roi"]
    fine, coarse = (element[f"scale{k}"]["image"] for k in (0, 1))
    assert isinstance(fine.data, da.Array) and coarse.shape == (1, 152, 141)
    corners = []
    for plane in (fine, coarse):
        matrix = get_transformation(plane, "imc:roi").to_affine_matrix(("x", "y"), ("x", "y"))
        corners.append(matrix @ [0, 0, 1])
    assert np.allclose(corners[0], [-0.25, -1, 1]) and np.allclose(corners[0], corners[1])


def test_table_annotates_labels_and_an_export_opens(sample: Sample, tmp_path: Path) -> None:
    from spatialdata import join_spatialelement_table

    sdata = sample.to_spatialdata()
    sdata.write(tmp_path / "export.zarr")
    again = read_zarr(tmp_path / "export.zarr")
    assert set(again.coordinate_systems) == {"imc:roi", "imc:slide", "sample"}
    _, joined = join_spatialelement_table(
        sdata=again, spatial_element_names=["imc_roi_cells"], table_name="cells", how="left"
    )
    assert joined is not None and joined.n_obs == len(skimage_um(sample))


def test_what_an_affine_cannot_carry_is_said(sample: Sample) -> None:
    sample.add_frames(
        [Frame("axioscan:7", "sample", how="affine; local deformation of 3 um besides")]
    )
    about = sample.to_spatialdata().attrs["imaxt"]["frames"]
    assert about["axioscan:7"]["parent"] == "sample"
    assert "local deformation" in about["axioscan:7"]["how"]
