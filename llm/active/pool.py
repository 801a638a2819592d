"""The pool of a round: prompts drawn, kept for their entropy, answered twice, scored, in order.

What costs is writing, so everything else reuses it. The entropy of a prompt is made of the
log-probabilities that its own samples were drawn with. The policy's implicit reward of a response
is made of those that the sampler reports of the model itself; only the reference reads the pairs,
once. While policy and reference are the same, certainty is 0 for every pair: the order would be
random whatever the pool, so no more pairs are written than are wanted, and the pool says so.

Key to the axes: P candidate pairs, n samples of a prompt, M ensemble members.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from llm.active.acquisition import ACQUISITIONS, Acquisition, Beliefs, ranked
from llm.active.settings import PAIR, PoolSettings
from llm.active.writing import Scribe
from llm.data.examples import Group
from llm.data.order import Order
from llm.rescoring import Rescore
from llm.rollouts import Rollout, Rollouts, read_rollouts, read_table, write_rollouts
from llm.sampler import Sample
from llm.update import Parameters
from objectives import implicit_reward, predictive_entropy, select

FOLDER = "pools"

TOGETHER = 1024
"""Prompts between two looks at whether somebody wants to stop."""

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Chooser:
    """Everything pools are made with.

    Attributes:
        name: of the acquisition function.
        settings: sizes of the pool.
        groups: the prompts.
        order: in which they are visited, once each before any comes up again.
        policy: writes as the policy does.
        reference: writes as the policy did before it was trained.
        curious: writes at temperature 1, for the entropy of prompts.
        rescorer: what a set of parameters makes of given responses.
        initial: the parameters of the reference.
        beta: of the objective, which makes implicit rewards of log-ratios.
        embedding: vectors of the tokens, for features.
        seed: of all choices.
        folder: of the run.
    """

    name: str
    settings: PoolSettings
    groups: Sequence[Group]
    order: Order
    policy: Scribe
    reference: Scribe
    curious: Scribe
    rescorer: Rescore
    initial: Parameters
    beta: float
    embedding: Callable[[], Float[np.ndarray, "V D"]]
    seed: int
    folder: Path

    @property
    def acquisition(self) -> Acquisition:
        """How to choose."""
        return ACQUISITIONS[self.name]

    def load(self, values: Parameters) -> None:
        """Write from here on with these parameters of the policy; every one, by its path."""
        self.policy.engine.load(values)
        self.curious.engine.load(values)

    def pool(
        self,
        number: int,
        part: int,
        wanted: int,
        members: Sequence[Parameters],
        fresh: bool,
        progress: Progress,
    ) -> Rollouts:
        """The pool of a round, from disk where it is there, else made and written to disk.

        Args:
            number: of the round, counted from 0.
            part: 0, or how many pools of the round were used up before.
            wanted: labels that are still missing.
            members: parameters of the ensemble that train; the first are the policy's.
            fresh: whether the policy is still the reference.
            progress: told what is going on.

        Returns:
            Candidates in the order in which they are to be asked about.
        """
        path = path_of(self.folder, number, part)
        if path.exists():
            return read_pool(path)
        before = pool_files(self.folder)
        start = facts_of(before[-1])["next"] if before else 0
        made = self.make((number, part), start, wanted, members, fresh, progress)
        write_rollouts(path, made)
        return made

    def make(
        self,
        at: tuple[int, int],
        start: int,
        wanted: int,
        members: Sequence[Parameters],
        fresh: bool,
        progress: Progress,
    ) -> Rollouts:
        """Make a pool from the prompts of the visit that begins at ``start``."""
        acquisition, sizes = self.acquisition, self.settings
        clock, began = {"generation": 0.0, "scoring": 0.0}, time.monotonic()
        blind = acquisition.score is not None and fresh
        each = 1 if acquisition.score is None else sizes.pairs
        whole = math.ceil(wanted * each / (1 - sizes.prune))
        pairs = math.ceil(wanted / (1 - sizes.prune)) if blind else whole
        many = whole * sizes.prompts if acquisition.entropy else pairs
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), at[0]), at[1])
        keys = dict(zip(("prompts", "pairs", "order"), jax.random.split(key, 3), strict=True))

        rows, ids = self.order.rows(start, many), np.arange(start, start + many) % 2**32
        entropy = None
        if acquisition.entropy:
            entropy = self.entropies(rows, ids, progress)
            best = np.asarray(select(jnp.asarray(entropy), whole, keys["prompts"]))
            if blind:  # what certainty does without beliefs
                best = np.sort(np.asarray(jax.random.permutation(keys["pairs"], best))[:pairs])
            rows, ids, entropy = rows[best], ids[best], entropy[best]
        written = self.write(rows, ids, progress)
        apart = [not same(pair) for pair in written]
        candidates = [pair for pair, differs in zip(written, apart, strict=True) if differs]
        if entropy is not None:
            entropy = entropy[apart]
        clock["generation"] = time.monotonic() - began

        progress("scoring")
        scored, beliefs = self.believe(candidates, members, fresh)
        order = np.zeros(0, int)
        if scored:
            order = ranked(acquisition, beliefs, wanted, sizes.shortlist, keys["order"])
        if sizes.prune:
            plain = plausible(scored, round(len(scored) * (1 - sizes.prune)))
            order = np.array([row for row in order if plain[row]], int)
        clock["scoring"] = time.monotonic() - began - clock["generation"]
        facts = {
            "round": at[0],
            "acquisition": self.name,
            "blind": blind,
            "wanted": wanted,
            "next": start + many,
            "prompts": many,
            "written": PAIR * len(written) + (many * sizes.samples if acquisition.entropy else 0),
            "equal": len(written) - len(candidates),
            "pruned": len(scored) - len(order),
            "certainty": beliefs.certainty[order].tolist(),
            "margin": (beliefs.h[0, order, 0] - beliefs.h[0, order, 1]).tolist(),
            "clock": clock,
        }
        if entropy is not None:
            facts["entropy"] = entropy[order].tolist()
        return Rollouts(at[0], [scored[row] for row in order], facts)

    def entropies(
        self, rows: np.ndarray, ids: np.ndarray, progress: Progress
    ) -> Float[np.ndarray, " P"]:
        """Predictive entropy of prompts, nats: each from its own samples and from no other's."""
        found = []
        for start in range(0, len(rows), TOGETHER):
            progress(f"entropy of prompts {start / len(rows):.0%}")
            chosen = slice(start, start + TOGETHER)
            groups = [self.groups[row] for row in rows[chosen]]
            drawn = self.curious.draw(groups, ids[chosen].tolist(), self.settings.samples)
            S = np.array([[total(sample) for sample in samples] for samples in drawn])
            found.append(np.asarray(predictive_entropy(jnp.asarray(S, jnp.float32))))
        return np.concatenate(found)

    def write(self, rows: np.ndarray, ids: np.ndarray, progress: Progress) -> list[Rollout]:
        """A pair of responses to each prompt."""
        source = self.acquisition.source
        scribe = self.reference if source == "reference" else self.policy
        found = []
        for start in range(0, len(rows), TOGETHER):
            progress(f"pairs {start / len(rows):.0%}")
            chosen = slice(start, start + TOGETHER)
            groups, numbers = [self.groups[row] for row in rows[chosen]], ids[chosen].tolist()
            for group, number, (texts, samples) in zip(
                groups, numbers, scribe.write(groups, numbers, PAIR), strict=True
            ):
                own = np.concatenate([sample.model_logp for sample in samples])
                found.append(
                    Rollout(
                        prompt_id=number,
                        where=group.where,
                        source=source,
                        prompt=group.prompt,
                        responses=tuple(texts),
                        reward=np.zeros(PAIR),
                        known={"old_logp": own},
                    )
                )
        return found

    def believe(
        self, pairs: Sequence[Rollout], members: Sequence[Parameters], fresh: bool
    ) -> tuple[list[Rollout], Beliefs]:
        """What the reference and every member say of pairs; nothing where nobody asks."""
        wanted = self.acquisition.score is not None and not fresh
        if not pairs or not (wanted or self.settings.prune):
            return list(pairs), Beliefs(np.zeros((1, len(pairs), PAIR)))
        groups = [pair.group for pair in pairs]
        said = self.rescorer(self.initial, groups)
        scored = [
            replace(pair, known={**pair.known, "ref_logp": one.logp})
            for pair, one in zip(pairs, said, strict=True)
        ]
        if not wanted:
            return scored, Beliefs(np.zeros((1, len(pairs), PAIR)))
        ref = sums(scored, [pair.known["ref_logp"] for pair in scored])
        own = [sums(scored, [pair.known["old_logp"] for pair in scored])]
        for member in members[1:]:
            own.append(sums(scored, [one.logp for one in self.rescorer(member, groups)]))
        h = np.stack(
            [np.asarray(implicit_reward(jnp.asarray(S), jnp.asarray(ref), self.beta)) for S in own]
        )
        features = self.features(scored) if self.acquisition.spread else None
        return scored, Beliefs(h, features)

    def features(self, pairs: Sequence[Rollout]) -> Float[np.ndarray, "P D"]:
        """Where pairs lie: the mean of their tokens' embeddings in the reference."""
        table = self.embedding()
        return np.stack(
            [
                table[np.concatenate([pair.prompt, *(y.tokens for y in pair.responses)])].mean(0)
                for pair in pairs
            ]
        )


