"""Real images for the IMC network: the table for its training, and agreement with other programs' masks.

    python benchmarks/imc_real.py --table FOLDER                          # makes FOLDER/images.csv for imc/train -p real=...
    python benchmarks/imc_real.py --table FOLDER --score imc MODEL ... [--pictures FOLDER]

Pancreas crops (imc_pancreas_crops: cells by the program of their authors) E34 and G01 are for training, J02 is held out.
UnMICST's DNA image (multiplex_probability_maps): its left 60 % for training, its right 40 % is held out; nuclei are the watershed
of its maps. None of these masks is truth: agreement with them is no accuracy. The crops come without nuclei:
`--teacher MODEL` finds them first, so that the training is bootstrapped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from imc_pictures import side_by_side

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
GAP_PX = 16  # between what is trained on and what is held out


def unmicst() -> tuple[np.ndarray, np.ndarray]:
    """The DNA image (y, x) and nuclei by the watershed of UnMICST's maps of nuclei and contours."""
    import tifffile
    from scipy.ndimage import gaussian_filter
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    home = DATA / "multiplex_probability_maps"
    dna = tifffile.imread(home / "105.tif").astype(np.float32)
    inside = tifffile.imread(home / "105_NucleiPM_1.tif").astype(np.float32) / 255
    contour = tifffile.imread(home / "105_ContoursPM_1.tif")[0].astype(np.float32) / 255
    seeds = peak_local_max(gaussian_filter(inside, 1.5), min_distance=3, threshold_abs=0.4)
    markers = np.zeros(dna.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    mask = (inside > 0.4) | ((contour > 0.5) & (gaussian_filter(inside, 1.5) > 0.25))
    return dna, watershed(-gaussian_filter(inside, 1.0), markers, mask=mask).astype(np.uint16)


def make_table(folder: Path, teacher: str = "") -> Path:
    """Images, masks and `images.csv` in a folder; nuclei of the crops by `teacher`, inside of the cells that came with them."""
    import pandas as pd
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in ("E34", "G01", "J02"):
        for part in ("imc", "mask"):
            data = tifffile.imread(DATA / f"imc_pancreas_crops/inst/extdata/{name}_{part}.tiff")
            tifffile.imwrite(folder / f"{name}_{part}.tif", data)
        row = {"image": f"{name}_imc.tif", "nuclear": 0, "membranes": "1;4", "nuclei": "", "cells": f"{name}_mask.tif",
               "pixel_um": 1.0, "use": "hold" if name == "J02" else "train"}  # fmt: skip
        rows.append(row)
        if teacher and row["use"] == "train":
            row["nuclei"] = f"{name}_nuclei.tif"
            tifffile.imwrite(
                folder / row["nuclei"],
                taught_nuclei(folder / row["image"], folder / row["cells"], teacher),
            )
    dna, nuclei = unmicst()
    middle = int(0.6 * dna.shape[1])
    for use, part in (("train", np.s_[:, :middle]), ("hold", np.s_[:, middle + GAP_PX :])):
        tifffile.imwrite(folder / f"dna_{use}.tif", dna[part])
        tifffile.imwrite(folder / f"dna_{use}_nuclei.tif", nuclei[part])
        rows.append({"image": f"dna_{use}.tif", "nuclear": 0, "membranes": "", "nuclei": f"dna_{use}_nuclei.tif", "cells": "",
                     "pixel_um": 0.65, "use": use})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    return folder / "images.csv"


def taught_nuclei(image: Path, cells: Path, teacher: str) -> np.ndarray:
    """Nuclei of a crop by a model, cut to the cells (y, x)."""
    import tifffile

    from imaxt_nb.cells.map_real import RealImage

    data = tifffile.imread(image).astype(np.float32)
    nuclei, _ = find(RealImage(image.stem, "train", data[0], data[[1, 4]], None, None), teacher)
    return np.where(tifffile.imread(cells) > 0, nuclei, 0).astype(np.uint16)


def find(image: Any, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Nuclei and cells of a real image; `classical` is a model, too."""
    from imaxt_nb.cells.parameters import SegmentParameters
    from imaxt_nb.cells.preprocess import remove_hot_pixels
    from imaxt_nb.cells.segment import METHODS

    method = "classical" if model == "classical" else "network"
    told = SegmentParameters(method=method, **({} if method == "classical" else {"model": model}))
    planes, _ = remove_hot_pixels(np.concatenate([image.nuclear[None], image.membranes]), 50.0)
    found = METHODS[method](planes[0], list(planes[1:]), (1.0, 1.0), told)
    return found[0], found[1]


def agreement(images: list[Any], models: list[str]) -> list[str]:
    """Rows of Markdown: agreement of each model with each image's masks."""
    from imaxt_nb.cells.score import score

    lines = ["| image | use | masks of | model | object F1 at 0.5 | AP 0.5-0.9 | pixel F1 | objects theirs, ours |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for image in images:
        for model in models:
            nuclei, cells = find(image, model)
            for kind, theirs, ours in (("nuclei", image.nuclei, nuclei), ("cells", image.cells, cells)):  # fmt: skip
                if theirs is None:
                    continue
                s = score(theirs.astype(np.int64), ours)
                n = (len(np.unique(theirs)) - 1, int(ours.max()))
                lines.append(f"| {image.name} | {image.use} | {kind} | {Path(model).name if '/' in model else model} "
                             f"| {s.object_f1_50:.3f} | {s.ap_50_90:.3f} | {s.pixel_f1:.3f} | {n[0]}, {n[1]} |")  # fmt: skip
                print(lines[-1], flush=True)
    return lines


def picture(file: Path, image: Any, models: list[str], window: int = 120) -> None:
    """The middle of an image: their masks, then each model's nuclei (cyan) and cells (yellow)."""
    from imaxt_nb.cells.plots import composite

    y, x = (max(0, (n - window) // 2) for n in image.nuclear.shape)
    part = np.s_[y : y + window, x : x + window]
    plain = composite(image.nuclear, list(image.membranes))[part]
    none = np.zeros(image.nuclear.shape, int)
    theirs = tuple(none if a is None else a.astype(int) for a in (image.nuclei, image.cells))
    shown = {"their masks": theirs} | {m[-24:]: find(image, m) for m in models}
    side_by_side(file, image.name, plain, {k: (n[part], c[part]) for k, (n, c) in shown.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--teacher", default="", help="model that finds the nuclei of the crops")
    parser.add_argument("--score", nargs="+", metavar="MODEL")
    parser.add_argument("--pictures", type=Path)
    told = parser.parse_args()
    table = make_table(told.table, told.teacher)
    print(table)
    if not told.score:
        return
    from imaxt_nb.cells.map_real import read_real_images

    images = read_real_images(table)
    agreement(images, told.score)
    if told.pictures:
        told.pictures.mkdir(parents=True, exist_ok=True)
        for image in images:
            picture(told.pictures / f"real_{image.name}.png", image, told.score)


if __name__ == "__main__":
    main()
