"""A projection y = xW + b and, beside it, a low-rank correction that can be trained alone.

LoRA freezes W and learns s (xA)B with A and B a few numbers wide: a thousandth of the weights, so
the optimiser's state all but vanishes, and the frozen model is its own reference: switch the
adapters off and it answers as before. B starts at 0, so training starts at that model exactly.
Merging adds s AB to W, after which nothing tells the model from one that was trained in full.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
"""

from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

M = TypeVar("M", bound=nnx.Module)

TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
"""Every projection of a block by name."""


class LoRAParam(nnx.Param):
    """A weight of an adapter, so that ``nnx.split(model, LoRAParam, ...)`` finds what trains."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Which projections are adapted, and how far.

    Attributes:
        rank: r, the width of the correction.
        alpha: the correction is scaled by alpha / r, so that a change of rank needs no retuning.
        targets: names of projections, of ``TARGETS``.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "key", "value", "output")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; an adapter is at least 1 wide.")
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            raise ValueError(
                f"targets is {self.targets}; it must name at least one of {', '.join(TARGETS)}, "
                "and nothing else."
            )

    @property
    def scale(self) -> float:
        """What multiplies the correction."""
        return self.alpha / self.rank


class Projection(nnx.Module):
    """y = xW + b over the last axes of x, with room for an adapter.

    Attributes:
        kernel: W, ``[*stack, *inputs, *outputs]``.
        bias: b, ``[*stack, *outputs]``, or None.
        lora_a: A, ``[*stack, *inputs, r]``, or None.
        lora_b: B, ``[*stack, r, *outputs]``, or None.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        stack: tuple[int, ...],
        std: float,
        bias: bool,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
        dtype: jax.typing.DTypeLike,
    ) -> None:
        shape = (*stack, *inputs, *outputs)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((*stack, *outputs), param_dtype)) if bias else None
        # `data` because an attribute that starts as None could not become a parameter otherwise.
        self.lora_a: LoRAParam | None = nnx.data(None)
        self.lora_b: LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0
        self.inputs = inputs
        self.outputs = outputs
        self.stack = stack
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "..."], adapters: bool = True) -> Float[Array, "..."]:
        """Project the last ``len(inputs)`` axes of ``x``.

        Args:
            x: ``[..., *inputs]``; the parameters are those of one layer, without the stack.
            adapters: False for the model without its correction.
        """
        n = len(self.inputs)
        y = jnp.tensordot(x, self.kernel[...].astype(self.dtype), n)
        if self.bias is not None:
            bias = self.bias[...].astype(self.dtype)
            y = y + bias.reshape((1,) * (x.ndim - n) + bias.shape)
        if adapters and self.lora_a is not None and self.lora_b is not None:
            narrow = jnp.tensordot(x, self.lora_a[...].astype(self.dtype), n)
            y = y + self.lora_scale * jnp.tensordot(narrow, self.lora_b[...].astype(self.dtype), 1)
        return y

    def adapt(self, lora: LoRA, rngs: nnx.Rngs) -> None:
        """Add an adapter, in float32, that corrects nothing yet."""
        fan_in = 1
        for size in self.inputs:
            fan_in *= size
        shape, bound = (*self.stack, *self.inputs, lora.rank), fan_in**-0.5
        self.lora_a = LoRAParam(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )
        self.lora_b = LoRAParam(jnp.zeros((*self.stack, lora.rank, *self.outputs)))
        self.lora_scale = lora.scale

    def fold(self) -> None:
        """Add the correction to the kernel, in float32, and drop the adapter."""
        if self.lora_a is None or self.lora_b is None:
            return

        def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
            return jnp.tensordot(a, b, 1)

        for _ in self.stack:
            product = jax.vmap(product)
        delta = self.lora_scale * product(self.lora_a[...], self.lora_b[...])
        kernel = self.kernel[...]
        self.kernel = nnx.Param((kernel + delta).astype(kernel.dtype))
        self.lora_a, self.lora_b, self.lora_scale = None, None, 0.0


def adapt(model: M, lora: LoRA, *, rngs: nnx.Rngs) -> M:
    """A copy of a model with adapters on the targets; it computes what the model computes.

    Args:
        model: anything with projections; it is left as it is, and shares its weights.
        lora: which of them.
        rngs: the stream ``params`` draws A.

    Raises:
        ValueError: if the model lacks one of the targets.
    """
    copy = nnx.clone(model)
    found = set()
    for path, module in list(nnx.iter_modules(copy)):
        if isinstance(module, Projection) and path[-1] in lora.targets:
            module.adapt(lora, rngs)
            found.add(path[-1])
    absent = [name for name in lora.targets if name not in found]
    if absent:
        raise ValueError(
            f"targets names {', '.join(absent)}, which this model does not have; leave them out."
        )
    return copy


def merge(model: M) -> M:
    """A copy of a model with every adapter added to its kernel and gone.

    Args:
        model: with or without adapters; it is left as it is.
    """
    copy = nnx.clone(model)
    for _, module in list(nnx.iter_modules(copy)):
        if isinstance(module, Projection):
            module.fold()
    return copy
