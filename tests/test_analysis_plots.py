"""Pictures: figures with the right axes, for any table."""

from __future__ import annotations

import io

import numpy as np
import pytest

from imaxt_nb.analysis import maps, plots
from imaxt_nb.analysis.cluster import as_clusters, cluster_cells
from imaxt_nb.analysis.neighbourhoods import enrich
from imaxt_nb.analysis.parameters import AnalysisParameters
from imaxt_nb.analysis.simulated import simulated_cells
from imaxt_nb.core.errors import BadInput

P = AnalysisParameters(n_permutations=20)
CHARTS = (plots.umap_plot, plots.marker_heatmap, plots.cluster_sizes, plots.composition_plot, plots.enrichment_heatmap)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    cells = cluster_cells(simulated_cells(300, seed=1), P)
    enrich(cells, P)
    return cells


def drawn(fig) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("chart", CHARTS)
def test_charts_are_drawn_the_same_twice(found, chart):
    assert drawn(chart(found)) == drawn(chart(found))


@pytest.mark.parametrize("chart", [maps.cluster_maps, maps.abundance_maps])
def test_maps_are_images_of_the_tissue(found, chart):
    fig = chart(found)
    ax = fig.axes[0]
    here = found[found.obs["region"] == maps.regions_by_size(found)[0]].obsm["spatial"]
    x0, x1, y0, y1 = ax.images[0].get_extent()
    assert x0 <= here[:, 0].min() and here[:, 0].max() <= x1
    assert y0 <= here[:, 1].min() and here[:, 1].max() <= y1
    assert ax.yaxis_inverted() and not ax.xaxis_inverted()
    assert any("µm" in t.get_text() for t in ax.texts)
    drawn(fig)


def test_a_cell_is_drawn_where_it_is(found):
    one = found[:3].copy()
    one.obsm["spatial"] = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 40.0]])
    one.obs["leiden"] = as_clusters(np.array([0, 1, 2]))
    ax = maps.cluster_maps(one).axes[0]
    image, (x0, x1, y0, y1) = ax.images[0].get_array(), ax.images[0].get_extent()
    for (x, y), colour in zip(one.obsm["spatial"], ("#0072B2", "#E69F00", "#009E73"), strict=True):
        row = int((y - y0) / (y1 - y0) * image.shape[0])
        column = int((x - x0) / (x1 - x0) * image.shape[1])
        assert "#{:02X}{:02X}{:02X}".format(*image[row, column, :3]) == colour


def test_labels_are_painted_by_cluster(found):
    labels = np.zeros((20, 30), np.uint32)
    labels[5:10, 5:10], labels[5:10, 20:25] = 1, 4_000
    region = maps.regions_by_size(found)[0]
    fig = maps.label_map(labels, found, region, (1.0, 2.0))
    picture = fig.axes[0].images[0].get_array()
    assert picture[0, 0].tolist() == [1, 1, 1]
    assert fig.axes[0].images[0].get_extent() == [-1.0, 59.0, 19.5, -0.5]
    np.testing.assert_allclose(picture[7, 22], 217 / 255, atol=1e-3)


def test_unknown_names(found):
    with pytest.raises(BadInput, match="unknown region 'roi_9'"):
        maps.cluster_maps(found, ["roi_9"])
    with pytest.raises(BadInput, match="did you mean 'DNA1'"):
        maps.abundance_maps(found, markers=["DNA"])


def test_one_cell_is_a_picture_too():
    cells = cluster_cells(simulated_cells(1, regions=1), P, lambda _: None)
    enrich(cells, P, lambda _: None)
    for chart in (*CHARTS, maps.cluster_maps, maps.abundance_maps):
        drawn(chart(cells))


def test_many_clusters_and_many_cells():
    cells = simulated_cells(100_000, regions=1)
    cells.obs["leiden"] = as_clusters(np.arange(100_000) % 40)
    assert len(drawn(maps.cluster_maps(cells))) > 10_000
