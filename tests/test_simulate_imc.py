"""The IMC simulator: same seed same bytes, a sound truth, files that readers of the format open."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from readimc import TXTFile
from scipy.spatial import cKDTree

from imaxt_nb.core.errors import BadInput
from imaxt_nb.simulate.imc import simulate_imc, simulate_region
from imaxt_nb.simulate.imc_panel import DEFAULT_PANEL, panel, spillover
from imaxt_nb.simulate.layout import TYPES
from imaxt_nb.simulate.tissue import MIN_NUCLEUS_UM2, simulate_tissue


@pytest.fixture(scope="module")
def region():
    return simulate_region((300, 350), seed=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("imc")
    simulate_imc(folder, sample="demo", regions=2, size_um=(50, 70), seed=3)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_bytes(written: Path, tmp_path: Path) -> None:
    simulate_imc(tmp_path, sample="demo", regions=2, size_um=(50, 70), seed=3)
    assert digests(tmp_path) == digests(written)
    assert len(digests(written)) == 2 + 2 * 3 + 2


def test_another_seed_differs() -> None:
    one, two = (simulate_region((50, 60), channels=["DNA1"], seed=s) for s in (1, 2))
    assert (one.data != two.data).any() and (one.cells != two.cells).any()


def test_truth_is_sound(region) -> None:
    n = len(region.types)
    assert region.nuclei.dtype == region.cells.dtype == np.uint32
    np.testing.assert_array_equal(np.unique(region.nuclei), np.arange(n + 1))
    np.testing.assert_array_equal(np.unique(region.cells), np.arange(n + 1))
    inside = region.nuclei > 0
    np.testing.assert_array_equal(region.nuclei[inside], region.cells[inside])
    assert np.bincount(region.nuclei.ravel())[1:].min() >= MIN_NUCLEUS_UM2
    assert set(region.types) <= set(TYPES) and len(set(region.types)) >= 6


def test_objects_are_connected(region) -> None:
    from skimage.measure import label

    for labels in (region.nuclei, region.cells):
        assert label(labels, connectivity=1).max() == labels.max()


def test_density_is_that_of_a_tumour() -> None:
    counts = {d: len(simulate_tissue((700, 700), density=d, seed=5).kinds) for d in (0.5, 1, 2)}
    per_mm2 = counts[1] / 0.49
    assert 4800 < per_mm2 < 6300
    assert 0.4 < counts[0.5] / counts[1] < 0.6 and 1.7 < counts[2] / counts[1] < 2.2


def test_types_cluster_in_space() -> None:
    tissue = simulate_tissue((700, 700), seed=2)
    _, near = cKDTree(tissue.centre_um).query(tissue.centre_um, k=6)
    same = (tissue.kinds[near[:, 1:]] == tissue.kinds[:, None]).mean()
    shares = np.bincount(tissue.kinds) / len(tissue.kinds)
    assert same > 1.6 * (shares**2).sum()


def test_markers_follow_types(region) -> None:
    labels = [m.label for m in region.markers]
    kinds = np.concatenate([[-1], region.tissue.kinds])[region.cells]
    for marker, on, off in (("panCK", "tumour", "fibroblast"), ("CD20", "b_cell", "tumour")):
        plane = region.data[labels.index(marker)]
        present, absent = (plane[kinds == TYPES.index(t)].mean() for t in (on, off))
        assert present > 3 * absent


def test_pitch_changes_the_grid_not_the_tissue() -> None:
    coarse = simulate_tissue((120, 160), seed=4)
    fine = simulate_tissue((120, 160), seed=4, pixel_um=(0.5, 1.0))
    assert fine.cells.shape == (240, 160)
    assert abs(len(fine.kinds) - len(coarse.kinds)) <= 0.05 * len(coarse.kinds)


def test_files_are_hyperion_text(written: Path, shared_data: Path) -> None:
    real = next((shared_data / "imc_hyperion").rglob("*_ROI_001_1.txt"))
    with open(real, "rb") as a, open(written / "demo_ROI_001_1.txt", "rb") as b:
        theirs, ours = ([f.readline() for _ in range(60)] for f in (a, b))
    assert theirs[0].split(b"\t")[:6] == ours[0].split(b"\t")[:6]
    for x, y in zip(theirs[1:], ours[1:], strict=True):
        pushes = [np.array(line.split(b"\t")[:3], int) for line in (x, y)]
        assert np.abs(pushes[0] - pushes[1]).max() <= 1
        assert len(y.split(b"\t")[6].split(b".")[1].strip()) == 3
    assert ours[0].endswith(b"\n") and not ours[0].endswith(b"\r\n")


def test_readimc_reads_what_was_simulated(written: Path) -> None:
    with TXTFile(written / "demo_ROI_002_2.txt") as file:
        data, names, labels = file.read_acquisition(), file.channel_names, file.channel_labels
    region = simulate_region((50, 70), seed=3002)
    np.testing.assert_array_equal(data, region.data)
    assert names == [m.name for m in DEFAULT_PANEL] and labels == [m.label for m in DEFAULT_PANEL]


def test_truth_files_agree(written: Path) -> None:
    truth = written / "truth"
    cells = tifffile.imread(truth / "demo_ROI_001_1_cells.tif")
    nuclei = tifffile.imread(truth / "demo_ROI_001_1_nuclei.tif")
    table = pd.read_csv(truth / "demo_ROI_001_1_cells.csv")
    np.testing.assert_array_equal(table.cell_id, np.arange(1, cells.max() + 1))
    np.testing.assert_array_equal(table.area_um2, np.bincount(cells.ravel())[1:])
    np.testing.assert_array_equal(table.nucleus_area_um2, np.bincount(nuclei.ravel())[1:])
    assert json.loads((truth / "simulation.json").read_text())["seed"] == 3
    assert list(pd.read_csv(truth / "panel.csv").label) == [m.label for m in DEFAULT_PANEL]


def test_counts_look_like_a_detector(region) -> None:
    assert region.data.dtype == np.float32 and region.data.min() >= 0
    assert 0.5 < (region.data % 1 == 0).mean() < 0.99
    np.testing.assert_array_equal(np.round(region.data, 3), region.data)


def test_spillover_goes_where_it_should() -> None:
    markers = panel(["Dy161", "Dy162", "Eu151", "Er167"])
    matrix = spillover(markers)
    at = [m.name for m in markers].index
    assert matrix[at("Dy161"), at("Dy162")] > matrix[at("Dy162"), at("Dy161")] > 0
    assert matrix[at("Eu151"), at("Er167")] > 0 and matrix[at("Er167"), at("Eu151")] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size_um": (5, 50)}, "at least 20 um"),
        ({"density": -1}, "density"),
        ({"channels": ["Unobtainium"]}, "unknown channel"),
        ({"channels": 99}, "2 to 44"),
        ({"regions": 0}, "region"),
        ({"sample": "../up"}, "sample"),
    ],
)
def test_refusals(tmp_path: Path, arguments: dict, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        simulate_imc(tmp_path, **arguments)
