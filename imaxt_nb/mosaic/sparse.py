from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray
from scipy import ndimage as ndi

from .offsets import FINE_HIGH_PASS, Offset, matching
from .search import COARSE_BLUR, SHARE_BOX, Floats, Search, find_peaks, share
from .strips import Pixels, Strip

GAIN_ERROR, SLOPE = 0.1, 0.1  # of what one tile shows against the other; its change over 100 px
MARGIN_PX, LEAST_SHARE = 31, 0.3
Slices = tuple[tuple[slice, slice], tuple[slice, slice]]


def _less_local(f: Pixels) -> Pixels:
    return f - ndi.uniform_filter(f, FINE_HIGH_PASS)


def content_box(a: Strip, b: Strip, at: Slices, sigma: float) -> Slices:
    """The part of the overlap `at` where both strips show something, with a margin."""
    shown: Any = np.float32(0)
    for c in range(len(a.values)):
        both: Any = np.float32(1)
        for s, k in zip((a, b), at, strict=True):
            band = _less_local(ndi.gaussian_filter(s.values[c][k], sigma, truncate=3))
            part = share(band, float(s.noise[c]) ** 2 / (4 * np.pi * sigma**2), SHARE_BOX * sigma)
            both = both if part is None else both * part
        shown = np.maximum(shown, both)
    if not np.ndim(shown) or shown.max() <= LEAST_SHARE:
        return at
    cut = []
    for axis, k in enumerate(at[0]):
        seen = np.flatnonzero(shown.max(axis=1 - axis) > LEAST_SHARE)
        cut.append((max(0, seen[0] - MARGIN_PX), min(k.stop - k.start, seen[-1] + 1 + MARGIN_PX)))
    one, two = (
        tuple(slice(k.start + lo, k.start + hi) for k, (lo, hi) in zip(s, cut, strict=True))
        for s in at
    )
    return (one[0], one[1]), (two[0], two[1])


def _view(
    s: Strip, at: tuple[slice, slice], margin: int, c: int, rest: Floats | None
) -> tuple[Pixels, Pixels]:
    """A channel at slices and `margin` px around, moved by `rest` px, with the weights of its pixels: 0 where there are none."""
    cut, pad = [], []
    for k, n in zip(at, s.values.shape[1:], strict=True):
        lo, hi = max(0, k.start - margin), min(n, k.stop + margin)
        cut.append(slice(lo, hi))
        pad.append((lo - k.start + margin, k.stop + margin - hi))
    box = (cut[0], cut[1])
    v = s.values[c][box]
    w = np.ones(v.shape, np.float32) if s.weight is None else s.weight[box]
    if rest is not None:
        v = ndi.shift(v, rest, order=3, mode="nearest")
        w = np.minimum(w, ndi.shift(np.ones_like(w), rest, order=1) > 0.99)
    return np.pad(v, pad), np.pad(w, pad).astype(np.float32)


@dataclass(frozen=True)
class _Scene:
    """What a tile shows, (y, x), smoothed, and its slopes (2, y, x); beyond its edge the other tile's."""

    band: Pixels
    slope: Pixels

    def columns(self, across: list[Pixels]) -> Pixels:
        """(5, n) how a difference of tiles answers to a displacement, a gain, and slopes of the gain."""
        own = [-self.slope[0], -self.slope[1], self.band, *(self.band * t for t in across)]
        return np.stack([k.ravel() for k in own])


def _scene(v: Pixels, w: Pixels, sigma: float, inner: Any) -> _Scene:
    soft = ndi.gaussian_filter(v * w, sigma, truncate=3)
    if w.min() < 1:
        soft /= np.maximum(ndi.gaussian_filter(w, sigma, truncate=3), 1e-3)
    gy, gx = np.gradient(soft)
    return _Scene(
        _less_local(soft[inner]), np.stack([_less_local(gy[inner]), _less_local(gx[inner])])
    )


@dataclass(frozen=True)
class _Normal:
    """A channel's equations of displacement, gain and its slopes: `n` (5, 5) free of noise, `y` (5,), `score` (5, 5), `noise` of a pixel."""

    a: _Scene
    b: _Scene
    columns: Pixels
    weight: Pixels
    n: Floats
    y: Floats
    score: Floats
    noise: float

    @property
    def project(self) -> Floats:
        """(2, 5) takes the gain out of what a displacement explains."""
        return np.hstack([np.eye(2), -np.linalg.solve(self.n[2:, 2:], self.n[2:, :2]).T])


