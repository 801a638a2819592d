"""A shuffle one can index: the place of every example in every epoch is computed, not stored.

A shuffled list is state: to resume a run at step 90,000 one has to shuffle again and skip, or save
the list. A Feistel network is a permutation with a formula. Write the index as two digits (a, b),
and repeatedly add to one digit a hash of the other: each round can be undone, so the whole is one
to one whatever the hash. What falls outside the data set is sent through again ("cycle walking")
until it falls inside. Seed and epoch key the hash, so epoch 7 is one call away from epoch 0.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Shaped

ROUNDS = 8
"""Four already look random on large sets; the small ones, with tiny digits, need more mixing."""

GOLDEN = 0x9E3779B97F4A7C15
WORD = 0xFFFFFFFFFFFFFFFF


@runtime_checkable
class Visit(Protocol):
    """Which examples each step sees."""

    @property
    def size(self) -> int:
        """Examples in the data set."""
        ...

    @property
    def batch_size(self) -> int:
        """Most examples of a step."""
        ...

    def batch(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Rows of the data set that belong to a step."""
        ...


@dataclass(frozen=True)
class Order:
    """An endless sequence of examples, every epoch in its own random order.

    A step may straddle two epochs; each example is seen exactly once per epoch all the same.

    Attributes:
        size: examples in the data set.
        batch_size: examples per step.
        seed: two seeds give unrelated orders.
    """

    size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        check_sizes(self.size, self.batch_size)

    def batch(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Rows of the data set that belong to a step, in constant time for any step.

        Args:
            step: counted from 0.

        Returns:
            ``batch_size`` rows in [0, size).
        """
        return self.rows(step * self.batch_size, self.batch_size)

    def rows(self, start: int, many: int) -> Int64[np.ndarray, " many"]:
        """Rows of the data set at some places of the sequence, counted from 0."""
        epochs, within = np.divmod(np.arange(start, start + many, dtype=np.int64), self.size)
        rows = np.empty(many, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = permute(within[here], self.size, self.seed, int(epoch))
        return rows

    def steps(self, epochs: float | int) -> int:
        """Steps after which every example has been seen ``epochs`` times."""
        return math.ceil(self.size * epochs / self.batch_size)


@dataclass(frozen=True)
class InOrder:
    """One pass over the data set as it stands; the last step may be short. For evaluation.

    Attributes:
        size: examples in the data set.
        batch_size: examples per step.
    """

    size: int
    batch_size: int

    def __post_init__(self) -> None:
        check_sizes(self.size, self.batch_size)

    def batch(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Rows of the data set that belong to a step; none after the last."""
        start = min(step * self.batch_size, self.size)
        return np.arange(start, min(start + self.batch_size, self.size), dtype=np.int64)

    @property
    def steps(self) -> int:
        """Steps of the pass."""
        return math.ceil(self.size / self.batch_size)


def check_sizes(size: int, batch_size: int) -> None:
    """Refuse an order over nothing.

    Raises:
        ValueError: names which of the two numbers it is.
    """
    if size < 1:
        raise ValueError(f"the data set has {size} examples; it needs at least 1.")
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; it must be at least 1.")


def permute(
    index: Int64[np.ndarray, " n"], size: int, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """Where each index goes in the permutation of [0, size) that seed and epoch name.

    Args:
        index: in [0, size).
        size: of the data set.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        As many rows in [0, size); distinct where the indices are.
    """
    left = math.isqrt(size - 1) + 1  # the digits cover [0, left * right), hardly more than size
    right = -(-size // left)
    rows = index.astype(np.uint64)
    outside = np.ones(len(rows), bool)
    while outside.any():
        rows[outside] = feistel(rows[outside], left, right, seed, epoch)
        outside = rows >= size
    return rows.astype(np.int64)


def feistel(
    index: Shaped[np.ndarray, " n"], left: int, right: int, seed: int, epoch: int
) -> Shaped[np.ndarray, " n"]:
    """A permutation of [0, left * right): each round moves one digit by a hash of the other."""
    high, low = np.divmod(index, np.uint64(right))
    keys = mix(np.array([(seed * GOLDEN + epoch) & WORD], np.uint64))
    for number in range(ROUNDS):
        key = mix(keys + np.uint64((number + 1) * GOLDEN & WORD))
        if number % 2:
            low = (low + mix(mix(high) ^ key)) % np.uint64(right)
        else:
            high = (high + mix(mix(low) ^ key)) % np.uint64(left)
    return high * np.uint64(right) + low


def mix(word: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Spread every bit of a 64-bit word over all of it.

    Source: the finaliser of SplitMix64, Steele, Lea and Flood 2014.
    """
    word = word + np.uint64(GOLDEN)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
