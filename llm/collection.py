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
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from llm.data.examples import Group
from llm.fresh_advantages import Carried, advise
from llm.hosts import fetch, from_first
from llm.rescoring import Rescore, Said
from llm.responses import Judges, Writer, summary
from llm.rollouts import (
    Rollout,
    Rollouts,
    path_of,
    read_rollouts,
    write_rollouts,
)
from llm.sampler.sizes import at_once
from llm.settings import CriticSettings, Training, offline_prompts
from llm.update import Parameters
from objectives.recipes import Recipe


class Interrupted(Exception):
    """Somebody asked the run to stop while it was collecting."""


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
