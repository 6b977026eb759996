"""Nuclei by the shipped network on the untouched test split of BBBC038, beside a tuned classical rival (Table 3).

    python benchmarks/nuclei_test.py DATA [--splits FILE] [--out benchmarks/results_nuclei.md] [--limit N]

DATA is a folder with images/ and labels/. The splits are made as `cells/dataset` makes them. Object sizes are
estimated from each image, thresholds are those of the model's card (tuned on validation images), and the
rival's settings are tuned on the same validation images.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pandas as pd

from imaxt_nb.cells import dataset_plots, sources, tuning
from imaxt_nb.cells.dataset import read_dataset
from imaxt_nb.cells.predict import DEFAULT_VIEWS, segmenter
from imaxt_nb.networks.weights import load_card

COLUMNS = [
    "images",
    "n_truth",
    "object_f1_50",
    "object_f1_50_sd",
    "ap_50_90",
    "pixel_f1",
    "pixel_f1_sd",
]
ERRORS = ["missed", "spurious", "split", "merged"]


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, with three decimals."""
    head = f"| {' | '.join(table.columns)} |\n|{'---|' * len(table.columns)}\n"
    rows = (
        [f"{v:.3f}" if isinstance(v, float) else str(v) for v in r]
        for r in table.itertuples(index=False)
    )
    return head + "\n".join(f"| {' | '.join(r)} |" for r in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results_nuclei.md"))
    parser.add_argument("--limit", type=int, help="images at most, evenly taken")
    a = parser.parse_args()
    if a.splits:
        table = pd.read_csv(a.splits, dtype={"name": str})
    else:
        table = sources.assign_splits(sources.find_groups(read_dataset(a.data)))
    some = table[table.split == a.split]
    some = some.iloc[:: -(-len(some) // a.limit)] if a.limit else some
    validation = table[table.split == "validation"]
    items = read_dataset(a.data, some.name.tolist())
    settings, _ = tuning.tune_otsu(
        read_dataset(a.data, validation.name.tolist()), validation.group.tolist()
    )
    model, start = segmenter("stardist"), time.process_time()
    network = tuning.score_images(items, some.group.tolist(), model)
    seconds = (time.process_time() - start) / len(items)
    rival = tuning.score_images(
        items, some.group.tolist(), lambda image: tuning.otsu_watershed(image, settings)
    )
    write(a.out, some, items, network, rival, seconds, str(settings), model)


def write(out, some, items, network, rival, seconds, settings, model) -> None:
    """The tables, and the picture beside them."""
    card = load_card("nuclei")
    ours, theirs = tuning.summary(network), tuning.summary(rival)
    worst = ours.iloc[:-1].object_f1_50.min()
    wins = int((ours.object_f1_50[:-1] > theirs.object_f1_50[:-1]).sum())
    kinds = tuning.summary(network.assign(group=some["class"].to_numpy()))
    total = ours.iloc[-1]
    figures = [
        ("object F1 at 0.5", f"{total.object_f1_50:.3f}", ">= 0.90"),
        ("pixel F1", f"{total.pixel_f1:.3f}", ">= 0.92"),
        ("object F1 of the worst group", f"{worst:.3f}", ">= 0.75"),
        ("groups where the network beats the classical path", f"{wins} of {len(ours) - 1}", "all"),
        ("CPU s an image, size estimate included", f"{seconds:.2f}", ""),
    ]
    text = [
        "# Nuclei on the untouched test split", "",
        f"Model nuclei {card.version}, {DEFAULT_VIEWS} views averaged, thresholds {card.thresholds}; {len(items)} images, {int(total.n_truth)} nuclei,",
        "of sources (fields, acquisitions) that are neither in training nor in validation. Sizes are estimated.", "",
        markdown(pd.DataFrame(figures, columns=["figure", "measured", "wanted"])), "",
        "## By group", "", markdown(ours[["group", *COLUMNS, *ERRORS]]), "",
        "## By kind of image", "", markdown(kinds[["group", *COLUMNS]]), "",
        f"## Classical: {settings}", "", markdown(theirs[["group", *COLUMNS, *ERRORS]]), "",
        "Command: `python benchmarks/nuclei_test.py DATA`", "",
    ]  # fmt: skip
    out.write_text("\n".join(text), "utf-8")
    figure = dataset_plots.plot_extremes(items, network, model)
    figure.savefig(out.with_name("nuclei_extremes.png"), dpi=70)
    network.to_csv(out.with_suffix(".csv"), index=False)
    print("\n".join(text))


if __name__ == "__main__":
    main()
