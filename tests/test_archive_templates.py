"""What is wrong with a template or a request is refused before a kernel starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from archive_site import Site, code_cell
from hypothesis import given
from hypothesis import strategies as st

from imaxt_nb.archive.batch import Request, read_requests, run_batch, run_one
from imaxt_nb.archive.keys import content_key, digest_code, key_components
from imaxt_nb.archive.lint import lint
from imaxt_nb.archive.prepare import overlap, prepare
from imaxt_nb.archive.record import RECORD_FILE, SCHEMA_FILE, Record, record_schema
from imaxt_nb.archive.templates import find_templates
from imaxt_nb.cli.steps import make_request
from imaxt_nb.core.errors import BadInput, UsageError
from imaxt_nb.core.settings import load_settings


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site where starting a worker is an error."""
    import imaxt_nb.archive.batch as batch

    def no_worker(*args: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(batch, "Hand", no_worker)
    site = Site(tmp_path)
    site.template("imc/blur", parameters="sigma_px: float = 1.0", outputs=["images/b.zarr"])
    site.template("imc/count", inputs=["images/b.zarr"])
    site.sample("t1")
    return site


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request("imc/blurr", "t1"), UsageError, "did you mean 'imc/blur'"),
        (Request("imc/blur", "t1", {"sigma": 1}), UsageError, "unknown parameter 'sigma'"),
        (Request("imc/blur", "t1", {"sigma_px": "wide"}), UsageError, "expected float"),
        (Request("imc/blur", "t1", {"sample": "t2"}), UsageError, "given twice"),
        (Request("imc/blur", "t2"), BadInput, "one of: t1"),
        (Request("imc/blur", "../t1"), BadInput, "not a usable sample name"),
        (Request("imc/blur", "/etc"), BadInput, "not a usable sample name"),
        (Request("imc/count", "t1"), BadInput, "written by imc/blur"),
    ],
)
def test_refused(made: Site, request_: Request, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_one(request_, made.settings)
    assert not list(made.runs.glob("*/*"))


def test_a_study_without_a_name_has_its_folders() -> None:
    settings = load_settings(templates=str(Path(__file__).parents[1] / "templates"))
    assert make_request(settings, "cells/dataset", None, None, {}).subject == "cells"
    assert make_request(settings, "cells/dataset", None, "x", {}).subject == "x"
    with pytest.raises(UsageError, match="takes --study NAME, and nothing else"):
        make_request(settings, "cells/dataset", "t1", None, {})
    with pytest.raises(UsageError, match="takes --sample NAME"):
        make_request(settings, "imc/segment", None, None, {})


def test_all_rows_are_checked_before_the_first_starts(made: Site) -> None:
    rows = [Request("imc/blur", "t1", row=1), Request("imc/blurr", "t1", row=2)]
    with pytest.raises(UsageError, match="row 2: unknown template 'imc/blurr'"):
        run_batch(rows, 2, made.settings)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([code_cell('sample: str = ""')], "0 cells are tagged 'parameters'"),
        ([code_cell('sample: str = ""', "parameters")] * 2, "2 cells are tagged"),
        ([code_cell("sigma_px = 1", "parameters")], "not of the form"),
        ([code_cell("sigma_px: float = f()", "parameters")], "not a literal"),
        ([code_cell("sigma_px: float = 1.0", "parameters")], "first parameter must be `sample"),
    ],
)
def test_a_template_with_broken_parameters(made: Site, cells: list[dict], message: str) -> None:
    path = made.templates / "imc/01_blur.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"] = cells + nb["cells"][1:]
    path.write_text(json.dumps(nb))
    with pytest.raises(UsageError, match=message):
        run_one(Request("imc/blur", "t1"), made.settings)


def test_a_template_must_agree_with_its_model(made: Site) -> None:
    model = "imaxt_nb.core.parameters:Parameters"
    path = made.template("imc/odd", parameters="x: int = 1")
    nb = json.loads(path.read_text())
    nb["metadata"]["imaxt"]["parameters"] = model
    path.write_text(json.dumps(nb))
    (problem,) = lint(find_templates(made.templates)["imc/odd"])
    assert problem.essential and "parameter x is not in the model" in str(problem)


def test_one_broken_notebook_hides_no_other(made: Site) -> None:
    (made.templates / "imc/09_broken.ipynb").write_text("{")
    assert list(find_templates(made.templates)) == ["imc/blur", "imc/count", "imc/broken"]
    assert "not a notebook" in str(lint(find_templates(made.templates)["imc/broken"])[0])


# -- keys ----------------------------------------------------------------------------------


def key_of(site: Site, **parameters: object) -> str:
    return prepare(Request("imc/blur", "t1", parameters), site.settings).key


def test_prose_and_formatting_are_not_in_the_key(made: Site) -> None:
    before = key_of(made)
    path = made.templates / "imc/01_blur.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"].insert(0, {"cell_type": "markdown", "source": "# Blur", "metadata": {}})
    nb["cells"][3]["source"] = "pass  # nothing"
    path.write_text(json.dumps(nb, indent=1))
    assert key_of(made) == before
    nb["cells"][3]["source"] = "x = 1"
    path.write_text(json.dumps(nb))
    assert key_of(made) != before


def test_a_module_beside_the_template_is_in_the_key(made: Site) -> None:
    made.template("imc/blur", "def f():\n    import helper_of_blur")
    helper = made.templates / "imc/helper_of_blur.py"
    helper.write_text("x = 1")
    before = key_of(made)
    helper.write_text("x = 1  # a comment")
    assert key_of(made) == before
    helper.write_text("x = 2")
    assert key_of(made) != before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), json_values, max_size=4), st.randoms())
def test_the_order_of_parameters_does_not_matter(values: dict, random: object) -> None:
    shuffled = list(values.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (key_components(v, {}, "", {}, "") for v in (values, dict(shuffled)))
    assert content_key("a/b", one) == content_key("a/b", other)


@given(st.text())
def test_any_text_has_a_digest(source: str) -> None:
    try:
        assert len(digest_code(source)) == 40
    except UnicodeEncodeError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in source)


def test_patterns_that_meet() -> None:
    assert overlap("t1/images/*.zarr", "t1/images/{name}.zarr")
    assert not overlap("t1/images/a.zarr", "t2/images/a.zarr")
    assert overlap("*/tables/cells.h5ad", "t1/tables/cells.h5ad")


# -- batches and records -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("sample,sigma\nt1,1\n", "columns are missing"),
        ("sample,template,template\n", "column without a name of its own"),
        ("sample,template\nt1,imc/blur,3\n", "row 1: 3 cells"),
        ("sample,template\nt1,imc/blur\n,imc/blur\n", "row 2: empty cell .*field: sample"),
        ("sample,template,parameters\nt1,imc/blur,{1\n", "row 1.*field: parameters"),
    ],
)
def test_a_malformed_batch(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "batch.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_requests(path)


def test_the_published_schema_is_that_of_the_model() -> None:
    import imaxt_nb.archive.record as module

    published = Path(module.__file__).with_name(SCHEMA_FILE)
    assert json.loads(published.read_text()) == record_schema()


def test_a_truncated_record_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text('{"run_id": "x"')
    with pytest.raises(BadInput, match="not a record"):
        Record.load(tmp_path)
