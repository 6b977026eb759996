"""Nuclei of validation images seen by worse microscopes: noise, other sizes, blur, gradients, haze, few grey levels, saturation.

    python benchmarks/nuclei_robust.py DATA [--model nuclei] [--each 2] [--kinds noise-2 blur] [--csv FILE] [--given] [--views 2]

`--each` images of every validation group. Object F1 at 0.5, sizes estimated (with --given from the true diameter, too), means over groups by kind;
`size off`: share of images whose diameter is estimated wrong by more than a quarter. --csv: rows are added to this file.
Thresholds and methods are chosen on this table and the validation images, never on the test split.
"""

from __future__ import annotations

import argparse
import os
import zlib
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from imaxt_nb.cells import sources
from imaxt_nb.cells.augment import thin_out
from imaxt_nb.cells.dataset import Labelled, read_dataset
from imaxt_nb.cells.predict import DEFAULT_VIEWS, find_nuclei, nuclei_model
from imaxt_nb.cells.score import score
from imaxt_nb.cells.synthetic import haze


def scaled(item, factor):
    """An image and its labels at another magnification; small objects at the limit of sight are dropped."""
    shape = [round(n * factor) for n in item.labels.shape]
    image = resize(item.image.astype(np.float32), shape, order=1, anti_aliasing=factor < 1)
    labels = resize(item.labels, shape, order=0, preserve_range=True, anti_aliasing=False)
    return image, labels.astype(np.int32)


def noisy(random, image, step, snr):
    """Gaussian noise of step / snr."""
    return image + random.normal(size=image.shape) * step / snr


def photons(random, image, step, snr):
    """Poisson noise of nuclei that rise `snr` times the noise at half their height, on a dark field of a fifth of them."""
    counts = snr**2 * 0.7
    low = np.percentile(image, 1)
    return random.poisson(counts * np.clip(0.2 + (image - low) / step, 0, None)).astype(np.float32)


def altered(item, kind):
    """(image, labels) of a kind, or None where it makes no sense: nuclei of 7 px at least, 130 at most."""
    random = np.random.default_rng(zlib.crc32(f"{item.name} {kind}".encode()))
    image, labels, d = item.image.astype(np.float32), item.labels, item.diameter_px
    what, _, value = kind.partition("-")
    if what == "sparse":
        image, labels = thin_out(random, image, labels, 4)
    if what in ("size", "small"):
        factor = float(value) if what == "size" else 0.5
        if not 7 <= d * factor <= 130:
            return None
        image, labels = scaled(item, factor)
        d *= factor
    step = max(float(np.median(image[labels > 0]) - np.median(image[labels == 0])), 1e-3)
    x = np.linspace(0, 1, image.shape[1])
    if what in ("noise", "sparse", "small"):
        image = noisy(random, image, step, float(value))
    elif what == "photons":
        image = photons(random, image, step, float(value))
    elif what == "blur":
        image = gaussian_filter(image, float(value) * d)
    elif what == "gradient":
        image = noisy(random, image + float(value) * step * x, step, 10)
    elif what == "haze":
        image = noisy(random, image + 0.4 * step * haze(random, image.shape, float(value) * d), step, 10)  # fmt: skip
    elif what == "dim":
        image = np.round(noisy(random, image, step, 8) * float(value) / step)
    elif what == "saturated":
        image = np.minimum(image, np.median(image[labels == 0]) + float(value) * step)
    return image.astype(np.float32), labels


KINDS = (
    "as-is", "noise-1.5", "noise-2", "noise-3", "noise-5", "photons-2", "sparse-2", "sparse-3", "size-0.5", "size-3", "small-3", "blur-0.1",
    "gradient-2", "haze-1.5", "haze-3", "dim-4", "saturated-0.5",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--splits", type=Path, help="splits.csv of cells/dataset, where they are made already"
    )
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--given", action="store_true")
    parser.add_argument("--views", type=int, default=DEFAULT_VIEWS)
    parser.add_argument("--prob", type=float, help="other thresholds than the card's")
    parser.add_argument("--prob-of-views", type=float)
    a = parser.parse_args()
    table = sources.read_splits(a.splits, a.data) if a.splits else sources.assign_splits(sources.find_groups(read_dataset(a.data)))  # fmt: skip
    some = table[table.split == "validation"].groupby("group").head(a.each)
    model, rows = nuclei_model(a.model, views=a.views), []
    model = replace(model, prob=a.prob or model.prob, prob_of_views=a.prob_of_views or model.prob_of_views)  # fmt: skip
    items = [i for i in read_dataset(a.data, some.name.tolist()) if i.labels.any()]
    group = dict(zip(some.name, some.group, strict=True))
    for kind in a.kinds:
        for item in items:
            made = altered(item, kind)
            if made is None:
                continue
            image, labels = made
            true = Labelled(item.name, image, labels).diameter_px
            found = find_nuclei(image, model)
            got = score(labels, found.labels)
            row = {"model": a.model, "kind": kind, "name": item.name, "group": group[item.name], "true px": true,
                   "found px": found.diameter_px, "object F1": got.object_f1_50, "pixel F1": got.pixel_f1,
                   "missed": got.missed / got.n_truth, "spurious": got.spurious / got.n_truth, "doubt": found.doubt}  # fmt: skip
            if a.given:
                labels_given = find_nuclei(image, model, diameter_px=true).labels
                row["given F1"] = score(labels, labels_given).object_f1_50
            rows.append(row)
        if a.csv:
            old = pd.read_csv(a.csv) if a.csv.exists() else pd.DataFrame()
            pd.concat([old, pd.DataFrame([r for r in rows if r["kind"] == kind])]).to_csv(a.csv, index=False)  # fmt: skip
    print(summary(pd.DataFrame(rows)).round(3).to_string())


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over groups by kind."""
    off = (np.log(rows["found px"] / rows["true px"]).abs() > np.log(1.25)) | rows[
        "found px"
    ].isna()
    rows = rows.assign(**{"size off": off.astype(float), "warned": rows.doubt.fillna("").ne("").astype(float)})  # fmt: skip
    names = [c for c in ("object F1", "given F1", "pixel F1", "missed", "spurious", "size off", "warned") if c in rows]  # fmt: skip
    means = rows.groupby(["kind", "group"])[names].mean().groupby("kind", sort=False).mean()
    means.insert(0, "images", rows.groupby("kind").size())
    return means.loc[[k for k in KINDS if k in means.index]]


if __name__ == "__main__":
    main()
