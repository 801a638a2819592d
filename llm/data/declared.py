"""Batch shapes for data that do not exist yet: what a policy is going to write.

How long responses will be is not known before they are written, but how long they can be is. So
the rows are as long as the longest group could be, shorter groups share a row, and the number of
rows comes in a few sizes, each half the one before. A step takes the sizes that make it cheapest,
and no program is ever compiled for another.

Key to the axes: R rows, S positions in a row, B groups, N responses, T response positions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm.data.examples import Group, PackingSettings
from llm.data.order import Visit
from llm.data.packing import Batch, Known, Shape, empty_batch, run_length
from llm.data.plan import LANE, Plan, round_up


class Bounds(NamedTuple):
    """What no group of a run exceeds.

    Attributes:
        prompt: tokens of the longest prompt.
        shortest: tokens of the shortest prompt.
        responses: N.
        tokens: T.
        groups: B, groups of a step.
    """

    prompt: int
    shortest: int
    responses: int
    tokens: int
    groups: int


def declare_shapes(bounds: Bounds, settings: PackingSettings, shards: int = 1) -> tuple[Shape, ...]:
    """The shapes that hold any step within the bounds, largest first.

    Args:
        bounds: of the groups to come.
        settings: how they are laid out.
        shards: data shards of the mesh.

    Raises:
        ValueError: if a row or a batch that is allowed cannot hold the longest group.
    """
    copies = 1 if settings.share_prompt else bounds.responses
    longest = copies * bounds.prompt + bounds.responses * bounds.tokens
    length = settings.row_length or round_up(longest, LANE)
    takes = (
        f"a prompt of {bounds.prompt} tokens with {bounds.responses} responses of "
        f"{bounds.tokens} takes {longest} positions"
    )
    lower = "lower --sampling.max-new-tokens, --collection.responses or --reading.max-prompt-length"
    if longest > length:
        raise ValueError(f"{takes}, more than --packing.row-length {length}: raise it, or {lower}.")
    if length > settings.max_tokens:
        raise ValueError(
            f"{takes}, more than the --packing.max-tokens {settings.max_tokens} of a batch: raise "
            f"it, or {lower}."
        )
    groups = -(-bounds.groups // shards)
    most = min(groups, settings.max_tokens // length)
    rows = sorted({max(most >> halving, 1) for halving in range(settings.shapes)}, reverse=True)
    least = copies * bounds.shortest + 1
    return tuple(
        Shape(
            rows=many,
            length=length,
            scored=round_up(min(many * length, groups * bounds.responses * bounds.tokens), LANE),
            groups=min(groups, many * (length // least)),
            responses=bounds.responses,
            tokens=bounds.tokens,
        )
        for many in rows
    )


def plan_within(
    shapes: Sequence[Shape],
    groups: Sequence[Group],
    order: Visit,
    settings: PackingSettings,
    *,
    steps: int,
    shards: int = 1,
    width: int = 512,
    known: Known | None = None,
    mine: frozenset[int] | None = None,
) -> Plan:
    """Steps over groups in shapes that were declared before the groups existed.

    Args:
        shapes: from ``declare_shapes``.
        groups: within its bounds.
        order: which of them each step sees.
        settings: how they are laid out.
        steps: how many.
        shards: data shards of the mesh.
        width: see ``llm.data.plan.make_plan``.
        known: numbers per token, see ``llm.data.packing.pack``.
        mine: shards whose devices are this host's; all of them if None.
    """
    lengths = np.array([run_length(group, settings.share_prompt) for group in groups], np.int64)
    every = frozenset(range(len(shapes)))
    return Plan(
        groups,
        order,
        settings,
        steps,
        shards,
        width,
        lengths,
        tuple(shapes),
        whole=every,
        pieces=every,
        known=known or {},
        mine=mine,
    )


def examples_of(shapes: Sequence[Shape], shards: int, known: Sequence[str] = ()) -> list[Batch]:
    """An empty batch of each shape, to compile programs for.

    Args:
        shapes: from ``declare_shapes``.
        shards: data shards of the mesh.
        known: names of the numbers per token that batches will have.
    """
    return [empty_batch(shards, shape, known) for shape in shapes]
