"""Cells by the IMC network and by the classical path, on simulated truth of unseen seeds and unseen conditions.

    python benchmarks/imc_network.py [--size 320] [--seeds 100 101 102] [--out FILE] [--pictures FOLDER]

Conditions marked * lie outside of what the training varied (imaxt_nb.simulate.imc_scenes.TRAINING_RANGES). Thresholds
of both methods were chosen on seeds below 100.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from imc_pictures import side_by_side

MEMBRANES = ["CD45", "ECadherin", "panCK", "Vimentin"]
METHODS = ("network", "classical")
COLUMNS = ("nuclei F1", "nuclei AP", "nuclei pixel F1", "cells F1", "cells AP", "cells pixel F1")
HERE = Path(__file__).resolve().parents[2] / "shared" / "data"
Change = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Condition:
    """A kind of region: how the simulator is told, and what is done to its counts (c, y, x) afterwards."""

    name: str
    region: dict[str, Any] = field(default_factory=dict)
    optics: dict[str, Any] = field(default_factory=dict)
    change: Change | None = None
    membranes: tuple[str, ...] = tuple(MEMBRANES)
    pixel_um: float = 1.0  # of the simulation; the methods are told 1 um


def channel(region: Any, label: str) -> int:
    return [m.label for m in region.markers].index(label)


def unstained(data: np.ndarray, region: Any, draw: np.random.Generator) -> np.ndarray:
    """Membrane channels of six in ten cells lose 95 % of their ions, and so does a third of the area."""
    from scipy.ndimage import gaussian_filter

    lost = draw.uniform(size=int(region.cells.max()) + 1) < 0.6
    noise = gaussian_filter(draw.standard_normal(region.cells.shape), 20)
    keep = np.where(lost[region.cells] | (noise < np.quantile(noise, 0.33)), 0.05, 1.0)
    for label in MEMBRANES:
        c = channel(region, label)
        data[c] = draw.binomial(np.round(data[c]).astype(int), keep)
    return data


def spilled(data: np.ndarray, region: Any, draw: np.random.Generator) -> np.ndarray:
    """A third of the nuclear counts in every membrane channel, and a quarter of the membranes' in the nuclear one."""
    nuclear = channel(region, "DNA1")
    before = data.copy()
    for label in MEMBRANES:
        c = channel(region, label)
        data[c] += draw.poisson(0.33 * before[nuclear])
        data[nuclear] += draw.poisson(0.25 * before[c])
    return data


CONDITIONS = (
    Condition("as usual"),
    Condition("sparse (density 0.1)", {"density": 0.1}),
    Condition("very sparse (density 0.03)", {"density": 0.03}),
    Condition("crowded (density 2)", {"density": 2.0}),
    Condition("very crowded (density 2.5)", {"density": 2.5}),
    Condition("dim (a tenth of the counts)", {}, {"brightness": 0.1}),
    Condition("very dim (a thirtieth)", {}, {"brightness": 0.033}),
    Condition("hazy (0.35)", {}, {"haze": 0.35}),
    Condition("blurred (1.4 um) *", {}, {"blur_um": 1.4}),
    Condition("patchy membrane *", change=unstained),
    Condition("hot pixels (0.3 %) *", {}, {"hot_pixels": 3e-3, "hot_counts": 60.0}),
    Condition("spillover (a third)", change=spilled),
    Condition("nuclear channel only", membranes=()),
    Condition("one membrane channel", membranes=("CD45",)),
    Condition("cells 1.8 x as large", pixel_um=0.55),
    Condition("crowded, hazy and dim", {"density": 2.0}, {"haze": 0.3, "brightness": 0.15}),
    Condition("density 3.2 *", {"density": 3.2}),
    Condition("a hundredth of the counts *", {}, {"brightness": 0.01}),
    Condition("haze 0.5 *", {}, {"haze": 0.5}),
    Condition("cells 2.3 x as large *", pixel_um=0.43),
)


def make(condition: Condition, size: float, seed: int) -> tuple[Any, np.ndarray, list[Any]]:
    """A region with its truth, its counts, its channels."""
    from imaxt_nb.sample.channels import Channel
    from imaxt_nb.simulate.imc import simulate_region
    from imaxt_nb.simulate.imc_image import Optics

    p = condition.pixel_um
    optics = Optics(**({"blur_um": 0.7 * p} | condition.optics))
    told = {"channels": ["DNA1", *MEMBRANES], "pixel_um": (p, p)} | condition.region
    region = simulate_region((size * p, size * p), optics=optics, seed=seed, **told)
    data = region.data
    if condition.change is not None:
        data = condition.change(data.copy(), region, np.random.default_rng(seed))
    return region, data, [Channel(m.name, m.metal, m.mass, m.label) for m in region.markers]


