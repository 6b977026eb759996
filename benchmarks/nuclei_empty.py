"""Fields without a nucleus: what `predict nuclei` finds in them, and which it warns of.

    python benchmarks/nuclei_empty.py [--seed 0] [--real DATA]

40 drawn fields of 300 x 300 pixels (seed 0: limits of warnings were set after a look at them); with --real one image of every group of training and validation besides, which should not be warned of.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy.ndimage import gaussian_filter

from imaxt_nb.cells import sources
from imaxt_nb.cells.dataset import read_dataset
from imaxt_nb.cells.predict import DEFAULT_VIEWS, find_nuclei, nuclei_model
from imaxt_nb.cells.synthetic import empty_field

SIDE = 300


def fibres(random, width):
    """Fifteen straight lines, blurred."""
    lines = np.zeros((SIDE, SIDE))
    for _ in range(15):
        a, b = random.uniform(0, SIDE, 2), random.uniform(0, SIDE, 2)
        y, x = (a + (b - a) * np.linspace(0, 1, 600)[:, None]).astype(int).T
        lines[y, x] = 1
    return 100 + 300 * gaussian_filter(lines, width)


def fields(seed=0):
    """(name, field)."""
    for k in range(12):
        yield (
            f"training's {k}",
            empty_field(np.random.default_rng(1000 + 100 * seed + k), (SIDE, SIDE)),
        )
    y, x = np.mgrid[:SIDE, :SIDE]
    for k in range(4):
        random, shape = np.random.default_rng(100 * seed + k), (SIDE, SIDE)
        noise = random.normal(0, 5, shape)
        yield f"noise {k}", 100 + noise
        yield f"counts {k}", random.poisson((0.1, 1, 5, 30)[k], shape).astype(float)
        blur = (5, 10, 20, 40)[k]
        haze = gaussian_filter(random.normal(size=shape), blur) * blur * 20
        yield f"haze {k}", 200 + haze + random.normal(0, 3, shape)
        yield f"gradient {k}", 100 + (0.1, 0.5, 1, 3)[k] * x + noise
        far = (y - SIDE / 2) ** 2 + (x - SIDE / 2) ** 2
        yield f"vignette {k}", 1000 * np.exp(-far / (1e4, 3e4, 1e5, 2e5)[k]) + 2 * noise
        hot = random.random(shape) < (1e-4, 1e-3, 1e-3, 1e-2)[k]
        yield f"hot pixels {k}", np.where(hot, (500, 500, 5000, 400)[k], 100 + noise)
        yield f"fibres {k}", fibres(random, (0.7, 1.5, 2, 3)[k]) + noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path)
    a = parser.parse_args()
    model, total = nuclei_model(views=DEFAULT_VIEWS), {"empty": 0, "warned": 0, "silent": 0}
    for name, field in fields(a.seed):
        found = find_nuclei(field, model)
        n = int(found.labels.max())
        total["empty" if not n else "warned" if found.doubt else "silent"] += 1
        if n:
            print(f"{name}: {n} of {found.diameter_px:.0f} px; {found.doubt or 'NO WARNING'}")
    print(f"fields without nuclei: {total}")
    if a.real:
        table = sources.assign_splits(sources.find_groups(read_dataset(a.real)))
        some = table[table.split != "test"].groupby("group").head(1)
        doubts = [find_nuclei(i.image, model).doubt for i in read_dataset(a.real, some.name.tolist())]  # fmt: skip
        print(f"real images: {len(doubts)}, warned of: {[d for d in doubts if d]}")


if __name__ == "__main__":
    main()
