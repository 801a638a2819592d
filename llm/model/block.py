"""One block of a decoder: attention mixes tokens, the MLP transforms each, norms keep the scale.

The same block serves every family; what a family does not have is None. It is built with the
parameters of all layers stacked on a leading axis and called with those of one. It does not know
what its queries look at: that is a function it is handed, which in training reads the keys beside
the queries, and while decoding a cache.

Key to the axes: R rows, S positions of a row, D width, L layers, H query heads, K key heads, C head
width, F MLP width.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from llm.model.architecture import Activation, Architecture
from llm.model.attention import Rotation, rotate
from llm.model.lora import Projection

Hidden = Float[Array, "R S D"]
Look = Callable[[Array, Array, Array], tuple[Array, Any]]

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

INITIAL_STD = 0.02


class Norm(nnx.Module):
    """RMS norm or layer norm over the last axis, in float32."""

    def __init__(
        self,
        architecture: Architecture,
        width: int,
        *,
        stack: tuple[int, ...] = (),
        kind: Literal["rms", "layer"],
        param_dtype: jax.typing.DTypeLike,
    ) -> None:
        shape = (*stack, width)
        self.offset = architecture.norm_offset
        self.eps = architecture.norm_eps
        self.scale = nnx.Param(jnp.full(shape, 1.0 - self.offset, param_dtype))
        self.bias = nnx.Param(jnp.zeros(shape, param_dtype)) if kind == "layer" else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Normalise, then scale (and shift)."""
        over = (1,) * (x.ndim - 1) + (-1,)
        y = x.astype(jnp.float32)
        if self.bias is not None:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        y = y * (self.offset + self.scale[...].astype(jnp.float32)).reshape(over)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32).reshape(over)
        return y.astype(x.dtype)


class Table(nnx.Module):
    """A row of ``matrix`` per token, per position, or per token that may come next."""

    def __init__(
        self, rows: int, width: int, *, rngs: nnx.Rngs, param_dtype: jax.typing.DTypeLike
    ) -> None:
        draw = jax.random.normal(rngs.params(), (rows, width), param_dtype)
        self.matrix = nnx.Param(INITIAL_STD * draw)


class Attention(nnx.Module):
    """The four projections around attention."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
        dtype: jax.typing.DTypeLike,
    ) -> None:
        a, stack = architecture, (architecture.layers,)

        def projection(
            inputs: tuple[int, ...], outputs: tuple[int, ...], bias: bool, std: float = INITIAL_STD
        ) -> Projection:
            return Projection(
                inputs,
                outputs,
                stack=stack,
                std=std,
                bias=bias,
                rngs=rngs,
                param_dtype=param_dtype,
                dtype=dtype,
            )

        queries, keys = (a.heads, a.head_width), (a.kv_heads, a.head_width)
        self.query = projection((a.width,), queries, a.attention_bias)
        self.key = projection((a.width,), keys, a.attention_bias)
        self.value = projection((a.width,), keys, a.attention_bias)
        self.output = projection(queries, (a.width,), a.attention_output_bias, residual_std(a))

        def norm() -> Norm | None:
            if not a.qk_norm:
                return None
            return Norm(a, a.head_width, stack=stack, kind="rms", param_dtype=param_dtype)

        self.query_norm, self.key_norm = norm(), norm()

    def __call__(
        self, x: Hidden, by: Rotation | None, look: Look, adapters: bool
    ) -> tuple[Hidden, Any]:
        """Mix in what ``look`` finds; its second result is passed on."""
        query, key, value = (
            projection(x, adapters) for projection in (self.query, self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        seen, kept = look(rotate(query, by), rotate(key, by), value)
        return self.output(seen, adapters), kept


class MLP(nnx.Module):
    """The transformation of every token on its own."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
        dtype: jax.typing.DTypeLike,
    ) -> None:
        a = architecture

        def projection(inputs: int, outputs: int, std: float = INITIAL_STD) -> Projection:
            return Projection(
                (inputs,),
                (outputs,),
                stack=(a.layers,),
                std=std,
                bias=a.mlp_bias,
                rngs=rngs,
                param_dtype=param_dtype,
                dtype=dtype,
            )

        self.gate = projection(a.width, a.mlp_width) if a.gated_mlp else None
        self.up = projection(a.width, a.mlp_width)
        self.down = projection(a.mlp_width, a.width, residual_std(a))
        self.activation: Activation = a.activation

    def __call__(self, x: Hidden, adapters: bool) -> Hidden:
        """Widen, bend, narrow."""
        activation = ACTIVATIONS[self.activation]
        up = self.up(x, adapters)
        wide = activation(up) if self.gate is None else activation(self.gate(x, adapters)) * up
        return self.down(wide, adapters)


class Block(nnx.Module):
    """One layer; built with the parameters of all of them stacked, called with those of one."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
        dtype: jax.typing.DTypeLike,
    ) -> None:
        a = architecture

        def norm() -> Norm:
            return Norm(a, a.width, stack=(a.layers,), kind=a.norm, param_dtype=param_dtype)

        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention_post_norm = norm() if a.post_norms else None
        self.mlp_post_norm = norm() if a.post_norms else None
        self.attention = Attention(a, rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.mlp = MLP(a, rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.parallel_residual = a.parallel_residual

    def __call__(
        self, x: Hidden, by: Rotation | None, look: Look, adapters: bool = True
    ) -> tuple[Hidden, Any]:
        """Refine the hidden states.

        Args:
            x: hidden states.
            by: the rotation of queries and keys.
            look: from queries, keys and values to what the queries see, and what is kept of it.
            adapters: False for the model without its adapters.

        Returns:
            The hidden states, and what ``look`` kept.
        """
        mixed, kept = self.attention(self.attention_norm(x), by, look, adapters)
        if self.attention_post_norm is not None:
            mixed = self.attention_post_norm(mixed)
        after = x + mixed
        wide = self.mlp(self.mlp_norm(x if self.parallel_residual else after), adapters)
        if self.mlp_post_norm is not None:
            wide = self.mlp_post_norm(wide)
        return after + wide, kept


def residual_std(architecture: Architecture) -> float:
    """Of projections that add to the residual stream: 2 L of them keep its variance."""
    return INITIAL_STD / (2 * architecture.layers) ** 0.5
