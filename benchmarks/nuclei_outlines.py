"""What becomes of the true nuclei that count as missed: are they not found, or drawn wider than the light?

    python benchmarks/nuclei_outlines.py DATA [--groups 256x256-a4] [--out benchmarks/nuclei_outlines.png]

For each true nucleus the found one that shares most pixels with it: matched (IoU >= 0.5), narrower (four fifths of what was found lie in the
truth, but IoU < 0.5), else not found. The picture shows the groups' first two images, truth in green, found in red. For explaining only: nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from imaxt_nb.cells import sources
from imaxt_nb.cells.dataset import read_dataset, to_plane
from imaxt_nb.cells.plots import outlines
from imaxt_nb.cells.predict import DEFAULT_VIEWS, find_nuclei, nuclei_model


def fates(truth: np.ndarray, labels: np.ndarray) -> list[tuple[str, float]]:
    """(fate, IoU) of every true nucleus."""
    true_area, area = np.bincount(truth.ravel()), np.bincount(labels.ravel())
    both = np.zeros((len(true_area), len(area)), int)
    np.add.at(both, (truth.ravel(), labels.ravel()), 1)
    said = []
    for k in np.flatnonzero(true_area[1:]) + 1:
        best = int(both[k, 1:].argmax()) + 1 if both[k, 1:].any() else 0
        shared = both[k, best] if best else 0
        iou = shared / (true_area[k] + (area[best] if best else 0) - shared)
        narrow = bool(best) and shared >= 0.8 * area[best]
        said.append(("matched" if iou >= 0.5 else "narrower" if narrow else "not found", iou))
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--groups", nargs="*", default=["256x256-a4"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/nuclei_outlines.png"))
    a = parser.parse_args()
    table = sources.find_groups(read_dataset(a.data))
    some = table[table.group.isin(a.groups)]
    model, rows, shown = nuclei_model(views=DEFAULT_VIEWS), [], []
    for item, group in zip(read_dataset(a.data, some.name.tolist()), some.group, strict=True):
        labels = find_nuclei(item.image, model).labels
        rows += [(group, *fate) for fate in fates(item.labels, labels)]
        if len(shown) < 2:
            shown.append((to_plane(item.image), item.labels, labels))
    found = pd.DataFrame(rows, columns=["group", "fate", "iou"])
    print(found.groupby(["group", "fate"]).iou.agg(["size", "median"]).round(3).to_string())
    _, axes = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 3.2), dpi=80)
    for ax, (plane, truth, labels) in zip(np.atleast_1d(axes), shown, strict=True):
        grey = np.clip(plane / np.percentile(plane, 99.5), 0, 1) ** 0.5
        rgb = np.repeat(grey[..., None], 3, axis=-1)
        rgb[outlines(truth)], rgb[outlines(labels)] = (0, 0.8, 0), (1, 0, 0)
        ax.imshow(rgb)
        ax.set_axis_off()
    plt.tight_layout()
    plt.savefig(a.out)


if __name__ == "__main__":
    main()
