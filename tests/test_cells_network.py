"""Probability maps: accuracy, odd images, other pixels, any tile, and a training that can be repeated."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from imaxt_nb.cells.map_examples import map_examples, map_targets
from imaxt_nb.cells.map_network import (
    FAINT,
    FAINT_VIEWS,
    light_in_nuclei,
    magnification_for,
    maps_at,
    probability_maps,
    views_for,
)
from imaxt_nb.cells.map_training import MapTrainingParameters, map_loss, train_maps
from imaxt_nb.cells.map_watershed import Maps, cells_from_maps, nuclei_from_maps
from imaxt_nb.cells.parameters import SegmentParameters
from imaxt_nb.cells.preprocess import remove_hot_pixels
from imaxt_nb.cells.score import score
from imaxt_nb.cells.segment import METHODS, segment_region, segment_sample
from imaxt_nb.core.errors import BadInput
from imaxt_nb.networks.weights import model_folder
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.store import Sample
from imaxt_nb.simulate.imc import simulate_region
from imaxt_nb.simulate.imc_image import Optics
from imaxt_nb.simulate.imc_scenes import (
    HARD_RANGES,
    TRAINING_RANGES,
    expose,
    mixed_scene,
    random_scene,
)

MEMBRANES = ["CD45", "ECadherin", "panCK", "Vimentin"]
TOLD = SegmentParameters(nuclear_channel="DNA1", membrane_channels=MEMBRANES)
CLASSICAL = TOLD.model_copy(update={"method": "classical"})


def named(region) -> list[Channel]:
    return [Channel(m.name, m.metal, m.mass, m.label) for m in region.markers]


@pytest.fixture(scope="module")
def region():
    return simulate_region((200, 200), channels=["DNA1", *MEMBRANES], seed=140)


@pytest.fixture(scope="module")
def planes(region) -> tuple[np.ndarray, list[np.ndarray]]:
    clean, _ = remove_hot_pixels(region.data)
    labels = [m.label for m in region.markers]
    return clean[labels.index("DNA1")], [clean[labels.index(m)] for m in MEMBRANES]


@pytest.fixture(scope="module")
def maps(planes) -> Maps:
    return probability_maps(*planes)


def assert_paired(nuclei: np.ndarray, cells: np.ndarray) -> None:
    n = int(nuclei.max(initial=0))
    np.testing.assert_array_equal(np.setdiff1d(np.unique(nuclei), 0), np.arange(1, n + 1))
    np.testing.assert_array_equal(np.setdiff1d(np.unique(cells), 0), np.arange(1, n + 1))
    np.testing.assert_array_equal(cells[nuclei > 0], nuclei[nuclei > 0])


def test_accuracy_where_the_classical_path_gives_less() -> None:
    optics = Optics(brightness=0.06)  # about a count a pixel in a nucleus
    dim = simulate_region((250, 250), channels=["DNA1", *MEMBRANES], optics=optics, seed=141)
    found = {
        p.method: segment_region(dim.data, named(dim), (1.0, 1.0), p) for p in (TOLD, CLASSICAL)
    }
    nuclei = {k: score(dim.nuclei, f.nuclei).object_f1_50 for k, f in found.items()}
    assert_paired(found["network"].nuclei, found["network"].cells)
    assert nuclei["network"] > max(0.7, nuclei["classical"] + 0.05)


def test_accuracy_and_what_is_measured(region) -> None:
    found = segment_region(region.data, named(region), (1.0, 1.0), TOLD)
    assert_paired(found.nuclei, found.cells)
    assert score(region.nuclei, found.nuclei).object_f1_50 > 0.85
    assert score(region.cells, found.cells).object_f1_50 > 0.85
    table = found.measurements.table
    assert table.confidence.between(0.4, 1).all() and table.confidence.mean() > 0.7
    assert found.maps is not None and found.maps.shape == (3, 200, 200)
    cell = table.iloc[5]
    own = found.cells == cell.cell_id
    kind = np.where(found.nuclei > 0, 1, 2)
    chosen = np.take_along_axis(found.maps, kind[None], 0)[0][own] / 255
    assert cell.confidence == pytest.approx(chosen.mean(), abs=1e-6)
    y, x = (v.mean() for v in np.nonzero(own))
    assert cell.edge_um == pytest.approx(min(y + 0.5, x + 0.5, 199.5 - y, 199.5 - x))
    classical = segment_region(region.data, named(region), (1.0, 1.0), CLASSICAL)
    assert classical.maps is None and classical.measurements.table.confidence.isna().all()


def test_maps_are_the_same_whatever_the_tile(planes, maps) -> None:
    for tile in (72, 128):
        again = probability_maps(*planes, tile_px=tile)
        np.testing.assert_allclose(again.classes, maps.classes, atol=2e-5)
        np.testing.assert_allclose(again.depth, maps.depth, atol=2e-5)
        np.testing.assert_array_equal(nuclei_from_maps(again), nuclei_from_maps(maps))


def test_maps_are_probabilities(maps) -> None:
    np.testing.assert_allclose(maps.classes.sum(axis=0), 1, atol=1e-5)
    for plane in (*maps.classes, maps.depth, maps.border):
        assert plane.dtype == np.float32 and plane.min() >= 0 and plane.max() <= 1


def test_without_membrane_channels(region) -> None:
    from scipy.ndimage import distance_transform_edt

    told = SegmentParameters(nuclear_channel="DNA1", expansion_um=2.0)
    found = segment_region(region.data, named(region), (1.0, 1.0), told)
    assert_paired(found.nuclei, found.cells)
    assert score(region.nuclei, found.nuclei).object_f1_50 > 0.8
    away = distance_transform_edt(found.nuclei == 0)
    np.testing.assert_array_equal(found.cells > 0, away <= 2.0)


@pytest.mark.parametrize("pixel", [0.5, 2.0])
def test_other_pixel_sizes(pixel: float) -> None:
    """Cells as large as the model's, in finer and coarser pixels; at 2 um a nucleus is three pixels."""
    r = simulate_region(
        (200, 200), channels=["DNA1", *MEMBRANES], pixel_um=(pixel, pixel), seed=142
    )
    found = segment_region(r.data, named(r), (pixel, pixel), TOLD)
    assert found.nuclei.shape == r.nuclei.shape
    assert_paired(found.nuclei, found.cells)
    assert score(r.nuclei, found.nuclei).object_f1_50 > {0.5: 0.8, 2.0: 0.5}[pixel]
    assert 20 < found.measurements.table.nucleus_area_um2.median() < 70


