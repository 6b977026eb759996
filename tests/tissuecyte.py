"""Small TissueCyte folders for tests: written here by the format's description, not by our simulator."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import tifffile

SIZE = (24, 32)
DATE, PREFIX = "10/7/2019 3:04:05 PM", "10072019-1504"


def tile_image(section: int, tile: int, plane: int, channel: int) -> np.ndarray:
    """A tile that differs from every other, uint16."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    mark = 1000 * section + 100 * channel + 10 * tile + plane
    return (mark + 3 * y + (x * (tile + 1)) % 7).astype("uint16")


def mosaic_text(
    section: int, grid: tuple[int, int], channels: int, planes: int, sections: int, **keys: object
) -> str:
    """A Mosaic file: serpentine along rows, stage x down the rows with its sign flipped."""
    rows, columns = grid
    base: dict[str, object] = {
        "Sample ID": "TT1",
        "acqDate": DATE,
        "rows": SIZE[0],
        "columns": SIZE[1],
        "layers": planes,
        "Zscan": int(planes > 1),
        "mrows": rows,
        "mcolumns": columns,
        "mrowres": 10.8,
        "mcolumnres": 14.4,
        "sections": sections,
        "channels": channels,
        "xres": 0.5,
        "yres": 0.5,
        "zres": 3.5,
        "sectionres": 15,
    }
    lines = [f"{k}:{v}" for k, v in (base | keys).items() if v is not None]
    for tile in range(rows * columns if section else 0):
        row, step = divmod(tile, columns)
        column = columns - 1 - step if row % 2 else step
        lines += [f"XPos-{108}:{50000 - 108 * row}", f"YPos{144}:{20000 + 144 * column + section}"]
    return "\n".join(lines) + "\n"


def write_tissuecyte(
    root: Path,
    *,
    sections: int = 2,
    grid: tuple[int, int] = (2, 3),
    channels: int = 2,
    planes: int = 1,
    files_planes: int | None = None,
    planned: int | None = None,
    gz: bool = False,
    **keys: object,
) -> Path:
    """Write a sample; `keys` replace keys of the Mosaic files, or remove them with None."""
    root.mkdir(parents=True)
    n, layers = grid[0] * grid[1], planes if files_planes is None else files_planes
    rest = (grid, channels, planes, planned or sections)
    (root / "Mosaic_TT1.txt").write_text(mosaic_text(0, *rest, **keys))
    for section in range(1, sections + 1):
        folder = root / f"TT1-{section:04d}"
        folder.mkdir()
        (folder / f"Mosaic_{folder.name}.txt").write_text(mosaic_text(section, *rest, **keys))
        for plane, tile, channel in np.ndindex(layers, n, channels):
            file = tile_path(root, section, tile, plane, channel, n, layers)
            tifffile.imwrite(file, tile_image(section, tile, plane, channel))
            if gz:
                packed = file.with_name(file.name + ".gz")
                packed.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
                file.unlink()
    return root


def tile_path(
    root: Path,
    section: int,
    tile: int,
    plane: int = 0,
    channel: int = 0,
    n: int = 6,
    planes: int = 1,
) -> Path:
    """The file of an image; `channel` counts from 0."""
    index = n * planes * (section - 1) + plane * n + tile
    return root / f"TT1-{section:04d}" / f"{PREFIX}-{index}_{channel + 1:02d}.tif"


def edit_mosaic(root: Path, section: int, old: str, new: str) -> None:
    """Replace text in the Mosaic file of a section."""
    file = root / f"TT1-{section:04d}" / f"Mosaic_TT1-{section:04d}.txt"
    text = file.read_bytes().decode("latin-1")
    assert old in text
    file.write_bytes(text.replace(old, new).encode("latin-1"))
