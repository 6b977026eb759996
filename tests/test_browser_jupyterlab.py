"""An archived run's notebook, opened in JupyterLab in a real browser: it opens, and all its cells run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import open_browser
from pipeline import IMAXT, site_environment

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def lab(done: Path, tmp_path: Path) -> Iterator[str]:
    """JupyterLab on a working copy of the archived imc/segment run, in a copy of the site; its address."""
    site = tmp_path / "site"
    shutil.copytree(done, site)  # by hand, the notebook's products are made again
    runs = (p.name for p in (site / "runs/sim/imc-segment").iterdir())
    run = min(name for name in runs if not name.startswith("."))  # other tests add to them
    port = free_port()
    environment = site_environment(site) | {
        "JUPYTER_CONFIG_DIR": str(tmp_path / "jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
    }
    (tmp_path / "jupyter").mkdir()
    (tmp_path / "jupyter/jupyter_server_config.py").write_text(
        "c.ServerApp.token = ''\nc.ServerApp.password = ''\n"
        f"c.ServerApp.allow_root = {os.getuid() == 0}\nc.LabApp.news_url = None\n"
    )
    command = [IMAXT, "lab", run, "--no-browser", f"--port={port}"]
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    for _ in range(300):
        if server.poll() is not None:
            pytest.fail((tmp_path / "lab.log").read_text())
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/lab/tree/notebooks/sim-imc-segment-{run}.ipynb?reset"
    os.killpg(server.pid, 15)
    server.wait(30)


def test_an_executed_notebook_opens_and_runs_all_its_cells(lab: str, tmp_path: Path) -> None:
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(lab)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.locator("#jp-main-statusbar").get_by_text("Idle").first.wait_for(timeout=60_000)
        page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").first.click()
        page.locator(
            ".lm-Menu-itemLabel", has_text="Restart Kernel and Run All Cells"
        ).first.click()
        page.locator(".jp-Dialog button.jp-mod-accept").click()
        done = "() => /\\[\\d+\\]/.test([...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1)?.innerText)"
        page.wait_for_function(done, timeout=180_000)
        page.screenshot(path=tmp_path / "lab.png")
        page.keyboard.press("Control+s")
        page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-dirty").wait_for(state="detached")
    (saved,) = (tmp_path / "notebooks").glob("*.ipynb")
    cells = [c for c in json.loads(saved.read_text())["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in cells for o in c["outputs"]]
    assert all(c["execution_count"] for c in cells)
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert any("nothing is archived" in str(o.get("text")) for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3
