"""`imaxt run stpt/mosaic` and `tiles/mosaic` as a user types them: killed and resumed, damaged tiles, two modalities."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from pipeline import IMAXT, imaxt, site_environment
from tile_factory import tile_sample

from imaxt_nb.core.files import digest_path
from imaxt_nb.sample.store import Sample

PLACES = ("-p", "orientation=[[1,0],[0,1]]", "-p", "max_stage_error_um=8")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sample: 12 sections, so that rendering takes long enough to be killed."""
    root = tmp_path_factory.mktemp("raw")
    tile_sample(root, sections=12)
    return root / "toy"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[tuple[Path, str]]]:
    """A site where `stpt` with a damaged tile was rendered, then its undamaged copy `slide`; the digest of the tiles' table in between. It is made while others run."""
    site = tmp_path_factory.mktemp("damaged")
    sample, _, _ = tile_sample(site / "data", sections=2)
    stpt = Path(sample.path("raw", "stpt.zarr"))
    shutil.copytree(stpt, stpt.with_name("slide.zarr"))
    files = sorted(p for p in (stpt / "sections/0002/pixels/c").rglob("*") if p.is_file())
    files[3].write_bytes(b"\0" * 100)

    def both() -> tuple[Path, str]:
        imaxt("run", "stpt/mosaic", "--sample", "toy", *PLACES, site=site)
        first = digest_path(site / "data/toy/tables/tiles.parquet")
        other = ("-p", "modality=slide", "-p", "image=slide")
        imaxt("run", "tiles/mosaic", "--sample", "toy", *PLACES, *other, site=site)
        return site, first

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(both)


def digests(site: Path) -> dict[str, str]:
    return {p.name: digest_path(p) for p in (site / "data/toy/images").glob("[!.]*.ome.zarr")}


def site_with(raw: Path, site: Path) -> Path:
    shutil.copytree(raw, site / "data" / "toy")
    return site


def kill_while_rendering(site: Path, least: int = 2) -> int:
    """Start the command; kill -9 it and all it started as soon as `least` planes are committed; how many were."""
    command = [IMAXT, "run", "stpt/mosaic", "--sample", "toy", *PLACES]
    run = psutil.Popen(command, env=site_environment(site), stdout=subprocess.DEVNULL)
    pattern = ".staging*stpt.ome.zarr/.sections/*.json"
    try:
        while run.poll() is None:
            n = len(list((site / "data/toy/images").glob(pattern)))
            if n >= least:
                for process in [run, *run.children(recursive=True)]:
                    process.kill()
                return n
            time.sleep(0.002)
    finally:
        run.wait()
    raise AssertionError("it was over before it could be killed")


@pytest.mark.usefixtures("damaged")  # to be made meanwhile
def test_killed_and_run_again_the_cube_is_the_same_to_the_byte(raw: Path, tmp_path: Path) -> None:
    quiet, killed = (site_with(raw, tmp_path / n) for n in ("quiet", "killed"))
    with ThreadPoolExecutor(1) as pool:  # start-up is one core's work, and there are two
        run = ("run", "stpt/mosaic", "--sample", "toy", *PLACES)
        undisturbed = pool.submit(imaxt, *run, site=quiet)
        assert 2 <= kill_while_rendering(killed) < 12
        time.sleep(1)
        assert digests(killed) == {}
        imaxt(*run, site=killed)
        undisturbed.result()
    assert digests(killed) == digests(quiet) and len(digests(quiet)) == 2
    assert not (killed / "data/toy/images/superseded").exists()


def test_a_damaged_tile_and_a_second_modality(damaged: Future[tuple[Path, str]]) -> None:
    site, first = damaged.result()
    (record,) = (site / "runs").glob("toy/stpt-mosaic/*/record.json")
    warned = [str(w) for w in json.loads(record.read_text())["warnings"]]
    assert sum("section 2, tile 3" in w and "no confidence" in w for w in warned) == 2
    assert digest_path(site / "data/toy/tables/tiles.parquet") == first
    sample = Sample.open("toy", str(site / "data"))
    assert len(sample.table("tiles_slide")) == len(sample.table("tiles")) == 8
    damaged, whole = (sample.image(f"{n}_confidence").data[1].compute() for n in ("stpt", "slide"))
    assert whole[150:190, 150:190].all() and not damaged[150:190, 150:190].any()
    assert damaged[40:90, 40:90].all()