def _normal(a: Strip, b: Strip, at: Slices, c: int, sigma: float, rest: Floats | None) -> _Normal:
    """Equations of one channel, b moved by `rest` px before."""
    m = int(np.ceil(3 * sigma)) + 1
    inner = (slice(m, -m),) * 2
    (p, wp), (q, wq) = _view(a, at[0], m, c, None), _view(b, at[1], m, c, rest)
    both = (wp * wq)[inner]
    q = q + np.float32((both * (p - q)[inner]).sum() / max(float(both.sum()), 1.0))
    seen = np.maximum(wp, wq)
    own = np.where(wq > wp, q, p), np.where(wp > wq, p, q)
    scenes = [_scene(v, seen, sigma, inner) for v in own]
    sharp = [_scene(v, seen, sigma / np.sqrt(2), inner) for v in own]
    weight, noise = both, np.square([a.noise[c], b.noise[c]], dtype=float)
    for scene, one in zip(scenes, noise, strict=True):
        part = share(scene.band, one / (4 * np.pi * sigma**2), SHARE_BOX * sigma)
        weight = weight if part is None else weight * part
    flat, total = weight.ravel(), max(float(weight.sum()), 1e-9)
    across = []
    for axis in range(2):
        t = np.arange(both.shape[axis], dtype=np.float32) / 100
        t -= np.float32(weight.sum(axis=1 - axis) @ t / total)
        across.append(t[:, None] if axis == 0 else t[None])
    x = (scenes[0].columns(across) + scenes[1].columns(across)) / 2
    cross = (sharp[0].columns(across) * flat) @ sharp[1].columns(across).T
    n = np.asarray(cross + cross.T, float) / 2
    own_k = np.arange(2, 5)
    prior = noise.sum() / np.array([GAIN_ERROR, SLOPE, SLOPE]) ** 2
    n[own_k, own_k] = np.maximum(n[own_k, own_k], 0) + prior
    y = (x * flat) @ _less_local((p - q)[inner] * both).ravel()
    score = (x * flat**2) @ x.T
    return _Normal(*scenes, x, weight, n, np.asarray(y, float), np.asarray(score, float), float(noise.sum()))


def _solve(parts: list[_Normal]) -> tuple[Floats, Floats] | None:
    """The displacement that is left and its information (2, 2); None if there is nothing to go by."""
    h, v = np.zeros((2, 2)), np.zeros(2)
    for k in parts:
        h += k.project @ k.n[:, :2] / k.noise
        v += k.project @ k.y / k.noise
    if np.linalg.eigvalsh(h)[0] <= 0:
        return None
    return np.linalg.solve(h, v), h


def sharpen(a: Strip, b: Strip, start: Floats, sigma: float, steps: int = 6) -> Offset | None:
    """The offset near `start`, right to some px, from every pixel that both strips show; None if there is none."""
    at, box, rest, h, parts = np.asarray(start, float), None, np.zeros(2), np.eye(2), list[_Normal]()
    for step in range(steps + 2):
        whole = np.round(at).astype(int)
        slices = matching(a, b, whole)
        if slices is None:
            return None
        slices = content_box(a, b, slices, sigma)
        left = at - whole if step and np.abs(rest).max() < 0.75 else None
        parts = [_normal(a, b, slices, c, sigma, left) for c in range(len(a.values))]
        found = _solve(parts)
        if found is None:
            return None
        rest, h = found
        base = whole if left is None else at
        at = base + np.clip(rest, -2, 2)
        if left is not None and np.abs(rest).max() < 0.2:
            return _describe(base, rest, h, parts, sigma)
    return None


