"""Nuclei of a whole slide: processor time against the network's own, memory of a worker, labels for other tiles.

    python benchmarks/nuclei_slide.py [--side 10000] [--tiles 2880] [--compare 512 1024 2048 --part 3072] [--out FILE]
    python benchmarks/nuclei_slide.py --stardist 1024 [--side 10000]      # StarDist's predict_instances_big with the same network

The slide is made of drawn nuclei (500 on 1000 x 1000 pixels, some of which overlap: 50,000 on 10,000 x 10,000). The network's own time is that of the shipped network
on the slide's pixels in windows of 1024 without any overlap, one after another, measured on some of them (afterwards, so that the memory is the slide's). Reading, scaling (none is needed here), halo,
suppression, painting, pyramid and measuring are what comes on top.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from imaxt_nb.cells.augment import as_input
from imaxt_nb.cells.slide_labels import decide, label_array
from imaxt_nb.cells.slide_nuclei import NucleiParameters, find_edges, nuclei_sample, slide_plane
from imaxt_nb.cells.slide_plane import SlidePlane, slide_levels
from imaxt_nb.cells.slide_tiles import TILE_PX, propose, star_network
from imaxt_nb.networks.tiles import predict_block
from imaxt_nb.networks.unet import quiet_tensorflow
from imaxt_nb.networks.weights import load_model
from imaxt_nb.sample.channels import Channel
from imaxt_nb.sample.store import Sample


def draw(side, seed=0):
    """uint16 (y, x): ellipses of 14 to 24 px, 45 px of area root apart on average, uneven, with noise."""
    random = np.random.default_rng(seed)
    block = 1000
    image = np.empty((side, side), np.uint16)
    yy, xx = np.mgrid[:64, :64] - 32.0
    for y0 in range(0, side, block):
        for x0 in range(0, side, block):
            h, w = min(block, side - y0), min(block, side - x0)
            light = np.zeros((h + 64, w + 64), np.float32)
            n = random.poisson(500 * h * w / block**2)
            for y, x in random.integers(0, (h, w), (n, 2)):
                a, b, t = *random.uniform(7, 12, 2), random.uniform(0, np.pi)
                u = (yy * np.cos(t) + xx * np.sin(t)) / a
                v = (xx * np.cos(t) - yy * np.sin(t)) / b
                spot = 1 / (1 + np.exp(np.clip((u * u + v * v - 1) * 5, -30, 30)))
                part = light[y : y + 64, x : x + 64]
                np.maximum(part, spot * random.uniform(300, 900), out=part)
            counts = 100 + light[32 : 32 + h, 32 : 32 + w]
            image[y0 : y0 + h, x0 : x0 + w] = random.poisson(counts)
    return image


def network_seconds(name, plane, side, windows=8):
    """Processor time a pixel of the network alone, whole windows of `side` without overlap."""
    model, card = load_model(name)
    side = min(side, min(plane.shape) // card.config.multiple * card.config.multiple)
    boxes = [
        (slice(0, side), slice(k * side, (k + 1) * side))
        for k in range(min(windows, plane.shape[1] // side))
    ]
    parts = [as_input(plane.read(b)) for b in boxes]
    predict_block(model, parts[0], card.config)
    began = time.process_time()
    for part in parts:
        predict_block(model, part, card.config)
    return (time.process_time() - began) / sum(p[..., 0].size for p in parts)


def stardist_big(image, block):
    """Labels by StarDist's own `predict_instances_big` with the shipped network in it; seconds of processor, of clock."""
    import keras
    from stardist.models import Config2D, StarDist2D

    model, card = load_model("nuclei")
    theirs = StarDist2D(Config2D(n_rays=32, grid=(2, 2), n_channel_in=2), name=None, basedir=None)
    answers = model(model.inputs[0])
    theirs.keras_model = keras.Model(model.inputs, [answers["prob"], answers["dist"]])
    limits = {
        "prob_thresh": card.thresholds["prob"], "nms_thresh": card.thresholds["overlap"],
    }  # fmt: skip
    plane = SlidePlane((image,), None, 1.0, top=3.0)
    plane = replace(plane, levels=slide_levels(plane))
    began, wall = time.process_time(), time.monotonic()
    seen = as_input(plane.read((slice(0, image.shape[0]), slice(0, image.shape[1]))))
    labels, _ = theirs.predict_instances_big(
        seen, axes="YXC", block_size=block, min_overlap=128, context=96, show_progress=False, **limits,
    )  # fmt: skip
    return labels, time.process_time() - began, time.monotonic() - wall


def versus_stardist(side, block, out):
    """Print what StarDist's loop takes on a slide, alone in this process."""
    labels, spent, wall = stardist_big(draw(side), block)
    n = len(np.unique(labels)) - 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    text = f"predict_instances_big, {side} x {side} px, blocks of {block}: {n} nuclei, {spent:.0f} s of processor, {wall:.0f} s of clock, {peak:.2f} GB"
    print(text)
    if out:
        out.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--stardist", type=int, help="only StarDist's own loop, with blocks of this side"
    )
    parser.add_argument("--side", type=int, default=10000)
    parser.add_argument("--tiles", type=int, default=TILE_PX)
    parser.add_argument("--compare", type=int, nargs="*", default=[])
    parser.add_argument("--part", type=int, default=3072)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.stardist:
        versus_stardist(args.side, args.stardist, args.out)
        return
    with tempfile.TemporaryDirectory() as home:
        sample = Sample.create("S", home)
        image = draw(args.side)
        sample.write_image(
            "axioscan_s1",
            image[None, None],
            axes="czyx",
            pixel_um=(1, 0.45, 0.45),
            channels=[Channel("DAPI")],
        )
        del image
        network = star_network("nuclei")
        told = NucleiParameters(tile_px=args.tiles, nucleus_um=22 * 0.45)
        plane = replace(slide_plane(sample, sample.image("axioscan_s1"), "DAPI"), top=network.top)
        began, wall = time.process_time(), time.monotonic()
        quiet_tensorflow()
        loading = time.process_time() - began
        result = nuclei_sample(sample, network, told, "k")["s1"]
        spent, wall = time.process_time() - began, time.monotonic() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        own = network_seconds("nuclei", plane, 1024) * args.side**2
        lines = [
            f"{args.side} x {args.side} px, tiles of {args.tiles}: {result.n_cells} nuclei",
            f"processor time {spent:.0f} s ({wall:.0f} s of clock), the network alone {own:.0f} s: {spent / own:.2f} x",
            f"of which importing TensorFlow took {loading:.1f} s: {(spent - loading) / own:.2f} x without it",
            f"highest memory of the process {peak:.2f} GB",
        ]
        part = (args.part, args.part)
        small = replace(
            plane,
            pyramid=[np.asarray(plane.pyramid[0][: args.part, : args.part])],
            confidence=None,
        )
        seen, edges = {}, find_edges(small, 22.0)
        for tile in args.compare:
            found, _ = propose(network, small, f"{home}/{tile}", tile)
            stars = decide(found, network.overlap, 1.0)
            seen[tile] = label_array(stars, part, edges, tile // 2).compute()
        if seen:
            first = next(iter(seen.values()))
            same = all(np.array_equal(first, v) for v in seen.values())
            lines.append(
                f"labels of {args.part} x {args.part} px, {first.max()} nuclei, tiles {list(seen)}: {'identical' if same else 'NOT identical'}"
            )
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
