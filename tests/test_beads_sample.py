"""The steps stpt/beads and stpt/align on small cubes: chunks, interruption, and input that is bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from imaxt_nb.archive.prepare import Request, prepare
from imaxt_nb.beads import sample as steps
from imaxt_nb.beads.align_sample import AlignParameters, find_shifts
from imaxt_nb.beads.camera import estimate_camera
from imaxt_nb.beads.catalogue import fit_plane
from imaxt_nb.beads.detect import find_candidates
from imaxt_nb.beads.model import Optics, profile
from imaxt_nb.beads.sample import BeadParameters, bead_metrics, detect_sample
from imaxt_nb.beads.tile_errors import tile_groups
from imaxt_nb.beads.volume import write_volume
from imaxt_nb.core.compute import rng
from imaxt_nb.core.errors import BadInput
from imaxt_nb.sample.store import Sample

BALLS = [(150, 170, 12, 46), (420, 130, 3, 42), (150, 430, 20, 48), (430, 440, 8, 44)]  # x, y, z, R
STEP, SIDE = 15.0, 560


def section(
    z: float, shift: tuple[float, float] = (0, 0), balls: Any = BALLS, seed: int = 1
) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE] * 1.0
    light = np.full(rows.shape, 10.0)
    for x, y, d, r in balls:
        rho = np.hypot(columns - x - shift[0], rows - y - shift[1])
        light += 30 * profile(rho, r**2 - (d - z) ** 2, d - z, Optics())[:, 0].reshape(rows.shape)
    return (8 * rng(seed, "section", str(z)).poisson(light)).astype(np.uint16)


def make(
    root: Path, planes: list[np.ndarray], absent: tuple[int, ...] = (), **options: Any
) -> Sample:
    sample = Sample.create("S", str(root))
    rows = [
        {
            "z": k,
            "section": k + 1,
            "plane": 0,
            "z_um": STEP * k,
            "status": "absent" if k in absent else "ok",
        }
        for k in range(len(planes))
    ]
    options = {"attrs": {"imaxt": {"planes": rows}}} | options
    sample.write_image(
        "stpt", np.stack(planes)[None], axes="czyx", pixel_um=(STEP, 1, 1), **options
    )
    return sample


def quiet(_: str) -> None:
    return None


def test_the_catalogue_does_not_depend_on_chunks_or_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dask.array as da

    from imaxt_nb.beads import catalogue

    plane = section(15.0)
    coarse = plane.reshape(140, 4, 140, 4).mean((1, 3))
    whole = find_candidates(coarse, 4.0)
    assert len(whole) == 4
    assert np.array_equal(
        whole, find_candidates(da.from_array(coarse, chunks=31), 4.0, block_px=37)
    )
    guesses = whole + np.array([1.5, 1.5, 0])
    one = fit_plane(plane, guesses, pixel_um=(1.0, 1.0))
    for chunk, window in ((64, 1000.0), (200, 170.0)):
        monkeypatch.setattr(catalogue, "WINDOW_UM", window)
        other = fit_plane(da.from_array(plane, chunks=chunk), guesses, pixel_um=(1.0, 1.0))
        number = [c for c in one if c != "flag"]
        assert np.allclose(one[number], other[number], rtol=1e-6, atol=1e-9)
        assert list(one.flag) == list(other.flag)


def test_a_killed_run_goes_on_and_gives_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = [section(z) for z in (0.0, 15.0, 30.0)]
    sample = make(tmp_path, planes)
    whole = detect_sample(sample, BeadParameters(), key="a1", warn=quiet).table
    real, calls = steps.detect_plane, []

    def dies(cube: Any, row: Any, *rest: Any) -> Any:
        calls.append(row["z"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(cube, row, *rest)

    monkeypatch.setattr(steps, "detect_plane", dies)
    with pytest.raises(KeyboardInterrupt):
        detect_sample(sample, BeadParameters(), key="b2", warn=quiet)
    again = detect_sample(sample, BeadParameters(), key="b2", warn=quiet).table
    assert calls == [0, 1, 2, 2]
    pd.testing.assert_frame_equal(whole, again)
    assert not Path(sample.path("tables", "beads_planes")).exists()


def test_no_beads_is_said_and_nothing_is_aligned(tmp_path: Path) -> None:
    empty = [section(15.0 * k, balls=[], seed=k) for k in range(2)]
    told: list[str] = []
    sample = make(tmp_path, empty)
    found = detect_sample(sample, BeadParameters(), warn=told.append)
    assert not (found.table.flag == "ok").any() and len(told) == 2
    assert bead_metrics(found)["n_detections"] == 0
    with pytest.raises(BadInput, match="nothing to align by"):
        find_shifts(sample, AlignParameters(), quiet)


@pytest.mark.parametrize(
    "balls", [BALLS[:3], [(60, 60, 10, 44), (70, 200, 12, 46), (65, 330, 5, 43), (70, 470, 9, 45)]]
)
def test_three_beads_or_beads_on_one_side_align(tmp_path: Path, balls: Any) -> None:
    true = np.array([(0.0, 0.0), (3.0, -2.0), (4.0, 1.0)])
    planes = [section(STEP * k, tuple(true[k]), balls) for k in range(3)]
    sample = make(tmp_path, planes)
    detect_sample(sample, BeadParameters(), warn=quiet)
    found = find_shifts(sample, AlignParameters(), quiet).table
    assert list(found.status) == ["aligned"] * 3
    off = found[["dx_um", "dy_um"]].to_numpy() - (true - true.mean(0))
    assert np.abs(off).max() < 0.15


def test_a_section_without_beads_and_a_missing_one_are_interpolated_and_flagged(
    tmp_path: Path,
) -> None:
    true = np.array([(k, -k) for k in range(5)], float)
    planes = [section(7.0 * k, tuple(true[k])) for k in range(5)]
    planes[1] = section(0.0, balls=[])
    planes[3] = np.zeros_like(planes[0])
    sample, told = make(tmp_path, planes, absent=(3,)), []
    detect_sample(sample, BeadParameters(), warn=told.append)
    found = find_shifts(sample, AlignParameters(), told.append)
    assert list(found.table.status) == ["aligned", "interpolated"] * 2 + ["aligned"]
    error = np.hypot(found.table.dx_err_um, found.table.dy_err_um)
    assert error[[1, 3]].min() > error[[0, 2, 4]].max()
    assert np.abs(found.table[["dx_um", "dy_um"]].to_numpy() - (true - true.mean(0))).max() < 0.6
    assert sum("interpolated" in t for t in told) == 2 and any(
        "section 2, plane 0: no beads" in t for t in told
    )
    volume = write_volume(sample, found.cube, found.table)
    data = np.asarray(volume.data)
    assert data.shape[1] == 9 and data[0, 6].max() > 100  # the missing one is bridged
    column = np.maximum(data[0][:, 15:30, 8:32].astype(float) - 150, 0)
    place = [
        np.average(np.arange(24), weights=plane.sum(0)) for k, plane in enumerate(column) if k != 2
    ]
    assert np.ptp(place) < 0.2


def test_pixels_that_are_not_numbers_or_were_not_seen_are_left_out(tmp_path: Path) -> None:
    planes = [section(z).astype(np.float32) for z in (0.0, 15.0)]
    for plane in planes:
        plane[160:166] = np.nan
    sample = make(tmp_path, planes)
    seen = np.ones((2, SIDE, SIDE), np.float32)
    seen[:, :, 400:] = 0
    sample.write_image("stpt_confidence", seen, axes="zyx", pixel_um=(STEP, 1, 1))
    good = detect_sample(sample, BeadParameters(), warn=quiet).table.query("flag == 'ok'")
    assert len(good) == 4 and good.x_um.max() < 200
    assert np.abs(np.sort(good.x_um) - 150).max() < 0.3


def test_bad_parameters_and_images_are_named(tmp_path: Path) -> None:
    sample = make(tmp_path, [section(0.0)])
    with pytest.raises(BadInput, match="channel"):
        detect_sample(sample, BeadParameters(channel="nothing"), warn=quiet)
    sample.write_image("flat", np.ones((8, 8), np.uint16), axes="yx", pixel_um=(1, 1))
    with pytest.raises(BadInput, match="not a cube"):
        detect_sample(sample, BeadParameters(image="flat"), warn=quiet)
    sample.write_table("beads", pd.DataFrame({"x_um": [1.0]}))
    with pytest.raises(BadInput, match="modality"):
        find_shifts(sample, AlignParameters(), quiet)


def test_errors_of_fits_on_interpolated_pixels_match_their_scatter() -> None:
    from scipy.ndimage import shift

    pulls = []
    for k in range(15):
        picture = section(15.0, balls=BALLS, seed=100 + k).astype(float)
        moved = shift(picture, (0.5, 0.5), order=1, mode="nearest")
        guess = np.array([[x + 0.5, y + 0.5, r] for x, y, _, r in BALLS])
        fit = fit_plane(
            moved,
            guess,
            pixel_um=(1.0, 1.0),
            optics=Optics(blur_um=0.86),
            camera=estimate_camera(moved),
        )
        off = fit[["x_um", "y_um"]].to_numpy() - guess[:, :2]
        pulls.append(off / fit[["x_um_err", "y_um_err"]].to_numpy())
    assert 0.8 < np.std(np.concatenate(pulls)) < 1.2


def test_beads_of_one_tile_share_its_error() -> None:
    table = pd.DataFrame(
        {
            "section": 1,
            "plane": 0,
            "tile": [0, 0, 1],
            "x_um_err": 0.1,
            "y_um_err": 0.1,
            "x_tile_err_um": 0.3,
            "y_tile_err_um": 0.0,
        }
    )
    number, error = tile_groups(table)
    assert number[0] == number[1] != number[2] and (number >= 0).all()
    assert np.allclose(error, [[0.3, 0.0]] * 3)


@pytest.mark.parametrize("step", ["stpt/beads", "stpt/align"])
def test_a_cube_without_confidence_is_accepted_and_one_that_appears_counts(
    site: Path, step: str
) -> None:
    sample = make(site / "data", [section(z) for z in (0.0, 15.0)])
    sample.write_table("beads", pd.DataFrame({"x_um": [0.0]}))
    request = Request(step, "S", {})
    without = prepare(request)
    assert "images/stpt.ome.zarr" in [f.path for f in without.inputs]
    seen = np.ones((2, SIDE, SIDE), np.uint8)
    sample.write_image("stpt_confidence", seen, axes="zyx", pixel_um=(STEP, 1, 1))
    both = prepare(request)
    assert "images/stpt_confidence.ome.zarr" in [f.path for f in both.inputs]
    assert both.key != without.key
