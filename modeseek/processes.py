"""Several processes of one run on this machine: started together, and together again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llm.simulated import simulated

PROGRAM = (sys.executable, "-m", "modeseek")
"""What every process runs."""

PATIENCE = 120.0
"""Seconds in which the others end by themselves once one has. They notice at once, but a run that
has ended well writes its model before its last process ends."""

LOOK = 0.1
"""Seconds between two looks at who is still there."""

WRONG, TRY_AGAIN = 2, 75
"""Exit statuses of a process that cannot do what it was asked for, and of one that ended because
another had."""


def supervise(
    line: Sequence[str],
    processes: int,
    devices: int,
    restarts: int,
    say: Callable[[str], None],
) -> int:
    """Run a command as several processes, and again from where it was saved when one has died.

    SIGTERM and Ctrl-C are passed on: the run saves the step at hand and ends, and so does this.

    Args:
        line: the command and its flags, as after `modeseek`.
        processes: how many.
        devices: simulated devices of each.
        restarts: how often all may be started again.
        say: told what happens.

    Returns:
        The exit status: 0 if all is done.
    """
    attempt = 0
    while True:
        started = start_all(line, processes, devices)
        with passed_on(started) as asked:
            statuses = wait_for(started)
        # What ended first is not known; of those that ended because of another, all say so.
        cause = min(filter(None, statuses), key=lambda status: status == TRY_AGAIN, default=0)
        status = WRONG if WRONG in statuses else 128 - cause if cause < 0 else cause
        if asked or status in (0, WRONG) or attempt == restarts:
            return status
        attempt += 1
        who = statuses.index(cause)
        say(f"process {who} ended with status {cause}: all go on ({attempt} of {restarts})")


def start_all(line: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen[bytes]]:
    """The processes of one attempt, in groups of their own: signals come from here alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {
        **simulated(devices),
        "MODESEEK_COORDINATOR": f"127.0.0.1:{port}",
        "MODESEEK_COUNT": str(processes),
    }
    return [
        subprocess.Popen(
            [*PROGRAM, *line],
            env={**os.environ, **about, "MODESEEK_INDEX": str(index)},
            start_new_session=True,
        )
        for index in range(processes)
    ]


def wait_for(started: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Exit statuses, when all have ended; whoever does not end with the others is killed."""
    deadline = None
    while any(process.poll() is None for process in started):
        bad = any(process.poll() not in (None, 0) for process in started)
        if bad and deadline is None:
            deadline = time.monotonic() + PATIENCE
        if deadline is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(LOOK)
    return [process.wait() for process in started]


@contextmanager
def passed_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Until the end of the block, requests to stop reach every process and not this one.

    Yields:
        The signals that came.
    """
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
