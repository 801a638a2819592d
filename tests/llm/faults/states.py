"""States small enough to be saved and damaged a hundred times."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.settings import SaveSettings
from llm.state import Saver
from llm.update import TrainState

# Where Orbax fails it drops what it had begun besides, and Python warns when that is collected.
abandoned = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


@pytest.fixture
def swept() -> Iterator[None]:
    """Collects what a test leaves behind while its own warning filters still hold."""
    yield
    gc.collect()


def make_state(size: int = 7) -> TrainState:
    """Numbers of several kinds, in buffers of their own, as a step makes them."""

    def build() -> TrainState:
        zero = jnp.zeros(())
        w = jnp.arange(size, dtype=jnp.float32) / 3
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            trainable={"a/b.c/kernel": w, "half": w.astype(jnp.bfloat16)},
            optimizer=({"mu": w[:3]}, (), jnp.ones((), jnp.int32)),
            totals={"loss": (zero, zero)},
            finite=jnp.ones((), bool),
        )

    return jax.jit(build)()


@jax.jit
def following(state: TrainState) -> TrainState:
    """A state of the same shape with other numbers."""
    return jax.tree.map(lambda x: x if x.dtype == bool else x + 1, state)


advance = jax.jit(following, donate_argnums=0)


def kept(state: TrainState) -> list[np.ndarray]:
    """Copies of all numbers of a state."""
    return [np.array(leaf) for leaf in jax.tree.leaves(state)]


@contextmanager
def opened(folder: Path, state: TrainState, *, every: int = 1, keep: int = 2) -> Iterator[Saver]:
    """A saver that is closed at the end, however it ends."""
    saver = Saver(folder, SaveSettings(every=every, keep=keep), state)
    try:
        yield saver
    finally:
        saver.checkpointer.close()


def save_steps(folder: Path, *steps: int, keep: int = 5) -> dict[int, list[np.ndarray]]:
    """Save states of these steps; returns what was saved by step."""
    state, found = make_state(), {}
    with opened(folder, state, keep=keep) as saver:
        for step in steps:
            while int(state.step) < step:
                state = following(state)
            found[step] = kept(state)
            saver.save(step, state)
    return found
