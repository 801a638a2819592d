"""Batches made ready while the device is busy with the one before.

A thread packs the next steps and hands them to the device; the training loop takes them from a
short queue. Should the loop ever find the queue empty, the device waited for data: that is counted,
because a loader that starves the step is a defect and not a detail. There is no position to save:
batch ``step`` is a function of the plan, so a resumed run starts the loader at its step.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, runtime_checkable

from llm.data.packing import Batch

AHEAD = 2
"""Steps kept ready."""


@runtime_checkable
class Batches(Protocol):
    """What a loader reads: a plan, or anything that knows the batches of each step."""

    @property
    def steps(self) -> int:
        """How many steps there are."""
        ...

    def micro_batches(self, step: int) -> list[Batch]:
        """The batches of a step."""
        ...


class Loader:
    """Iterates over the steps of a plan, each a list of micro-batches on the device.

    Use it as a context manager: leaving the block ends its thread.

    Args:
        plan: the batches of every step.
        start: first step, counted from 0.
        put: places a batch on the device; runs in the thread.
        ahead: steps kept ready.

    Attributes:
        stalls: how often the next step was not ready when it was asked for. The first is never
            counted: nothing can be ready before the start.
    """

    def __init__(
        self, plan: Batches, start: int, put: Callable[[Batch], Batch], ahead: int = AHEAD
    ) -> None:
        self.stalls = 0
        self._plan, self._start, self._put = plan, start, put
        self._ready: queue.Queue[list[Batch] | BaseException | None] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._asked = self._over = False
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._over:
            raise StopIteration
        try:
            found = self._ready.get_nowait()
        except queue.Empty:
            self.stalls += self._asked
            found = self._ready.get()
        self._asked = True
        if isinstance(found, list):
            return found
        self.close()
        if found is None:
            raise StopIteration
        raise found

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread; calling it again is harmless."""
        self._over = True
        self._closed.set()
        while self._thread.is_alive():
            try:  # room for a thread that waits for some
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def _work(self) -> None:
        try:
            for step in range(self._start, self._plan.steps):
                if self._closed.is_set():
                    return
                self._ready.put([self._put(batch) for batch in self._plan.micro_batches(step)])
            self._ready.put(None)
        except BaseException as error:  # whatever it is, the training loop has to hear of it
            self._ready.put(error)
