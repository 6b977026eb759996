"""Slides from simulation to mosaic and beads: files, names, places, damaged slides, the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pipeline import imaxt
from scipy.spatial import cKDTree

from imaxt_nb.core.errors import BadInput
from imaxt_nb.federation.region_beads import ImcFederationParameters, find_slide, region_beads
from imaxt_nb.federation.slide_beads import AxioscanParameters, good_beads, slide_beads
from imaxt_nb.mosaic.slides import SlideParameters, mosaic_slides
from imaxt_nb.readers.axioscan import convert_axioscan
from imaxt_nb.readers.imc import convert_imc, raw_regions
from imaxt_nb.sample.store import Sample
from imaxt_nb.sample.tiles import RawTiles
from imaxt_nb.simulate.axioscan import Scanner
from imaxt_nb.simulate.slides import Box, simulate_slides
from imaxt_nb.simulate.stpt import simulate_stpt

SCANNER = Scanner(pixel_um=2.0, tile_px=400)


@pytest.fixture(scope="module")
def stpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of 1.4 x 1.4 mm."""
    out = tmp_path_factory.mktemp("block") / "stpt"
    few = {"beads_per_mm3": 150.0, "tissue": 0.45}
    return simulate_stpt(
        out, sections=2, grid=(2, 2), channels=1, tile_px=192, pixel_um=4.0, seed=4, block=few
    )


@pytest.fixture(scope="module")
def slides(stpt: Path) -> Path:
    box = Box(missing=0.1, spurious=0.0, region_um=500.0)
    return simulate_slides(stpt.parent / "slides", stpt, box=box, scanner=SCANNER, seed=1)


