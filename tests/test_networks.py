"""The networks room: what its notebooks don't show. Levels, damaged models, tiles, a training that is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imaxt_nb.core.errors import BadInput
from imaxt_nb.networks.levels import apply_levels, find_levels, levels
from imaxt_nb.networks.tiles import predict_block, predict_tiles, tile_boxes
from imaxt_nb.networks.unet import Output, UNetConfig, build_unet, receptive_px
from imaxt_nb.networks.weights import ModelCard, load_model, save_model, shipped_models

TINY = UNetConfig(1, (Output("map", 1, "sigmoid"),), depth=1, filters=4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_levels_do_not_depend_on_the_number_type(dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 200, (60, 80)).astype(dtype)
    assert np.allclose(levels(image), levels(image.astype("f4")), atol=1e-5)


def test_levels_of_a_field_serve_its_parts() -> None:
    image = np.random.default_rng(1).gamma(2, 30, (90, 90))
    found = find_levels(image)
    assert np.array_equal(
        apply_levels(image, found)[10:30, 5:9], apply_levels(image[10:30, 5:9], found)
    )


def test_infinite_values_and_constant_images_are_harmless() -> None:
    image = np.random.default_rng(2).normal(size=(20, 20))
    image[3, 3], image[4, 4] = np.inf, -np.inf
    assert np.isfinite(levels(image)).all()
    assert not levels(np.full((20, 20), 3.5)).any()


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (64, 64)])
def test_tiles_cover_any_shape_once(shape: tuple[int, int]) -> None:
    count = np.zeros(shape, int)
    for core, _ in tile_boxes(shape, 48, 20, 16):
        count[core] += 1
    assert (count == 1).all()


def test_tiled_prediction_equals_the_whole_one() -> None:
    config = UNetConfig(2, (Output("a", 1, "linear"), Output("b", 3, "softmax")), 2, 4, grid=2)
    model = build_unet(config, seed=5)
    image = np.random.default_rng(0).normal(size=(131, 95, 2)).astype("f4")
    whole = predict_block(model, image, config)
    tiled = predict_tiles(model, lambda box: image[box], (131, 95), config, 40)
    for name in whole:
        assert np.allclose(whole[name], tiled[name], atol=1e-5)


def test_a_damaged_or_foreign_model_is_refused(tmp_path: Path) -> None:
    home = save_model(build_unet(TINY), ModelCard("t", "1", "test", TINY), tmp_path / "t")
    file = home / "weights.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(BadInput, match="damaged weights"):
        load_model(home)
    file.unlink()
    with pytest.raises(BadInput, match="without weights"):
        load_model(home)
    (home / "card.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        load_model(home)


def test_shipped_models_load_and_their_cards_warn() -> None:
    for name in shipped_models():
        model, card = load_model(name)
        assert card.name == name and card.limits and card.licence and card.scores
        assert json.dumps(card.scores)
        assert receptive_px(card.config) > 0 and model.count_params() > 0
