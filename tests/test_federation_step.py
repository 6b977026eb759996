"""The step federation/axioscan on boxes that no facility would like to hand over: everything is said, nothing is guessed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imaxt_nb.beads.catalogue import spheres
from imaxt_nb.beads.tracks import find_tracks
from imaxt_nb.core.compute import rng
from imaxt_nb.core.errors import BadInput
from imaxt_nb.federation.slides import (
    AxioscanParameters,
    Federation,
    federate_slides,
    read_transforms,
)
from imaxt_nb.sample.store import Sample
from imaxt_nb.simulate.catalogues import bead_population, section_catalogues, simulate_slide

SIZE, SECTIONS, KEY = (8000, 8000, 360), 24, "k1"


def with_spheres(sections: pd.DataFrame) -> pd.DataFrame:
    """What stpt/beads adds."""
    track = find_tracks(sections)
    found = spheres(sections, track).set_index("track_id").reindex(track)
    names = ["z_um", "z_um_err", "radius_um", "radius_um_err"]
    return sections.assign(flag="ok", **{f"sphere_{n}": found[n].to_numpy() for n in names})


def sample_of(root: Path, sections: pd.DataFrame, box: dict[str, pd.DataFrame]) -> Sample:
    """A sample after stpt/align, whose slides' beads an interrupted run of the same key has measured."""
    sample = Sample.create("S", str(root))
    numbers = sorted(sections.section.unique())
    shifts = rng(1, "shifts").normal(0, 5, (len(numbers), 2))
    table = pd.DataFrame(
        {
            "section": numbers,
            "plane": 0,
            "z_um": sections.groupby("section").z_um.first().to_numpy(),
        }
    )
    table[["dx_um", "dy_um"]] = shifts
    moved = sections.copy()
    moved[["x_um", "y_um"]] += shifts[np.searchsorted(numbers, sections.section)]
    sample.write_table("sections", table)
    sample.write_table("beads", moved)
    for slide in box:
        sample.write_image(
            f"axioscan_{slide}", np.zeros((1, 1, 4, 4), np.uint16), axes="czyx", pixel_um=(1, 1, 1)
        )
    beads = pd.concat(
        [t.assign(slide=s, flag="ok", channel="Cy5") for s, t in box.items()], ignore_index=True
    )
    beads.attrs.update(key=KEY, failed={})
    sample.write_table("beads_axioscan", beads)
    return sample


@pytest.fixture(scope="module")
def block() -> pd.DataFrame:
    return bead_population(SIZE, seed=51)


