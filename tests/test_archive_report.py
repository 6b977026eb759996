"""The report of a run: complete, offline, safe to open, and made whatever the notebook looks like."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from run_factory import make_run, notebook_of, picture_png, record_of

from imaxt_nb.archive.notebook_html import cell_views
from imaxt_nb.archive.report import parameter_rows, report_html, write_report

LOADS = re.compile(
    r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?\s*(?:https?:)?//|@import""",
    re.I,
)


def without_anchors(page: str) -> str:
    return re.sub(r"<a\s[^>]*>", "", page)


def test_one_file_with_everything_above_the_notebook(tmp_path: Path) -> None:
    folder, record = make_run(tmp_path, n=1)
    page = (folder / "report.html").read_text()
    for text in (record.subject, record.run_id, record.key, "succeeded", "2026-11-20 09:17 UTC", "18 s",
                 "region ROI_004 is empty", "21\u202f346", "raw/imc.zarr", "tables/cells.h5ad", "3.11.9", "e072c14"):  # fmt: skip
        assert text in page, text
    assert not LOADS.search(without_anchors(page))
    assert "default-src 'none'" in page
    assert page.count("<script") == 1 and "<details" in page


def test_changed_parameters_stand_out_from_defaults() -> None:
    record = record_of("hyperion", "imc/segment", n=1)
    notebook = notebook_of(
        "imc/segment", seed=0, parameters=record.parameters, failed=False, picture=False
    )
    rows = {r.name: r for r in parameter_rows(record, notebook)}
    assert not rows["sample"].changed, "the sample is no choice of value"
    assert rows["sigma_px"].changed and rows["sigma_px"].default == 1.5
    assert rows["sigma_px"].help == "Gaussian before the threshold, px"


def test_parameters_of_a_model_are_explained_by_it() -> None:
    model = "imaxt_nb.cells.slide_nuclei:NucleiParameters"
    given = {"sample": "s", "nucleus_um": 9.5, "tile_px": 1440}
    source = 'sample: str = ""\nnucleus_um: float = 0.0\ntile_px: int = 1440  # mine'
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": ["parameters"]}}
    about = {"imaxt": {"parameters": model}}
    record = record_of("s", "axioscan/nuclei", parameters=given)
    rows = {r.name: r for r in parameter_rows(record, {"cells": [cell], "metadata": about})}
    told = "diameter of a typical nucleus; 0: estimated on the slide (µm)"
    assert rows["nucleus_um"].help == told and rows["nucleus_um"].changed
    assert rows["tile_px"].help == "mine" and not rows["sample"].help
    for broken in ("no.such:Model", "imaxt_nb.core.files:digest_text", "x", 5, None, {}):
        notebook = {"cells": [cell], "metadata": {"imaxt": {"parameters": broken}}}
        assert not parameter_rows(record, notebook)[1].help


def test_text_of_parameters_and_warnings_is_escaped() -> None:
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>"
    record = record_of(
        "s", "a/b", parameters={evil: evil, "sample": "s"}, warnings=[evil], reason=evil, status="failed",
        metrics={evil: evil}, template={"name": evil, "title": evil}, host={"name": evil},
        inputs=[{"path": evil, "digest": evil, "bytes": 1}], error={"type": evil, "message": evil},
    )  # fmt: skip
    page = report_html(record, {})
    assert "<script>alert" not in page and "<img src=x" not in page and "</style><" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 8


def test_scripts_of_outputs_do_not_come_along() -> None:
    html = "<div id='p'></div><script src='https://cdn.example.org/bokeh.js'></script>"
    data = {"text/html": html, "image/png": picture_png(0, (20, 20)), "text/plain": "plot"}
    outputs = [{"output_type": "display_data", "data": data, "metadata": {}}]
    page = report_html(
        record_of("s", "a/b"), {"cells": [{"cell_type": "code", "source": "p", "outputs": outputs}]}
    )
    assert "cdn.example.org" not in page and "data:image/png" in page


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", '{"cells": 5}', '{"cells": [null, 3, {"cell_type": "code"}]}', "\x00"],
)
def test_any_notebook_gives_a_report(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "notebook.ipynb").write_text(content)
    write_report(tmp_path, record_of("s", "a/b", status="killed"))
    assert "killed" in (tmp_path / "report.html").read_text()
    assert Image.open(tmp_path / "thumbnail.png").size == (320, 200)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
mimes = st.sampled_from(
    ["text/html", "text/plain", "image/png", "image/svg+xml", "text/markdown", "a/b"]
)
outputs = st.fixed_dictionaries(
    {"output_type": st.sampled_from(["stream", "error", "display_data", "odd"])},
    optional={"data": json_values | st.dictionaries(mimes, json_values), "metadata": json_values,
              "text": json_values, "traceback": json_values, "name": json_values},
)  # fmt: skip
cells = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown", "raw", "odd"])},
    optional={"source": json_values, "outputs": json_values | st.lists(outputs, max_size=3),
              "metadata": json_values, "attachments": json_values, "execution_count": json_values},
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(cells, max_size=4))
def test_cells_of_any_shape_are_shown(some: list[dict]) -> None:
    cell_views({"cells": some})
    report_html(record_of("s", "a/b"), {"cells": some})


def test_long_outputs_are_cut_with_a_note(tmp_path: Path) -> None:
    text = [{"output_type": "stream", "name": "stdout", "text": "line\n"} for _ in range(20_000)]
    text += [{"output_type": "display_data", "data": {"text/plain": "x" * 30_000_000}}]
    notebook = {"cells": [{"cell_type": "code", "source": "p()", "outputs": text}]}
    start = time.process_time()
    page = report_html(record_of("s", "a/b"), notebook)
    assert time.process_time() - start < 5
    assert len(page) < 1_000_000 and "characters left out" in page


def test_thumbnail_is_the_tagged_picture(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    picture = Image.open(folder / "thumbnail.png")
    assert picture.size == (320, 200)
    assert picture.getextrema() != ((240, 240),) * 3


def test_a_report_takes_a_fraction_of_a_second_of_cpu(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, n=n, page=False) for n in range(21)]
    write_report(*runs[0])  # the first one loads what the others use
    start = time.process_time()
    for folder, record in runs[1:]:
        write_report(folder, record)
    assert (time.process_time() - start) / 20 < 0.25


def test_the_notebook_stays_as_it_was(tmp_path: Path) -> None:
    folder, record = make_run(tmp_path, page=False)
    before = (folder / "notebook.ipynb").read_bytes()
    write_report(folder, record)
    assert (folder / "notebook.ipynb").read_bytes() == before
    assert json.loads(before)["nbformat"] == 4
