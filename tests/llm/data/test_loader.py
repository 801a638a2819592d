"""The loader hands out the steps in order, counts when it was late, and never hangs."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from llm.data.loader import Loader
from llm.data.packing import Batch, Shape, empty_batch


def numbered(step: int) -> Batch:
    """A batch that knows its step."""
    return replace(empty_batch(1, Shape(1, 1, 1, 1, 1, 1)), example=np.array([step]))


def steps_of(batches: list[Batch]) -> list[int]:
    return [int(batch.example[0]) for batch in batches]


class Scripted:
    """A plan whose batches are numbered, each made when its gate opens."""

    def __init__(self, steps: int, gated: bool = False, fails_at: int | None = None) -> None:
        self.steps = steps
        self.gates = [threading.Event() for _ in range(steps)]
        self.made = [threading.Event() for _ in range(steps)]
        self.fails_at = fails_at
        if not gated:
            for gate in self.gates:
                gate.set()

    def micro_batches(self, step):
        assert self.gates[step].wait(10)
        if step == self.fails_at:
            raise ValueError(f"step {step} is broken")
        self.made[step].set()
        return [numbered(step)]


def same(batch):
    return batch


def test_steps_come_in_order_from_where_it_starts_and_then_stop():
    with Loader(Scripted(6), 2, same) as loader:
        assert list(map(steps_of, loader)) == [[2], [3], [4], [5]]
        assert next(loader, None) is None


def test_a_run_that_is_over_has_no_steps_left():
    with Loader(Scripted(3), 3, same) as loader:
        assert list(loader) == []


def test_batches_are_put_on_the_device_in_the_thread():
    threads = []

    def put(batch):
        threads.append(threading.current_thread().name)
        return replace(batch, example=-batch.example)

    with Loader(Scripted(3), 0, put) as loader:
        assert list(map(steps_of, loader)) == [[0], [-1], [-2]]
    assert set(threads) == {"loader"}


def test_an_error_in_the_thread_is_raised_where_the_step_was_awaited():
    with Loader(Scripted(4, fails_at=1), 0, same) as loader:
        assert steps_of(next(loader)) == [0]
        with pytest.raises(ValueError, match="step 1 is broken"):
            next(loader)
        assert next(loader, None) is None


def test_a_step_that_is_ready_is_no_stall():
    plan = Scripted(3)
    with Loader(plan, 0, same, ahead=4) as loader:
        next(loader)
        loader._thread.join(10)  # everything fits the queue, so the thread ends
        assert list(map(steps_of, loader)) == [[1], [2]]
        assert loader.stalls == 0


def test_a_step_that_is_late_is_counted_as_a_stall():
    plan = Scripted(3, gated=True)
    plan.gates[0].set()

    with Loader(plan, 0, same) as loader:
        next(loader)
        # Opened only once the caller has found the queue empty: the counter says so.
        opener = threading.Thread(target=open_when_stalled, args=(loader, plan, 1))
        opener.start()
        assert steps_of(next(loader)) == [1]
        opener.join(10)
        assert loader.stalls == 1
        plan.gates[2].set()


def open_when_stalled(loader, plan, step):
    """Open a gate after the loader has noticed that it is late."""
    waited = threading.Event()
    while not loader.stalls and not waited.wait(0.001):
        pass
    plan.gates[step].set()


def test_leaving_early_ends_the_thread_though_its_queue_is_full():
    plan = Scripted(100)
    with Loader(plan, 0, same, ahead=1) as loader:
        next(loader)
        assert plan.made[1].wait(10)
    assert not loader._thread.is_alive()
    loader.close()
    assert next(loader, None) is None
