"""How long `imaxt --help` takes, in a new process each time. Bar: under 0.5 s."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

IMAXT = Path(sys.executable).with_name("imaxt")


def once() -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    subprocess.run([IMAXT, "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    times = [once() for _ in range(11)]
    print(
        f"| `imaxt --help`, median of {len(times)} | {statistics.median(times):.2f} s | < 0.5 s |"
    )
