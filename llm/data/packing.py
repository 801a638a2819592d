"""Groups laid out in rows: every prompt once, its responses branching off it.

A batch of sequences padded to the longest is mostly padding, and a prompt with N responses is read
N times. Here a row of S positions holds as many whole groups as fit, and in a group the prompt
stands once, followed by its responses, each of which attends to the prompt and to itself:

    tokens    p p p p a a a b b | q q c c c d ...
    segments  1 1 1 1 1 1 1 1 1 | 2 2 2 2 2 2
    branches  0 0 0 0 1 1 1 2 2 | 0 0 1 1 1 2
    positions 0 1 2 3 4 5 6 4 5 | 0 1 2 3 4 2

Which tokens are scored follows from the layout and never from a token's value, so a model whose
padding token is its EOS loses nothing.

Key to the axes: R rows, S positions in a row, B groups, N responses, T response positions, P scored
tokens; all of them count over the shards of the batch, one run of each after the other.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from llm.data.examples import Group
from objectives.pytrees import pytree


class Shape(NamedTuple):
    """The size of a batch on one shard; batches of one shape run one compiled program.

    Attributes:
        rows: R.
        length: S.
        scored: P.
        groups: B.
        responses: N.
        tokens: T.
    """

    rows: int
    length: int
    scored: int
    groups: int
    responses: int
    tokens: int


class Place(NamedTuple):
    """Where a group goes: a row of its shard and the position it starts at."""

    example: int
    row: int
    start: int


@pytree
class Batch:
    """What the model reads and what the objective needs, of fixed shape. NumPy or JAX arrays.

    Attributes:
        tokens: ids; 0 where there is no token.
        positions: within the sequence: each response goes on where its prompt ended.
        segments: 1, 2, ... for the groups of a row; 0 where there is no token.
        branches: 0 for a prompt, n for response n; a token attends to its own and to branch 0.
        source: position of the shard, r*S + s, whose hidden state predicts a scored token.
        target: the scored token.
        slot: its place in the flat [B, N, T] of the whole batch; B*N*T where there is none, so that
            a scatter drops it.
        count: how many of its P/shards entries each shard uses; they come first.
        mask: True where a response's token is scored.
        reward: of each response; higher is better.
        valid: False for what pads a group to N and a batch to B.
        last: position of each response's last token, r*S + s over the rows of the whole batch.
        example: row of the data set each group came from; -1 for padding.
        ref_logp: the reference's log-probability of each scored token, nats, where it is known.
        old_logp: that of the distribution which drew the token, nats, where it was drawn.
        advantage: of each scored token, where it was estimated when the responses were written.
        old_value: the critic's value of the state each token was written in, as it was then.
        returns: what the critic's value is to come to.
    """

    tokens: Int[Array | np.ndarray, "R S"]
    positions: Int[Array | np.ndarray, "R S"]
    segments: Int[Array | np.ndarray, "R S"]
    branches: Int[Array | np.ndarray, "R S"]
    source: Int[Array | np.ndarray, " P"]
    target: Int[Array | np.ndarray, " P"]
    slot: Int[Array | np.ndarray, " P"]
    count: Int[Array | np.ndarray, " shards"]
    mask: Bool[Array | np.ndarray, "B N T"]
    reward: Float[Array | np.ndarray, "B N"]
    valid: Bool[Array | np.ndarray, "B N"]
    last: Int[Array | np.ndarray, "B N"]
    example: Int[Array | np.ndarray, " B"]
    ref_logp: Float[Array | np.ndarray, "B N T"] | None = None
    old_logp: Float[Array | np.ndarray, "B N T"] | None = None
    advantage: Float[Array | np.ndarray, "B N T"] | None = None
    old_value: Float[Array | np.ndarray, "B N T"] | None = None
    returns: Float[Array | np.ndarray, "B N T"] | None = None


KNOWN = ("ref_logp", "old_logp", "advantage", "old_value", "returns")
"""What a batch may say of every scored token, beside what the token is."""
Known: TypeAlias = Mapping[str, Sequence[Float32[np.ndarray, "_"]]]
"""For each of these names and each group of a data set, one number for every token of the group's
responses, one response after the other."""
NOTHING: Known = MappingProxyType({})


class Layout(NamedTuple):
    """One group as a run of positions, all indices counted from its first.

    Attributes:
        tokens: ids.
        positions: within the sequence.
        segments: 0, 1, ... for the parts that do not see each other.
        branches: 0 for prompts, n for response n.
        place: position of each scored token.
        source: position that predicts it.
        order: which of the group's response tokens it is, all responses one after the other.
        response: n of each scored token, counted from 0.
        step: t of each scored token.
        last: position of each response's last token.
    """

    tokens: Int32[np.ndarray, " run"]
    positions: Int32[np.ndarray, " run"]
    segments: Int32[np.ndarray, " run"]
    branches: Int32[np.ndarray, " run"]
    place: Int32[np.ndarray, " scored"]
    source: Int32[np.ndarray, " scored"]
    order: Int32[np.ndarray, " scored"]
    response: Int32[np.ndarray, " scored"]
    step: Int32[np.ndarray, " scored"]
    last: Int32[np.ndarray, " N"]


def run_length(group: Group, share_prompt: bool = True) -> int:
    """Positions a group takes in a row."""
    copies = 1 if share_prompt else len(group.responses)
    return copies * len(group.prompt) + group.scored


def lay_out(group: Group, share_prompt: bool = True) -> Layout:
    """Put a group's tokens one after the other.

    Args:
        group: prompt and responses.
        share_prompt: whether the prompt stands once with the responses as branches, or once before
            every response, each pair a segment of its own.

    Returns:
        The run. Without a prompt nothing predicts a response's first token, so it is not scored.
    """
    prompt = len(group.prompt)
    lengths = np.fromiter((len(r) for r in group.responses), np.int32, len(group.responses))
    number = np.arange(len(lengths), dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    index = np.arange(ends[-1], dtype=np.int32)
    response = np.repeat(number, lengths)
    step = index - np.repeat(ends - lengths, lengths)
    if share_prompt:
        tokens = np.concatenate((group.prompt, *group.responses))
        positions = np.concatenate((np.arange(prompt, dtype=np.int32), prompt + step))
        segments = np.zeros(len(tokens), np.int32)
        branches = np.concatenate((np.zeros(prompt, np.int32), response + 1))
        place = prompt + index
        source = np.where(step == 0, prompt - 1, place - 1).astype(np.int32)
        last = prompt + ends - 1
    else:
        tokens = np.concatenate([part for r in group.responses for part in (group.prompt, r)])
        segments = np.repeat(number, lengths + prompt)
        starts = ends - lengths + number * prompt
        positions = np.arange(len(tokens), dtype=np.int32) - starts[segments]
        branches = np.zeros(len(tokens), np.int32)
        place = starts[response] + prompt + step
        source = place - 1
        last = starts + prompt + lengths - 1
    if prompt == 0:
        seen = step > 0
        place, source, index = place[seen], source[seen], index[seen]
        response, step = response[seen], step[seen]
    return Layout(tokens, positions, segments, branches, place, source, index, response, step, last)


def pack(
    groups: Sequence[Group],
    shards: Sequence[Sequence[Place]],
    shape: Shape,
    *,
    share_prompt: bool = True,
    known: Known = NOTHING,
    mine: Collection[int] | None = None,
) -> Batch:
    """Build a batch whose places have been decided.

    Args:
        groups: the whole data set; ``Place.example`` is a row of it.
        shards: for each shard, where its groups go; they keep this order in [B, N, T].
        shape: of one shard.
        share_prompt: see ``lay_out``.
        known: what is known of every token of the data set's responses.
        mine: shards that are filled in, all if None. The others stay padding, though the arrays
            have room for them: their devices are another host's, which fills them in.

    Returns:
        The batch, ready for a device.

    Raises:
        ValueError: if a batch has no place for one of the names.
    """
    batch = empty_batch(len(shards), shape, known)
    given = [(getattr(batch, name).reshape(-1), numbers) for name, numbers in known.items()]
    positions = shape.rows * shape.length
    for shard, places in enumerate(shards):
        if mine is not None and shard not in mine:
            continue
        used = [0] * shape.rows
        filled = shard * shape.scored
        for b, place in enumerate(places, start=shard * shape.groups):
            group = groups[place.example]
            layout = lay_out(group, share_prompt)
            start = place.row * shape.length + place.start  # within the shard
            run = slice(shard * positions + start, shard * positions + start + len(layout.tokens))
            batch.tokens.reshape(-1)[run] = layout.tokens
            batch.positions.reshape(-1)[run] = layout.positions
            batch.segments.reshape(-1)[run] = layout.segments + (used[place.row] + 1)
            batch.branches.reshape(-1)[run] = layout.branches
            used[place.row] += int(layout.segments[-1]) + 1

            these = slice(filled, filled + len(layout.place))
            filled = these.stop
            batch.source[these] = start + layout.source
            batch.target[these] = layout.tokens[layout.place]
            slot = (b * shape.responses + layout.response) * shape.tokens + layout.step
            batch.slot[these] = slot
            batch.mask.reshape(-1)[slot] = True
            for flat, numbers in given:
                flat[slot] = numbers[place.example][layout.order]

            many = len(group.responses)
            batch.reward[b, :many] = group.rewards
            batch.valid[b, :many] = True
            batch.last[b, :many] = run.start + layout.last
            batch.example[b] = place.example
        batch.count[shard] = filled - shard * shape.scored
    return batch


def empty_batch(shards: int, shape: Shape, known: Collection[str] = ()) -> Batch:
    """A batch of nothing but padding, in arrays to write into.

    Args:
        shards: runs of equal shape that it is made of.
        shape: of one shard.
        known: names of what it will say of every scored token.

    Raises:
        ValueError: if a batch has no place for one of the names.
    """
    strange = sorted(set(known) - set(KNOWN))
    if strange:
        raise ValueError(f"known has {strange}; a batch has places for {list(KNOWN)} alone.")
    rows = (shards * shape.rows, shape.length)
    cells = (shards * shape.groups, shape.responses)
    grid = (*cells, shape.tokens)
    scored = shards * shape.scored
    return Batch(
        tokens=np.zeros(rows, np.int32),
        positions=np.zeros(rows, np.int32),
        segments=np.zeros(rows, np.int32),
        branches=np.zeros(rows, np.int32),
        source=np.zeros(scored, np.int32),
        target=np.zeros(scored, np.int32),
        slot=np.full(scored, np.prod(grid), np.int32),
        count=np.zeros(shards, np.int32),
        mask=np.zeros(grid, bool),
        reward=np.zeros(cells, np.float32),
        valid=np.zeros(cells, bool),
        last=np.zeros(cells, np.int32),
        example=np.full(cells[0], -1, np.int32),
        **{name: np.zeros(grid, np.float32) for name in known},
    )