@pytest.mark.parametrize(
    ("density", "brightness", "pixel", "low", "high"),
    [(1.0, 1.0, 1.0, 1.0, 1.0), (2.5, 1.0, 1.0, 1.3, 1.5), (1.0, 0.033, 1.0, 0.7, 0.95), (1.0, 1.0, 0.5, 0.5, 0.65)],
)  # fmt: skip
def test_cells_are_shown_at_the_size_that_serves_them(
    density: float, brightness: float, pixel: float, low: float, high: float
) -> None:
    """As they are where they are usual; larger where crowded, smaller where dim or large (here finer pixels that are said to be 1 um)."""
    side, optics = 200 * pixel, Optics(brightness=brightness, blur_um=0.7 * pixel)
    told = dict(channels=["DNA1", *MEMBRANES], pixel_um=(pixel, pixel), density=density, seed=143)
    r = simulate_region((side, side), optics=optics, **told)
    clean, _ = remove_hot_pixels(r.data)
    planes = [clean[-1], *clean[:-1]] if named(r)[-1].label == "DNA1" else pytest.fail("order")
    first = maps_at(planes, (1.0, 1.0), "imc")
    zoom = magnification_for(first, planes[0], (1.0, 1.0))
    assert low <= zoom <= high
    chosen = probability_maps(planes[0], planes[1:])
    given = probability_maps(planes[0], planes[1:], zoom=zoom)
    assert np.array_equal(chosen.depth, first.depth) == (zoom == 1)
    assert np.abs(chosen.depth - given.depth).mean() < 0.05
    f1 = [score(r.nuclei, nuclei_from_maps(m)).object_f1_50 for m in (first, chosen)]
    assert f1[1] >= f1[0]


def test_eight_views_answer_alike_however_the_region_lies(planes) -> None:
    every = [planes[0], *planes[1]]
    across = [np.ascontiguousarray(p.T[::-1]) for p in every]
    maps, turned = (maps_at(p, (1.0, 1.0), "imc", views=8) for p in (every, across))
    np.testing.assert_allclose(turned.depth[::-1].T, maps.depth, atol=1e-4)
    np.testing.assert_allclose(turned.classes[:, ::-1].transpose(0, 2, 1), maps.classes, atol=1e-4)


