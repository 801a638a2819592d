"""Runs of several processes on this machine, each a process of its own, and all of them bounded."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from llm.journal import read_lines

ROOT = Path(__file__).parents[3]
BOUND = 400.0
"""Seconds in which a run of this size ends, on a machine that is busy with others."""


class Ended(NamedTuple):
    """How a process ended: its exit status, what it printed, and after how many seconds."""

    status: int
    text: str
    seconds: float


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def flags(given: Mapping[str, Any]) -> list[str]:
    """A line of flags; those that are None are left out."""
    return [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('__', '.').replace('_', '-')}", str(value))
    ]


def line(place: Path, out: Path, recipe: str = "dpo", **changes: Any) -> list[str]:
    """The line of a small run: six steps, a save after every second, a look after every third."""
    given: dict[str, Any] = {
        "model": place / "model",
        "data": place / "pairs.jsonl",
        "out": out,
        "batch": 4,
        "steps": 6,
        "save__every": 2,
        "evaluate_every": 3,
        "packing__shapes": 1,
        "optimizer__learning_rate": 3e-3,
        "reading__eval_share": 0.1,
    }
    return ["train", recipe, *flags(given | changes)]


def online(place: Path, out: Path, recipe: str = "rloo", **changes: Any) -> list[str]:
    """The same for a run that writes: three collections of two parts each."""
    given: dict[str, Any] = {
        "reward": "regex:[!-~]",
        "batch": 2,
        "reuse__minibatches": 2,
        "collection__responses": 2,
        "sampling__max_new_tokens": 8,
        "sampling__rows": 4,
        "reading__eval_share": 0.2,
        "evaluate_prompts": 4,
        "optimizer__learning_rate": 1e-2,
        "optimizer__warmup": 0.0,
    }
    return line(place, out, recipe, **given | changes)


def start(
    command: Sequence[str],
    count: int = 2,
    devices: int = 1,
    moments: Mapping[int, str] | None = None,
    extra: Mapping[int, Sequence[str]] | None = None,
    **more: Any,
) -> list["subprocess.Popen[str]"]:
    """Start a command as several processes.

    Args:
        command: the line behind `modeseek`.
        count: how many.
        devices: simulated ones of each.
        moments: what happens to which process; see ``victim``.
        extra: further flags of some.
        more: flags of hosts.
    """
    port, moments, extra = free_port(), moments or {}, extra or {}
    about = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}

    def place(index: int) -> list[str]:
        if count == 1:
            return []
        coordinator = f"127.0.0.1:{port}"
        given = {"coordinator": coordinator, "count": count, "index": index} | more
        return flags({f"hosts__{name}": value for name, value in given.items()})

    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.llm.hosts.victim",
                moments.get(index, "nothing"),
                *command,
                *place(index),
                *extra.get(index, ()),
            ],
            cwd=ROOT,
            env=about,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]


def finish(started: Sequence["subprocess.Popen[str]"], bound: float = BOUND) -> list[Ended]:
    """Wait for all of them; whoever takes longer than is allowed is killed, and the test fails."""
    began, ended = time.monotonic(), {}
    with ThreadPoolExecutor(len(started)) as pool:
        # What they print is read all the time, or they would wait for it to be.
        texts = [pool.submit(process.communicate) for process in started]
        while len(ended) < len(started):
            seconds = time.monotonic() - began
            ended |= {
                index: seconds
                for index, process in enumerate(started)
                if process.poll() is not None and index not in ended
            }
            if seconds > bound:
                for process in started:
                    process.kill()
            time.sleep(0.02)
        return [
            Ended(process.returncode, text.result()[0], ended[index])
            for index, (process, text) in enumerate(zip(started, texts, strict=True))
        ]


def run(command: Sequence[str], count: int = 2, devices: int = 1, **more: Any) -> list[Ended]:
    """Run a command to its end."""
    ended = finish(start(command, count, devices, **more))
    for index, process in enumerate(ended):
        assert process.status == 0, f"process {index}: {process.text}"
    return ended


def numbers(folder: Path) -> list[str]:
    """The lines of a run's metrics, but for what was timed."""
    lines = read_lines(folder / "metrics.jsonl")
    return [json.dumps({k: v for k, v in line.items() if k != "clock"}) for line in lines]


def assert_same_run(folder: Path, other: Path) -> None:
    """Metrics, collections and weights are the same, to the byte."""
    assert numbers(folder) == numbers(other)
    for part in ("rollouts", "model"):
        mine, theirs = (sorted((run / part).glob("*.*")) for run in (folder, other))
        assert [file.name for file in mine] == [file.name for file in theirs]
        for one, two in zip(mine, theirs, strict=True):
            assert one.read_bytes() == two.read_bytes(), one


def assert_close_run(folder: Path, other: Path, within: float = 1e-5) -> None:
    """Metrics are the same but for rounding."""
    mine, theirs = (read_lines(run / "metrics.jsonl") for run in (folder, other))
    assert [(x["step"], x["kind"]) for x in mine] == [(y["step"], y["kind"]) for y in theirs]
    for x, y in zip(mine, theirs, strict=True):
        assert x.keys() == y.keys()
        for name in x.keys() - {"clock", "kind"}:
            assert abs(x[name] - y[name]) <= within * max(1, abs(y[name])), (x["step"], name)
