"""What is said of a campaign: before it, after each round, and at its end.

Everything is read from the files of the run, so what the console shows can be looked up.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from llm.active.acquisition import ACQUISITIONS
from llm.active.pool import sums
from llm.active.settings import Active
from llm.journal import METRICS, read_lines
from llm.preparation import Prepared
from llm.rewards import Reward
from llm.rollouts import Rollout

COSTS = {
    "generation": "write",
    "scoring": "score",
    "labelling": "label",
    "training": "train",
    "evaluation": "compare",
}
"""Where the time of a round goes: as a line of metrics says, and as a narrow column does."""


def description(
    name: str, settings: Active, prepared: Prepared, judge: Reward | None, steps: int
) -> Table:
    """What is about to happen, in numbers.

    Args:
        name: of the acquisition function.
        settings: of the campaign.
        prepared: its inputs.
        judge: who decides contests.
        steps: optimizer steps, over all rounds.
    """
    acquisition, sizes, reward = ACQUISITIONS[name], settings.pool, prepared.reward
    assert reward is not None
    each = [f"{settings.labels} labels"]
    if acquisition.score is not None:
        each.append(f"the best of {settings.labels * sizes.pairs:,} pairs")
    if acquisition.entropy:
        each.append(f"of every {sizes.prompts} prompts one, by {sizes.samples} samples each")
    rows = {
        "acquisition": f"{name}: {acquisition.meaning}",
        "model": str(prepared.model),
        "prompts": f"{len(prepared.groups):,}, {len(prepared.held_out):,} held out",
        "rounds": f"{settings.rounds}; in each {', '.join(each)}",
        "learning": f"{settings.objective}, {settings.epochs:g} epochs over {settings.learn} "
        f"labels, {'from the reference each time' if settings.restart else 'going on'}; "
        f"{steps:,} steps at {prepared.learning_rate:.2g}",
        "labels by": reward.name,
        "compared by": "nobody" if judge is None else judge.name,
        "folder": str(prepared.out),
    }
    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows.items():
        shown.add_row(f"[cyan]{row[0]}[/]", row[1])
    return shown


def round_numbers(
    bought: Sequence[Rollout], pools: Sequence[dict[str, Any]], *, fresh: bool
) -> dict[str, float]:
    """What a round bought, as numbers.

    Args:
        bought: with labels, and with what policy and reference say of them.
        pools: what there is to say of each pool beside its pairs.
        fresh: whether policy and reference were the same, so that nobody believed anything.
    """
    ratio = [pair.known["old_logp"] - pair.known["ref_logp"] for pair in bought]
    h = sums(bought, ratio)
    # What the reference has written says what the reference thinks of it, and nothing else.
    believed = not fresh and all(pair.source == "policy" for pair in bought)
    margin = h[:, 0] - h[:, 1] if believed else np.zeros(len(bought))
    label = np.array([pair.reward[0] - pair.reward[1] for pair in bought])
    lengths = [length for pair in bought for length in pair.lengths]
    ended = [written.finished for pair in bought for written in pair.responses]
    return {
        "surprise": float(np.mean((1 - np.sign(margin) * label) / 2)),
        "log_ratio_gap": float(np.abs(margin).mean()),
        "reward": float(np.mean([pair.reward for pair in bought])),
        "response_length": float(np.mean(lengths)),
        "finished": float(np.mean(ended)),
        "believed": float(believed),
        "blind": float(any(pool["blind"] for pool in pools)),
        **{
            name: float(sum(pool[name] for pool in pools))
            for name in ("prompts", "written", "equal", "pruned")
        },
    }


def sentence(numbers: Mapping[str, float | int], clock: Mapping[str, float]) -> str:
    """A round in a line."""
    parts = [f"{numbers['labels']:.0f} labels"]
    if "win_rate" in numbers:
        parts.append(f"win rate {rate_of(numbers)}")
    if numbers["believed"]:
        parts.append(f"{numbers['surprise']:.0%} of the labels surprised it")
    total = sum(clock[name] for name in COSTS)
    shares = ", ".join(f"{name} {clock[name] / total:.0%}" for name in COSTS)
    parts.append(f"{clock['per_label']:.2g} s per label ({shares})")
    return f"round {numbers['round'] + 1:.0f}: {'; '.join(parts)}"


def table_of(folder: Path) -> Table:
    """All rounds of a run, from its metrics."""
    lines = read_lines(folder / METRICS)
    rates = {line["labels"]: line for line in lines if line["kind"] == "eval" and "labels" in line}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("labels", "win rate (95%)", "surprising", "s per label", *COSTS.values()):
        table.add_column(name, justify="right")
    for line in lines:
        if line["kind"] != "round":
            continue
        rate, clock = rates.get(line["labels"], {}), line["clock"]
        total = sum(clock[name] for name in COSTS)
        table.add_row(
            f"{line['labels']:,}",
            rate_of(rate) if rate else "",
            surprise_of(line),
            f"{clock['per_label']:.2g}",
            *(f"{clock[name] / total:.0%}" for name in COSTS),
        )
    return table


def rate_of(numbers: Mapping[str, float | int]) -> str:
    """A win rate, with its interval where there is one."""
    interval = ""
    if "win_rate_low" in numbers:
        interval = f" ({numbers['win_rate_low']:.3f} to {numbers['win_rate_high']:.3f})"
    return f"{numbers['win_rate']:.3f}{interval}"


def surprise_of(numbers: Mapping[str, float | int]) -> str:
    """How many labels the policy had not expected; that it chose at random where it did."""
    if numbers["believed"]:
        return f"{numbers['surprise']:.0%}"
    return "at random" if numbers["blind"] else ""
