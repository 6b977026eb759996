"""Nuclei by the trained network: what it promises for any image, and the input that it must survive."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from click.testing import CliRunner
from pipeline import imaxt
from scipy.ndimage import gaussian_filter

from imaxt_nb.archive.prepare import Request, prepare
from imaxt_nb.cells.augment import thin_out
from imaxt_nb.cells.dataset import Labelled, clean_labels, read_dataset, told_folder, write_dataset
from imaxt_nb.cells.predict import doubt_of, find_nuclei, nuclei_model, segmenter
from imaxt_nb.cells.predict_folder import predict_folder
from imaxt_nb.cells.score import score
from imaxt_nb.cells.sources import assign_splits, find_groups, read_splits
from imaxt_nb.cells.star import candidates, nms, star_targets, to_labels
from imaxt_nb.cells.synthetic import drawn_nuclei, empty_field
from imaxt_nb.cli.predict import predict
from imaxt_nb.core.errors import BadInput
from imaxt_nb.networks.weights import SHIPPED


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[tuple[Path, Path]]]:
    """A model and its scores, by archived runs: a tiny data set, a tiny network, a few steps. They are made while others run."""
    home = tmp_path_factory.mktemp("trained")
    source = home / "source"
    for part in ("images", "labels"):
        (source / part).mkdir(parents=True)
    for k in range(9):
        rng = np.random.default_rng(k)
        image, labels = drawn_nuclei(rng, (96, 96), 18)
        noisy = 50 * (1 + k % 3) + 100 * image + rng.normal(0, 2 + k % 3, image.shape)
        tifffile.imwrite(source / f"images/{k}.tif", np.clip(noisy, 0, 6e4).astype(np.uint16))
        tifffile.imwrite(source / f"labels/{k}.tif", labels.astype(np.float32))

    def step(name: str, *settings: str) -> Path:
        folder = "source" if name == "dataset" else "dataset"
        arguments = [a for s in (f"{folder}={source}", *settings) for a in ("-p", s)]
        imaxt("run", f"cells/{name}", "--study", "tiny", *arguments, site=home)
        (folder,) = (home / f"runs/tiny/cells-{name}").glob("2*")
        return folder

    def all_steps() -> tuple[Path, Path]:
        splits = step("dataset", "classes_per_shape=1", "groups_per_class=3") / "splits.csv"
        tiny = ("steps=60", "batch=2", "patch_px=64", "filters=4", "learning_rate=0.01")
        model = step("train", f"splits={splits}", *tiny) / "model"
        return model, step("score", f"model={model}") / "scores.csv"

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(all_steps)


@pytest.fixture(scope="module")
def field() -> Labelled:
    """Drawn nuclei, 20 px across, on a pedestal with noise."""
    rng = np.random.default_rng(11)
    image, labels = drawn_nuclei(rng, (180, 200), 20)
    image = 100 + 100 * np.clip(image, 0, 1.5) + rng.normal(0, 4, image.shape)
    return Labelled("drawn", image, labels)


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    return score(clean_labels(truth), found).object_f1_50


@pytest.mark.usefixtures("trained")  # to be made meanwhile
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_number_types_give_the_same_nuclei(field: Labelled, dtype: str) -> None:
    model = nuclei_model()
    found = find_nuclei(field.image.astype(dtype), model, diameter_px=20).labels
    assert f1(field.labels, found) > 0.75
    scaled = find_nuclei(field.image.astype(dtype) * 0.01 - 3.0, model, diameter_px=20).labels
    assert f1(found, scaled) > 0.97


def test_a_magnification_20_times_apart(field: Labelled) -> None:
    """The pixel size is a parameter; 0.1 and 2 um a pixel, nuclei of 9 um: 90 and 4.5 pixels across."""
    model = nuclei_model()
    large = np.kron(field.image[:100, :100], np.ones((4, 4)))
    found = find_nuclei(large, model, pixel_um=0.1)
    assert 0.7 < found.diameter_px / 80 < 1.4
    assert f1(np.kron(field.labels[:100, :100], np.ones((4, 4), int)), found.labels) > 0.6
    small = field.image.reshape(45, 4, 50, 4).mean((1, 3))
    assert 3 < find_nuclei(small, model, pixel_um=2.0).diameter_px < 12


@pytest.mark.parametrize("seed", range(3))
def test_noise_holds_no_nuclei(seed: int) -> None:
    image = np.random.default_rng(seed).normal(1000, 30, (200, 200))
    assert not find_nuclei(image, nuclei_model()).labels.any()


@pytest.mark.parametrize("diameter", [10, 14])
def test_a_few_faint_nuclei_are_found_in_noise(diameter: int) -> None:
    """They rise twice the noise of a pixel: enlarged images of such hide them from the network, the eye sees them."""
    rng = np.random.default_rng(5)
    image, truth = thin_out(rng, *drawn_nuclei(rng, (160, 160), diameter), most=6)
    noisy = 100 + 20 * image / np.median(image[truth > 0]) + rng.normal(0, 10, image.shape)
    assert f1(truth, find_nuclei(noisy, nuclei_model(), diameter_px=diameter).labels) > 0.7


def test_haze_debris_and_fibres_hold_hardly_any() -> None:
    """Of a known size: a smooth bump seen from afar looks like a nucleus, which the card says."""
    model = nuclei_model()
    fields = [empty_field(np.random.default_rng(seed), (200, 200)) for seed in range(6)]
    assert sum(find_nuclei(f, model, diameter_px=22).labels.max() for f in fields) <= 2


def test_images_without_nuclei_are_in_doubt(field: Labelled) -> None:
    model, (y, x) = nuclei_model(), np.mgrid[-100:100, -100:100]
    noise = np.random.default_rng(3).normal(0, 1, (200, 200))
    assert find_nuclei(noise, model).doubt == "no nuclei"
    haze = find_nuclei(30 * np.exp(-(y * y + x * x) / 5000) + noise, model)
    assert haze.labels.max() and "third of the image" in haze.doubt
    few = np.zeros((200, 200), np.int32)
    few[20:30, 20:30] = 1
    assert doubt_of(noise, few, 10, estimated=False) == doubt_of(noise, few, 10).split("; ")[1]
    assert "0.2% of the image" in doubt_of(noise, few, 10) and "noise" in doubt_of(noise, few, 10)
    assert not find_nuclei(field.image, model).doubt
    assert "less sure" in find_nuclei(field.image, replace(model, sure=1.0)).doubt


def test_fibres_taken_for_nuclei_are_in_doubt() -> None:
    """Straight lines, blurred: the network's own probabilities are low."""
    rng, lines = np.random.default_rng(2), np.zeros((300, 300))
    for _ in range(15):
        a, b = rng.uniform(0, 300, 2), rng.uniform(0, 300, 2)
        lines[tuple((a + (b - a) * np.linspace(0, 1, 600)[:, None]).astype(int).T)] = 1
    fibres = 300 * gaussian_filter(lines, 2) + rng.normal(100, 5, lines.shape)
    found = find_nuclei(fibres, nuclei_model(views=2))
    assert not len(found.found) or "less sure" in found.doubt