@pytest.fixture(scope="module")
def sample(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    store = Sample.create("S", str(tmp_path_factory.mktemp("data")))
    convert_axioscan(slides / "axioscan", store)
    mosaic_slides(store, SlideParameters(flat="none"), key="k", warn=lambda _: None)
    return store


@pytest.fixture(scope="module")
def by_command(
    stpt: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Future[tuple[Path, str]]]:
    """A site where slides were simulated, converted and rendered by commands, and what the last one said when it was given again. It is made while others run."""
    site = tmp_path_factory.mktemp("commands")
    told = ["--slides", "1", "--regions", "0", "--pixel-um", "8", "--tile-px", "128"]
    box, run = str(site / "box"), ["run", "axioscan/mosaic", "--sample", "S", "-p", "flat=none"]

    def all_steps() -> tuple[Path, str]:
        imaxt("simulate", "slides", box, "--from", str(stpt), *told, site=site)
        said = imaxt("convert", "axioscan", f"{box}/axioscan", "--sample", "S", site=site)
        assert "slide001" in said or (site / "data" / "S" / "raw" / "axioscan.zarr").is_dir()
        imaxt(*run, site=site)
        return site, imaxt(*run, site=site)

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(all_steps)


def digest(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*.*")
    }


@pytest.mark.usefixtures("by_command")  # to be made meanwhile
def test_the_same_seed_makes_the_same_bytes(stpt: Path, tmp_path: Path) -> None:
    small = Scanner(pixel_um=8.0, tile_px=128)
    made = [
        digest(
            simulate_slides(tmp_path / n, stpt, box=Box(slides=1, regions=0), scanner=small, seed=s)
        )
        for n, s in (("a", 2), ("b", 2), ("c", 3))
    ]
    assert made[0] == made[1] != made[2]


def test_a_slide_is_a_section_of_its_name(sample: Sample, slides: Path) -> None:
    raw = RawTiles.open(sample.path("raw", "axioscan.zarr"))
    assert [raw.section(n).metadata["slide"] for n in raw.sections] == ["slide001", "slide002"]
    assert [c.name for c in raw.channels] == ["DAPI", "AF488", "Cy5"]
    assert np.array_equal(raw.orientation, np.eye(2))
    assert "already" in str(convert_axioscan(slides / "axioscan", sample))


def test_beads_of_the_mosaic_are_where_the_truth_says(sample: Sample, slides: Path) -> None:
    truth = pd.read_parquet(slides / "truth" / "beads.parquet")
    image = sample.image("axioscan_slide001")
    assert image.axes == "czyx" and sample.frames["axioscan:slide001"].parent is None
    found = good_beads(slide_beads(sample, "slide001", AxioscanParameters()))
    assert set(found.channel) == {"Cy5"}
    origin = np.array(image.attrs["imaxt"]["origin_um"][::-1])
    own = truth[truth.slide == "slide001"]
    at = own[["slide_x_um", "slide_y_um"]].to_numpy() - origin
    gap, _ = cKDTree(at).query(found[["x_um", "y_um"]].to_numpy())
    assert (gap < 5).mean() > 0.9 and np.median(gap) < 1.5  # the stage is good to 1 um
    assert (gap < 5).sum() > 0.5 * len(own)


def test_a_region_is_found_on_its_slide(sample: Sample, slides: Path) -> None:
    convert_imc(slides / "imc", sample)
    region = next(r for r in raw_regions(sample) if r.status == "ok")
    seen = good_beads(region_beads(region, ImcFederationParameters()))
    names = ["x_um", "y_um"]
    boxed = {
        s: good_beads(slide_beads(sample, s, AxioscanParameters()))
        for s in ("slide001", "slide002")
    }
    place = find_slide(seen[names].to_numpy(), np.full(len(seen), 0.3), "elsewhere", boxed)
    true = pd.read_parquet(slides / "truth" / "regions.parquet").iloc[0]
    assert place.slide == true.slide
    origin = np.array(sample.image(f"axioscan_{true.slide}").attrs["imaxt"]["origin_um"][::-1])
    matrix = np.array([[true[f"a{i}{j}"] for j in range(3)] for i in range(2)], float)
    corner = np.array([[0.0, 0.0], [500.0, 500.0]])
    off = (
        corner @ place.fit.matrix[:, :2].T
        + place.fit.matrix[:, 2]
        + origin
        - (corner @ matrix[:, :2].T + matrix[:, 2])
    )
    assert np.abs(off).max() < 4


def test_a_damaged_slide_does_not_take_the_others_with_it(slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "axioscan"
    folder.mkdir()
    good = (slides / "axioscan" / "slide001.ome.tif").read_bytes()
    (folder / "good.ome.tif").write_bytes(good)
    (folder / "short.ome.tif").write_bytes(good[: len(good) // 2])
    (folder / "nonsense.ome.tif").write_bytes(b"not a TIFF")
    store = Sample.create("S", str(tmp_path / "data"))
    summary = str(convert_axioscan(folder, store))
    assert "nonsense" in summary or "nonsense" in str(
        RawTiles.open(store.path("raw", "axioscan.zarr")).notes
    )
    said: list[str] = []
    made = mosaic_slides(store, SlideParameters(flat="none"), warn=said.append)
    assert "axioscan_good" in store.images()
    assert any("short" in line for line in said) or "short" not in made.rows.slide.tolist()


def test_no_slides_and_no_simulation_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no slides"):
        convert_axioscan(tmp_path, Sample.create("S", str(tmp_path / "data")))
    with pytest.raises(BadInput, match="truth of a simulation"):
        simulate_slides(tmp_path / "out", tmp_path)


def test_the_commands(by_command: Future[tuple[Path, str]]) -> None:
    site, said = by_command.result()
    assert not (site / "data" / "S" / "calibration").exists(), "no flat field was asked for"
    assert "axioscan_slide001" in Sample.open("S", str(site / "data")).images()
    assert "done before" in said


def test_a_real_czi_is_a_slide(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("czifile", reason="the extra `czi` is not installed")
    sample = Sample.create("S", str(tmp_path))
    convert_axioscan(shared_data / "tiles_czi_mosaic", sample)
    raw = RawTiles.open(sample.path("raw", "axioscan.zarr"))
    assert raw.section(1).metadata["slide"] == "mosaic_test" and raw.section(1).status == "ok"
    mosaic_slides(sample, SlideParameters(flat="none"), key="k", warn=lambda _: None)
    image = sample.image("axioscan_mosaic_test")
    plane = np.asarray(image.data[0, 0])
    seen = np.asarray(sample.image("axioscan_mosaic_test_confidence").data[0]) > 0
    assert seen.mean() > 0.8 and len(np.unique(plane[seen])) > 50
