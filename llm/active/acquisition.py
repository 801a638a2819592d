"""Which of many candidate pairs are to be labelled: every acquisition function by name.

The functions themselves are those of ``objectives.acquisition``. Here stands what each of them
needs: whose pairs, whether prompts are first kept for their entropy, and how candidates are put in
an order. An order and not a set, because a pair that nobody can decide is replaced by the next.

Key to the axes: P candidate pairs, M ensemble members, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from objectives import (
    disagreement,
    diverse,
    middle,
    preference_certainty,
    select,
    tails,
    uncertainty,
)

PerPair = Float[np.ndarray, " P"]


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What policy and ensemble make of the candidates.

    Attributes:
        h: implicit reward of both responses of every pair, for every member, nats; the first
            member is the policy.
        features: where each pair lies, where a function asks for that.
    """

    h: Float[np.ndarray, "M P 2"]
    features: Float[np.ndarray, "P F"] | None = None

    @property
    def certainty(self) -> PerPair:
        """The policy's: |h_a - h_b|."""
        return np.asarray(preference_certainty(*self.both(0)))

    def both(self, member: int | slice) -> tuple[jnp.ndarray, jnp.ndarray]:
        """Implicit rewards of the first and of the second responses."""
        return jnp.asarray(self.h[member, :, 0]), jnp.asarray(self.h[member, :, 1])


@dataclass(frozen=True)
class Acquisition:
    """One way to choose.

    Attributes:
        meaning: in words, for help.
        score: of every pair, larger is more wanted; None where pairs are taken as they come.
        entropy: whether the prompts are first kept for their predictive entropy.
        source: who writes the pairs, ``policy`` or ``reference``.
        members: whether it asks an ensemble.
        spread: whether the pairs of a round shall differ from each other.
    """

    meaning: str
    score: Callable[[Beliefs], PerPair] | None = None
    entropy: bool = False
    source: str = "policy"
    members: bool = False
    spread: bool = False


def certain(beliefs: Beliefs) -> PerPair:
    """Preference certainty."""
    return beliefs.certainty


def by_certainty(ablation: Callable[..., jnp.ndarray]) -> Callable[[Beliefs], PerPair]:
    """A function of the certainty alone."""
    return lambda beliefs: np.asarray(ablation(jnp.asarray(beliefs.certainty)))


def disputed(beliefs: Beliefs) -> PerPair:
    """How much the ensemble disagrees."""
    return np.asarray(disagreement(*beliefs.both(slice(None))))


ACQUISITIONS: dict[str, Acquisition] = {
    "random": Acquisition("pairs of the policy as they come"),
    "offline": Acquisition("pairs of the reference as they come", source="reference"),
    "entropy": Acquisition("prompts that the policy answers in most ways", entropy=True),
    "certainty": Acquisition("pairs it is surest about", certain),
    "hybrid": Acquisition("of the former prompts, pairs it is surest about", certain, entropy=True),
    "uncertainty": Acquisition("pairs it is least sure about", by_certainty(uncertainty)),
    "middle": Acquisition("pairs near the median certainty", by_certainty(middle)),
    "tails": Acquisition("pairs far from it", by_certainty(tails)),
    "disagreement": Acquisition(
        "pairs about which adapters trained apart disagree", disputed, members=True
    ),
    "diverse": Acquisition("sure pairs that differ from each other", certain, spread=True),
}
"""Every acquisition function by name; the first four of the paper's, then its ablations."""


def ranked(
    acquisition: Acquisition, beliefs: Beliefs, many: int, shortlist: float, key: PRNGKeyArray
) -> Int[np.ndarray, " P"]:
    """Candidates in the order in which they are asked about, ties in random order.

    Args:
        acquisition: how to choose.
        beliefs: about the candidates.
        many: how many are wanted.
        shortlist: times as many that a choice of different ones is made from.
        key: consumed.
    """
    pairs = beliefs.h.shape[1]
    score = np.zeros(pairs) if acquisition.score is None else acquisition.score(beliefs)
    order = np.asarray(select(jnp.asarray(score), pairs, key))
    if not acquisition.spread or beliefs.features is None:
        return order
    near = order[: max(many, round(shortlist * many))]
    wanted = min(many, len(near))
    picked = diverse(jnp.asarray(score[near]), jnp.asarray(beliefs.features[near]), wanted, key)
    first = near[np.asarray(picked)]
    # Whoever replaces one of them is the next in certainty.
    return np.concatenate([first, order[~np.isin(order, first)]])
