"""Objectives as data: a sweep over several objectives that compiles once.

Which loss is minimised is a part of the program, so a sweep pays one compilation per objective, and
on small worlds compiling costs more than training. ``OneOf`` carries all of them and a number that
says which one counts; the losses that do not count are evaluated and weigh nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from objectives import Responses, Terms
from objectives.hyperparameters import Number
from objectives.pytrees import pytree
from objectives.responses import PerToken


@pytree
class OneOf:
    """Several objectives of which one counts.

    Attributes:
        objectives: all of them, in the same order in every setting of a sweep.
        choice: index of the one that counts.
    """

    objectives: tuple[Any, ...]
    choice: Number = 0

    def __call__(self, logp: PerToken, responses: Responses) -> Terms:
        """One unit per objective, its mean loss; the chosen one has weight 1, the others 0."""
        means = [objective(logp, responses).mean() for objective in self.objectives]
        weight = jnp.arange(len(means)) == self.choice
        return Terms(jnp.stack(means), weight.astype(means[0].dtype), {})


def one_program(objectives: Sequence[Any]) -> list[OneOf]:
    """Give objectives of different classes or words one common structure.

    Args:
        objectives: what a sweep should run; any number of them may share a structure.

    Returns:
        For each objective a value that computes exactly its loss, all of one structure.
    """
    structures = [jax.tree.structure(objective) for objective in objectives]
    slots = list(dict.fromkeys(structures))
    first = tuple(objectives[structures.index(slot)] for slot in slots)
    everything = OneOf(first)
    alternatives = []
    for objective, structure in zip(objectives, structures, strict=True):
        slot = slots.index(structure)
        filled = (*first[:slot], objective, *first[slot + 1 :])
        alternatives.append(replace(everything, objectives=filled, choice=slot))
    return alternatives