def test_the_command_warns_of_images_in_doubt(tmp_path: Path, field: Labelled) -> None:
    noise = np.random.default_rng(3).normal(1000, 30, (120, 120))
    for name, image in (("noise", noise), ("drawn", 10 * field.image[:120, :120])):
        tifffile.imwrite(tmp_path / f"{name}.tif", image.astype(np.uint16))
    told = ["nuclei", str(tmp_path), "--out", str(tmp_path / "labels")]
    done = CliRunner().invoke(predict, told)
    assert done.exit_code == 0 and "1 in doubt" in done.output, done.output
    assert "warning: noise.tif: no nuclei" in done.output
    assert tifffile.imread(tmp_path / "labels/noise.tif").dtype == np.uint32
    assert CliRunner().invoke(predict, [*told, "--views", "9"]).exit_code == 2


@pytest.mark.parametrize("views", [2, 8])
def test_the_mean_of_views_sees_the_same_nuclei(field: Labelled, views: int) -> None:
    """Turned by any view, an image has turned nuclei when all eight are averaged; fewer are close."""
    model = nuclei_model(views=views)
    image = field.image[:131, :150]
    found = find_nuclei(image, model, diameter_px=22).labels  # 22 px: not scaled
    assert f1(field.labels[:131, :150], found) > 0.75
    turned = find_nuclei(image[::-1].T, model, diameter_px=22).labels.T[::-1]
    assert f1(found, turned) > (0.98 if views == 8 else 0.95)
    with pytest.raises(BadInput, match="1 to 8"):
        nuclei_model(views=0)


