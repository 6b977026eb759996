"""Leiden's clusters against the simulated types of cells, on true and on found masks.

Run: python benchmarks/imc_clusters.py [--seeds 100 101 ...]   (about 20 s a region)
Writes benchmarks/results_imc_clusters.md. Defaults were tuned on seeds below 100 only.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from imaxt_nb.analysis.cluster import cluster_cells
from imaxt_nb.analysis.neighbourhoods import enrich
from imaxt_nb.analysis.parameters import AnalysisParameters
from imaxt_nb.analysis.tables import cells_anndata
from imaxt_nb.cells.measure import measure
from imaxt_nb.cells.parameters import SegmentParameters
from imaxt_nb.cells.segment import segment_region
from imaxt_nb.core.files import digest_path
from imaxt_nb.sample.channels import Channel
from imaxt_nb.simulate.imc import simulate_region

SIZE_UM = (700.0, 700.0)
SEGMENT = SegmentParameters(
    nuclear_channel="DNA2", membrane_channels=["CD45", "ECadherin"], method="classical"
)


def true_types(
    found: np.ndarray, ids: np.ndarray, truth: np.ndarray, types: list[str]
) -> pd.Series:
    """The type of the true cell that covers most of each found cell; None where that is none."""
    pairs = pd.DataFrame({"found": found.ravel(), "true": truth.ravel()})
    counts = pairs[pairs["found"] > 0].value_counts().reset_index()
    most = counts.drop_duplicates("found").set_index("found")["true"].reindex(ids)
    return pd.Series([types[int(k) - 1] if k > 0 else None for k in most], index=ids)


def tables(seed: int, channels: int | None) -> dict[str, Any]:
    """Tables of a simulated region with `obs["type"]`, by masks."""
    region = simulate_region(SIZE_UM, channels=channels, seed=seed)
    pixel_um = region.tissue.pixel_um
    panel = [Channel(m.name, m.metal, m.mass, m.label) for m in region.markers]
    done = segment_region(region.data, panel, pixel_um, SEGMENT)
    truth = measure(done.data, region.nuclei, region.cells, pixel_um)
    result = {}
    for name, cells, m in (("true", region.cells, truth), ("found", done.cells, done.measurements)):
        table = cells_anndata(f"seed{seed}", {"a": m}, panel)
        ids = table.obs["cell_id"].to_numpy()
        table.obs["type"] = true_types(cells, ids, region.cells, region.types).to_numpy()
        result[name] = table
    return result


def same_twice(table: Any, p: AnalysisParameters) -> bool:
    """Are two analyses of a table the same bytes?"""
    digests = set()
    for _ in range(2):
        done = cluster_cells(table, p)
        enrich(done, p)
        with tempfile.TemporaryDirectory() as folder:
            done.write_h5ad(Path(folder, "cells.h5ad"))
            digests.add(digest_path(Path(folder, "cells.h5ad")))
    return len(digests) == 1


def main(seeds: list[int]) -> None:
    warnings.filterwarnings("ignore")
    lines = [
        "| seed | channels | masks | cells | with a type | types | clusters | ARI | ARI, `exclude_markers=[]` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    p, everything = AnalysisParameters(), AnalysisParameters(exclude_markers=[])
    for n, seed in enumerate(seeds):
        channels = 40 if n % 3 == 2 else None
        for masks, table in tables(seed, channels).items():
            known = table.obs["type"].notna().to_numpy()
            kinds = table.obs["type"][known]
            one, two = (cluster_cells(table, q).obs["leiden"] for q in (p, everything))
            ari, ari_all = (adjusted_rand_score(kinds, found[known]) for found in (one, two))
            lines.append(
                f"| {seed} | {table.n_vars} | {masks} | {table.n_obs:,} | {known.mean():.3f} | "
                f"{kinds.nunique()} | {len(one.cat.categories)} | {ari:.3f} | {ari_all:.3f} |"
            )
            print(lines[-1], flush=True)
    same = "yes" if same_twice(table, p) else "NO"
    lines += [
        "",
        f"Analysed twice (last table): the same bytes: {same}. Python {platform.python_version()}.",
    ]
    print(lines[-1])
    Path(__file__).with_name("results_imc_clusters.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104, 105])
    main(parser.parse_args().seeds)
