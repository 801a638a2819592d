"""Labels, kept: who preferred which response of which pair, and when.

The file has a line of JSON for every answer, on the disk before the next pair is asked about, so
whoever kills a campaign loses at most the answers under way, and nobody is asked twice. A later
line about the same pair corrects an earlier one. A ``Desk`` is the work of one round: pairs in the
order in which they are to be asked about, and how many decisions are wanted. An undecided pair is
replaced by the next.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm.rewards import Reward
from llm.rewards.ledger import append
from llm.rollouts import Rollout

LABELS, PREFERENCES = "labels.jsonl", "preferences.jsonl"
"""Every answer in the order given; the decided ones as a preference data set."""

Winner = Literal["first", "second", "undecided"]

AT_ONCE = 64
"""Pairs handed to a judge between two writes to the disk."""

LARGEST = 1e-9
"""Difference of two rewards up to which they are equal."""


@dataclass(frozen=True)
class Label:
    """One answer about one pair.

    Attributes:
        pair: number of the pair, unique in its run.
        winner: which response is better.
        by: who said so: a reward's name, or ``person:NAME``.
        at: when, UTC, ISO 8601.
    """

    pair: int
    winner: Winner
    by: str
    at: str

    @property
    def reward(self) -> tuple[float, float]:
        """What the two responses are trained on."""
        return {"first": (1.0, 0.0), "second": (0.0, 1.0), "undecided": (0.5, 0.5)}[self.winner]


@dataclass(eq=False)
class Labels:
    """All labels of a campaign, on disk and in memory.

    Attributes:
        path: the file.
        known: the last answer about each pair.
    """

    path: Path
    known: dict[int, Label] = field(default_factory=dict)

    def add(self, rollout: Rollout, winner: Winner, by: str, **facts: Any) -> Label:
        """Write an answer down.

        Args:
            rollout: the pair.
            winner: which response is better.
            by: who said so.
            facts: anything else worth keeping, as plain JSON.

        Raises:
            OSError: if it cannot be written.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        label = Label(rollout.prompt_id, winner, by, at)
        first, second = (written.response for written in rollout.responses)
        texts = {"prompt": rollout.responses[0].prompt, "first": first, "second": second}
        append(self.path, {**vars(label), **facts, **texts})
        self.known[label.pair] = label
        return label


def open_labels(folder: Path) -> Labels:
    """The labels of a run's folder; a line that a kill cut short is passed over.

    Raises:
        OSError: if they cannot be read and added to.
    """
    labels = Labels(folder / LABELS)
    with labels.path.open("a+b") as file:
        file.seek(0)
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.write(b"\n")
    for line in text.splitlines():
        try:
            said = json.loads(line)
            label = Label(said["pair"], said["winner"], said["by"], said["at"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            continue
        labels.known[label.pair] = label
    return labels


@dataclass(frozen=True, eq=False)
class Desk:
    """What is to be decided in a round.

    Attributes:
        pairs: candidates in the order in which they are asked about.
        wanted: decisions.
        labels: of the campaign.
    """

    pairs: Sequence[Rollout]
    wanted: int
    labels: Labels

    @property
    def decided(self) -> list[Rollout]:
        """The first pairs that were decided, with the rewards that follow; ``wanted`` at most."""
        found = []
        for pair in self.pairs:
            label = self.labels.known.get(pair.prompt_id)
            if label is not None and label.winner != "undecided":
                found.append(replace(pair, reward=np.array(label.reward)))
        return found[: self.wanted]

    @property
    def undecided(self) -> int:
        """How many pairs nobody could decide."""
        labels = (self.labels.known.get(pair.prompt_id) for pair in self.pairs)
        return sum(label is not None and label.winner == "undecided" for label in labels)

    def waiting(self, many: int | None = None) -> list[Rollout]:
        """The next pairs to ask about: never more than decisions are still wanted."""
        missing = self.wanted - len(self.decided)
        unasked = [pair for pair in self.pairs if pair.prompt_id not in self.labels.known]
        return unasked[: missing if many is None else min(many, missing)]


def ask(reward: Reward, desk: Desk, say: Callable[[str], None]) -> None:
    """Have a reward or a judge decide until enough is decided or no pair is left.

    Args:
        reward: the larger value wins; equal values decide nothing.
        desk: the pairs.
        say: told how far one is.

    Raises:
        RewardError: if it cannot answer; what it answered is kept.
    """
    while waiting := desk.waiting(AT_ONCE):
        values = reward([pair.responses for pair in waiting])
        for pair, (first, second) in zip(waiting, values, strict=True):
            winner: Winner = "undecided"
            if abs(first - second) > LARGEST:
                winner = "first" if first > second else "second"
            desk.labels.add(pair, winner, reward.name, rewards=[float(first), float(second)])
        say(f"{len(desk.decided)} of {desk.wanted} labels")


def write_preferences(path: Path, pairs: Sequence[Rollout], facts: Mapping[int, Any]) -> None:
    """Write decided pairs as a preference data set, whole or not at all.

    Args:
        path: the file.
        pairs: with rewards.
        facts: what else to say of a pair, by its number.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        for pair in pairs:
            better = int(pair.reward[1] > pair.reward[0])
            texts = [written.response for written in pair.responses]
            line = {
                "prompt": pair.responses[0].prompt,
                "chosen": texts[better],
                "rejected": texts[1 - better],
                **facts[pair.prompt_id],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(partial, path)
