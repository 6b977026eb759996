"""Detections on real fluorescent beads, by network and classical: a picture to judge by eye, for there is no truth.

    python benchmarks/beads_real.py FOLDER [--weights beads] [--figure FILE]

FOLDER: `beads_cy5` of the shared data (biopixR, LGPL). Its beads are about 30 pixels in radius in the fields of `Images/analysis`; fields are brought to the pixels on which
the mean bead has the 11 pixels that the detectors are made for, and nothing else is told.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import resize

from imaxt_nb.beads.detect import COARSE_UM, find_candidates
from imaxt_nb.beads.network import RADIUS_PX, network_candidates
from imaxt_nb.beads.sample import BeadParameters

RADII_PX = {"analysis": 30.0, "beads_large1": 6.5}


def fields(folder):
    """(name, image on the detectors' pixels)."""
    paths = [
        *sorted((folder / "Images" / "analysis").glob("*.bmp")),
        folder / "Images" / "beads_large1.bmp",
    ]
    for path in paths:
        image = np.asarray(Image.open(path).convert("F"))
        zoom = RADIUS_PX / RADII_PX["analysis" if path.parent.name == "analysis" else path.stem]
        shape = tuple(round(n * zoom) for n in image.shape)
        yield (
            path.stem[:8],
            resize(image, shape, order=1, anti_aliasing=zoom < 1, preserve_range=True),
        )


def main() -> None:
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="beads")
    parser.add_argument("--figure", type=Path, default=Path("beads_real.png"))
    args = parser.parse_args()
    radii, shown = BeadParameters().radii_um, list(fields(args.folder))
    fig, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.4), layout="constrained")
    for ax, (name, image) in zip(axes, shown, strict=True):
        found = {
            "classical": (find_candidates(image, COARSE_UM, radii_um=radii), "magenta"),
            "network": (
                network_candidates(image, COARSE_UM, radii_um=radii, weights=args.weights),
                "yellow",
            ),
        }
        ax.imshow(np.sqrt(image), cmap="gray")
        for beads, colour in found.values():
            for x, y, r in beads / COARSE_UM:
                ax.add_patch(
                    plt.Circle(
                        (x, y),
                        r * (1.12 if colour == "magenta" else 1),
                        fill=False,
                        ec=colour,
                        lw=0.8,
                    )
                )
        counts = ", ".join(f"{k} {len(b)}" for k, (b, _) in found.items())
        ax.set(title=f"{name}: {counts}", xticks=[], yticks=[])
        print(name, counts)
    fig.savefig(args.figure, dpi=70)


if __name__ == "__main__":
    main()
