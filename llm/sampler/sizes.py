"""The sizes that programs are compiled for, declared beforehand so that they are few.

A program is compiled for one shape and takes seconds to compile, so prompts, rows and rooms are
rounded up to declared sizes: prompts to powers of two, rows to a quarter of a batch and a quarter
of that, the room for a response to doublings of a first one. What a call can need at most is
counted by ``programs`` before it begins.

Key to the axes: B prompts, S prompt positions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt32

from llm.sampler.settings import Prompt, Sampling

ROWS = 256
"""Responses written side by side unless told otherwise; bounds the cache."""

SHORTEST = 16
"""Prompts are padded to this length or to a power of 2 above it."""

ROOM = 32
"""Slots for a response at first; they are doubled until the response may be as long as it can."""

SEGMENT = 8
"""Tokens between two looks at which rows have ended."""

THINNED = 4
"""Rows are thinned out to one in so many. Halving writes a little faster and compiles longer."""

FEWEST = 8
"""Fewest rows that a batch is thinned out to; a step of fewer takes hardly less time."""


def bucket(size: int, least: int) -> int:
    """The smallest power of 2 times ``least`` that holds ``size``."""
    while least < size:
        least *= 2
    return least


def at_once(rows: int, responses: int) -> int:
    """Prompts in a full batch, a power of 2."""
    return 1 << (max(rows // responses, 1).bit_length() - 1)


def row_sizes(rows: int) -> list[int]:
    """Rows that a batch of so many can be thinned out to, largest first."""
    sizes = [rows]
    while sizes[-1] % THINNED == 0 and sizes[-1] // THINNED >= FEWEST:
        sizes.append(sizes[-1] // THINNED)
    return sizes


def rooms(max_new_tokens: int) -> list[int]:
    """Slots there can be for a response, fewest first: doublings, and at last what it may need."""
    sizes = [min(ROOM, max_new_tokens)]
    while sizes[-1] < max_new_tokens:
        sizes.append(min(2 * sizes[-1], max_new_tokens))
    return sizes


def between_looks(settings: Sampling) -> int:
    """Tokens between two looks; where nothing ends a response there is nothing to look for."""
    return SEGMENT if settings.stop or settings.stop_strings else settings.max_new_tokens


def programs(
    lengths: Sequence[int], settings: Sampling, rows: int = ROWS
) -> dict[str, set[tuple[int, ...]]]:
    """Every program that writing responses to prompts can need; few of them are.

    Args:
        lengths: of the prompts, in tokens.
        settings: how many responses, how long.
        rows: most responses written side by side.

    Returns:
        The shapes of each kind of program: of ``begin`` (prompts, positions); of ``write`` and
        ``keep`` (rows, positions, room), and what a ``keep`` leaves is the next fewer rows; of
        ``grow`` the same, and what it leaves is the next larger room.
    """
    N, room, ordered = settings.responses, rooms(settings.max_new_tokens), sorted(lengths)
    full = at_once(rows, N)
    found: dict[str, set[tuple[int, ...]]] = {"begin": set(), "write": set()}
    found |= {"keep": set(), "grow": set()}
    for start in range(0, len(ordered), full):
        B, S = shape(ordered[start : start + full])
        sizes = row_sizes(B * N)
        found["begin"].add((B, S))
        found["write"] |= {(R, S, T) for R in sizes for T in room}
        found["keep"] |= {(R, S, T) for R in sizes[:-1] for T in room}
        found["grow"] |= {(R, S, T) for R in sizes for T in room[:-1]}
    return found


def shape(lengths: Sequence[int]) -> tuple[int, int]:
    """B and S of a batch of prompts of these lengths."""
    return bucket(len(lengths), 1), bucket(max(lengths), SHORTEST)


def lay_out(
    prompts: Sequence[Prompt], ids: Sequence[int]
) -> tuple[Int32[np.ndarray, "B S"], Int32[np.ndarray, "B S"], UInt32[np.ndarray, " B"]]:
    """Prompts as one array, their ends aligned, padded in both directions to declared sizes.

    Returns:
        Tokens, positions, and the number of each prompt. A row without positions is padding.
    """
    B, S = shape([len(prompt) for prompt in prompts])
    tokens, positions = np.zeros((B, S), np.int32), np.full((B, S), -1, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, S - len(prompt) :] = prompt
        positions[row, S - len(prompt) :] = np.arange(len(prompt))
    numbers = np.zeros(B, np.uint32)
    numbers[: len(prompts)] = ids
    return tokens, positions, numbers
