"""Clusters and neighbourhoods: the same twice, right, and calm about small tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from imaxt_nb.analysis.cluster import cluster_cells, marker_auc, sign, summary
from imaxt_nb.analysis.neighbourhoods import enrich
from imaxt_nb.analysis.parameters import AnalysisParameters
from imaxt_nb.analysis.scaling import markers_used, scale_markers
from imaxt_nb.analysis.simulated import simulated_cells
from imaxt_nb.analysis.tables import check_cells
from imaxt_nb.core.errors import BadInput
from imaxt_nb.core.files import digest_path

P = AnalysisParameters(n_permutations=50)


SCRIPT = """
import sys
from imaxt_nb.analysis.cluster import cluster_cells, sign
from imaxt_nb.analysis.neighbourhoods import enrich
from imaxt_nb.analysis.parameters import AnalysisParameters
from imaxt_nb.analysis.simulated import simulated_cells
p = AnalysisParameters(n_permutations=50)
found = cluster_cells(simulated_cells(400, seed=1), p)
enrich(found, p)
sign(found, p, "key")
found.write_h5ad(sys.argv[1])
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, Path]]:
    """The same by another process, which goes on meanwhile: most of it is compilation, on one core."""
    out = tmp_path_factory.mktemp("elsewhere") / "there.h5ad"
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", SCRIPT, out]) as process:
        yield process, out


@pytest.fixture(scope="module")
def found(elsewhere):
    cells = cluster_cells(simulated_cells(400, seed=1), P)
    enrich(cells, P)
    sign(cells, P, "key")
    return cells


def test_types_are_found(found):
    assert adjusted_rand_score(found.obs["leiden"], found.obs["cell_type"]) > 0.95
    assert found.uns["clusters"]["n_cells"].is_monotonic_decreasing
    assert not found.var.loc["DNA1", "clustered_by"]
    assert summary(found)["n_cells"] == 400


def test_the_input_stays():
    cells = simulated_cells(30)
    before = (cells.X.copy(), set(cells.layers), set(cells.obs), set(cells.uns))
    done = cluster_cells(cells, P, lambda _: None)
    np.testing.assert_array_equal(done.X, before[0])
    assert (set(cells.layers), set(cells.obs), set(cells.uns)) == before[1:]


def test_same_seed_same_bytes_in_another_process(found, elsewhere, tmp_path: Path):
    found.write_h5ad(tmp_path / "here.h5ad")
    process, there = elsewhere
    assert process.wait(240) == 0
    assert digest_path(tmp_path / "here.h5ad") == digest_path(there)


def test_scanpy_and_squidpy_open_the_result(found, tmp_path: Path):
    import scanpy as sc
    import squidpy as sq
    from spatialdata.models import TableModel

    found.write_h5ad(tmp_path / "t.h5ad")
    cells = check_cells(sc.read_h5ad(tmp_path / "t.h5ad"))
    TableModel().validate(cells)
    sc.tl.rank_genes_groups(cells, "leiden", method="t-test")
    sq.gr.interaction_matrix(cells, "leiden")
    ours = cells.uns["leiden_nhood_enrichment"]["count"]
    np.testing.assert_allclose(cells.uns["leiden_interactions"], ours)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 16])
def test_few_cells(n):
    told: list[str] = []
    cells = cluster_cells(simulated_cells(n, regions=1), P, told.append)
    enrich(cells, P, told.append)
    assert told and cells.obsm["X_umap"].shape == (n, 2)
    assert np.isfinite(cells.obsm["X_umap"]).all()
    assert cells.obsp["spatial_connectivities"].shape == (n, n)


def test_no_cells():
    with pytest.raises(BadInput, match="no cells to cluster"):
        cluster_cells(simulated_cells(10)[:0], P)


def test_a_constant_marker_is_reported_and_harmless():
    cells = simulated_cells(60)
    cells.X[:, 3] = 1.5
    told: list[str] = []
    done = cluster_cells(cells, P, told.append)
    assert cells.var_names[3] in told[0]
    assert not done.layers["scaled"][:, 3].any()


def test_all_cells_alike_are_one_cluster():
    cells = simulated_cells(40)
    cells.X[:] = 1
    told: list[str] = []
    done = cluster_cells(cells, P, told.append)
    enrich(done, P, told.append)
    assert np.isfinite(done.obsm["X_umap"]).all()


def test_markers_left_out():
    var = simulated_cells(10).var
    assert markers_used(var, ["*_a", "dna1"]).sum() == 6
    with pytest.raises(BadInput, match="unknown marker 'Foo'"):
        markers_used(var, ["Foo"])


def test_one_aggregate_does_not_flatten_a_marker():
    x = np.random.default_rng(0).gamma(2, 1, (500, 1))
    clean = scale_markers(x, scaling="unit")
    x[0] = 1e4
    assert np.abs(scale_markers(x, scaling="unit")[1:] - clean[1:]).max() < 0.3


def test_auc_is_sklearns():
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    x, g = draw.normal(size=(200, 3)), draw.integers(0, 3, 200)
    for k, row in marker_auc(x, g).iterrows():
        np.testing.assert_allclose(row, [roc_auc_score(g == k, c) for c in x.T])
