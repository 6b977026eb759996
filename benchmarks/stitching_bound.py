"""The least error that any program could have on the scenarios of `stitching_positions.py` (Cramér-Rao bound).

    python benchmarks/stitching_bound.py --prototypes FOLDER --scenarios main hard --seeds 100 101 102

FOLDER holds the generator `make_data.py`. Of every pair of neighbours the Fisher information of their displacement is
the sum over the overlap of g g^T / (v_a + v_b): g is the gradient (y, x) of the noise-free scene, v the variance of
either tile's flat-fielded pixel (photons and read noise, both known here). Informations of all pairs and the stage's
own (its r.m.s. error) add up to that of all places; its inverse, after one common shift of the tied tiles, bounds the
covariance of unbiased places. The worst tile is a maximum, so draws from that covariance say what it is at best.
Where four tiles meet pixels count twice, and the flat field is known: the bound is a little too low.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
BAR = {"hard": 3.0}  # of the worst tile, px; 1 elsewhere
TIED = 30  # `info` above which the prototypes' score calls an overlap structured


def variance(clean: NDArray[Any], flat: NDArray[Any], read: float) -> NDArray[Any]:
    """Variance of flat-fielded pixels in photons^2."""
    return np.asarray(np.clip(clean, 0, None) / flat + (read / flat) ** 2)


def information(a: int, b: int, clean: NDArray[Any], truth: Any, read: float) -> NDArray[Any]:
    """Fisher information (2, 2; y, x; 1/px^2) of the displacement between two tiles."""
    side = clean.shape[1]
    dy, dx = np.round(truth["true"][b] - truth["true"][a]).astype(int)
    of_a = np.s_[max(dy, 0) : side + min(dy, 0), max(dx, 0) : side + min(dx, 0)]
    of_b = np.s_[max(-dy, 0) : side + min(-dy, 0), max(-dx, 0) : side + min(-dx, 0)]
    scene = np.asarray(clean[a][of_a], np.float64)
    weight = 1 / (
        variance(scene, truth["ff"][of_a], read) + variance(scene, truth["ff"][of_b], read)
    )
    g = np.stack(np.gradient(scene))
    return np.asarray(np.einsum("iyx,jyx,yx->ij", g, g, weight, optimize=True))


def tied_tiles(n: int, edges: NDArray[Any], structured: NDArray[Any]) -> NDArray[np.bool_]:
    """The largest set that structured overlaps tie together, as the prototypes' score finds it."""
    label = np.arange(n)
    for _ in range(n):
        for a, b in edges[structured]:
            label[a] = label[b] = min(label[a], label[b])
    return np.asarray(label == np.bincount(label).argmax())


def bound(data: Path) -> dict[str, float]:
    """Best median, best worst tile (median and 95 % of draws) and the largest r.m.s. error of a tile, px."""
    about = json.loads((data / "params.json").read_text())
    truth = np.load(data / "truth.npz")
    clean = np.load(data / "clean.npy", mmap_mode="r")
    n = len(truth["true"])
    stage = about["jitter"] ** -2
    whole = np.eye(2 * n) * stage
    for a, b in truth["edges"]:
        part = information(a, b, clean, truth, about["read"] / about["gain"])
        for i, j, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            whole[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += sign * part
    tied = tied_tiles(n, truth["edges"], truth["info"] > TIED)
    draws = np.random.default_rng(0).multivariate_normal(
        np.zeros(2 * n), np.linalg.inv(whole), DRAWS
    )
    miss = draws.reshape(DRAWS, n, 2)[:, tied]
    miss -= np.median(miss, axis=1, keepdims=True)
    error = np.hypot(miss[..., 0], miss[..., 1])
    return {
        "tied": int(tied.sum()),
        "median": float(np.median(error)),
        "rms": float(np.sqrt((error**2).mean(0)).max()),
        "worst": float(np.median(error.max(1))),
        "worst95": float(np.percentile(error.max(1), 95)),
        "within": float((error.max(1) <= BAR.get(about["scenario"], 1.0)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prototypes", type=Path, required=True)
    parser.add_argument("--scenarios", nargs="+", default=["main", "hard"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    a = parser.parse_args()
    print(
        "| scenario | seed | tied tiles | median px, at best | worst tile at best, px: half, 95 % of draws | draws within the bar | r.m.s. error of the worst-tied tile, px |"
    )
    print("|---|---|---|---|---|---|---|")
    for scenario in a.scenarios:
        for seed in a.seeds:
            with tempfile.TemporaryDirectory() as folder:
                make = [
                    sys.executable,
                    str(a.prototypes / "make_data.py"),
                    folder,
                    "--scenario",
                    scenario,
                    "--seed",
                    str(seed),
                ]
                subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
                b = bound(Path(folder))
            print(
                f"| {scenario} | {seed} | {b['tied']} | {b['median']:.4f} | {b['worst']:.2f}, {b['worst95']:.2f} | {b['within']:.0%} | {b['rms']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
