"""Collect, label: the outer half of Algorithm 1 on a language model.

Prompts are drawn, the policy (or the reference, or the data set) answers them, a reward judges the
answers, one pass of the trainer's own model says what policy, reference and critic think of every
token, and an estimator turns rewards into advantages. What comes out is a data set for a few
gradient steps. Writing is cut into parts that depend on the settings only, and a part is on disk as
soon as it is written, so whoever kills a run in the middle of a collection loses one part at most,
and the run goes on with the same bits.

Key to the axes: B prompts, N responses of each, T response positions.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from llm.data.examples import Group
from llm.fresh_advantages import Carried, advise
from llm.hosts import each_own, fetch, from_first
from llm.preparation import offline_prompts
from llm.rescoring import Rescore, Said
from llm.rewards import Reward, Written, asks_once
from llm.rollouts import (
    Rollout,
    Rollouts,
    as_written,
    path_of,
    read_rollouts,
    write_rollouts,
)
from llm.sampler import Sampling
from llm.sampler.engine import Engine
from llm.sampler.sizes import at_once
from llm.settings import CriticSettings, Training
from llm.update import Parameters
from objectives.recipes import Recipe

ASKING = Lock()
"""One asks at a time, the loop that looks at held-out prompts or the thread that works ahead of it:
a reward is anybody's program, and need not bear two."""


class Interrupted(Exception):
    """Somebody asked the run to stop while it was collecting."""


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


@dataclass(frozen=True, eq=False)
class Collector:
    """Everything a collection is made with.

    Attributes:
        recipe: its collection says who writes and how much, its reuse how many prompts there are.
        settings: of the run.
        groups: where prompts come from, with responses where some of those are used.
        writer: writes.
        judges: say what the responses are worth.
        rescorer: the trainer's own opinion.
        values: parameters of the policy by path, from those that train.
        critic: how the critic's estimates are used; None without one.
        folder: of the run.
        visit: rows of ``groups`` by iteration.
        run: what tells this run from any other that may have had its folder.
    """

    recipe: Recipe
    settings: Training
    groups: Sequence[Group]
    writer: Writer
    judges: Judges
    rescorer: Rescore
    values: Callable[[Parameters], Parameters]
    critic: CriticSettings | None
    folder: Path
    visit: Callable[[int], np.ndarray]
    run: str = ""

    def collect(
        self,
        iteration: int,
        trainable: Parameters,
        carried: Carried,
        go_on: Callable[[float], bool],
    ) -> tuple[Rollouts, dict[str, float | int]]:
        """One collection, from wherever it stands.

        Args:
            iteration: counted from 0.
            trainable: of the policy as it is.
            carried: what the collection before it left.
            go_on: told the share that is done after every part; False stops.

        Returns:
            The collection, on disk already, and what a watch has to say of making it: seconds,
            and tokens; nothing where it was there.

        Raises:
            Interrupted: if it was stopped; the parts that are done are kept.
            RewardError: if a reward cannot answer; what it answered is kept.
        """
        path = path_of(self.folder, iteration)
        mark = f"{self.run}-{fingerprint(trainable)}"
        found = from_first(lambda: kept(path, mark))
        # With the same policy, but not after the same rewards, penalty and baseline are others.
        if found is not None and found.facts["before"] == carried.record():
            from_first(lambda: clear(parts_of(path)))  # left by a kill in between
            return found, {}
        began = time.monotonic()
        written = self.write(iteration, trainable, mark, go_on)
        sampled = time.monotonic()
        labelled = self.judges(written)
        judged = time.monotonic()
        if not go_on(1.0):
            raise Interrupted
        said = self.rescorer(trainable, [rollout.group for rollout in labelled])
        labelled = [with_said(*both) for both in zip(labelled, said, strict=True)]
        numbers = summary(labelled, said) | {"kl_coefficient": carried.kl_coefficient}
        policy = [
            each.logp if rollout.source == "policy" else rollout.known["old_logp"]
            for rollout, each in zip(labelled, said, strict=True)
        ]
        rollouts, left = advise(
            labelled, self.recipe, self.critic, self.settings.kl, carried, policy
        )
        clock = {
            "sampling": sampled - began,
            "rewards": judged - sampled,
            "scoring": time.monotonic() - judged,
            "tokens": sum(sum(rollout.lengths) for rollout in rollouts),
        }
        facts = {
            "policy": mark,
            "before": carried.record(),
            "carried": left.record(),
            "numbers": numbers,
        }
        collected = Rollouts(iteration, rollouts, facts)
        from_first(lambda: write_rollouts(path, collected))
        from_first(lambda: clear(parts_of(path)))
        return collected, clock

    def write(
        self, iteration: int, trainable: Parameters, mark: str, go_on: Callable[[float], bool]
    ) -> list[Rollout]:
        """The responses of a collection, without labels."""
        rows = self.visit(iteration)
        first = iteration * len(rows)
        ids = [(first + place) % 2**32 for place in range(len(rows))]
        given = offline_prompts(self.settings, self.recipe)
        found = [
            self.writer.given(self.groups[row], number)
            for row, number in zip(rows[:given], ids[:given], strict=True)
        ]
        engine, source = self.writer.policy, "policy"
        if self.recipe.collection.source == "reference":
            assert self.writer.reference is not None
            engine, source = self.writer.reference, "reference"
        else:
            engine.load(self.values(trainable))
        together = at_once(self.settings.sampling.rows, self.writer.sampling.responses)
        folder = parts_of(path_of(self.folder, iteration))
        for start in range(given, len(rows), together):
            part = folder / f"{start:06d}.parquet"
            done = from_first(lambda part=part: kept(part, mark))
            if done is None:
                chosen = slice(start, start + together)
                groups = [self.groups[row] for row in rows[chosen]]
                written = self.writer.write(engine, groups, ids[chosen], source)
                done = Rollouts(iteration, written, {"policy": mark})
                from_first(lambda part=part, done=done: write_rollouts(part, done))
            found += done.rollouts
            if not go_on(len(found) / len(rows)):
                raise Interrupted
        return found