@pytest.fixture(scope="module")
def box(block: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """One slide of every kind."""
    cut = {f"s{k}": simulate_slide(block, 15.0 * k, seed=k).beads for k in (3, 7, 11, 15, 19)}
    whole = simulate_slide(block, 15.0 * 9, seed=9).beads
    cut["twice"] = simulate_slide(block, 15.0 * 7, seed=900).beads
    cut["nothing"] = whole[:0]
    cut["three"] = whole[:3]
    real = simulate_slide(block, 15.0 * 13, seed=13).beads
    cut["one_side"] = real[real.x_um < real.x_um.quantile(0.3)]
    cut["stranger"] = simulate_slide(bead_population(SIZE, seed=52), 150.0, seed=5).beads
    holes = simulate_slide(block, 15.0 * 5, seed=500).beads
    holes.loc[::5, "x_um"] = np.nan
    cut["holes"] = holes
    random = rng(3, "many")
    many = pd.DataFrame(random.uniform(0, 8000, (50_000, 2)), columns=["x_um", "y_um"])
    cut["many"] = many.assign(x_um_err=1.0, y_um_err=1.0, q_um2=1500.0, q_um2_err=50.0)
    return cut


@pytest.fixture(scope="module")
def done(
    block: pd.DataFrame, box: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Federation, Sample, list[str], float]:
    sections = with_spheres(section_catalogues(block, SECTIONS, seed=51))
    sample = sample_of(tmp_path_factory.mktemp("federation"), sections, box)
    said: list[str] = []
    began = time.process_time()
    made = federate_slides(sample, AxioscanParameters(), KEY, said.append)
    return made, sample, said, time.process_time() - began


def status(done, slide: str) -> str:
    return str(done[0].table.set_index("slide").status[slide])


def test_good_slides_have_their_section_depth_and_transform(done, block) -> None:
    table = done[0].table.set_index("slide")
    for k in (3, 7, 11, 15, 19):
        row = table.loc[f"s{k}"]
        assert (row.status, row.section) == ("matched", k + 1)
        assert abs(row.z_um - (15.0 * k + 5.5)) < max(1.5, 5 * row.z_err_um)
        assert row.error_um < 2.0
    assert done[0].offset.known and abs(done[0].offset.offset_um - 5.5) < 1.0


def test_the_transform_brings_beads_where_they_are(done, box, block) -> None:
    true = block.set_index("bead_id")
    for k in (3, 11, 19):
        real = box[f"s{k}"][box[f"s{k}"].bead_id >= 0]
        at = done[0].transforms[f"s{k}"].to_sample(real[["x_um", "y_um"]].to_numpy())
        off = np.hypot(*(at[:, :2] - true.loc[real.bead_id, ["x_um", "y_um"]].to_numpy()).T)
        assert np.median(off) < 1.5  # 5 um of local deformation


def test_two_slides_of_one_section_are_both_named(done) -> None:
    table = done[0].table.set_index("slide")
    assert table.section["twice"] == table.section["s7"] == 8
    assert (table.same_section["twice"], table.same_section["s7"]) == ("s7", "twice")
    assert any("twice" in line and "s7" in line for line in done[2])


@pytest.mark.parametrize("slide", ["nothing", "three"])
def test_too_few_beads_are_said(done, slide: str) -> None:
    assert status(done, slide) == "too few beads"
    assert any(slide in line and "beads" in line for line in done[2])


def test_beads_on_one_side_are_placed_with_errors_that_grow_away_from_them(
    done, box, block
) -> None:
    assert status(done, "one_side") == "matched"
    t = done[0].transforms["one_side"]
    own = box["one_side"][["x_um", "y_um"]].to_numpy()
    far = own.mean(0) + np.array([[6000.0, 0.0]])
    assert t.error_at(far)[0] > 3 * np.median(t.error_at(own))


def test_a_slide_of_another_sample_is_an_orphan_with_evidence(done) -> None:
    assert status(done, "stranger") == "orphan"
    frame = done[1].frames["axioscan:stranger"]
    assert frame.parent is None and "orphan" in frame.how and "chance" in frame.how


def test_rows_that_are_not_numbers_are_left_out_and_said(done) -> None:
    row = done[0].table.set_index("slide").loc["holes"]
    assert (row.status, row.section) == ("matched", 6)
    assert "not numbers" in row.why


def test_fifty_thousand_detections_take_bounded_time(done) -> None:
    assert status(done, "many") in ("orphan", "ambiguous")
    assert done[3] < 60


def test_the_document_has_the_frames_with_provenance(done) -> None:
    frame = done[1].frames["axioscan:s11"]
    assert frame.parent == "sample" and frame.run_id == KEY and "section 12" in frame.how
    assert abs(frame.affine[2][3] - 170.5) < 2 and frame.error_um < 2


def test_what_is_read_back_is_what_was_found(done) -> None:
    back, probe = read_transforms(done[1], "axioscan"), np.array([[10.0, 20.0], [3000.0, 500.0]])
    assert set(back) == set(done[0].transforms)
    for slide, t in done[0].transforms.items():
        assert np.allclose(back[slide].to_sample(probe), t.to_sample(probe), atol=1e-6)


def test_a_lattice_of_beads_is_ambiguous(tmp_path: Path) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(0, 8000, 500.0)] * 2), -1).reshape(-1, 2)
    parts = [
        pd.DataFrame(grid, columns=["x_um", "y_um"]).assign(
            section=k + 1, plane=0, z_um=15.0 * k, flag="ok"
        )
        for k in range(8)
    ]
    part = pd.DataFrame(
        grid[(grid < 5000).all(1)] + rng(1, "lattice").normal(0, 1, (100, 2)),
        columns=["x_um", "y_um"],
    )
    sample = sample_of(tmp_path, pd.concat(parts, ignore_index=True), {"lattice": part})
    said: list[str] = []
    made = federate_slides(sample, AxioscanParameters(), KEY, said.append)
    assert made.table.status.tolist() == ["ambiguous"] and not made.transforms
    assert sample.frames["axioscan:lattice"].parent is None
    assert any("orientations" in line for line in said)


def test_steps_that_are_missing_are_named(tmp_path: Path) -> None:
    sample = Sample.create("S", str(tmp_path))
    with pytest.raises(BadInput, match="stpt/beads"):
        federate_slides(sample, AxioscanParameters())
    sections = section_catalogues(bead_population((3000, 3000, 60), seed=1), 3).assign(flag="ok")
    sample.write_table("beads", sections)
    with pytest.raises(BadInput, match="stpt/align"):
        federate_slides(sample, AxioscanParameters())


def test_a_killed_detection_goes_on_with_the_next_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imaxt_nb.federation import slide_beads as module

    sample, seen = Sample.create("S", str(tmp_path)), []
    for slide in "abc":
        empty = np.zeros((1, 1, 4, 4), np.uint16)
        sample.write_image(f"axioscan_{slide}", empty, axes="czyx", pixel_um=(1, 1, 1))

    def detect(_: Sample, slide: str, __: object) -> pd.DataFrame:
        seen.append(slide)
        if slide == "b" and seen.count("b") == 1:
            raise KeyboardInterrupt
        return pd.DataFrame({"slide": [slide], "x_um": [1.0]})

    monkeypatch.setattr(module, "slide_beads", detect)
    with pytest.raises(KeyboardInterrupt):
        module.all_beads(sample, AxioscanParameters(), "k", print)
    found, failed = module.all_beads(sample, AxioscanParameters(), "k", print)
    assert seen == ["a", "b", "b", "c"] and list(found) == ["a", "b", "c"] and not failed
    assert "beads_axioscan" in sample.tables()
    assert not list((tmp_path / "S" / "tables").glob("*_parts"))
