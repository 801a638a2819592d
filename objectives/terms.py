"""What an objective returns: one value and one weight per unit, divided only at the very end.

A unit is a token, a response or a pair. Means of means are how the size of a micro-batch leaks into
a gradient; sums add exactly. So an objective never averages: it returns values and weights, and
whoever holds all of the batch divides once.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from objectives.pytrees import pytree


class Weighted(NamedTuple):
    """Per-unit values with their weights: the one kind of thing that is ever averaged.

    Attributes:
        value: one number per unit; anything finite where the weight is 0.
        weight: how much the unit counts, 0 where it does not exist.
    """

    value: Float[Array, "..."]
    weight: Float[Array, "..."]

    def total(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """``(sum(value * weight), sum(weight))``: add over micro-batches, then divide once."""
        counted = jnp.where(self.weight != 0, self.value, 0)
        return jnp.sum(counted * self.weight), jnp.sum(self.weight)

    def mean(self) -> Float[Array, ""]:
        """The weighted mean, 0 when there is no unit at all."""
        total, weight = self.total()
        return total / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny)


@pytree
class Terms:
    """The outcome of an objective on a batch.

    Attributes:
        value: loss of each unit, in nats unless the objective says otherwise. For policy-gradient
            objectives it is a surrogate: its gradient means something, its value does not.
        weight: weight of each unit, of the same shape.
        metrics: named quantities, each a ``Weighted`` of its own.
    """

    value: Float[Array, "..."]
    weight: Float[Array, "..."]
    metrics: dict[str, Weighted]

    def total(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """``(sum(value * weight), sum(weight))``: add over micro-batches, then divide once."""
        return Weighted(self.value, self.weight).total()

    def mean(self) -> Float[Array, ""]:
        """The loss: ``sum(value * weight) / sum(weight)``, 0 when there is no unit."""
        return Weighted(self.value, self.weight).mean()