def total(sample: Sample) -> float:
    """S(y | x), nats."""
    return float(sample.logp.sum(dtype=np.float64))


def same(pair: Rollout) -> bool:
    """Whether the two responses read the same: there is nothing to prefer."""
    first, second = pair.responses
    return first.response == second.response


def sums(pairs: Sequence[Rollout], per_token: Sequence[np.ndarray]) -> Float[np.ndarray, "P 2"]:
    """Numbers per token, summed over each response."""
    found = np.zeros((len(pairs), PAIR))
    for row, (pair, values) in enumerate(zip(pairs, per_token, strict=True)):
        first = pair.lengths[0]
        found[row] = values[:first].sum(dtype=np.float64), values[first:].sum(dtype=np.float64)
    return found


def plausible(pairs: Sequence[Rollout], many: int) -> np.ndarray:
    """Which pairs are among so many whose less likely response surprises the reference least."""
    surprise = []
    for pair in pairs:
        parts = np.split(pair.known["ref_logp"], [pair.lengths[0]])
        surprise.append(max(-part.mean(dtype=np.float64) for part in parts))
    found = np.zeros(len(pairs), bool)
    found[np.argsort(surprise, kind="stable")[:many]] = True
    return found


def path_of(run: Path, number: int, part: int) -> Path:
    """Where a run keeps a pool; names sort in the order in which pools are made."""
    return run / FOLDER / f"{number:06d}-{part:03d}.parquet"


def pool_files(run: Path) -> list[Path]:
    """The complete pools of a run, in the order in which they were made."""
    return sorted((run / FOLDER).glob("*.parquet"))


def read_pool(path: Path) -> Rollouts:
    """A pool as it was written; no pair may have been worth asking about.

    Raises:
        OSError: if the file cannot be read; names it.
    """
    facts = facts_of(path)
    return read_rollouts(path) if facts["certainty"] else Rollouts(facts["round"], [], facts)


def facts_of(path: Path) -> dict[str, Any]:
    """What there is to say of a pool beside its pairs.

    Raises:
        OSError: if the file cannot be read; names it.
    """
    import pyarrow as pa

    try:
        return read_table(path)[1]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise OSError(
            f"the pool {path} cannot be read ({type(error).__name__}): the file is damaged. Delete "
            "it, and the same command makes it again; labels that were given are kept."
        ) from None
