"""Nuclei of whole slides: the same labels whatever the tiles, edges, damage, resumption, scale, and their place in the atlas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imaxt_nb.analysis.tables import cells_anndata, check_cells
from imaxt_nb.cells.predict import find_nuclei, nuclei_model
from imaxt_nb.cells.score import score
from imaxt_nb.cells.slide_labels import decide, label_array
from imaxt_nb.cells.slide_nuclei import (
    NucleiParameters,
    find_diameter,
    find_edges,
    nuclei_sample,
    same_channels,
    slide_plane,
)
from imaxt_nb.cells.slide_plane import SlidePlane, slide_levels
from imaxt_nb.cells.slide_plots import plot_closeups, plot_density
from imaxt_nb.cells.slide_tiles import OfWhole, StarNetwork, propose, star_network
from imaxt_nb.cells.star import star_targets
from imaxt_nb.core.errors import BadInput, ImaxtError
from imaxt_nb.core.frames import Frame, translation
from imaxt_nb.federation.atlas import AtlasParameters, make_atlas
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.labels import label_attrs
from imaxt_nb.sample.store import Sample

CHANNELS = [Channel("DAPI"), Channel("Cy5")]


def discs(shape: tuple[int, int], pitch: float, radius: float, seed: int) -> np.ndarray:
    """True labels (y, x) of discs that don't touch."""
    random = np.random.default_rng(seed)
    labels, yy, xx = np.zeros(shape, np.int32), *np.mgrid[: shape[0], : shape[1]]
    places = [
        (y, x)
        for y in np.arange(pitch / 2, shape[0], pitch)
        for x in np.arange(pitch / 2, shape[1], pitch)
    ]
    for k, place in enumerate(places, start=1):
        y, x = place + random.uniform(-0.15, 0.15, 2) * pitch
        r = int(radius * 2 + 3)
        box = tuple(
            slice(max(int(v) - r, 0), min(int(v) + r, n))
            for v, n in zip((y, x), shape, strict=True)
        )
        size = radius * random.uniform(0.8, 1.2)
        labels[box][(yy[box] - y) ** 2 + (xx[box] - x) ** 2 < size**2] = k
    return labels


def picture(truth: np.ndarray, seed: int) -> np.ndarray:
    """Counts of two channels, (c, z, y, x)."""
    random = np.random.default_rng(seed)
    return random.poisson(
        np.stack([20 + 480.0 * (truth > 0), np.full(truth.shape, 50.0)])[:, None]
    ).astype(np.uint16)


