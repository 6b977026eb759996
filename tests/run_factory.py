"""Folders of runs as the engine leaves them, made without running anything."""

from __future__ import annotations

import base64
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from imaxt_nb.archive.record import Record
from imaxt_nb.core.files import digest_text
from imaxt_nb.core.identifiers import run_id

EPOCH = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
TITLES = {
    "imc/segment": "Cells of an imaging mass cytometry region",
    "analysis/cells": "Cell types and their neighbourhoods",
    "imc/convert": "Hyperion files to raw Zarr",
    "nuclei/train": "Train the nuclei network",
}
METRICS: dict[str, dict[str, float | int | str]] = {
    "imc/segment": {"cells": 21345, "median_area_um2": 78.31, "regions": 3, "object_f1_50": 0.871},
    "analysis/cells": {"clusters": 9, "silhouette": 0.412, "ari": 0.93},
    "imc/convert": {"regions": 4, "empty_regions": 1, "channels": 41},
    "nuclei/train": {"object_f1_50": 0.884, "epochs": 20},
}


def picture_png(seed: int, size: tuple[int, int] = (480, 300)) -> str:
    """Base64 PNG of blobs that look a little like stained nuclei."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    image = np.zeros((height, width, 3))
    colours = rng.uniform(0.2, 1, (4, 3))
    for cx, cy, r, k in zip(
        rng.uniform(0, width, 90),
        rng.uniform(0, height, 90),
        rng.uniform(5, 14, 90),
        range(90),
        strict=True,
    ):
        box = np.s_[max(0, int(cy - 45)) : int(cy + 45), max(0, int(cx - 45)) : int(cx + 45)]
        blob = np.exp(-((x[box] - cx) ** 2 + (y[box] - cy) ** 2) / (2 * r * r))
        image[box] += blob[..., None] * colours[k % 4]
    buffer = io.BytesIO()
    Image.fromarray((np.clip(image, 0, 1) * 255).astype("uint8")).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def notebook_of(
    step: str, *, seed: int, parameters: dict[str, Any], failed: bool, picture: bool
) -> dict[str, Any]:
    """An executed notebook: prose, parameters, a table, a picture, or the error that ended it."""

    def code(n: int | None, source: str, outputs: list[Any], *tags: str) -> dict[str, Any]:
        return {
            "cell_type": "code", "id": f"c{n}", "execution_count": n, "source": source,
            "metadata": {"tags": list(tags)}, "outputs": outputs,
        }  # fmt: skip

    given = "\n".join(f"{k} = {v!r}" for k, v in parameters.items())
    error = {
        "output_type": "error", "ename": "BadInput", "evalue": "unknown channel 'Yb1720'",
        "traceback": ["\x1b[31mBadInput\x1b[0m Traceback", "unknown channel 'Yb1720'; did you mean 'Yb172'?"],
    }  # fmt: skip
    table = "<table class='dataframe'><tr><th>region</th><th>cells</th></tr><tr><td>ROI_001</td><td>7110</td></tr></table>"
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": f"# {TITLES.get(step, step)}\n> One region at a time\n\nNuclei are found by *distance transform* and watershed."},
        code(1, 'sample: str = ""  # the sample\nsigma_px: float = 1.5  # Gaussian before the threshold, px\nnuclear_channel: str = "Ir191"  # channel of the nuclei', [], "parameters"),
        code(2, given, [], "injected-parameters"),
        code(3, "summary()", [{"output_type": "stream", "name": "stderr", "text": "10%\r100%\n"}, {"output_type": "execute_result", "metadata": {}, "execution_count": 3, "data": {"text/html": table, "text/plain": "table"}}]),
    ]  # fmt: skip
    if failed:
        cells += [code(4, 'find_channel("Yb1720")', [error]), code(None, "run.finish()", [])]
    elif picture:
        shown = {
            "output_type": "display_data",
            "metadata": {},
            "data": {"image/png": picture_png(seed), "text/plain": "Figure"},
        }
        cells.append(code(4, "show(overlay)", [shown], "thumbnail"))
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def record_of(
    subject: str, step: str, *, n: int = 0, status: str = "succeeded", **changes: Any
) -> Record:
    """A record as the engine writes it; `n` spaces runs in time and makes keys differ."""
    key = digest_text(f"{subject}{step}{n}")
    start = EPOCH + timedelta(minutes=17 * n)
    total = 4.2 + 13.7 * (n % 7)
    good = status == "succeeded"
    fields: dict[str, Any] = dict(
        run_id=run_id(key, start), key=key, status=status, subject=subject,
        template={"name": step, "title": TITLES.get(step, step), "digest": digest_text(step), "file": f"templates/{step}.ipynb"},
        parameters={"sample": subject, "sigma_px": 1.5 + 0.5 * (n % 2), "nuclear_channel": "Yb172"},
        inputs=[{"path": "raw/imc.zarr", "digest": digest_text(subject), "bytes": 48_210_113}],
        outputs=[{"path": "tables/cells.h5ad", "digest": digest_text(f"{n}"), "bytes": 9_310_002}] if good else [],
        metrics={k: v + n if isinstance(v, int) else v for k, v in METRICS.get(step, {}).items()} if good else {},
        warnings=["region ROI_004 is empty"] if n % 3 == 1 else [],
        seeds={"numpy": 0}, package={"version": "0.1.0", "git_commit": "e072c14" + "0" * 33, "git_dirty": False},
        environment={"python": "3.11.9", "level": "packages", "digest": digest_text("env")},
        host={"name": "bench", "platform": "Linux", "cpus": 2, "memory_gb": 8.0},
        started_at=start, finished_at=start + timedelta(seconds=total),
        timings={"kernel_start_s": 0.4, "execute_s": total - 0.6, "total_s": total, "cells": [{"index": 3, "seconds": 1.2}]},
        peak_memory_mb=412.5 + n,
    )  # fmt: skip
    if status == "failed":
        fields["error"] = {
            "type": "BadInput",
            "message": "unknown channel 'Yb1720'; did you mean 'Yb172'?",
            "cell": 4,
        }
    elif not good:
        fields["reason"] = f"the run was {status}"
    return Record(**(fields | changes))


def make_run(
    runs_root: Path, subject: str = "hyperion", step: str = "imc/segment", *, n: int = 0,
    status: str = "succeeded", picture: bool = True, page: bool = True, **changes: Any,
) -> tuple[Path, Record]:  # fmt: skip
    """Write a run's folder with all its files (without report, thumbnail and crate if not `page`)."""
    record = record_of(subject, step, n=n, status=status, **changes)
    folder = runs_root / subject / record.step / record.run_id
    folder.mkdir(parents=True)
    nb = notebook_of(
        step, seed=n, parameters=record.parameters, failed=status == "failed", picture=picture
    )
    (folder / "notebook.ipynb").write_text(json.dumps(nb))
    (folder / "params.json").write_text(json.dumps(record.parameters))
    (folder / "log.jsonl").write_text('{"event": "start"}\n')
    record.save(folder)
    if page:
        from imaxt_nb.archive.crate import write_crate
        from imaxt_nb.archive.report import write_report

        write_report(folder, record)
        write_crate(folder, record)
    return folder, record
