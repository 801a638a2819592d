"""The next collection, made while the steps on the one at hand run.

A reward behind a network answers in its own time, text is read on the host, and the device has
nothing to do meanwhile, or the steps could have run. So whoever writes is a copy of the policy as
it was when these steps began, and works in a thread. What it writes is older by one collection when
it is learned from. The copy belongs to what a run needs to go on, because nobody could write the
rest of a collection without it: a checkpoint holds it, and then a run may be killed at any moment
of either, and no save has to wait for a reward.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp

from llm.update import Behind, TrainState

T = TypeVar("T")

GoOn = Callable[[float], bool]
"""Told the share that is done; False stops."""

PAUSE = 0.1
"""Seconds between two looks at how far a thread is."""


class Stopped(Exception):
    """Whoever waited for a thread does not want to wait any longer."""


class Ahead(Generic[T]):
    """Something that is made in a thread until somebody needs it.

    Args:
        make: makes it, in the thread. It asks after every part whether to go on, and if not, raises
            whatever it likes.
    """

    def __init__(self, make: Callable[[GoOn], T]) -> None:
        self._make, self._share = make, 0.0
        self._given_up, self._done = threading.Event(), threading.Event()
        self._made: list[T] = []
        self._error: BaseException | None = None
        # A reward that never answers must not keep a process from ending.
        self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self._done.is_set()

    def wait(self, go_on: GoOn) -> T:
        """What was made, as soon as it is.

        Args:
            go_on: told the share that is done, now and then, in the thread that waits.

        Raises:
            Stopped: if ``go_on`` said so; the thread ends after the part it is at.
            BaseException: whatever went wrong in the thread.
        """
        while not self._done.wait(PAUSE):
            if not go_on(self._share):
                self._given_up.set()
                raise Stopped
        if self._error is not None:
            raise self._error
        return self._made[0]

    def close(self, *, at_once: bool = False) -> None:
        """Give it up, and wait for the end of the part that is being made.

        Args:
            at_once: do not wait: the process ends.
        """
        self._given_up.set()
        while not at_once and self._thread.is_alive():
            self._thread.join(PAUSE)  # in pieces, so that a Ctrl-C is heard everywhere

    def _go_on(self, share: float) -> bool:
        self._share = share
        return not self._given_up.is_set()

    def _work(self) -> None:
        try:
            self._made.append(self._make(self._go_on))
        except BaseException as error:  # whatever it is, whoever waits has to hear of it
            self._error = error
        finally:
            self._done.set()


def left_behind(state: TrainState, before: Behind | None = None) -> Behind:
    """The policy as it is, in memory of its own: a step uses up the buffers of its state.

    Args:
        state: of the run.
        before: a policy that nobody needs any more; its buffers are used up.
    """
    behind = Behind(state.step, state.trainable)
    return copy(behind) if before is None else copy_into(before, behind)


@jax.jit
def copy(behind: Behind) -> Behind:
    """Every number again."""
    return jax.tree.map(jnp.copy, behind)


@partial(jax.jit, donate_argnums=0, keep_unused=True)
def copy_into(before: Behind, behind: Behind) -> Behind:
    """Every number again, where there were others."""
    return jax.tree.map(jnp.copy, behind)
