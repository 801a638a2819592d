"""A row of a table per token, where the table is spread over devices and so are the tokens.

Left to itself the compiler puts a whole table, or all of the result, on every device. Here a device
looks tokens up in the piece of the table it has: the words of its slice of the vocabulary, and of
each of them its part of the width, for all tokens of its ``fsdp`` neighbours. The neighbours then
exchange parts, so that each ends with whole rows for its own tokens, and nothing larger than that
is ever held.

Key to the axes: R rows, S positions of a row, V vocabulary, D width.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from llm.mesh import ROWS, sharding

WIDTH = "fsdp"
"""Axis of the mesh that both the rows and the width of a table are spread over."""


def lookup(
    mesh: Mesh | None,
    path: str,
    matrix: Float[Array, "V D"],
    tokens: Int[Array, "R S"],
    dtype: jnp.dtype,
) -> Float[Array, "R S D"]:
    """The rows of a table that tokens name.

    Args:
        mesh: from ``llm.mesh.make_mesh``; None for one device.
        path: of the table among the parameters.
        matrix: the table.
        tokens: which rows; each is one of the table's.
        dtype: of the result; nothing is sent in a wider one.
    """
    if mesh is None or tokens.shape[0] % math.prod(mesh.shape[axis] for axis in ROWS):
        return matrix[tokens].astype(dtype)
    spec = sharding(mesh, path, matrix.shape).spec
    words, width = spec

    def here(matrix: Float[Array, "v d"], tokens: Int[Array, "r S"]) -> Float[Array, "r S D"]:
        if width is not None:
            tokens = lax.all_gather(tokens, WIDTH, tiled=True)
        if words is None:
            found = matrix[tokens].astype(dtype)
        else:
            place = tokens - lax.axis_index(words) * matrix.shape[0]
            inside = (place >= 0) & (place < matrix.shape[0])
            found = matrix[jnp.where(inside, place, 0)].astype(dtype)
            found = lax.psum(jnp.where(inside[..., None], found, 0), words)
        if width is not None:
            found = lax.all_to_all(found, WIDTH, split_axis=0, concat_axis=2, tiled=True)
        return found

    rows = PartitionSpec(ROWS)
    return jax.shard_map(here, mesh=mesh, in_specs=(spec, rows), out_specs=rows)(matrix, tokens)
