"""Processes that run a command, forked from one that has imported everything, and looked into.

Importing costs more than a small run. A process that has imported all of it and has not touched a
device is forked in an instant, and the child is what a fresh process would be: JAX begins its
threads with its first device, which is why the parent must never use one. Parent and child share a
few counters in memory, by which the parent knows what the child is doing and can aim.
"""

import json
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.faults.runs import Place, asked

COUNTERS = ("steps", "saves", "parts", "collections", "exports")
"""What a child counts; each is raised as the thing begins."""
BUSY = "busy"
"""1 while a collection is being made."""


class Watch:
    """Counters in memory that a child raises and its parent reads."""

    def __init__(self) -> None:
        self.names = (*COUNTERS, BUSY)
        self.numbers = np.frombuffer(mmap.mmap(-1, 8 * len(self.names)), np.int64)

    def __getitem__(self, name: str) -> int:
        return int(self.numbers[self.names.index(name)])

    def add(self, name: str, number: int = 1) -> None:
        """Raise a counter."""
        self.numbers[self.names.index(name)] += number


@dataclass(frozen=True)
class Command:
    """A run that is begun, or gone on with.

    Attributes:
        recipe: its name.
        place: of its inputs.
        out: its folder.
        states: a file that gets a line for every state that is saved or restored.
        log: a file that gets all it says.
        save_every: steps between checkpoints.
        processes: how many share the work.
        ahead: whether collections are made ahead.
    """

    recipe: str
    place: Place
    out: Path
    states: Path
    log: Path
    save_every: int = 1
    processes: int = 1
    ahead: bool = False


@dataclass(frozen=True)
class Child:
    """A process of a run.

    Attributes:
        process: its id.
        watch: what it counts.
    """

    process: int
    watch: Watch

    def kill(self) -> None:
        """Kill -9."""
        os.kill(self.process, signal.SIGKILL)

    def ended(self) -> int | None:
        """Its exit status, negative where a signal ended it; None while it runs."""
        process, status = os.waitpid(self.process, os.WNOHANG)
        return None if process == 0 else os.waitstatus_to_exitcode(status)


def start(command: Command) -> list[Child]:
    """Run a command in children, as many as share its work."""
    port, children = free_port(), []
    for index in range(command.processes):
        watch = Watch()
        process = fork(
            command.log, lambda index=index, watch=watch: work(command, watch, port, index)
        )
        children.append(Child(process, watch))
    return children


def fork(log: Path, do: Callable[[], None]) -> int:
    """Do something in a child, whose words go into a file; returns its process id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        do()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def alone(log: Path, do: Callable[[], None], seconds: float = 600) -> None:
    """Do something in a child and wait for it.

    Raises:
        RuntimeError: if it fails, or takes longer than it may.
    """
    child = Child(fork(log, do), Watch())
    status = wait([child], seconds)[0]
    if status != 0:
        raise RuntimeError(f"a process ended with {status}; its words are in {log}.")


def wait(children: Sequence[Child], seconds: float) -> list[int | None]:
    """Exit statuses of processes; None, and killed, where one did not end in time."""
    until = time.monotonic() + seconds
    found: list[int | None] = [None] * len(children)
    left = set(range(len(children)))
    while left:
        for number in sorted(left):
            status = children[number].ended()
            if status is not None:
                found[number] = status
                left.discard(number)
        if left and time.monotonic() > until:
            for number in left:
                children[number].kill()
                os.waitpid(children[number].process, 0)
            break
        time.sleep(0.002)
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def work(command: Command, watch: Watch, port: int, index: int) -> None:
    """What a child does: the whole command, counted."""
    from rich.console import Console

    from llm.finetune import finetune
    from llm.hosts import HostSettings, joined

    look_into(watch, command.states)
    recipe, settings = asked(
        command.recipe, command.place, command.out, save_every=command.save_every
    )
    settings = replace(settings, ahead=command.ahead)
    if command.processes > 1:
        meeting = f"127.0.0.1:{port}"
        hosts = HostSettings(coordinator=meeting, count=command.processes, index=index)
        settings = replace(settings, hosts=hosts)
    with joined(settings.hosts):
        finetune(command.recipe, recipe, settings, Console(width=100))


def look_into(watch: Watch, states: Path) -> None:
    """Count what this process does, and write down the state it saves or goes on from."""
    import jax

    from llm import collection, finetune
    from llm.integrity import checksums
    from llm.state import Saver, names
    from llm.step import Step

    def tell(what: str, step: int, state: Any) -> None:
        leaves = dict(zip(names(state), jax.tree.leaves(state), strict=True))
        line = {"what": what, "step": step, "checksums": checksums(leaves)}
        with states.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            watch.add(name)
            return function(*given, **options)

        return call

    save, restore, collect = Saver.save, Saver.restore, collection.Collector.collect

    def saved(self: Saver, step: int, state: Any) -> None:
        if step != self.saved:
            tell("saved", step, state)
            watch.add("saves")
        save(self, step, state)

    def restored(self: Saver, like: Any, say: Callable[[str], None] = print) -> Any:
        found = restore(self, like, say)
        if found is not None:
            tell("restored", self.saved, found)
        return found

    def collected(self: Any, iteration: int, trainable: Any, carried: Any, go_on: Any) -> Any:
        watch.add("collections")
        watch.add(BUSY)
        found = collect(self, iteration, trainable, carried, go_on)
        watch.add(BUSY, -1)
        return found

    Saver.save, Saver.restore, collection.Collector.collect = saved, restored, collected
    Step.__call__ = counted("steps", Step.__call__)
    collection.write_rollouts = counted("parts", collection.write_rollouts)
    finetune.export = counted("exports", finetune.export)
