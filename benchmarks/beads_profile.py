"""Centre error of fitted beads against S/N, with the Cramer-Rao bound (paper, Fig. 15).

    python benchmarks/beads_profile.py [--beads 150] [--seed 100] [--figure FILE] [--out FILE]

Images don't come from the library's model: the chord of a sphere in an attenuated layer is sampled at a quarter of a
pixel, blurred by a Gaussian in two dimensions, summed into pixels, and given Poisson and read noise. The bound is computed from
these images by differences. S/N is that of one pixel inside the bead. Parameters were chosen on seeds below 100.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from imaxt_nb.beads.model import Optics
from imaxt_nb.beads.profile import Camera, fit_beads
from imaxt_nb.core.compute import rng

PIXEL, FINE, GAIN, READ = 0.56, 4, 4.0, 1.5  # um, samples a pixel, counts a photon, photons
OPTICS = Optics(thickness_um=4, attenuation_um=100, blur_um=0.7)
SNRS = (0.7, 1, 1.5, 2, 3, 5, 10, 20)


def bead_image(x, y, radius, u, size):
    """Expected brightness (size, size), 1 where the layer is full, pixels integrated."""
    step = PIXEL / FINE
    at = (np.arange(size * FINE) + 0.5) * step - PIXEL / 2
    half = np.sqrt(np.maximum(radius**2 - (at - x) ** 2 - (at[:, None] - y) ** 2, 0))
    t, rate = OPTICS.thickness_um, np.log(10) / OPTICS.attenuation_um
    low, high = np.maximum(-t / 2, u - half), np.minimum(t / 2, u + half)
    light = np.where(high > low, np.exp(-rate * low) - np.exp(-rate * high), 0)
    light /= np.exp(rate * t / 2) - np.exp(-rate * t / 2)
    soft = gaussian_filter(light, OPTICS.blur_um / step, truncate=6)
    return soft.reshape(size, FINE, size, FINE).mean((1, 3))


def photons_for(snr):
    """Photons of bead and background (0.4 of it) that give this S/N a pixel."""
    a = (1.4 * snr**2 + np.sqrt((1.4 * snr**2) ** 2 + 4 * snr**2 * READ**2)) / 2
    return a, 0.4 * a


def one(random, snr):
    """(error x, error y, bound, x error by the fit, y error by the fit, flag, CPU s) of a bead."""
    radius, u = max(20, random.normal(45, 5)), 0.0
    u = random.uniform(-0.9, 0.9) * radius
    size = 2 * int(1.6 * radius / PIXEL) + 20
    x, y = size / 2 * PIXEL + random.uniform(-1, 1, 2)
    a, b = photons_for(snr)
    f = bead_image(x, y, radius, u, size)
    slope = (
        bead_image(x + 0.1, y, radius, u, size) - bead_image(x - 0.1, y, radius, u, size)
    ) / 0.2
    bound = 1 / np.sqrt(((a * slope) ** 2 / (a * f + b + READ**2)).sum())
    image = GAIN * (random.poisson(a * f + b) + random.normal(0, READ, f.shape))
    first = np.array([[x, y, np.sqrt(radius**2 - u**2)]]) + random.normal(0, 3, (1, 3))
    began = time.process_time()
    fit = fit_beads(
        image, first, pixel_um=(PIXEL, PIXEL), optics=OPTICS, camera=Camera(GAIN, GAIN * READ)
    ).iloc[0]
    spent = time.process_time() - began
    return fit.x_um - x, fit.y_um - y, bound, fit.x_um_err, fit.y_um_err, fit.flag == "ok", spent


def figure(rows, path):
    """Median error, median bound and bound x 1.3 against S/N."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    snr, error, bound = (np.array([r[k] for r in rows]) for k in (0, 1, 2))
    fig, ax = plt.subplots(figsize=(5, 3.2))
    ax.loglog(snr, error, "o-", label="fitted, r.m.s. of x and y")
    ax.loglog(snr, bound, "k--", label="Cramér-Rao bound")
    ax.fill_between(snr, bound, 1.3 * bound, color="0.85", label="to 1.3 times the bound")
    ax.set(xlabel="S/N of a pixel inside the bead", ylabel="error of the centre (µm)")
    ax.legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--beads", type=int, default=100)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    one(rng(0, "compile"), 5)
    rows, spent = [], []
    for snr in SNRS:
        random = rng(args.seed, "profile", str(snr))
        found = np.array([one(random, snr) for _ in range(args.beads)], dtype=float)
        good = found[found[:, 5] == 1]
        spent.append(found[:, 6].mean())
        errors, bound = good[:, :2], good[:, 2:3]
        rms = np.sqrt((errors**2).mean())
        pulls = errors / good[:, 3:5]
        bound_rms = np.sqrt((bound**2).mean())
        median = np.median(np.hypot(*errors.T))
        print(
            f"S/N {snr:g}: {rms:.3f} um, bound {bound_rms:.3f}, pulls {pulls.std():.2f}, {len(good)} of {len(found)}",
            flush=True,
        )
        rows.append(
            (snr, rms, bound_rms, rms / bound_rms, median, pulls.std(), len(good) / len(found))
        )
    lines = [
        "| S/N | r.m.s. error of x, y (um) | bound (um) | ratio | median distance (um) | width of pulls | fitted |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {s:g} | {e:.3f} | {b:.3f} | {q:.2f} | {m:.3f} | {p:.2f} | {n:.1%} |"
        for s, e, b, q, m, p, n in rows
    ]
    lines.append(f"\n{args.beads} beads a row; {1e3 * np.mean(spent):.0f} ms of CPU a bead.")
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