def find_discs(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stands in for a trained network: prob and dist of bright discs."""
    from skimage.measure import label

    prob, dist = star_targets(label(scaled > 0.5).astype(np.int32))
    return prob[..., 0], dist


DISCS = StarNetwork(OfWhole(find_discs), mark="discs")
TOLD = NucleiParameters(nucleus_um=11, tile_px=256)


def slide_sample(
    root: Path,
    image: np.ndarray,
    *,
    trust: np.ndarray | None = None,
    pixel_um: float = 0.5,
    name: str = "s1",
) -> Sample:
    sample = Sample.create("S", str(root))
    um = (1, pixel_um, pixel_um)
    sample.write_image(
        f"axioscan_{name}",
        image,
        axes="czyx",
        pixel_um=um,
        channels=CHANNELS,
        frame=f"axioscan:{name}" if f"axioscan:{name}" in sample.frames else None,
    )
    if trust is not None:
        sample.write_image(f"axioscan_{name}_confidence", trust[None], axes="zyx", pixel_um=um)
    return sample


def labels_of(sample: Sample, name: str = "axioscan_s1") -> np.ndarray:
    return np.asarray(sample.image(name).labels("nuclei")[0])


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return discs((600, 700), 36, 10, seed=1)


@pytest.mark.parametrize("zoom", [1.0, 1.3])
def test_the_shipped_network_gives_the_same_labels_for_any_tiles(
    tmp_path: Path, zoom: float
) -> None:
    shape = (1090, 620) if zoom == 1 else (800, 480)
    image = picture(discs(shape, 26, 11 / zoom, seed=2), seed=2)[0, 0]
    plane = SlidePlane((image,), None, 1.0, top=3.0)
    plane = replace(plane, levels=slide_levels(plane), zoom=zoom)
    network, made, edges = star_network("nuclei"), {}, find_edges(plane, 22 / zoom)
    for tile, tall in ((512, 1), (512, 8), (1024, 8), (2048, 8)):  # squares, and bands
        way = replace(network, tall=tall)
        found, failed = propose(way, plane, str(tmp_path / f"{tile}_{tall}"), tile)
        stars = decide(found, network.overlap, zoom)
        labels = label_array(stars, shape, edges, tile // 2).compute()
        assert not failed and np.array_equal(labels, made.setdefault(tile, labels))
    assert np.array_equal(made[512], made[2048]) and np.array_equal(made[1024], made[2048])
    assert made[512].max() > 300
    assert not np.array_equal(made[512], label_array(stars, shape).compute())  # they were snapped


def test_a_band_skips_what_does_not_exist(tmp_path: Path) -> None:
    image = picture(discs((3300, 260), 36, 10, seed=3), 3)[0, 0]
    trust = np.ones(image.shape, np.float32)
    trust[900:2200] = 0
    plane, seen = SlidePlane((image,), trust, 1.0, top=3.0), []
    plane = replace(plane, levels=slide_levels(plane))

    def noted(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(scaled))
        return find_discs(scaled)

    found, _ = propose(
        replace(DISCS, predict=OfWhole(noted), tall=20), plane, str(tmp_path / "a"), 256
    )
    alone, _ = propose(DISCS, plane, str(tmp_path / "b"), 512)
    # blocks of 1024 rows, and their halo
    assert sorted(seen) == [1024 + 96] * 2 + [3300 - 2048 + 96] * 2
    order, other = (np.lexsort(f.points.T) for f in (found, alone))
    assert np.array_equal(found.points[order], alone.points[other]) and len(found) > 100
    assert not ((found.points[:, 0] >= 900) & (found.points[:, 0] < 2200)).any()


def test_a_slide_that_is_an_image_has_the_labels_of_predict(tmp_path: Path) -> None:
    truth = discs((500, 520), 34, 13, seed=4)  # 26 px across: not scaled, the same pixels for both
    image = picture(truth, 4)
    image[0, 0, :40] = np.linspace(20, 500, 40)[
        :, None
    ]  # nuclei with a slope, and none of their own
    sample = slide_sample(tmp_path, image, pixel_um=0.35)
    network = star_network("nuclei")
    nuclei_sample(sample, network, NucleiParameters(), "k")
    alone = find_nuclei(image[0, 0], nuclei_model(), pixel_um=0.35)
    told = label_attrs(sample.image("axioscan_s1"), "nuclei")
    assert told["zoom"] == 1 and told["diameter_px"] == alone.diameter_px
    labels = labels_of(sample)
    pairs = np.unique(
        np.stack([labels.ravel(), alone.labels.ravel()]), axis=1
    )  # but for the numbers
    assert pairs.shape[1] == 1 + alone.labels.max() == len(np.unique(labels)) > 150
    assert score(truth, labels).pixel_f1 > 0.95


def test_large_nuclei_are_segmented_at_30_px(tmp_path: Path) -> None:
    truth = discs((600, 600), 140, 40, seed=5)
    sample = slide_sample(tmp_path, picture(truth, 5), pixel_um=0.1)
    nuclei_sample(sample, star_network("nuclei"), NucleiParameters(nucleus_um=8), "k")
    assert label_attrs(sample.image("axioscan_s1"), "nuclei")["zoom"] == pytest.approx(30 / 80)
    assert score(truth, labels_of(sample)).pixel_f1 > 0.98


def test_small_nuclei_in_noise_are_not_enlarged(tmp_path: Path) -> None:
    """They rise twice the noise of a pixel; enlarged, hardly any is found."""
    truth = discs((200, 260), 24, 5, 2)
    image = np.random.default_rng(3).normal(100, 10, (2, 1, *truth.shape)) + 20 * (truth > 0)
    sample = slide_sample(tmp_path, image.astype(np.float32))
    nuclei_sample(sample, star_network("nuclei"), NucleiParameters(nucleus_um=5), "k")
    assert score(truth, labels_of(sample)).object_f1_50 > 0.7


def test_every_disc_becomes_a_cell_with_its_measures(tmp_path: Path, truth: np.ndarray) -> None:
    sample = slide_sample(tmp_path, picture(truth, 1))
    results = nuclei_sample(sample, DISCS, TOLD, "k")
    labels, table = labels_of(sample), results["s1"].measurements.table
    assert score(truth, labels).object_f1_50 > 0.98
    assert np.array_equal(np.unique(labels)[1:], table.cell_id)
    areas = np.bincount(labels.ravel())[table.cell_id] * 0.25
    assert np.allclose(table.area_um2, areas)
    assert (np.diff(table.y_um) > -8).all()  # numbers go from top to bottom
    channels, kept = same_channels(results, print)
    cells = cells_anndata(
        "S", kept, channels, frames=sample.frames, image_prefix="axioscan", label="nuclei"
    )
    check_cells(cells)
    assert set(cells.obs.labels_element) == {"axioscan_s1_nuclei"}
    assert {"score", "edge_um", "at_edge", "area_um2"} <= set(cells.obs)


def test_nuclei_at_the_end_of_the_confidence_are_flagged(tmp_path: Path, truth: np.ndarray) -> None:
    trust = np.ones(truth.shape, np.float32)
    trust[:, 416:] = 0
    trust[200:240, 100:140] = 0  # a tile that is missing
    sample = slide_sample(tmp_path, picture(truth, 1), trust=trust)
    table = nuclei_sample(sample, DISCS, TOLD, "k")["s1"].measurements.table
    labels = labels_of(sample)
    assert len(table) > 100 and table.x_um.max() < 416 / 2 + 6
    near = set()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            moved = np.roll(trust, (dy, dx), (0, 1))[1:-1, 1:-1]
            near |= set(np.unique(labels[1:-1, 1:-1][moved == 0]).tolist())
    ring = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert set(table.cell_id[table.at_edge]) == (near | set(ring.tolist())) - {0}
    assert table.edge_um[table.at_edge].max() < 12 < table.edge_um.max()


def test_an_empty_slide_has_zero_cells_and_it_is_said(tmp_path: Path, truth: np.ndarray) -> None:
    sample = slide_sample(tmp_path, picture(np.zeros_like(truth), 1))
    network, said = replace(star_network("nuclei")), []
    results = nuclei_sample(sample, network, TOLD, "k", said.append)
    assert results["s1"].status == "no nuclei" and labels_of(sample).max() == 0
    assert any("s1: no nuclei" in line and "DAPI" in line for line in said)
    channels, kept = same_channels(results, said.append)
    assert "empty" in said[-1]
    cells = cells_anndata("S", kept, channels, image_prefix="axioscan", label="nuclei")
    assert cells.shape == (0, 2)
    (shown,) = plot_density(results).axes[0].images
    assert shown.get_clim() == (0, 1), "no negative densities"
    (text,) = plot_closeups(sample, results, "axioscan", "DAPI").axes[0].texts
    assert text.get_text() == "no nuclei on any slide"


def test_a_tile_that_fails_is_named_and_done_again_later(tmp_path: Path, truth: np.ndarray) -> None:
    sample, calls = slide_sample(tmp_path, picture(truth, 1)), []

    def flaky(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(scaled.shape)
        if len(calls) == 2:
            raise OSError("the disk went away")
        return find_discs(scaled)

    said: list[str] = []
    network = replace(DISCS, predict=OfWhole(flaky))
    first = nuclei_sample(sample, network, TOLD, "k", said.append)
    assert "1 tiles failed" in first["s1"].note and first["s1"].n_cells > 150
    assert any("tile of rows" in line and "disk went away" in line for line in said)
    n = len(calls)
    second = nuclei_sample(sample, network, TOLD, "k", said.append)
    assert len(calls) == n + 1 and second["s1"].n_cells > first["s1"].n_cells
    whole = labels_of(sample)
    third = nuclei_sample(sample, network, TOLD, "k", said.append)  # nothing is left to do
    assert len(calls) == n + 1 and third["s1"].n_cells == second["s1"].n_cells
    other = slide_sample(tmp_path / "other", picture(truth, 1))
    nuclei_sample(other, DISCS, TOLD, "k")
    assert np.array_equal(labels_of(other), whole)
    assert not list((tmp_path / "S" / "images").glob(".staging-nuclei*"))


def test_out_of_memory_halves_the_tile(tmp_path: Path, truth: np.ndarray) -> None:
    def greedy(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if max(scaled.shape) > 500:
            raise MemoryError("too large")
        return find_discs(scaled)

    a, b = (slide_sample(tmp_path / n, picture(truth, 1)) for n in "ab")
    big, said = NucleiParameters(nucleus_um=11, tile_px=2048), []
    nuclei_sample(a, replace(DISCS, predict=OfWhole(greedy)), big, "k", said.append)
    nuclei_sample(b, DISCS, big, "k")
    assert np.array_equal(labels_of(a), labels_of(b)) and not said


def test_slides_that_fail_do_not_take_others_with_them(tmp_path: Path, truth: np.ndarray) -> None:
    sample, said = slide_sample(tmp_path, picture(truth, 1)), []
    slide_sample(tmp_path, np.full((2, 1, 50, 60), np.nan, np.float32), name="s0")
    slide_sample(tmp_path, np.zeros((2, 3, 50, 60), np.uint16), name="s2")
    results = nuclei_sample(sample, DISCS, TOLD, "k", said.append)
    assert [r.status for r in results.values()] == ["failed", "ok", "failed"]
    assert "finite" in results["s0"].note and "3 planes" in results["s2"].note
    with pytest.raises((BadInput, ImaxtError)):
        nuclei_sample(sample, DISCS, TOLD.model_copy(update={"nuclear_channel": "none"}), "k2")
    with pytest.raises(BadInput, match="no slides"):
        nuclei_sample(Sample.create("E", str(tmp_path)), DISCS, TOLD)


def test_pixels_that_are_no_numbers_cost_their_nuclei_only(
    tmp_path: Path, truth: np.ndarray
) -> None:
    image = picture(truth, 1).astype(np.float32)
    image[:, :, 100:130] = np.nan
    sample = slide_sample(tmp_path, image)
    labels = nuclei_sample(sample, DISCS, TOLD, "k") and labels_of(sample)
    rest = np.r_[0:70, 160:600]
    assert score(truth[rest], labels[rest]).object_f1_50 > 0.9
    assert not labels[105:125].any()


@pytest.mark.parametrize(("times", "pixel_um"), [(1, 0.5), (2, 0.25)])
def test_20x_and_40x_give_the_same_nuclei(
    tmp_path: Path, truth: np.ndarray, times: int, pixel_um: float
) -> None:
    fine = truth[:300, :300].repeat(times, 0).repeat(times, 1)
    sample = slide_sample(tmp_path, picture(fine, 1), pixel_um=pixel_um)
    for told in (TOLD, TOLD.model_copy(update={"nucleus_um": 0.0})):
        nuclei_sample(sample, DISCS, told, str(told.nucleus_um))
        assert score(fine, labels_of(sample)).object_f1_50 > 0.95
    plane = replace(slide_plane(sample, sample.image("axioscan_s1"), "DAPI"), top=3.0)
    assert pixel_um * find_diameter(DISCS, plane, pixel_um, 0) == pytest.approx(10, abs=1.5)


def test_cells_of_two_modalities_meet_in_the_atlas(tmp_path: Path, truth: np.ndarray) -> None:
    sample = Sample.create("S", str(tmp_path))
    grid = np.stack(np.meshgrid([0, 100, 200, 300.0], [0, 150, 300.0]), -1).reshape(-1, 2)
    frames = [
        Frame("sample"),
        Frame("axioscan:s1", "sample", translation(1000, 2000, 45).tolist(), how="section 4"),
        Frame("imc:r1", "axioscan:s1", translation(10, 20, 0).tolist(), how="beads"),
    ]
    sample.add_frames(frames)
    assert sample.frames["axioscan:s1"].parent == "sample"
    slide_sample(tmp_path, picture(truth, 1))
    row = {"slide": "s1", "status": "matched", "section": 4, "z_um": 45.0, "z_err_um": 1.0}
    sample.write_table(
        "slides_axioscan", pd.DataFrame([row | {"flip": False, "warped": False, "kind": "affine"}])
    )
    pairs = pd.DataFrame(grid, columns=["x_um", "y_um"]).assign(slide="s1", error_um=1.0)
    sample.write_table(
        "pairs_axioscan", pairs.assign(sample_x_um=grid[:, 0] + 1000, sample_y_um=grid[:, 1] + 2000)
    )
    results = nuclei_sample(sample, DISCS, TOLD, "k")
    channels, kept = same_channels(results, print)
    slides = cells_anndata(
        "S", kept, channels, frames=sample.frames, image_prefix="axioscan", label="nuclei"
    )
    sample.write_table("cells_axioscan", slides)
    sample.write_image(
        "imc_r1", np.zeros((1, 9, 9)), pixel_um=(1, 1), channels=[Channel("Ir191")], frame="imc:r1"
    )
    some = replace(
        kept["s1"], table=kept["s1"].table[:5], cell_means=kept["s1"].cell_means[:5, :1],
        nucleus_means=kept["s1"].nucleus_means[:5, :1],
    )  # fmt: skip
    imc = cells_anndata("S", {"r1": some}, [Channel("Ir191")], frames=sample.frames)
    sample.write_table("cells", imc)
    atlas = make_atlas(sample, AtlasParameters(), warn=pytest.fail)
    flat = sample.table("atlas_cells")
    assert flat.modality.value_counts().to_dict() == {"axioscan": slides.n_obs, "imc": 5}
    assert len(atlas.cells) == len(flat) == slides.n_obs + 5
    own = atlas.cells[atlas.cells.obs.modality == "axioscan"]
    moved = own.obsm["spatial3d"] - np.column_stack([own.obsm["spatial_image"], np.zeros(len(own))])
    assert np.allclose(moved, (1000, 2000, 45), atol=0.01)
    assert set(own.obs.section) == {4}
    assert set(atlas.cells.var_names) == {"DAPI", "Cy5", "Ir191"}
    assert {"x_um", "y_um", "z_um", "labels_element", "cell_id"} <= set(flat.columns)