def with_said(rollout: Rollout, said: Said) -> Rollout:
    """A rollout with what the trainer's own pass has to say of its tokens.

    What the data set holds is taken to come from the reference, and where there is none, from the
    policy as it is.
    """
    drawn = rollout.known.get("old_logp")
    if drawn is None:
        drawn = said.logp if said.ref_logp is None else said.ref_logp
    known = {"old_logp": drawn, "ref_logp": said.ref_logp, "old_value": said.value}
    return replace(
        rollout, known={name: values for name, values in known.items() if values is not None}
    )


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


def parts_of(path: Path) -> Path:
    """Where the parts of a collection wait for the others."""
    return path.with_suffix(".parts")


def clear(folder: Path) -> None:
    """Remove a folder, or what can be removed of it."""
    shutil.rmtree(folder, ignore_errors=True)


def kept(path: Path, mark: str) -> Rollouts | None:
    """What this very policy wrote in this very run; None if there is none that can be read.

    Another mark is that of a run which went another way after its last checkpoint, or which was
    never to come to its first, and had asked for something else. What is damaged is written again:
    the policy that wrote it is at hand.
    """
    if not path.exists():
        return None
    try:
        found = read_rollouts(path)
    except OSError:
        return None
    return found if found.facts.get("policy") == mark else None


def fingerprint(values: Parameters) -> str:
    """A number that two sets of parameters share only if they are the same, to the bit."""
    return f"{int(fetch(digest(values))):08x}"


@jax.jit
def digest(values: Parameters) -> UInt32[Array, ""]:
    """A sum over all bits, each word weighted by its place; integers add up in any order alike."""
    total = jnp.zeros((), jnp.uint32)
    for number, path in enumerate(sorted(values)):
        value = values[path]
        word = {2: jnp.uint16, 4: jnp.uint32}[value.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(value, word).astype(jnp.uint32).reshape(-1)
        # Odd factors, so that no bit of a word can be lost.
        place = 2 * jax.lax.iota(jnp.uint32, bits.size) + (2 * number + 1)
        mixed = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D)
        total = total * jnp.uint32(0x9E3779B1) + jnp.sum(mixed * place, dtype=jnp.uint32)
    return total
