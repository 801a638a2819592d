"""One folder for all: a run's checkpoints are written by every process, so each must see them."""

import secrets
import socket
import time
from pathlib import Path

from llm.hosts.together import count, from_first, gather, is_first, shared

PATIENCE, PAUSE = 15.0, 0.25
"""Seconds that a file may take to be seen on another host of a network file system, and between two
looks."""


def check_one_folder(folder: Path) -> None:
    """Make sure that a path leads every process to the same folder.

    Args:
        folder: exists where process 0 runs.

    Raises:
        ValueError: if one does not see there what process 0 has written; names the hosts.
    """
    if count() == 1:
        return
    mark = folder / f".seen-by-all-{from_first(lambda: secrets.token_hex(8))}"
    from_first(mark.touch)
    try:
        hosts = gather((socket.gethostname(), appears(mark)))
    finally:
        if is_first():
            mark.unlink(missing_ok=True)
    blind = [f"process {peer} on {host}" for peer, (host, seen) in enumerate(hosts) if not seen]
    if blind:
        raise shared(
            ValueError(
                f"--out {folder} is not one folder: {', '.join(blind)} cannot see there what "
                f"process 0 on {hosts[0][0]} wrote. Give a folder on a disk that every host has."
            )
        )


def appears(path: Path) -> bool:
    """Whether a file is there, or comes to be seen in a while."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True