def test_very_dim_regions_are_looked_at_in_more_views() -> None:
    """Which changes their maps; where nuclei have light, or there are none, there is nothing to gain."""
    told = dict(channels=["DNA1", *MEMBRANES], optics=Optics(brightness=0.033), seed=144)
    clean, _ = remove_hot_pixels(simulate_region((96, 96), **told).data)
    dna, rest = clean[-1], list(clean[:-1])
    one, many = (maps_at([dna, *rest], (1.0, 1.0), "imc", 0.8, views) for views in (1, FAINT_VIEWS))
    assert 0.3 < light_in_nuclei(one, dna, (1.0, 1.0)) < FAINT
    chosen = probability_maps(dna, rest, zoom=0.8)
    np.testing.assert_array_equal(chosen.depth, many.depth)
    assert np.abs(many.depth - one.depth).max() > 0.05


def test_sparse_regions_are_looked_at_in_more_views_but_not_empty_ones(planes, maps) -> None:
    assert views_for(maps, planes[0], (1.0, 1.0)) == 2
    classes = np.zeros((3, 50, 50), np.float32)
    classes[0] = 1
    dark = Maps(classes, classes[1], classes[1])
    assert light_in_nuclei(dark, np.ones((50, 50), np.float32), (1.0, 1.0)) == np.inf
    assert views_for(dark, np.ones((50, 50), np.float32), (1.0, 1.0)) == 2
    classes[:2, 10:16, 10:16] = [[[0]], [[1]]]
    assert views_for(dark, np.full((50, 50), 9, np.float32), (1.0, 1.0)) == 4
    assert views_for(dark, np.ones((50, 50), np.float32), (1.0, 1.0)) == FAINT_VIEWS


@pytest.mark.parametrize("value", [0.0, 7.0, 1000.0])
def test_constant_images_have_no_nuclei(value: float) -> None:
    plane = np.full((96, 96), value, np.float32)
    assert nuclei_from_maps(probability_maps(plane, [plane])).max() == 0


@pytest.mark.parametrize("mean", [0.02, 0.5, 8.0, 200.0])
def test_noise_has_no_nuclei(mean: float) -> None:
    noise = np.random.default_rng(7).poisson(mean, (2, 256, 256)).astype(np.float32)
    assert nuclei_from_maps(probability_maps(noise[0], [noise[1]])).max() == 0


def test_tiny_images(planes) -> None:
    for shape in ((1, 1), (3, 40), (17, 9)):
        y, x = shape
        maps = probability_maps(planes[0][:y, :x], [planes[1][0][:y, :x]])
        nuclei = nuclei_from_maps(maps)
        assert_paired(nuclei, cells_from_maps(nuclei, maps))


def test_values_that_are_not_finite(region) -> None:
    data = region.data.copy()
    data[0, 10, 10] = np.nan
    with pytest.raises(BadInput, match="not finite"):
        segment_region(data, named(region), (1.0, 1.0), TOLD)


def test_damaged_and_foreign_weights(planes, tmp_path) -> None:
    shutil.copytree(model_folder("imc"), tmp_path / "broken")
    file = tmp_path / "broken/weights.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(BadInput, match=r"weights\.npz"):
        probability_maps(*planes, model=str(tmp_path / "broken"))
    with pytest.raises(BadInput, match="unknown model"):
        probability_maps(*planes, model="imd")


def raw(region, name: str, **change) -> SimpleNamespace:
    fields = dict(name=name, status="ok", note="", data=region.data, channels=named(region))
    return SimpleNamespace(**(fields | {"pixel_um": (1.0, 1.0), "frame": ""} | change))


def test_a_sample_keeps_its_maps_and_resumes(region, tmp_path, monkeypatch) -> None:
    sample, warnings = Sample.create("s", str(tmp_path)), []
    glass = raw(region, "glass", data=np.zeros_like(region.data))
    first = segment_sample(sample, [raw(region, "a"), glass], TOLD, key="k", warn=warnings.append)
    assert warnings == ["region glass: no nuclei (DNA1: 0 to 0 counts)"]
    assert sample.images() == ["imc_a", "imc_glass", "maps_a", "maps_glass"]
    stored = sample.image("maps_a")
    assert [c.name for c in stored.channels] == ["background", "nucleus", "cytoplasm"]
    assert stored.data.dtype == np.uint8 and stored.data.shape == (3, 200, 200)
    monkeypatch.setitem(METHODS, "network", lambda *a: pytest.fail("segmented again"))
    again = segment_sample(sample, [raw(region, "a")], TOLD, key="k", warn=warnings.append)
    assert again["a"].reused
    assert again["a"].measurements.table.equals(first["a"].measurements.table)
    segment_sample(sample, [raw(region, "a")], CLASSICAL, key="k2", warn=warnings.append)
    assert sample.images() == ["imc_a", "imc_glass", "maps_glass"]  # no maps of another method