def _describe(at: Floats, rest: Floats, h: Floats, parts: list[_Normal], sigma: float) -> Offset | None:
    """Covariance and agreement, channels added by their noise."""
    scores = np.zeros((2, 2))
    together = both = excess = structure = error = snr = chance = 0.0
    area = 4 * np.pi * sigma**2  # pixels that share their noise
    for k in parts:
        gains = np.linalg.solve(k.n[2:, 2:], k.y[2:] - k.n[2:, :2] @ rest)
        half = (gains @ k.columns[2:]).reshape(k.weight.shape) / 2
        p = k.a.band + np.tensordot(rest / 2, k.a.slope, 1) - half
        q = k.b.band - np.tensordot(rest / 2, k.b.slope, 1) + half
        w = k.weight / max(float(k.weight.sum()), 1e-9)
        p, q = p - (w * p).sum(), q - (w * q).sum()
        va, vb, cov = (float((w * z).sum()) for z in (p * p, q * q, p * q))
        noise = k.noise / area
        sa, sb = max(va - noise / 2, 1e-3 * va), max(vb - noise / 2, 1e-3 * vb)
        differ = max(va + vb - 2 * cov, noise)
        scarcity, by = float((w * w).sum()), 1 / (differ + 1e-12)
        scores += k.project @ k.score @ k.project.T / k.noise * differ / noise
        together += by * cov
        both += by * np.sqrt(sa * sb)
        excess += by * (va + vb - 2 * cov - noise)
        structure += by * sb
        error += by**2 * max(va * vb - sa * sb, 0) * area * scarcity
        chance += by**2 * noise**2 * area * scarcity
        snr += float(k.weight.sum()) / area * np.sqrt(sa * sb) / (noise / 2 + 1e-12)
    if both <= 0:
        return None
    inverse = np.linalg.inv(h)
    return Offset(
        at + rest, inverse @ scores @ inverse.T, together / both, float(np.sqrt(error)) / both,
        excess / structure, float(np.sqrt(snr)), float(np.sqrt(chance)) / structure,
    )  # fmt: skip


MISMATCH = 3.0  # by how much a difference of tiles speaks against a place more than what they share speaks for it
BLOCK = 64  # bins


def _above_background(view: Strip) -> Pixels:
    """(c, y, x) less the median of each stretch of `BLOCK` bins along the longer side, interpolated, and softened."""
    v = view.values if view.values.shape[2] >= view.values.shape[1] else view.values.transpose(0, 2, 1)
    n = max(1, v.shape[2] // BLOCK)
    edges = np.linspace(0, v.shape[2], n + 1).astype(int)
    middles, at = (edges[1:] + edges[:-1]) / 2, np.arange(v.shape[2])
    out = np.empty(v.shape, np.float32)
    for c, image in enumerate(v):
        level = [float(np.median(image[:, p:q])) for p, q in zip(edges[:-1], edges[1:], strict=True)]
        out[c] = image - np.interp(at, middles, level).astype(np.float32)
    out = out if view.values.shape[2] >= view.values.shape[1] else out.transpose(0, 2, 1)
    return np.asarray(ndi.gaussian_filter(out, (0, COARSE_BLUR, COARSE_BLUR), truncate=3))


def likeliest(a: Strip, b: Strip, plan: Search, centre: NDArray[np.int_]) -> list[Floats]:
    """Displacements in bins where binned strips show the same, and nothing that the other doesn't: the likeliest first."""
    total: Any = np.float32(0)
    one, two = _above_background(a), _above_background(b)
    wa, wb = (np.ones(s.values.shape[1:], np.float32) if s.weight is None else s.weight for s in (a, b))
    fwa, fwb = sf.rfft2(wa, plan.shape), sf.rfft2(wb, plan.shape)
    for c in range(len(one)):
        p, q = one[c] * wa, two[c] * wb
        noise = float(a.noise[c] ** 2 + b.noise[c] ** 2) / (8 * np.pi * COARSE_BLUR**2)
        fp, fq = sf.rfft2(p, plan.shape), sf.rfft2(q, plan.shape)
        power = sf.rfft2(p * p, plan.shape) * fwb.conj() + fwa * sf.rfft2(q * q, plan.shape).conj()
        same = (1 + MISMATCH) * fp * fq.conj() - MISMATCH / 2 * power + MISMATCH * noise * fwa * fwb.conj()
        total = total + same / noise
    z = sf.irfft2(total, plan.shape)
    return [k.displacement for k in find_peaks(z, centre, plan.reach // plan.bins + 1, most=2)]
