"""From the clocks of contestants to numbers that can be compared.

A token is counted where a plain implementation reads it, a prompt once for each response, so that
the same work is the same number whoever does it. MFU counts the arithmetic that the work needs at
least: every prompt once, no padding, nothing computed twice (``llm.flops``). The reference's pass
over the data is part of the time, spread over the steps as if the data were seen once, and so is
its arithmetic. Compilation is apart. Medians are over rounds, a ratio is taken round by round, and
its spread is the least and the most of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks.rounds import OURS
from experiments.benchmarks.tasks import Row, SampleTask, TrainTask, load_rows

REFERENCE = ("dpo", "ipo", "kto")
"""Offline recipes that need the reference's word on every token."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What one contestant reached in one round.

    Attributes:
        tokens_per_second: as a plain implementation counts them.
        scored_per_second: tokens that the loss is told about, or that were written.
        mfu: share of the peak, of the arithmetic that is needed; None where none is counted.
        memory: most that was held, GiB.
        compile: seconds of tracing, lowering and compiling.
        first: seconds from the start of the process to the end of the first step or call.
    """

    tokens_per_second: float
    scored_per_second: float
    mfu: float | None
    memory: float
    compile: float
    first: float


def trained(task: TrainTask, found: Mapping[str, Any], peak: float) -> Numbers:
    """The numbers of a training run."""
    share = (task.steps - task.warm) / task.steps
    seconds = found["seconds"] + share * found["reference_seconds"]
    rows = answered(task, found["written"])[task.batch * task.warm : task.batch * task.steps]
    scored = sum(row.scored for row in rows)
    return Numbers(
        tokens_per_second=sum(row.tokens for row in rows) / seconds,
        scored_per_second=scored / seconds,
        mfu=passes(task) * forward(task, rows) / seconds / peak,
        memory=found["memory"],
        compile=found["compile_seconds"],
        first=found["marks"][0],
    )


def answered(task: TrainTask, written: Sequence[int]) -> list[Row]:
    """The rows of a task, where the policy answers with answers of the length it gave in a step."""
    rows = load_rows(task.rows)
    if not task.responses:
        return rows
    found = []
    for step, tokens in enumerate(written):
        each = np.zeros(round(tokens / (task.batch * task.responses)), np.int32)
        for row in rows[step * task.batch : (step + 1) * task.batch]:
            found.append(Row(row.prompt, (each,) * task.responses))
    return found


def passes(task: TrainTask) -> int:
    """Forward passes that the work is worth: three to train, and one for whoever reads or writes.

    Where the policy answers, writing is one, and the reference, for the penalty, another.
    """
    if task.responses:
        return 5
    return 4 if task.recipe in REFERENCE else 3


def forward(task: TrainTask, rows: Sequence[Row]) -> float:
    """FLOP of a forward pass over rows, a prompt once."""
    from llm.data.examples import Group
    from llm.flops import forward_flops
    from llm.model.architecture import architecture_from_config

    architecture = architecture_from_config(task.model.config)
    blank = np.zeros(0, np.float32)
    return sum(forward_flops(architecture, Group(*row, blank, "")) for row in rows)


def written(task: SampleTask, name: str, found: Mapping[str, Any]) -> Numbers:
    """The numbers of a case of responses that were written."""
    case = found["cases"][name]
    rate = median(n / s for n, s in zip(case["tokens"], case["seconds"], strict=True))
    return Numbers(
        tokens_per_second=rate,
        scored_per_second=rate,
        mfu=None,
        memory=found["memory"],
        compile=max(case["first"] - median(case["seconds"]), 0.0),
        first=case["first"],
    )


HEADINGS = (
    "",
    "",
    "tokens/s",
    "scored tokens/s",
    "MFU",
    "peak GiB",
    "compile s",
    "first step or call s",
    "modeseek is",
    "in memory",
)
"""Of the table of speeds."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One contestant in one part of the table.

    Attributes:
        part: what was done.
        who: did it.
        numbers: medians over rounds; None if it failed in every round.
        faster: how many times as fast ours was, median, least and most over rounds; None for ours.
        smaller: ours in units of its memory, median.
        note: what there is to say.
    """

    part: str
    who: str
    numbers: Numbers | None
    faster: tuple[float, float, float] | None = None
    smaller: float | None = None
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, a cell for each of ``HEADINGS``."""
        if self.numbers is None:
            why = next(iter(self.note.splitlines()), "")
            return (self.part, self.who, *("",) * 6, why, "")
        n, ratio = self.numbers, ""
        if self.faster is not None:
            middle, least, most = self.faster
            ratio = f"×{middle:.2f} ({least:.2f}–{most:.2f})"
        return (
            self.part,
            self.who,
            f"{n.tokens_per_second:,.0f}",
            f"{n.scored_per_second:,.0f}",
            "" if n.mfu is None else f"{n.mfu:.1%}",
            f"{n.memory:.2f}",
            f"{n.compile:.1f}" if n.compile else "",
            f"{n.first:.1f}",
            ratio,
            "" if self.smaller is None else f"×{self.smaller:.2f}",
        )


def lines_of(part: str, rounds: Sequence[Mapping[str, Numbers | str]]) -> list[Line]:
    """The lines of a part.

    Args:
        part: its name.
        rounds: of each contestant by name its numbers, or why there are none.
    """
    lines = []
    for who in rounds[0]:
        results = [each[who] for each in rounds]
        own = [found for found in results if isinstance(found, Numbers)]
        note = next((found for found in results if isinstance(found, str)), "")
        pairs = [
            (ours, theirs)
            for each in rounds
            if isinstance(ours := each.get(OURS), Numbers)
            and isinstance(theirs := each[who], Numbers)
        ]
        faster = smaller = None
        if who != OURS and pairs:
            ratios = [a.tokens_per_second / b.tokens_per_second for a, b in pairs]
            faster = (median(ratios), min(ratios), max(ratios))
            smaller = median(a.memory / b.memory for a, b in pairs)
        numbers = middle(own) if own else None
        lines.append(
            Line(part=part, who=who, numbers=numbers, faster=faster, smaller=smaller, note=note)
        )
    return lines


def middle(found: Sequence[Numbers]) -> Numbers:
    """Medians, number by number."""
    records = [asdict(numbers) for numbers in found]

    def of(name: str) -> Any:
        values = [record[name] for record in records if record[name] is not None]
        return median(values) if values else None

    return Numbers(**{name: of(name) for name in records[0]})
