"""The network that proposes beads: no seams, what it is trained with, and what it must refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pipeline import imaxt

from imaxt_nb.beads import network
from imaxt_nb.beads.network import CONFIG, network_candidates, network_pixel, propose
from imaxt_nb.beads.targets import batches, plane_levels
from imaxt_nb.beads.train import read_labelled
from imaxt_nb.core.compute import rng
from imaxt_nb.core.errors import BadInput
from imaxt_nb.networks.weights import load_card, shipped_models
from imaxt_nb.simulate.bead_views import bead_view, paint_view, simulated_views

needs_weights = pytest.mark.skipif("beads" not in shipped_models(), reason="no weights are shipped")


def field(number: int, side: int = 320, seed: int = 77) -> tuple[Any, Any, Any]:
    view = bead_view(number, seed, side)
    image, sure = paint_view(view, rng(seed, "field", number))
    return image, view.discs, sure


@needs_weights
def test_tiles_leave_no_seams_and_dask_is_the_same() -> None:
    import dask.array as da

    image = field(4)[0]
    whole = network_candidates(image, 4.0)
    assert len(whole) > 3
    for tile in (64, 160):
        other = network_candidates(da.from_array(image, chunks=97), 4.0, tile_px=tile)
        assert np.allclose(whole, other, atol=0.02)


@needs_weights
def test_beads_are_found_and_units_do_not_matter() -> None:
    found = wanted = 0
    for k in range(6):
        image, discs, sure = field(k)
        at = np.rint(discs[:, :2]).astype(int)
        inside = sure & ((at >= 0) & (at < image.shape)).all(1)
        inside[inside] = np.isfinite(image[tuple(at[inside].T)])
        guesses = network_candidates(image, 4.0, radii_um=(10.0, 90.0)) / 4
        again = network_candidates(image * np.float32(37.0), 4.0, radii_um=(10.0, 90.0)) / 4
        assert np.allclose(guesses, again, atol=0.05)
        gap = np.hypot(*(discs[inside, None, 1::-1] - guesses[None, :, :2]).transpose(2, 0, 1))
        found += int((gap < 0.5 * discs[inside, 2, None] + 1).any(1).sum()) if len(guesses) else 0
        wanted += int(inside.sum())
    assert wanted > 20 and found > 0.75 * wanted  # these views are hard: 0.85 on the card


@needs_weights
@pytest.mark.parametrize("value", [0.0, 9.0, np.nan])
def test_a_plane_with_nothing_has_no_beads(value: float) -> None:
    assert network_candidates(np.full((50, 70), value, np.float32), 4.0).shape == (0, 3)


def test_what_is_no_plane_or_no_model_of_beads_is_refused(tmp_path: Path) -> None:
    from imaxt_nb.networks.unet import Output, UNetConfig, build_unet
    from imaxt_nb.networks.weights import ModelCard, save_model

    with pytest.raises(BadInput, match="not a plane"):
        network_candidates(np.zeros((2, 3, 4)), 4.0)
    config = UNetConfig(1, (Output("cell", 1, "sigmoid"),), depth=1, filters=2)
    save_model(build_unet(config), ModelCard("other", "1", "x", config), tmp_path / "other")
    with pytest.raises(BadInput, match=r"not a model of beads.*cell.*bead, depth"):
        network_candidates(np.zeros((8, 8)), 4.0, weights=str(tmp_path / "other"))
    with pytest.raises(BadInput, match="nowhere"):
        network_candidates(np.zeros((8, 8)), 4.0, weights="nowhere")


def test_examples_depend_on_seed_and_step_alone() -> None:
    make = [batches(simulated_views(3, 64), 4, batch=2, patch_px=48, grid=2, seed=1) for _ in "ab"]
    make[1](9)  # whatever was asked before
    first, second = (m(5) for m in make)
    assert np.array_equal(first[0], second[0])
    assert all(np.array_equal(first[1][n], second[1][n]) for n in first[1])
    assert np.isfinite(first[0]).all() and set(np.unique(first[1]["bead"])) <= {0.0, 1.0}


def test_levels_of_hostile_planes_are_finite() -> None:
    wild = np.array([[0, np.inf, -5], [np.nan, 1e30, 3]], np.float32)
    assert np.isfinite(plane_levels(wild).apply(wild)).all()


def test_pixels_follow_the_size_of_beads() -> None:
    assert network_pixel(45.0) == pytest.approx(4.0)
    assert network_pixel(9.0) == pytest.approx(0.8)


def labelled(home: Path, masks: list[np.ndarray], shape: tuple[int, int] | None = None) -> Path:
    for part in ("images", "labels"):
        (home / part).mkdir(parents=True)
    for k, mask in enumerate(masks):
        image = rng(1, "image", k).poisson(5 + 30 * (np.resize(mask, shape or mask.shape) > 0))
        tifffile.imwrite(home / "images" / f"a{k}.tif", image.astype(np.uint16))
        tifffile.imwrite(home / "labels" / f"a{k}.tif", mask.astype(np.uint16))
    return home


def test_folders_that_cannot_teach_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), int)
    with pytest.raises(BadInput, match="not a single bead"):
        read_labelled(labelled(tmp_path / "a", [mask]))
    mask[5:12, 5:12] = 1
    with pytest.raises(BadInput, match="another shape"):
        read_labelled(labelled(tmp_path / "b", [mask], (40, 41)))
    with pytest.raises(BadInput, match="no images with labels"):
        read_labelled(tmp_path)


def test_the_command_trains_on_a_folder_and_its_model_is_used(site: Path) -> None:
    y, x = np.indices((96, 96))
    masks = [
        1 * (np.hypot(y - 30, x - 30 - 3 * k) < 9) + 2 * (np.hypot(y - 70, x - 60) < 8)
        for k in range(2)
    ]
    labelled(site / "data" / "mine", masks)
    tiny = {
        "source": "mine",
        "name": "mine",
        "steps": 2,
        "batch": 1,
        "patch_px": 32,
        "filters": 2,
        "validate_fields": 1,
    }
    told = [w for k, v in tiny.items() for w in ("-p", f"{k}={v}")]
    imaxt("run", "beads/train", "--study", "small", *told, site=site)
    home = site / "data" / "models" / "mine"
    card = load_card(home)
    assert card.training["steps"] == 2 and "held out: a1" in card.data
    assert json.loads((home / "card.json").read_text())["config"]["filters"] == 2
    found = network_candidates(np.zeros((40, 40)), 4.0, weights=str(home))
    assert found.shape[1] == 3


def test_proposals_of_a_blind_network_do_not_depend_on_tiles() -> None:
    from imaxt_nb.networks.unet import build_unet

    model, image = build_unet(CONFIG, seed=4), field(1, 160)[0]
    maps = [network.answer(model, CONFIG, image, plane_levels(image), t) for t in (1024, 48)]
    for one, other in zip(*maps, strict=True):
        assert np.allclose(one, other, atol=1e-5)
    assert propose(model, CONFIG, image).shape[1] == 4