def test_nothing_anywhere_is_an_error_that_names_the_method(region, tmp_path) -> None:
    sample = Sample.create("s", str(tmp_path))
    glass = raw(region, "glass", data=np.zeros_like(region.data))
    with pytest.raises(BadInput, match=r"DNA1.*counts from 0 to 0.*network"):
        segment_sample(sample, [glass], TOLD, warn=lambda _: None)


def test_perfect_maps_give_the_truth_back() -> None:
    scene = random_scene(20, shape=(160, 160))
    target = map_targets(scene.nuclei, scene.cells)
    perfect = Maps(np.moveaxis(target["classes"], -1, 0), *np.moveaxis(target["shape"], -1, 0))
    nuclei = nuclei_from_maps(perfect, min_area_um2=4)
    cells = cells_from_maps(nuclei, perfect, max_growth_um=30)
    assert score(scene.nuclei, nuclei).object_f1_50 > 0.97
    assert score(scene.cells, cells).object_f1_50 > 0.95


def test_batches_depend_on_seed_and_step_only() -> None:
    def batches(seed: int):
        return map_examples(random_scene, expose, scenes=2, patch_px=64, batch=2, seed=seed)

    one, two, other = batches(3), batches(3), batches(4)
    two(0)
    np.testing.assert_array_equal(one(5)[0], two(5)[0])
    np.testing.assert_array_equal(one(5)[1]["shape"], two(5)[1]["shape"])
    assert not np.array_equal(one(5)[0], one(6)[0]) and not np.array_equal(one(5)[0], other(5)[0])


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path) -> None:
    def told(steps: int) -> MapTrainingParameters:
        return MapTrainingParameters(
            steps=steps, scenes=2, batch=1, patch_px=32, filters=4, checkpoint_every=2,
            precision="float32",
        )  # fmt: skip

    class Killed(Exception):
        pass

    calls = []

    def exposed(scene, draw):
        calls.append(1)
        if len(calls) > 3:
            raise Killed
        return expose(scene, draw)

    quiet = dict(validation_scenes=0)
    whole = train_maps(random_scene, expose, told(4), tmp_path / "a", **quiet)
    with pytest.raises(Killed):
        train_maps(random_scene, exposed, told(4), tmp_path / "b", **quiet)
    resumed = train_maps(random_scene, expose, told(4), tmp_path / "b", **quiet)
    for name, array in whole.weights.items():
        np.testing.assert_allclose(resumed.weights[name], array, atol=1e-6)
    with pytest.raises(BadInput, match="steps"):
        train_maps(random_scene, expose, told(6), tmp_path / "a", **quiet)


def test_the_loss_is_smallest_at_the_truth() -> None:
    scene = random_scene(21, shape=(64, 64))
    target = {k: v[None] for k, v in map_targets(scene.nuclei, scene.cells).items()}
    best = float(map_loss(target, target))
    for k in target:
        worse = target | {k: np.clip(0.8 * target[k] + 0.1, 0, 1)}
        assert float(map_loss(target, worse)) > best + 0.01


def test_scenes_are_never_regions_of_a_test() -> None:
    assert random_scene(0, shape=(64, 64)).cells.max() > 0
    with pytest.raises(BadInput, match="number from 0"):
        random_scene(-9_999_900)
    low, high = TRAINING_RANGES.density
    assert (
        high < 3.2 and low > 0
    )  # the benchmark's most crowded scenes lie outside; hard ones end there


def test_gaps_weigh_more_only_where_nuclei_meet_a_border() -> None:
    scene = random_scene(20, shape=(160, 160))
    target = {k: v[None] for k, v in map_targets(scene.nuclei, scene.cells).items()}
    border = target["shape"][..., 1:] > 0
    assert border.any()
    wrong = {"classes": target["classes"], "shape": np.where(border, 0.5, target["shape"])}
    loss = [float(map_loss(target, wrong, w)) for w in (0.0, 1.0, 4.0)]
    assert loss[0] < loss[1] < loss[2]
    alike = {k: np.full_like(v, 0.5) for k, v in target.items()}
    assert abs(float(map_loss(target, alike, 4.0)) - float(map_loss(target, alike))) < 1e-4


def test_a_share_of_the_scenes_is_hard() -> None:
    kinds = [mixed_scene(k, 0.5).ranges in HARD_RANGES for k in range(8)]
    assert 0 < sum(kinds) < 8 and mixed_scene(3).ranges == TRAINING_RANGES
    counts = expose(replace(random_scene(30, shape=(64, 64)), ranges=replace(TRAINING_RANGES, nuclear_counts=(0.3, 0.3))), np.random.default_rng(0))[0]  # fmt: skip
    assert counts.mean() < 1.5
