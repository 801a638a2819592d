"""Decide before the first step which batch shapes a run will use, and cut every step to them.

XLA compiles a program per shape, so shapes are few and declared. A row must hold the longest group,
yet attention in a long row is paid for by the short ones; a batch of few rows wastes little, one of
many rows fills a device. ``make_plan`` simulates the steps of the run with candidate shapes and
keeps the few that make it cheapest; how a step is cut to them is the matter of ``cutting``. A plan
holds no batch: it computes those of any step when asked, which is all that resuming a run takes.

Key to the axes: R rows, S positions in a row, B groups, N responses, T response positions, P scored
tokens.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int64

from llm.data.cutting import Piece, Size, cut, deal, price, rows_needed
from llm.data.examples import Group, PackingSettings
from llm.data.order import Visit
from llm.data.packing import Batch, Known, Shape, empty_batch, pack, run_length

LANE = 64
"""Rows are a multiple of this long: what matrix units like, and coarse enough to share."""
SIMULATED = 512
"""Groups on which candidate shapes are compared."""
LARGEST = 8
"""Steps among those with most tokens that are always looked at."""
COMPILATION = 100_000
"""Positions that could be trained on while one program compiles: what a further shape must save."""
USUAL = PackingSettings()


@dataclass(frozen=True, eq=False)
class Plan:
    """Every batch of a run, computed when asked for.

    Attributes:
        groups: the data set.
        order: which of them each step sees.
        settings: how they are laid out.
        steps: of the run.
        shards: runs of equal shape that a batch is made of, one for each data shard of the mesh.
        width: see ``make_plan``.
        lengths: positions each group takes.
        shapes: all the shapes there will ever be, of one shard.
        whole: which of them hold all of a step.
        pieces: which of them hold a part of a step that was cut.
        micro_batches_per_step: mean over the run.
        padding: share of positions that hold no token, over the run.
        known: what is known of every token of the groups' responses, such as the reference's
            log-probabilities.
        mine: shards whose devices are this host's; all of them if None.
    """

    groups: Sequence[Group]
    order: Visit
    settings: PackingSettings
    steps: int
    shards: int
    width: int
    lengths: Int64[np.ndarray, " groups"]
    shapes: tuple[Shape, ...]
    whole: frozenset[int] = frozenset()
    pieces: frozenset[int] = frozenset()
    micro_batches_per_step: float = 1.0
    padding: float = 0.0
    known: Known = field(default_factory=dict)
    mine: frozenset[int] | None = None

    def micro_batches(self, step: int) -> list[Batch]:
        """The batches of a step, counted from 0; what is summed over them is summed over it.

        Only this host's shards of them are filled in.
        """
        share = self.settings.share_prompt
        return [
            pack(
                self.groups,
                piece.shards,
                self.shapes[piece.shape],
                share_prompt=share,
                known=self.known,
                mine=self.mine,
            )
            for piece in self.cut(step)
        ]

    def cut(self, step: int) -> list[Piece]:
        """Where each group of a step goes."""
        sizes = [(shape.rows, shape.length) for shape in self.shapes]
        return cut(self.step_groups(step), self.lengths, sizes, self.shards, self.width)

    def step_groups(self, step: int) -> list[int]:
        """Rows of the data set that a step sees."""
        return self.order.batch(step).tolist()

    def examples(self, *, cut: bool) -> list[Batch]:
        """An empty batch of each shape that will occur, to compile programs for.

        Args:
            cut: as a part of a step, or else as the whole of one.
        """
        used = self.pieces if cut else self.whole
        names = tuple(self.known)
        return [empty_batch(self.shards, self.shapes[number], names) for number in sorted(used)]

    def with_known(self, **numbers: Sequence[Float32[np.ndarray, "_"]]) -> "Plan":
        """The same plan with more said of every token in every batch.

        Args:
            numbers: by the names of ``packing.KNOWN``; for each group one number for every token
                of its responses, one response after the other.
        """
        return dataclasses.replace(self, known={**self.known, **numbers})


def make_plan(
    groups: Sequence[Group],
    order: Visit,
    settings: PackingSettings = USUAL,
    *,
    steps: int,
    shards: int = 1,
    width: int = 512,
    mine: frozenset[int] | None = None,
) -> Plan:
    """Choose the shapes of a run.

    Args:
        groups: the data set.
        order: which of them each step sees.
        settings: how they are laid out.
        steps: of the run.
        shards: data shards of the mesh.
        width: D of the model: attention in a row of S positions costs S / (6 D) of the rest.
        mine: shards whose devices are this host's; all of them if None.

    Raises:
        ValueError: if there is no group, or one that no allowed batch can hold.
    """
    if not groups:
        raise ValueError("there is no group to train on; the data set is empty.")
    if steps < 1:
        raise ValueError(f"the run has {steps} steps; it needs at least 1.")
    lengths = np.array([run_length(group, settings.share_prompt) for group in groups], np.int64)
    check_fits(groups, lengths, settings)
    sizes = choose_sizes(order, steps, lengths, settings, shards, width)
    most = math.ceil(order.batch_size / shards)
    shapes = tuple(shape_of(size, groups, lengths, most) for size in sizes)
    return measured(Plan(groups, order, settings, steps, shards, width, lengths, shapes, mine=mine))


def shape_of(
    size: Size, groups: Sequence[Group], lengths: Int64[np.ndarray, " groups"], most: int
) -> Shape:
    """Room for whatever ``most`` groups could bring to a batch of so many rows and positions."""
    rows, length = size
    scored = np.sort([group.scored for group in groups])[::-1][:most].sum()
    if most > len(groups):
        scored = most * max(group.scored for group in groups)
    return Shape(
        rows=rows,
        length=length,
        scored=round_up(min(rows * length, int(scored)), LANE),
        groups=min(most, rows * (length // int(lengths.min()))),
        responses=max(len(group.responses) for group in groups),
        tokens=max(len(response) for group in groups for response in group.responses),
    )


def measured(plan: Plan) -> Plan:
    """Go through the run once: which shapes occur, how often, and how full they are."""
    whole, pieces, held, number = Counter[int](), Counter[int](), 0, 0
    for step in range(plan.steps):
        found = [piece.shape for piece in plan.cut(step)]
        (whole if len(found) == 1 else pieces).update(found)
        held += int(plan.lengths[plan.step_groups(step)].sum())
        number += len(found)
    uses = whole + pieces
    room = sum(plan.shapes[s].rows * plan.shapes[s].length * many for s, many in uses.items())
    return dataclasses.replace(
        plan,
        whole=frozenset(whole),
        pieces=frozenset(pieces),
        micro_batches_per_step=number / plan.steps,
        padding=1 - held / (room * plan.shards),
    )


def check_fits(
    groups: Sequence[Group], lengths: Int64[np.ndarray, " groups"], settings: PackingSettings
) -> None:
    """Every group must fit a row, and a row the budget.

    Raises:
        ValueError: names the longest group and what to change.
    """
    longest = int(lengths.argmax())
    row = settings.row_length or round_up(int(lengths.max()), LANE)
    takes = f"{groups[longest].where} takes {lengths[longest]} positions"
    if lengths[longest] > row:
        raise ValueError(
            f"{takes}, more than a row of {row}; raise --packing.row-length, or lower "
            "--reading.max-length."
        )
    if row > settings.max_tokens:
        raise ValueError(
            f"{takes}, a row of {row}, more than the {settings.max_tokens} of a batch; raise "
            "--packing.max-tokens, or lower --reading.max-length."
        )


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def choose_sizes(
    order: Visit,
    steps: int,
    lengths: Int64[np.ndarray, " groups"],
    settings: PackingSettings,
    shards: int,
    width: int,
) -> list[Size]:
    """The few (rows, row length) with which the run costs least, found greedily.

    The first must hold the longest group, so that every step can be cut; each further one must pay
    for its compilation.
    """
    longest = settings.row_length or round_up(int(lengths.max()), LANE)
    batches = [order.batch(step).tolist() for step in range(steps)]
    totals = np.array([lengths[rows].sum() for rows in batches])
    number = max(1, SIMULATED // max(map(len, batches)))
    sample = [batches[int(step)] for step in np.linspace(0, steps - 1, min(number, steps))]
    largest = [batches[step] for step in np.argsort(-totals, kind="stable")[:LARGEST]]
    candidates = candidate_sizes(totals / shards, largest, lengths, settings, shards)

    def cost(sizes: list[Size]) -> float:
        spent, programs = 0.0, set()
        for rows in (*largest, *sample):
            pieces = cut(rows, lengths, sizes, shards, width)
            # A step on one batch and a piece of one that is cut are programs of their own.
            programs |= {(len(pieces) == 1, piece.shape) for piece in pieces}
            spent += sum(price(sizes[piece.shape], width) for piece in pieces)
        return spent * steps / (len(largest) + len(sample)) + COMPILATION * len(programs)

    chosen: list[Size] = []
    best = math.inf
    for _ in range(settings.shapes):
        options = [s for s in candidates if s not in chosen and (chosen or s[1] >= longest)]
        least, size = min(((cost([*chosen, s]), s) for s in options), default=(best, (0, 0)))
        if least >= best:
            break
        chosen.append(size)
        best = least
    return chosen


def candidate_sizes(
    totals: Float64[np.ndarray, " steps"],
    largest: Sequence[Sequence[int]],
    lengths: Int64[np.ndarray, " groups"],
    settings: PackingSettings,
    shards: int,
) -> list[Size]:
    """Row lengths at quantiles of the groups and above the longest; rows that steps may need.

    Args:
        totals: positions each step takes on one shard.
        largest: the steps that take most.
        lengths: positions every group takes.
        settings: the budget.
        shards: data shards of the mesh.
    """
    longest = round_up(int(lengths.max()), LANE)
    if settings.row_length:
        rows_of = {settings.row_length}
    else:
        quantiles = np.quantile(lengths, (0.5, 0.75, 0.95)).astype(int).tolist()
        rows_of = {round_up(length, LANE) for length in quantiles} | {longest, 2 * longest}
    sizes = set()
    for length in rows_of:
        most = settings.max_tokens // length
        if not most:
            continue
        needed = np.quantile(totals, (0.25, 0.5, 0.75, 0.9, 1.0)) / (0.97 * length)
        rows = {min(most, math.ceil(number + extra)) for number in needed for extra in (0, 0.5)}
        if length >= longest:  # enough for the largest steps in one piece
            queues = [queue for step in largest for queue in deal(step, lengths, shards)]
            rows.add(min(most, max(rows_needed(queue, length) for queue in queues)))
        sizes |= {(number, length) for number in rows | {most, 1}}
    return sorted(sizes)
