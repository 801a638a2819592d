"""A few processes that run named tasks, longest first, each as soon as what it reads is there.

Processes and not threads, because compiling takes a large part of the time and holds one core: two
experiments side by side finish in half the time, and each keeps the memory of its own arrays.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast


@dataclass(frozen=True)
class Task:
    """A named call of a function that every worker can import.

    Attributes:
        name: of the task.
        arguments: what the function is called with, beside the name.
        seconds: how long it is expected to take.
        after: names that must be finished first.
    """

    name: str
    arguments: tuple[Any, ...]
    seconds: float
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a task ended: with a value, or with a traceback."""

    name: str
    value: Any = None
    error: str = ""


def work(function: Callable[..., Any], line: Connection) -> None:
    """A worker's life: take a task, do it, report, until the line closes or the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            name, arguments = line.recv()
        except EOFError:
            return
        try:
            line.send(Outcome(name, function(name, *arguments)))
        except Exception:
            line.send(Outcome(name, error=traceback.format_exc()))


def end_with_parent() -> None:
    """End this process when the one that started it is gone, by whatever kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    done: set[str],
    processes: int,
    started: Callable[[str], None],
) -> Iterator[Outcome]:
    """Run tasks in worker processes and yield outcomes as they come.

    A task whose input failed is reported as failed. However this generator ends, its workers end
    with it; what a task has written to disk by then stays.

    Args:
        function: called as ``function(name, *arguments)`` in a worker.
        tasks: what to run.
        done: names that need not run but that tasks may wait for.
        processes: how many workers.
        started: told each task's name when a worker takes it.
    """
    context = multiprocessing.get_context("spawn")
    waiting = sorted(tasks, key=lambda task: -urgency(task, tasks))
    finished, failed = set(done), set()
    lines: dict[Any, Any] = {}
    idle: list[Any] = []
    for _ in range(min(processes, len(tasks))):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(function, theirs), daemon=True)
        process.start()
        theirs.close()
        lines[ours] = (process, None)
        idle.append(ours)
    try:
        while waiting or any(name for _, name in lines.values()):
            for task in [task for task in waiting if failed & set(task.after)]:
                waiting.remove(task)
                failed.add(task.name)
                broken = ", ".join(sorted(failed & set(task.after)))
                yield Outcome(task.name, error=f"not run: it reads {broken}, which failed.")
            ready = [task for task in waiting if set(task.after) <= finished]
            while idle and ready:
                task, line = ready.pop(0), idle.pop(0)
                waiting.remove(task)
                line.send((task.name, task.arguments))
                lines[line] = (lines[line][0], task.name)
                started(task.name)
            busy = [line for line, (_, name) in lines.items() if name]
            for line in cast(list[Connection], wait(busy)):
                process, name = lines[line]
                try:
                    outcome = line.recv()
                    idle.append(line)
                    lines[line] = (process, None)
                except EOFError:
                    process.join()
                    outcome = Outcome(name, error=f"its process ended with {process.exitcode}.")
                    del lines[line]
                (failed if outcome.error else finished).add(outcome.name)
                yield outcome
            if waiting and not lines:
                raise OSError("every worker process has died; is there memory enough?")
    finally:
        for process, _ in lines.values():
            process.terminate()
        for process, _ in lines.values():
            process.join()


def urgency(task: Task, tasks: Sequence[Task]) -> float:
    """Seconds until everything that waits for a task is done: the longest chain starts first."""
    followers = [urgency(other, tasks) for other in tasks if task.name in other.after]
    return task.seconds + max(followers, default=0.0)
