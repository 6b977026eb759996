"""What averaging over turned and flipped views of an image is worth, on validation images only: the choice of `predict nuclei --views` and of its threshold.

    python benchmarks/nuclei_views.py DATA [--every 1] [--views 1 2 4 8] [--probs 0.6 0.65 0.7]

Sizes are estimated once an image, from one view, as `find_nuclei` does.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pandas as pd

from imaxt_nb.cells import sources
from imaxt_nb.cells.dataset import read_dataset
from imaxt_nb.cells.predict import find_nuclei, nuclei_model
from imaxt_nb.cells.score import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--views", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--probs", type=float, nargs="*", default=[0.6, 0.65, 0.7])
    a = parser.parse_args()
    table = sources.assign_splits(sources.find_groups(read_dataset(a.data)))
    some = table[table.split == "validation"].iloc[:: a.every]
    model, rows, seconds = nuclei_model(), [], dict.fromkeys(a.views, 0.0)
    for item, group in zip(read_dataset(a.data, some.name.tolist()), some.group, strict=True):
        size = find_nuclei(item.image, model).diameter_px
        for views in a.views:
            for prob in a.probs if views > 1 else [model.prob]:
                began = time.process_time()
                way = replace(model, views=views, prob_of_views=prob)
                labels = find_nuclei(item.image, way, diameter_px=size if size > 0 else 22).labels
                seconds[views] += time.process_time() - began
                got = score(item.labels, labels)
                rows.append((views, prob, group, got.object_f1_50, got.ap_50_90, got.pixel_f1))
    names = ["views", "prob", "group", "object F1", "AP 50-90", "pixel F1"]
    found = pd.DataFrame(rows, columns=names)
    means = found.groupby(["views", "prob"])[names[3:]].mean()
    groups = found.groupby(["views", "prob", "group"])["object F1"].mean().unstack()
    means["mean of groups"], means["worst group"] = groups.mean(axis=1), groups.min(axis=1)
    means["CPU s"] = [
        seconds[v] / len(some) / (len(a.probs) if v > 1 else 1) for v, _ in means.index
    ]
    print(f"{len(some)} validation images\n{means.round(4).to_string()}")


if __name__ == "__main__":
    main()
