"""Weights as the writing of responses reads them: all of them again for every token.

Training keeps them in float32 and in pieces. A token of every row is written by one pass over all
weights, so before the first pass they are rounded once to the dtype of the arithmetic, which would
be done anyway in every pass, and put together along ``fsdp``, which else would send all of them to
every device for every token.
"""

from functools import partial

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from llm.mesh import whole
from llm.model import Decoder, parameters, with_parameters

Weights = dict[str, Array]


def ready(decoder: Decoder, *, gather: bool = True) -> Decoder:
    """A decoder to write with; arrays that are as they should be are shared and not copied.

    Args:
        decoder: the policy.
        gather: whether to put matrices together along ``fsdp``. A model that does not fit a device
            whole is put together a layer at a time, which takes longer.
    """
    mesh = decoder.mesh if gather else None

    def is_ready(path: str, x: Array) -> bool:
        rounded = is_of_norm(path) or x.dtype == decoder.dtype
        return rounded and (
            mesh is None or x.sharding.is_equivalent_to(whole(mesh, path, x.shape), x.ndim)
        )

    stale = {path: x for path, x in parameters(decoder).items() if not is_ready(path, x)}
    if not stale:
        return decoder
    return with_parameters(decoder, prepare(stale, dtype=decoder.dtype, mesh=mesh))


@partial(jax.jit, static_argnames=("dtype", "mesh"))
def prepare(weights: Weights, *, dtype: jax.typing.DTypeLike, mesh: Mesh | None) -> Weights:
    """Parameters rounded, and put together where there is a mesh."""

    def one(path: str, x: Array) -> Array:
        x = x if is_of_norm(path) else x.astype(dtype)
        return (
            x if mesh is None else jax.lax.with_sharding_constraint(x, whole(mesh, path, x.shape))
        )

    return {path: one(path, x) for path, x in weights.items()}


def is_of_norm(path: str) -> bool:
    """Whether a parameter belongs to a norm, which computes in float32."""
    return path.split("/")[-2].endswith("norm")