def test_constant_images_and_nan(field: Labelled) -> None:
    model = nuclei_model()
    found = find_nuclei(np.full((64, 80), 3, np.uint8), model)
    assert not found.labels.any() and np.isnan(found.diameter_px)
    holes = field.image.copy()
    holes[60:, :90] = np.nan
    labels = find_nuclei(holes, model, diameter_px=20).labels
    assert not labels[70:, :80].any() and labels[:, 100:].any()
    with pytest.raises(BadInput, match="no finite value"):
        find_nuclei(holes * np.nan, model)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 3), (17, 500)])
def test_odd_shapes(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    assert find_nuclei(image, nuclei_model(), diameter_px=15).labels.shape == shape


def test_labels_at_the_border_come_back() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[:20, :20], labels[50:, 30:60] = 1, 2
    back = to_labels(nms(candidates(*star_targets(labels), 0.5)), (64, 64))
    assert score(labels, back).object_f1_50 == 1


def test_a_corrupted_weights_file_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "nuclei", tmp_path / "nuclei")
    file = tmp_path / "nuclei/weights.npz"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match="damaged weights") as caught:
        nuclei_model(tmp_path / "nuclei")
    assert caught.value.file == file


def test_other_methods_say_what_they_need() -> None:
    for name, package in (("cellpose", "cellpose"), ("instanseg", "instanseg-torch")):
        with pytest.raises(BadInput, match=f"pip install {package}"):
            segmenter(name)


