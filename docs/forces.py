"""What each objective pushes on, in expectation: the arrays behind ``figures/force.py``.

A figure imports neither world, so what it draws is computed here, where pages are made: minus the
gradient of the expected loss, once with respect to log-probabilities that are free and once with
respect to the logits.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from bandit import Problem, bump
from bandit.exact import Logits, enumerate_groups, expected_velocity, mean_loss
from figures.force import Force
from objectives import OBJECTIVES, RECIPES, Recipe

BINS = 100

HILL = jax.nn.log_softmax(-(((jnp.arange(BINS) - 35) / 16) ** 2) / 2)
FORCE_WORLD = Problem(
    ref_logp=jnp.log(0.9 * jnp.exp(HILL) + 0.1 / BINS), reward=bump(peak=60, width=12)
)
"""Where forces are drawn: a reference that is one hill, and a reward on its far slope.

The reference of R1 has spikes at its ends which would be all there is to see.
"""

MOVED_BETA = 0.5
"""The second policy of a picture is pi* at this beta."""


def recipes_of(cls: type) -> dict[str, Recipe]:
    """Named recipes that minimise this objective."""
    return {name: recipe for name, recipe in RECIPES.items() if type(recipe.objective) is cls}


def push(recipe: Recipe, policy: Logits, behaviour: Logits) -> Logits:
    """Minus the gradient of the expected loss with respect to log-probabilities that are free.

    Args:
        recipe: gives objective and advantage.
        policy: log-probabilities where the gradient is taken.
        behaviour: log-probabilities of whoever wrote the responses.
    """
    groups = enumerate_groups(recipe, FORCE_WORLD, behaviour)
    return -jax.grad(lambda free: mean_loss(recipe.objective, free, groups))(policy)


def force_of(name: str) -> Force:
    """The expected gradient of an objective, as its first recipe has it, at two policies."""
    recipe = next(iter(recipes_of(OBJECTIVES[name]).values()))
    reference = FORCE_WORLD.ref_logp
    policies = jnp.stack([reference, FORCE_WORLD.optimum(MOVED_BETA)])

    @jax.jit
    @jax.vmap
    def both(policy: Logits) -> tuple[Logits, Logits]:
        velocity = expected_velocity(recipe, FORCE_WORLD, policy, reference)
        return push(recipe, policy, reference), velocity

    pushed, velocity = map(np.asarray, both(policies))
    return Force(
        objective=name,
        reference=np.exp(reference),
        reward=np.asarray(FORCE_WORLD.reward),
        policy=np.exp(policies),
        push=pushed,
        velocity=velocity,
    )


def force_caption(force: Force) -> str:
    """What the picture shows, in numbers of its own arrays."""

    def at(moment: int) -> str:
        down = force.push[moment] < -1e-9 * np.abs(force.push).max()
        silent = (force.push[moment] == 0).sum()
        words = f"pushes {down.sum() or 'none'} of {down.size} bins down"
        return words + (f" and leaves {silent} alone" if silent else "")

    still = np.abs(force.velocity[0]).max() < 1e-6 * np.abs(force.push).max()
    left = at(0) + (", and no logit moves" if still else "")
    return f"{force.objective} at the reference {left}; once the policy has moved it {at(1)}."
