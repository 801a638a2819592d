"""Many recipes as one program: which objective is trained, and how often, becomes a number.

A sweep compiles once per structure, and an objective's class and T are structure; yet for a bandit
the objective is a vanishing part of the work, and the network around it is always the same. So the
recipes of a comparison are merged: every run carries all their objectives and the number of the
one that counts. The others' losses are computed and dropped, which costs far less than to compile
each.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from objectives import ADVANTAGES, Recipe, Responses, Reuse, Terms, group_zscore
from objectives.hyperparameters import Number
from objectives.pytrees import pytree
from objectives.responses import PerToken

WITHIN_A_GROUP = ("group_mean", "group_zscore", "leave_one_out")
"""Estimators that look at one group at a time, so that it does not matter when they are applied."""


@pytree
class Estimated:
    """An objective that estimates its own advantages.

    Attributes:
        objective: what is minimised.
        advantage: one of ``WITHIN_A_GROUP``, or None to leave the advantages as they are.
        std_floor: least standard deviation of ``"group_zscore"``, in units of the reward.
    """

    objective: Any
    advantage: str | None = None
    std_floor: Number = 0.0

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """The objective's terms."""
        if self.advantage is not None:
            reward, valid = responses.reward, responses.exists
            if self.advantage == "group_zscore":
                advantage = group_zscore(reward, valid, floor=self.std_floor)
            else:
                advantage = ADVANTAGES[self.advantage](reward, valid)
            responses = replace(responses, advantage=advantage[..., None])
        return self.objective(logp, responses)


@pytree
class OneOf:
    """The mean loss of one objective out of several, chosen by a number.

    Attributes:
        options: the objectives.
        which: index of the one that counts.
    """

    options: tuple[Estimated, ...]
    which: Number

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """A single unit: the chosen objective's mean."""
        means = [option(logp, responses).mean() for option in self.options]
        return Terms(jnp.stack(means)[jnp.asarray(self.which, int)], jnp.ones(()), {})


@pytree
class Passes(Reuse):
    """Reuse whose T is a number of the run, not a part of the program.

    The price: runs of one chunk may collect at different steps, so all collect at every step and
    most throw the samples away.
    """

    inner_steps: int = 1

    @property
    def steps(self) -> Any:
        """Gradient steps between two collections, a whole number whatever a sweep made of T."""
        return jnp.asarray(self.inner_steps, int) * self.minibatches


def merged(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The same methods with one structure, so that one sweep runs them all.

    Args:
        recipes: may differ in the class and the words of the objective, in the advantage and in T;
            numbers are free. Everything else, such as the counts of the collection, is shared.

    Returns:
        One recipe for each, in the same order.

    Raises:
        ValueError: for an advantage that needs more than one group at a time.
    """
    for recipe in recipes:
        if recipe.advantage not in (None, *WITHIN_A_GROUP):
            raise ValueError(
                f"Recipe.advantage is {recipe.advantage!r}; merged recipes take "
                f"{', '.join(WITHIN_A_GROUP)} or none."
            )
    same_passes = len({recipe.reuse.inner_steps for recipe in recipes}) == 1
    mine = [Estimated(r.objective, r.advantage, r.std_floor) for r in recipes]
    kinds = {jax.tree.structure(option): option for option in mine}
    numbers = {kind: number for number, kind in enumerate(kinds)}
    together = []
    for recipe, option in zip(recipes, mine, strict=True):
        kind = jax.tree.structure(option)
        objective = OneOf(tuple((kinds | {kind: option}).values()), numbers[kind])
        reuse = recipe.reuse
        if not same_passes:
            reuse = Passes(inner_steps=reuse.inner_steps, minibatches=reuse.minibatches)
        together.append(
            replace(recipe, objective=objective, advantage=None, std_floor=0.0, reuse=reuse)
        )
    return together
