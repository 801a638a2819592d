"""Responses, written by a model and judged by rewards.

A ``Writer`` turns prompts into tokens and text, ``Judges`` say what a response is worth, and a
``Trial`` puts both to held-out prompts: the part of a collection that knows nothing of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from llm.data.examples import Group
from llm.hosts import each_own, from_first
from llm.rescoring import Rescore, Said
from llm.rewards import Reward, Written, asks_once
from llm.rollouts import (
    Rollout,
    as_written,
)
from llm.sampler import Sampling
from llm.sampler.engine import Engine
from llm.update import Parameters

ASKING = Lock()
"""One asks at a time, the loop that looks at held-out prompts or the thread that works ahead of it:
a reward is anybody's program, and need not bear two."""


@dataclass(frozen=True, eq=False)
class Writer:
    """Whatever turns prompts into responses, as text and as tokens.

    Attributes:
        policy: writes with the parameters it was given last.
        reference: writes as the model did before it was trained; None where nobody asks.
        tokenizer: of both.
        sampling: how.
    """

    policy: Engine
    reference: Engine | None
    tokenizer: Any
    sampling: Sampling

    def write(
        self, engine: Engine, groups: Sequence[Group], ids: Sequence[int], source: str
    ) -> list[Rollout]:
        """Responses to the prompts of groups."""
        written = engine.write([group.prompt for group in groups], self.sampling, ids)
        # The tokens are everywhere; every process reads its share of them as text.
        texts = each_own(
            [(group.prompt, samples) for group, samples in zip(groups, written, strict=True)],
            lambda own: [
                tuple(self.read(prompt, s.tokens, s.finished) for s in samples)
                for prompt, samples in own
            ],
        )
        return [
            Rollout(
                prompt_id=number,
                where=group.where,
                source=source,
                prompt=group.prompt,
                responses=responses,
                reward=np.zeros(len(samples)),
                known={"old_logp": np.concatenate([s.logp for s in samples])},
            )
            for group, number, samples, responses in zip(groups, ids, written, texts, strict=True)
        ]

    def given(self, group: Group, number: int) -> Rollout:
        """What the data set holds for a prompt; who wrote it is not known."""
        return Rollout(
            prompt_id=number,
            where=group.where,
            source="dataset",
            prompt=group.prompt,
            responses=tuple(
                self.read(group.prompt, y, not group.cut_responses or self.ended(y))
                for y in group.responses
            ),
            reward=np.zeros(len(group.responses)),
        )

    def ended(self, tokens: np.ndarray) -> bool:
        """Whether the last token is one that ends a response."""
        return int(tokens[-1]) in self.sampling.stop

    def read(self, prompt: np.ndarray, tokens: np.ndarray, finished: bool) -> Written:
        """A response as a person, or a reward, reads it."""
        stop = self.sampling.stop
        return as_written(self.tokenizer, prompt, tokens, finished=finished, stop=stop)


@dataclass(frozen=True, eq=False)
class Judges:
    """Who says what a response is worth.

    Attributes:
        reward: what responses are trained on.
        gold: a reward that is only measured; None where there is none.
        missing_eos: taken off the reward of a response that was cut before it ended.
    """

    reward: Reward
    gold: Reward | None = None
    missing_eos: float = 0.0

    def __call__(self, written: Sequence[Rollout]) -> list[Rollout]:
        """The same with rewards; every process judges its share, unless only one may ask."""
        if any(asks_once(judge) for judge in (self.reward, self.gold) if judge is not None):
            return from_first(lambda: self.judge(written))
        return each_own(written, self.judge)

    def judge(self, written: Sequence[Rollout]) -> list[Rollout]:
        """A share of them with rewards."""
        if not written:
            return []
        answers = [rollout.responses for rollout in written]
        with ASKING:
            rewards = self.reward(answers)
            gold = [None] * len(written) if self.gold is None else self.gold(answers)
        return [
            replace(
                rollout,
                reward=np.asarray(reward, np.float64),
                trained=self.less(reward, rollout) if self.missing_eos else None,
                gold=None if best is None else np.asarray(best, np.float64),
            )
            for rollout, reward, best in zip(written, rewards, gold, strict=True)
        ]

    def less(self, reward: np.ndarray, rollout: Rollout) -> np.ndarray:
        """Rewards with something taken off for a missing end."""
        unfinished = np.array([not response.finished for response in rollout.responses])
        return np.asarray(reward, np.float64) - self.missing_eos * unfinished


