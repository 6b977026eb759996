"""The command line, as a user types it, in a site of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

IMAXT = Path(sys.executable).with_name("imaxt")


def site_environment(site: Path) -> dict[str, str]:
    """The environment of a user whose data and runs are below `site`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("IMAXT_")}
    return env | {"IMAXT_DATA_ROOT": str(site / "data"), "IMAXT_RUNS_ROOT": str(site / "runs")}


def imaxt(*args: str, site: Path, code: int = 0, timeout_s: float = 280) -> str:
    """Run the command in a site of its own; its standard output."""
    env = site_environment(site)
    done = subprocess.run(
        [IMAXT, *args], env=env, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


LONG = 800.0  # seconds: journeys go on at the same time


def through(site: Path, raw: Path, sample: str) -> None:
    """convert, segment, cells."""
    imaxt("convert", "imc", str(raw), "--sample", sample, site=site)
    nuclear = ("-p", "nuclear_channel=Ir191")
    imaxt("run", "imc/segment", "--sample", sample, *nuclear, site=site, timeout_s=LONG)
    imaxt("run", "analysis/cells", "--sample", sample, site=site, timeout_s=LONG)


def hyperion_through(site: Path, raw: Path) -> str:
    """The same of the real files; what the conversion said, as JSON."""
    told = imaxt("convert", "imc", str(raw), "--sample", "hyperion", "--json", site=site)
    channels = ("-p", "nuclear_channel=Yb172", "-p", "membrane_channels=Pr141")
    imaxt("run", "imc/segment", "--sample", "hyperion", *channels, site=site, timeout_s=LONG)
    imaxt("run", "analysis/cells", "--sample", "hyperion", site=site, timeout_s=LONG)
    return told
