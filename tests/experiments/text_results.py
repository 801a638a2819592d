"""Made-up gains for tests of the study on text: straight rises, with a little noise by seed."""

import numpy as np

from experiments.results import Size

SEEDS = 5
SIZE = Size("default", SEEDS)
STEP = np.arange(0, 49, 8)


def rise(slower: float = 1.0, end: float = 1.0, seed: int = 0) -> np.ndarray:
    """A gain [seeds, records] that rises by 1/24 a step, slowed down, up to an end."""
    noise = 1 + 0.01 * np.random.default_rng(seed).normal(size=(SEEDS, 1))
    return np.minimum(STEP[None, :] / 24 / slower, end) * noise


def level(value: float, seed: int = 0) -> np.ndarray:
    """The same number at every evaluation [seeds, records], with noise."""
    noise = 0.01 * np.random.default_rng(seed).normal(size=(SEEDS, 1))
    return np.full((SEEDS, len(STEP)), value) + noise
