"""A small sample of raw tiles with known places, for tests of the mosaic's rendering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.store import Sample
from imaxt_nb.sample.tiles import RawTiles, TileHeader, create_tiles

PIXEL_UM, STEP_UM = 0.5, 15.0


def scene(y_px: np.ndarray, x_px: np.ndarray, channel: int, section: int) -> np.ndarray:
    """Counts at canvas-independent pixel coordinates."""
    return 2000 + 800 * np.sin(y_px / 9 + channel) * np.cos(x_px / 11 + section) + x_px


def tile_sample(
    root: Path,
    *,
    sections: int = 3,
    n: int = 120,
    grid: int = 2,
    channels: int = 2,
    planes: int = 1,
    lost: tuple[tuple[int, int, int], ...] = (),
) -> tuple[Sample, RawTiles, pd.DataFrame]:
    """Sample, raw tiles and their true places; `lost`: (section, tile, channel) images that are missing."""
    rng = np.random.default_rng(1)
    sample = Sample.create("toy", str(root))
    names = [Channel(f"ch{c}") for c in range(channels)]
    header = TileHeader(
        "stpt",
        names,
        (PIXEL_UM, PIXEL_UM),
        (n, n),
        np.dtype("uint16"),
        n_planes=planes,
        plane_step_um=STEP_UM / planes,
        section_step_um=STEP_UM,
    )
    yy, xx = np.mgrid[0:n, 0:n].astype(float)
    row, column = (a.ravel() for a in np.mgrid[0:grid, 0:grid])
    tables = []
    with create_tiles(sample.path("raw", "stpt.zarr"), header, "key") as writer:
        for number in range(1, sections + 1):
            at = np.column_stack([row, column]) * (n - 16) + rng.normal(0, 1.5, (grid**2, 2))
            draft = writer.begin(number, grid**2)
            for tile, (r, c) in enumerate(at):
                for plane in range(planes):
                    images = [
                        None
                        if (number, tile, k) in lost
                        else np.round(scene(yy + r, xx + c, k, number)).astype(np.uint16)
                        for k in range(channels)
                    ]
                    draft.put(tile, plane, images)
            table = pd.DataFrame({"tile": range(grid**2), "row": row, "column": column})
            table[["stage_y_um", "stage_x_um"]] = at * PIXEL_UM
            table["stage_from"] = "file"
            draft.commit(table, z_um=STEP_UM * number, notes=[], metadata={}, sources={})
            tables += [table.assign(section=number, plane=p) for p in range(planes)]
        writer.finish("key", {})
    tiles = pd.concat(tables, ignore_index=True)
    tiles = tiles.assign(x_um=tiles["stage_x_um"], y_um=tiles["stage_y_um"], status="registered")
    return sample, RawTiles.open(sample.path("raw", "stpt.zarr")), tiles
