"""The gallery: static, offline, complete, and looked at in a browser."""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from run_factory import make_run
from test_archive_report import LOADS, without_anchors

from imaxt_nb.archive.gallery import build_gallery
from imaxt_nb.archive.serve import serve
from imaxt_nb.core.errors import UsageError

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site") / "runs"
    make_run(root, "hyperion", "imc/convert", n=0, picture=False)
    make_run(root, "hyperion", "imc/segment", n=1)
    make_run(root, "hyperion", "imc/segment", n=2, status="failed")
    make_run(
        root, "simulated", "imc/segment", n=3, parameters={"marker": "<script>alert(1)</script>"}
    )
    make_run(root, "nets", "nuclei/train", n=4, scope="study")
    build_gallery(root)
    return root


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v for k, v in attrs if k in ("href", "src") and v]


def links(page: Path) -> list[str]:
    parser = Links()
    parser.feed(page.read_text())
    return parser.found


@pytest.mark.parametrize("standalone", [False, True])
def test_every_link_leads_to_a_file(runs: Path, tmp_path: Path, standalone: bool) -> None:
    index = build_gallery(runs, tmp_path / "out", standalone=standalone)
    if standalone:  # it must not need the place that it came from
        index = Path(shutil.move(index.parent, tmp_path / "sent")) / "index.html"
    pages = list(index.parent.rglob("*.html"))
    assert len(pages) >= 1 + 3 + 5
    for page in pages:
        assert not LOADS.search(without_anchors(page.read_text())), page
        for link in links(page):
            parts = urlsplit(link)
            if not parts.scheme and parts.path:
                assert (page.parent / unquote(parts.path)).is_file(), f"{page}: {link}"


def test_matrix_shows_the_latest_run_and_reaches_the_earlier(runs: Path) -> None:
    page = (runs / "gallery/index.html").read_text()
    assert page.count("not run") == 1  # simulated was never converted
    assert "1 earlier run" in page and "did you mean" in page
    assert "Studies" in page and "3 succeeded" not in page and "4 succeeded" in page
    assert "<script>alert" not in page


def test_unreadable_records_are_shown_and_drafts_are_not(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    folders = sorted((root / "hyperion/imc-segment").iterdir())
    (folders[0] / "record.json").write_text("{")
    folders[1].rename(folders[1].with_name(".staging-x"))
    page = build_gallery(root).read_text()
    assert "1 record could not be read" in page and "did you mean" not in page


def test_empty_root_says_what_to_do(tmp_path: Path) -> None:
    assert "No runs yet" in build_gallery(tmp_path).read_text()


def test_a_folder_that_is_no_gallery_is_never_replaced(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not a gallery"):
        build_gallery(runs, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_rebuilding_leaves_nothing_behind(runs: Path) -> None:
    stale = runs / "gallery" / "pages" / "gone.html"
    stale.write_text("of a run that was deleted")
    build_gallery(runs)
    assert not stale.exists()
    assert not [p for p in runs.iterdir() if p.name.startswith(".staging")]


def test_server_shows_the_gallery_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    (runs / "catalogue.sqlite").write_text("not for the public")
    server = serve(runs, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"

    def get(path: str) -> int:
        try:
            with urllib.request.urlopen(base + path) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as e:
            return e.code

    report = next(runs.glob("hyperion/*/*/report.html")).relative_to(runs).as_posix()
    try:
        assert [get(p) for p in ("/", "/gallery/", f"/{report}", "/gallery/gallery.js")] == [
            200
        ] * 4
        for p in ("/catalogue.sqlite", "/hyperion/", "/hyperion", "/gallery/pages", "/%2e%2e/etc/passwd",
                  "/gallery/..%2fcatalogue.sqlite", f"/{report}/", "//catalogue.sqlite"):  # fmt: skip
            assert get(p) == 404, p
        with pytest.raises(UsageError, match="cannot listen"):
            serve(runs, port=server.server_port)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.browser
def test_gallery_in_a_browser(runs: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        requests: list[str] = []
        messages: list[str] = []
        page.on("request", lambda r: requests.append(r.url))
        page.on("console", lambda m: messages.append(m.text))
        page.on("pageerror", lambda e: messages.append(str(e)))
        page.goto((runs / "gallery/index.html").as_uri())
        check_search(page)
        check_sorting(page)
        page.get_by_role("link", name="Report: hyperion, imc/segment, failed").click()
        page.wait_for_url("**/report.html")
        assert (
            page.get_by_role("heading", level=1).first.inner_text()
            == "Cells of an imaging mass cytometry region"
        )
        first = page.locator("details.source").first
        assert first.get_attribute("open") is None
        page.get_by_role("button", name="Show all code").click()
        assert first.get_attribute("open") is not None
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1], "the page scrolls sideways"
        browser.close()
    assert messages == []
    assert [u for u in requests if not u.startswith(("file:", "data:"))] == []


def check_search(page) -> None:  # type: ignore[no-untyped-def]
    rows = page.locator("table.matrix tr[data-row]:visible")
    assert rows.count() == 3
    page.get_by_label("Search runs").fill("simulated")
    assert rows.count() == 1
    page.get_by_label("Search runs").fill("no such thing")
    assert page.get_by_text("Nothing matches.").is_visible()
    page.get_by_label("Search runs").fill("")
    page.get_by_label("Status", exact=True).select_option("failed")
    assert rows.count() == 1
    page.get_by_label("Status", exact=True).select_option("")


def check_sorting(page) -> None:  # type: ignore[no-untyped-def]
    table = page.locator("table.sortable").filter(has_text="cells").first
    head = table.get_by_text("cells", exact=True)
    head.click()
    values = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
    head.click()
    assert table.locator("tbody tr td:nth-child(3)").all_inner_texts() == values[::-1]
    assert len(values) == 2


@pytest.mark.browser
def test_a_report_fetches_nothing_whatever_an_output_says(tmp_path: Path) -> None:
    import json

    from run_factory import record_of

    from imaxt_nb.archive.report import write_report

    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    html = "<img src='http://192.0.2.1/a.png' onerror='document.title=1'><style>@import 'http://192.0.2.1/b.css'</style>"
    outputs = [{"output_type": "display_data", "data": {"text/html": html}}]
    cell = {"cell_type": "code", "source": "x", "outputs": outputs}
    (tmp_path / "notebook.ipynb").write_text(json.dumps({"cells": [cell]}))
    write_report(tmp_path, record_of("s", "a/b"))
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        answered: list[str] = []
        blocked: list[str] = []
        page.on("requestfinished", lambda r: answered.append(r.url))
        page.on("requestfailed", lambda r: blocked.append(str(r.failure)))
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_timeout(300)
        assert page.title() != "1"
        browser.close()
    assert all(u.startswith(("file:", "data:")) for u in answered)
    assert all("csp" in reason.lower() for reason in blocked)
