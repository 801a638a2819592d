"""The check of the last exercise: an acquisition function against certainty and against chance."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bandit import R1
from experiments.exercises.campaign import PLACE, Candidates, campaign, numbers
from experiments.exercises.checks.verdict import Rejected, ask
from experiments.intervals import difference
from objectives import preference_certainty


def made_up() -> Candidates:
    """Candidates out of nothing, to see whether there is an answer at all."""
    drawn = np.random.default_rng(0)
    bins = drawn.integers(0, R1.bins, (PLACE.prompts, 2))
    ref_logp = np.asarray(R1.ref_logp)[bins]
    log_ratio = drawn.normal(size=bins.shape)
    entropy = np.full(len(bins), 4.0)
    nothing = np.zeros(0, int)
    return Candidates(bins, ref_logp + log_ratio, ref_logp, log_ratio, entropy, nothing, nothing)


def certainty(candidates: Candidates) -> Any:
    """The paper's acquisition function: how sure the policy is which response is better."""
    h = jnp.asarray(candidates.implicit_reward)
    return preference_certainty(h[:, 0], h[:, 1])


def chance(candidates: Candidates) -> np.ndarray:
    """All the same, so that ties decide."""
    return np.zeros(len(candidates.entropy))


def areas(score: Callable[..., Any]) -> np.ndarray:
    """Mean reward over the rounds, the area under the curve, for each seed."""
    return campaign(score).mean(axis=-1)


def beat_certainty(answer: Callable[..., Any]) -> str:
    """Exercise 12: more reward from the same number of labels than certainty and than chance.

    Source: Muldrew et al. 2024, arXiv:2402.08114.
    """
    numbers(ask(answer, made_up()))  # before anything is compiled
    yours = areas(answer)
    over = {
        "certainty": difference(yours, areas(certainty)),
        "chance": difference(yours, areas(chance)),
    }
    said = "Mean reward over the rounds, yours minus another's: " + ", ".join(
        f"{gap.mean:+.2f} ± {gap.half_width:.2f} ({name})" for name, gap in over.items()
    )
    said += f", {len(yours)} seeds of {PLACE.rounds} x {PLACE.labels} labels."
    for name, gap in over.items():
        if gap.mean == gap.half_width == 0:
            raise Rejected(f"This is {name} itself: it buys the same labels.")
    behind = [name for name, gap in over.items() if gap.low <= 0]
    if behind == ["chance"]:
        raise Rejected(f"{said} Ahead of certainty, but not ahead of chance beyond the interval.")
    if behind:
        raise Rejected(f"{said} Not ahead of {' or '.join(behind)} beyond the interval.")
    return said
