"""Outlines of several segmentations over the same counts, side by side; what the IMC benchmarks draw with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENLARGED = 4  # times, so that outlines hide little


def side_by_side(
    file: Path,
    title: str,
    plain: NDArray[np.uint8],
    found: Mapping[str, tuple[NDArray[np.integer], NDArray[np.integer]]],
    dpi: int = 70,
) -> None:
    """Write `plain` (y, x, 3), then the same with each method's nuclei and cells (y, x) outlined."""
    import matplotlib.pyplot as plt

    from imaxt_nb.cells.plots import CELL_COLOUR, NUCLEUS_COLOUR, outlines

    def large(image: NDArray) -> NDArray:
        return image.repeat(ENLARGED, 0).repeat(ENLARGED, 1)

    fig, axes = plt.subplots(1, len(found) + 1, figsize=(5 * len(found) + 5, 5.3))
    for ax, (name, labels) in zip(axes, [("counts", None), *found.items()], strict=True):
        shown = large(plain)
        if labels is not None:
            nuclei, cells = labels
            shown[outlines(large(cells))] = CELL_COLOUR
            shown[outlines(large(nuclei))] = NUCLEUS_COLOUR
        ax.imshow(shown)
        ax.set_title(f"{title}: {name}", fontsize=9)
        ax.set_axis_off()
    fig.tight_layout()
    fig.savefig(file, dpi=dpi)
    plt.close(fig)