def scores(condition: Condition, method: str, size: float, seed: int) -> list[float]:
    """The columns of a row, and the CPU seconds of the segmentation."""
    from imaxt_nb.cells.parameters import SegmentParameters
    from imaxt_nb.cells.score import score
    from imaxt_nb.cells.segment import segment_region

    region, data, channels = make(condition, size, seed)
    told = SegmentParameters(
        nuclear_channel="DNA1", membrane_channels=list(condition.membranes), method=method
    )
    start = time.process_time()
    found = segment_region(data, channels, (1.0, 1.0), told)
    spent = time.process_time() - start
    row = []
    for truth, labels in ((region.nuclei, found.nuclei), (region.cells, found.cells)):
        s = score(truth, labels)
        row += [s.object_f1_50, s.ap_50_90, s.pixel_f1]
    return [*row, spent]


def table(size: float, seeds: list[int], chosen: tuple[Condition, ...]) -> list[str]:
    """Rows of Markdown, one a condition and method."""
    lines = [f"| condition | method | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for condition in chosen:
        for method in METHODS:
            rows = np.array([scores(condition, method, size, s)[:-1] for s in seeds])
            cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(rows.mean(0), rows.std(0), strict=True)]
            lines.append(f"| {condition.name} | {method} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def nothing() -> list[str]:
    """Nuclei found where there are none: noise of several means, 512 x 512 um."""
    from imaxt_nb.cells.parameters import SegmentParameters
    from imaxt_nb.cells.segment import METHODS as FUNCTIONS

    lines = ["| counts a pixel | network | classical |", "|---|---|---|"]
    for mean in (0.02, 0.1, 0.5, 2.0, 8.0, 40.0, 200.0):
        noise = np.random.default_rng(100).poisson(mean, (2, 512, 512)).astype(np.float32)
        n = [int(FUNCTIONS[m](noise[0], [noise[1]], (1.0, 1.0), SegmentParameters(method=m))[0].max())
             for m in METHODS]  # fmt: skip
        lines.append(f"| {mean:g} | {n[0]} | {n[1]} |")
    return lines


def pictures(folder: Path) -> None:
    """Real pancreas crops, and the hardest conditions, both methods side by side; nothing is scored."""
    import tifffile

    from imaxt_nb.cells.parameters import SegmentParameters
    from imaxt_nb.cells.plots import composite
    from imaxt_nb.cells.preprocess import remove_hot_pixels
    from imaxt_nb.cells.segment import METHODS as FUNCTIONS

    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for file in sorted((HERE / "imc_pancreas_crops" / "inst" / "extdata").glob("*_imc.tiff")):
        cases.append((file.name[:3], remove_hot_pixels(tifffile.imread(file))[0], 0, [4]))
    for k in (1, 3, 5, 7, 9):
        region, data, _ = make(CONDITIONS[k], 120.0, 100)
        rest = [channel(region, m) for m in MEMBRANES]
        cases.append(
            (
                CONDITIONS[k].name.rstrip(" *"),
                remove_hot_pixels(data)[0],
                channel(region, "DNA1"),
                rest,
            )
        )
    for name, data, nuclear, rest in cases:
        planes = (data[nuclear], [data[c] for c in rest], (1.0, 1.0))
        found = {m: FUNCTIONS[m](*planes, SegmentParameters(method=m))[:2] for m in METHODS}
        plain = composite(data[nuclear], [data[c] for c in rest])
        side_by_side(folder / f"imc_{name.split(' ')[0].strip(',')}.png", name, plain, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=320.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[116, 117, 118])
    parser.add_argument(
        "--only", type=int, nargs="+", help="print the rows of these conditions only"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path)
    told = parser.parse_args()
    if told.pictures:
        pictures(told.pictures)
        return
    if told.only:
        table(told.size, told.seeds, tuple(CONDITIONS[k] for k in told.only))
        return
    rows = table(told.size, told.seeds, CONDITIONS)
    costs = [scores(CONDITIONS[0], m, 1000.0, told.seeds[0])[-1] for m in METHODS]
    seeds = ", ".join(map(str, told.seeds))
    text = "\n".join([
        "# IMC cells: the network and the classical path",
        "",
        f"Mean ± standard deviation over regions of {told.size:g} x {told.size:g} pixels (seeds {seeds}), simulated truth. "
        "* lies outside of what the training varied. Wanted of the network: F1 >= 0.85 (nuclei), >= 0.80 (cells). "
        "The simulator is the one that the training's scenes come from: tissue of its kinds, not a microscope's.",
        "",
        *rows,
        "",
        f"CPU seconds for 1000 x 1000 pixels and 5 channels: network {costs[0]:.1f}, classical {costs[1]:.1f}.",
        "",
        "Nuclei found in noise (none is right), 512 x 512 pixels:",
        "",
        *nothing(),
        "",
    ])  # fmt: skip
    print(text)
    if told.out:
        told.out.write_text(text)


if __name__ == "__main__":
    main()