def test_other_methods_are_called_as_their_packages_want(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins with the calls and answers of cellpose 4.2 and instanseg-torch 0.1."""
    seen: dict[str, Any] = {}

    class CellposeModel:
        def __init__(self, gpu: bool = False, pretrained_model: str = "cpsam_v2") -> None:
            seen["weights"] = pretrained_model

        def eval(self, x: np.ndarray, diameter: float | None = None) -> tuple[Any, list[Any], Any]:
            seen["cellpose"] = (x.dtype, x.ndim, float(x.min()), diameter)
            return (x > 100).astype(np.uint16).squeeze(), [], None  # which loses axes of one pixel

    class Tensor:
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def cpu(self) -> Tensor:
            return self

        def numpy(self) -> np.ndarray:
            return self.values

    class InstanSeg:
        def __init__(self, model_type: Any = "brightfield_nuclei", verbosity: int = 1) -> None:
            seen["model"] = model_type

        def eval_small_image(
            self, image: np.ndarray, pixel_size: float | None = None, return_image_tensor: bool = True,
            target: str = "all_outputs",
        ) -> Any:  # fmt: skip
            seen["instanseg"] = (pixel_size, target, float(image.min()))
            nuclei = (image > 100).astype(np.float32)
            found = np.stack([nuclei, 2 * nuclei] if target == "all_outputs" else [nuclei])[None]
            return (Tensor(found), Tensor(image)) if return_image_tensor else Tensor(found)

    for name, content in {"cellpose.models": {"CellposeModel": CellposeModel}, "instanseg": {"InstanSeg": InstanSeg}}.items():  # fmt: skip
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "cellpose", types.ModuleType("cellpose"))
    image = np.full((30, 40), 10, np.float32)
    image[5:9, 5:9], image[0, 0] = 200, np.nan
    for labels in (segmenter("cellpose", model=tmp_path / "weights", diameter=20)(image), segmenter("instanseg", pixel_size=0.5)(image)):  # fmt: skip
        assert labels.dtype == np.int32 and labels.shape == image.shape
        assert np.array_equal(labels > 0, image == 200)
    assert seen["weights"] == str(tmp_path / "weights")
    assert seen["cellpose"] == (np.float32, 2, 10, 20)
    assert seen["model"] == "fluorescence_nuclei_and_cells"
    assert seen["instanseg"] == (0.5, "nuclei", 10)
    assert segmenter("cellpose")(image[:1, 5:]).shape == (1, 35) and seen["weights"] == "cpsam_v2"


def test_one_bad_image_does_not_lose_the_others(field: Labelled, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "good.tif", field.image.astype(np.uint16))
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 9, 9), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    out = tmp_path / "labels"
    found = {r.name: r for r in predict_folder([tmp_path], out, nuclei_model(), diameter_px=20)}
    assert {k: r.status for k, r in found.items()} == {
        "good.tif": "done", "stack.tif": "failed", "broken.png": "failed",
    }  # fmt: skip
    assert tifffile.imread(out / "good.tif").dtype == np.uint32
    assert sorted(p.name for p in out.iterdir()) == ["good.tif"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no images"):
        predict_folder([tmp_path / "empty"], out, nuclei_model())


@pytest.mark.parametrize(
    ("step", "told", "field"),
    [
        ("dataset", "source", "images"),
        ("train", "dataset", "labels"),
        ("score", "dataset", "labels"),
    ],
)
def test_a_corrected_data_set_is_another_input(
    site: Path, tmp_path: Path, step: str, told: str, field: str
) -> None:
    """A run on what the folder held before is not the run that was asked for."""
    write_dataset([Labelled("a", np.ones((9, 9)), np.eye(9, dtype=np.int32))], tmp_path / "set")
    request = Request(f"cells/{step}", "s", {told: str(tmp_path / "set")})
    before = prepare(request)
    assert [Path(f.path).name for f in before.inputs] == ["images", "labels"]
    assert prepare(request).key == before.key
    tifffile.imwrite(tmp_path / "set" / field / "a.tif", np.zeros((9, 9), np.uint8))
    assert prepare(request).key != before.key


@pytest.mark.parametrize(
    ("step", "told"),
    [("imc/train", "start_from"), ("beads/train", "start_from"), ("cells/score", "model")],
)
def test_a_model_trained_anew_is_another_input(
    site: Path, tmp_path: Path, step: str, told: str
) -> None:
    """The folder's name is the same, what the run would find in it is not; no name is no folder."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("card.json", "weights.npz"):
        (folder / name).write_text("before")
    before = prepare(Request(step, "s", {told: str(folder)}))
    assert [Path(f.path).name for f in before.inputs] == ["card.json", "weights.npz"]
    (folder / "weights.npz").write_text("anew")
    assert prepare(Request(step, "s", {told: str(folder)})).key != before.key
    assert prepare(Request(step, "s", {told: ""})).inputs == []


def test_a_folder_that_is_not_there_is_named_with_its_parameter(tmp_path: Path) -> None:
    for value, says in (("", "no folder is told"), ("small", "./NAME"), (str(tmp_path), "labels/")):
        with pytest.raises(BadInput, match=f"{says}.*") as e:
            told_folder(value, "dataset", ["labels"])
        assert "field: dataset" in str(e.value)
    (tmp_path / "splits.csv").write_text("name,split\na,test\n")
    with pytest.raises(BadInput, match="group"):
        read_splits(str(tmp_path / "splits.csv"), str(tmp_path))


def test_no_source_is_on_two_sides(shared_data: Path) -> None:
    """On the real set: fields stay whole, all splits see each class that has three groups, twice the same."""
    items = read_dataset(shared_data / "nuclei_bbbc038")
    table = assign_splits(find_groups(items))
    assert table.groupby("field").split.nunique().max() == 1
    assert table.groupby("group").split.nunique().max() == 1
    per_class = table.groupby("class").agg(groups=("group", "nunique"), splits=("split", "nunique"))
    assert (per_class.splits[per_class.groups >= 3] == 3).all()
    assert table.split.value_counts()["train"] > 0.5 * len(table)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dataset_train_and_score_by_the_command_line(trained: Future[tuple[Path, Path]]) -> None:
    """Data set, training and Table 3 through archived runs."""
    model, scores = trained.result()
    assert (model / "card.json").is_file()
    assert len(pd.read_csv(scores)) == 9, "without splits, all images are scored"
