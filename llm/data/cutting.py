"""Cut a step's groups into micro-batches of declared shapes.

Within a batch, each group goes into the fullest row that still has room, longest groups first (best
fit decreasing, which needs hardly more rows than any packing can do with). Between batches the cut
is greedy: the shape that holds most tokens for its price takes what it can, until one batch for all
the rest is cheaper. The pieces are micro-batches whose sums add up to the step's, so a cut changes
the speed and never what is learned.

Key to the axes: R rows, S positions in a row.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int64

from llm.data.packing import Place

OVERHEAD, CPU_OVERHEAD, CPU_WIDTH = 512, 128, 256
"""Positions whose arithmetic takes as long as starting one more micro-batch does, at most, and on a
CPU with a model so wide: an accelerator is done with a few hundred before it has read the weights
and added their gradient up, and wants many at a time. A CPU is not, and works better on what its
caches hold; but a position of a narrow model takes it no time either."""

Size = tuple[int, int]
"""Rows and positions in a row."""


class Piece(NamedTuple):
    """One micro-batch: which declared shape, and for each shard where its groups go."""

    shape: int
    shards: list[list[Place]]


def price(size: Size, width: int) -> float:
    """What one batch costs, in positions of a row so short that attention is free."""
    rows, length = size
    overhead = float(OVERHEAD)
    if jax.default_backend() == "cpu":
        overhead = min(overhead, CPU_OVERHEAD * (CPU_WIDTH / width) ** 2)
    return overhead + rows * length * (1 + length / (6 * width))


def cut(
    rows: Sequence[int],
    lengths: Int64[np.ndarray, " groups"],
    sizes: Sequence[Size],
    shards: int,
    width: int,
) -> list[Piece]:
    """Cut a step into micro-batches of declared sizes.

    Args:
        rows: examples of the step.
        lengths: positions every group of the data set takes.
        sizes: one of them must hold the longest group.
        shards: how many ways each batch is divided.
        width: see ``make_plan``.

    Returns:
        The pieces, in each the groups of a shard in the order of ``rows``.

    Raises:
        ValueError: if a group is longer than every row.
    """
    longest = max((int(lengths[row]) for row in rows), default=0)
    if longest > max(length for _, length in sizes):
        raise ValueError(
            f"a group takes {longest} positions, and no batch of {list(sizes)} (rows x positions) "
            "has a row for it; declare a longer one."
        )
    waiting = deal(rows, lengths, shards)
    best: list[Piece] = []
    least, spent, pieces = math.inf, 0.0, []
    while any(waiting) and spent < least:
        options = [
            Option(price(size, width), number, [fit(queue, *size) for queue in waiting])
            for number, size in enumerate(sizes)
        ]
        ending = min((o for o in options if not o.left), key=lambda o: o.price, default=None)
        if ending is not None and spent + ending.price < least:
            least, best = spent + ending.price, [*pieces, ending.piece]
        densest = min(options, key=lambda o: o.price / max(o.held, 1e-9))
        spent += densest.price
        pieces.append(densest.piece)
        waiting = [fitted.left for fitted in densest.shards]
    return best


class Waiting(NamedTuple):
    """A group to be placed: positions it takes, its turn in the step, its row of the data set."""

    length: int
    turn: int
    example: int


class Fitted(NamedTuple):
    """What one batch takes of a queue: places by turn, their positions, and who still waits."""

    placed: list[tuple[int, Place]]
    held: int
    left: list[Waiting]


class Option(NamedTuple):
    """A batch that could come next: what it costs, its shape, and what it takes of each shard."""

    price: float
    number: int
    shards: list[Fitted]

    @property
    def held(self) -> int:
        """Positions that hold a token."""
        return sum(fitted.held for fitted in self.shards)

    @property
    def left(self) -> bool:
        """Whether anything is left after it."""
        return any(fitted.left for fitted in self.shards)

    @property
    def piece(self) -> Piece:
        """The batch, with every shard's groups in the order of the step."""
        return Piece(self.number, [[place for _, place in sorted(f.placed)] for f in self.shards])


def deal(
    rows: Sequence[int], lengths: Int64[np.ndarray, " groups"], shards: int
) -> list[list[Waiting]]:
    """Share a step's groups among shards, longest first, to and fro so that loads stay even."""
    queue = [Waiting(int(lengths[row]), turn, row) for turn, row in enumerate(rows)]
    queue.sort(key=lambda group: (-group.length, group.turn))
    turns = [*range(shards), *reversed(range(shards))]
    dealt: list[list[Waiting]] = [[] for _ in range(shards)]
    for number, group in enumerate(queue):
        dealt[turns[number % len(turns)]].append(group)
    return dealt


def rows_needed(queue: Sequence[Waiting], length: int) -> int:
    """Rows that hold a whole queue."""
    rows = math.ceil(sum(group.length for group in queue) / length)
    while fit(queue, rows, length).left:
        rows += 1
    return max(rows, 1)


def fit(queue: Sequence[Waiting], rows: int, length: int) -> Fitted:
    """Put each group, longest first, into the fullest row that still has room for it."""
    room = [(length, row) for row in range(rows)]
    placed, left, held = [], [], 0
    for group in queue:
        found = bisect_left(room, (group.length, -1))
        if found == len(room):
            left.append(group)
            continue
        free, row = room.pop(found)
        placed.append((group.turn, Place(group.example, row, length - free)))
        insort(room, (free - group.length, row))
        held += group.length
    return Fitted(placed, held, left)