@dataclass(frozen=True, eq=False)
class Trial:
    """Held-out prompts, answered afresh and judged: what an evaluation of a policy says.

    Attributes:
        groups: the prompts.
        writer: with one response to each.
        judges: as in training.
        rescorer: the trainer's own opinion.
        values: parameters of the policy by path, from those that train.
        rival: writes what answers are compared with, where a reward can only compare; None where
            it can judge an answer by itself.
    """

    groups: Sequence[Group]
    writer: Writer
    judges: Judges
    rescorer: Rescore
    values: Callable[[Parameters], Parameters]
    rival: Writer | None = None

    def __call__(self, trainable: Parameters) -> dict[str, float]:
        """Means over the answers; KLs in nats per response, exact given the prefixes."""
        self.writer.policy.load(self.values(trainable))
        answers = self.answers(self.writer, "policy")
        rollouts = self.judges(answers) if self.rival is None else self.compared(answers)
        said = self.rescorer(trainable, [rollout.group for rollout in rollouts])
        return summary(rollouts, said)

    def answers(self, writer: Writer, source: str) -> list[Rollout]:
        """What somebody says to the prompts."""
        return writer.write(writer.policy, self.groups, range(len(self.groups)), source)

    @cached_property
    def rivals(self) -> list[Rollout]:
        """What the model that the run began from says to them."""
        assert self.rival is not None
        return self.answers(self.rival, "reference")

    def compared(self, answers: Sequence[Rollout]) -> list[Rollout]:
        """Answers judged beside their rivals: a reward that only compares becomes a win rate."""
        pairs = [
            replace(mine, responses=mine.responses + theirs.responses, reward=np.zeros(2))
            for mine, theirs in zip(answers, self.rivals, strict=True)
        ]
        return [
            replace(
                mine,
                reward=judged.reward[:1],
                gold=None if judged.gold is None else judged.gold[:1],
            )
            for mine, judged in zip(answers, self.judges(pairs), strict=True)
        ]


def summary(rollouts: Sequence[Rollout], said: Sequence[Said]) -> dict[str, float]:
    """The numbers of a collection that a line of metrics shows."""
    reward = np.concatenate([rollout.reward for rollout in rollouts])
    lengths = np.array([length for rollout in rollouts for length in rollout.lengths])
    ended = [response.finished for rollout in rollouts for response in rollout.responses]
    groups = [rollout.reward for rollout in rollouts if len(rollout.reward) > 1]
    numbers = {"reward": reward.mean()}
    gold = [rollout.gold for rollout in rollouts if rollout.gold is not None]
    if gold:
        numbers["gold"] = np.concatenate(gold).mean()
    numbers |= {"response_length": lengths.mean(), "finished": np.mean(ended)}
    if groups:
        numbers["ties"] = np.mean([values.min() == values.max() for values in groups])
    for name in ("forward_kl", "reverse_kl"):
        values = [getattr(each, name) for each in said if getattr(each, name) is not None]
        if values:
            numbers[name] = np.concatenate(values).sum(dtype=np.float64) / len(lengths)
    fresh = [
        np.abs(each.logp - rollout.known["old_logp"]).max()
        for each, rollout in zip(said, rollouts, strict=True)
        if rollout.source == "policy"
    ]
    if fresh:
        numbers["sampler_gap"] = max(fresh)
    return {name: float(value) for name, value in numbers.items()}
