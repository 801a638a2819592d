"""Python in a process whose CPU passes for several devices."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from llm.simulated import simulated

ROOT = Path(__file__).resolve().parents[1]


def on_devices(
    devices: int,
    *line: str,
    timeout: float = 600,
    told: Mapping[str, str] = MappingProxyType({}),
) -> "subprocess.CompletedProcess[str]":
    """Run Python, and see it end well.

    Args:
        devices: how many.
        line: what stands behind ``python``.
        timeout: seconds that it may take.
        told: environment variables.
    """
    done = subprocess.run(
        [sys.executable, *line],
        cwd=ROOT,
        env={**os.environ, **told, **simulated(devices)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done
