"""Workers do every task once, in an order that respects what reads what, and fail one at a time."""

import os
import time

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
