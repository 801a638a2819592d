"""Workers do every task once, in an order that respects what reads what, and fail one at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modeseek.workers import Task, run_tasks, urgency


def note(name: str, folder: str, trouble: str = "") -> str:
    """A task: leave a file behind, or get into trouble."""
    if trouble == "raise":
        raise RuntimeError("as planned")
    if trouble == "die":
        os._exit(3)
    if trouble == "wait":
        time.sleep(60)
    with open(f"{folder}/{name}", "x") as file:
        file.write(str(time.time_ns()))
    return name.upper()


def linger(name: str, file: str) -> None:
    """A task: say who is at it, and stay at it."""
    Path(file).write_text(f"{os.getpid()}.")
    time.sleep(60)


ROOT = Path(__file__).parents[2]
LINGERING = """
import sys
from modeseek.workers import Task, run_tasks
from tests.modeseek.test_workers import linger
list(run_tasks(linger, [Task("a", (sys.argv[1],), 1.0)], set(), 1, lambda name: None))
"""


def alive(number: int) -> bool:
    """Whether there is a process of this number that has not ended."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(happened: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something, not for ever."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def outcomes(tasks, processes=2, done=()):
    return {o.name: o for o in run_tasks(note, tasks, set(done), processes, lambda name: None)}


def test_a_task_runs_after_what_it_reads(tmp_path):
    folder = (str(tmp_path),)
    tasks = [Task("b", folder, 1.0, ("a",)), Task("a", folder, 1.0), Task("c", folder, 5.0)]
    found = outcomes(tasks)
    assert {name: outcome.value for name, outcome in found.items()} == {
        "a": "A",
        "b": "B",
        "c": "C",
    }
    assert (tmp_path / "a").read_text() < (tmp_path / "b").read_text()


def test_a_failure_stays_with_its_task_and_those_that_read_it(tmp_path):
    good, bad = (str(tmp_path),), (str(tmp_path), "raise")
    tasks = [Task("a", bad, 1.0), Task("b", good, 1.0, ("a",)), Task("c", good, 1.0)]
    found = outcomes(tasks, processes=1)
    assert "as planned" in found["a"].error
    assert "reads a, which failed" in found["b"].error
    assert found["c"].value == "C"


def test_a_worker_that_dies_is_reported_and_the_rest_goes_on(tmp_path):
    tasks = [Task("a", (str(tmp_path), "die"), 9.0), Task("b", (str(tmp_path),), 1.0)]
    found = outcomes(tasks, processes=2)
    assert "ended with 3" in found["a"].error
    assert found["b"].value == "B"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_kill_leaves_no_worker_behind(tmp_path):
    file = tmp_path / "number"
    with subprocess.Popen([sys.executable, "-c", LINGERING, str(file)], cwd=ROOT) as parent:
        until(lambda: file.exists() and file.read_text().endswith("."))
        worker = int(file.read_text()[:-1])
        os.kill(worker, 0)
        parent.kill()
    until(lambda: not alive(worker))


def test_what_is_done_need_not_run_again(tmp_path):
    found = outcomes([Task("b", (str(tmp_path),), 1.0, ("a",))], done={"a"})
    assert found["b"].value == "B"


def test_stopping_early_ends_the_workers(tmp_path):
    tasks = [Task("a", (str(tmp_path),), 1.0), Task("b", (str(tmp_path), "wait"), 9.0)]
    runs = run_tasks(note, tasks, set(), 2, lambda name: None)
    began = time.monotonic()
    assert next(runs).name == "a"
    runs.close()
    assert time.monotonic() - began < 50


def test_the_longest_chain_is_the_most_urgent():
    tasks = [Task("a", (), 1.0), Task("b", (), 9.0, ("a",)), Task("c", (), 5.0)]
    assert urgency(tasks[0], tasks) == pytest.approx(10.0)
