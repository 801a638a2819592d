"""The two loops over chunks of tokens, as one device runs them.

Scored tokens stand first in their list, so the loops end after the last chunk that holds one: what
is not scored costs nothing. A chunk gathers the hidden states it needs, multiplies them with the
output matrix, and keeps a few numbers of the logits. The backward loop makes the logits of each
chunk again and turns them into what its hidden states and the matrix are to be told.

Key to the axes: as in ``llm.logprobs``.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from llm.logprobs.vocabulary import (
    VOCABULARY,
    Normalisers,
    TokenStatistics,
    across_slices,
    drawn_from,
    logit_cotangent,
    logits,
    product,
    wide,
    within_slice,
)
from llm.mesh import ROWS
from llm.sampler.draws import Rule

Reference: TypeAlias = tuple[Float[Array, "M E"], Float[Array, "V E"]]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is known of a call before any number is.

    Attributes:
        chunk: tokens whose logits exist at a time.
        softcap: bound of the logits, or None.
        entropy: whether it is asked for.
        rule: which words can be drawn, or None for all.
        mesh: devices that tokens and vocabulary are spread over, or None.
        sliced: whether each device has a slice of the vocabulary, or all of it.
        shared: whether devices along ``fsdp`` get a piece each of the matrix gradient, or all.
    """

    chunk: int
    softcap: float | None
    entropy: bool
    rule: Rule | None
    mesh: Mesh | None
    sliced: bool
    shared: bool


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which inputs somebody differentiates; the other costs nothing in the backward pass."""

    hidden: bool
    matrix: bool


class Inputs(NamedTuple):
    """What ``token_logprobs`` is given, in the order the passes hand it on.

    Attributes:
        hidden: the policy's hidden states.
        matrix: its output matrix.
        reference: the same of the reference, or None.
        scale: one over the temperature.
        source: row of ``hidden`` that predicts each token.
        target: the token.
        counts: how many are real, for each run.
    """

    hidden: Array
    matrix: Array
    reference: Reference | None
    scale: Array
    source: Array
    target: Array
    counts: Array


class Tokens(NamedTuple):
    """The scored tokens of one device, or of one chunk.

    Attributes:
        real: whether a token is below the count.
        source: its hidden state's row; 0 where it is not real.
        word: its target, counted from the first word of the device's slice of the vocabulary.
    """

    real: Array
    source: Array
    word: Array

    def rows(self, hidden: Array) -> Array:
        """Their hidden states; zero, never NaN, where a token is not real."""
        return jnp.where(self.real[:, None], hidden[self.source], 0)


def forward_pass(layout: Layout, inputs: Inputs) -> tuple[TokenStatistics, Normalisers]:
    """Every statistic of one device's tokens, from as many chunks as hold real ones."""
    tokens = tokens_of(layout, inputs)
    policy, reference = heads(inputs)

    def of_chunk(i: Array, written: Any) -> Any:
        chunk = part(layout, i, tokens)
        z, _ = logits_of(layout, chunk, policy, inputs.scale)
        ref_z = None
        if reference is not None:
            ref_z, _ = logits_of(layout, chunk, reference, inputs.scale)
        found = within_slice(z, ref_z, chunk.word, entropy=layout.entropy, rule=layout.rule)
        return jax.tree.map(
            lambda into, x: lax.dynamic_update_slice(into, x, (i * layout.chunk,)), written, found
        )

    empty = jnp.zeros(tokens.real.shape, wide(inputs.hidden))
    compared = None if reference is None else empty
    blank = TokenStatistics(empty, empty if layout.entropy else None, compared, compared, compared)
    blanks = (blank, Normalisers(empty, compared, None if layout.rule is None else empty))
    written = lax.fori_loop(0, chunks(layout, inputs), of_chunk, blanks)
    if layout.sliced:
        written = across_slices(*written)
    size = inputs.source.shape[0]
    return jax.tree.map(lambda x: jnp.where(tokens.real, x, 0)[:size], written)


def backward_pass(
    wanted: Wanted,
    layout: Layout,
    inputs: Inputs,
    found: TokenStatistics,
    normalisers: Normalisers,
    arriving: TokenStatistics,
) -> tuple[Array | None, Array | None]:
    """Cotangents of hidden states and matrix, from logits made again chunk by chunk.

    Args:
        wanted: which of the two.
        layout: of the forward pass.
        inputs: of the forward pass.
        found: what it returned.
        normalisers: what else it kept.
        arriving: cotangents of what it returned; None where none arrives.
    """
    tokens = tokens_of(layout, inputs)
    policy, reference = heads(inputs)
    size = inputs.source.shape[0]
    arriving = jax.tree.map(lambda g: jnp.where(tokens.real[:size], g, 0), arriving)
    if arriving.forward_kl is None and arriving.reverse_kl is None:
        reference = None
    per_token = jax.tree.map(partial(whole_chunks, layout), (found, normalisers, arriving))

    def of_chunk(i: Array, sums: tuple[Array | None, Array | None]) -> Any:
        chunk, (known, norm, g) = part(layout, i, (tokens, per_token))
        z, slope = logits_of(layout, chunk, policy, inputs.scale)
        ref_logp = None
        if reference is not None:
            ref_z, _ = logits_of(layout, chunk, reference, inputs.scale)
            ref_logp = ref_z - norm.ref_lse[:, None]
        lse = norm.lse if layout.rule is None else norm.drawn_lse
        drawn = drawn_from(z, chunk.word, lse, layout.rule)
        dz = logit_cotangent(drawn, z - norm.lse[:, None], ref_logp, chunk.word, known, g)
        dz = (dz * slope).astype(inputs.hidden.dtype)
        dhidden, dmatrix = sums
        if dhidden is not None:
            # Added, not written: the first tokens of a prompt's responses share one row.
            dhidden = dhidden.at[chunk.source].add(product(dz, policy.matrix, (1, 0)))
        if dmatrix is not None:
            # As [D, V]: of the two factors the CPU transposes the left one, and rows are small.
            dmatrix = dmatrix + product(chunk.rows(inputs.hidden), dz, (0, 0))
        return dhidden, dmatrix

    dhidden = jnp.zeros(inputs.hidden.shape, wide(inputs.hidden)) if wanted.hidden else None
    dmatrix = jnp.zeros(inputs.matrix.shape[::-1], wide(inputs.hidden)) if wanted.matrix else None
    dhidden, dmatrix = lax.fori_loop(0, chunks(layout, inputs), of_chunk, (dhidden, dmatrix))
    if dhidden is not None:
        if layout.sliced:
            dhidden = lax.psum(dhidden, VOCABULARY)
        dhidden = dhidden.astype(inputs.hidden.dtype)
    if dmatrix is not None:
        if layout.mesh is not None:
            dmatrix = lax.psum(dmatrix, ROWS[0] if layout.shared else ROWS)
        if layout.shared:
            dmatrix = lax.psum_scatter(dmatrix, ROWS[1], tiled=True)
        dmatrix = dmatrix.astype(inputs.matrix.dtype).T
    return dhidden, dmatrix


class Head(NamedTuple):
    """Hidden states and the output matrix they meet, in one dtype."""

    hidden: Array
    matrix: Array


def heads(inputs: Inputs) -> tuple[Head, Head | None]:
    """The policy's head and the reference's."""

    def head(hidden: Array, matrix: Array) -> Head:
        return Head(hidden, matrix.astype(hidden.dtype))

    reference = None if inputs.reference is None else head(*inputs.reference)
    return head(inputs.hidden, inputs.matrix), reference


def logits_of(layout: Layout, chunk: Tokens, head: Head, scale: Array) -> tuple[Array, Array]:
    """Logits of a chunk, and their derivative in the matrix product they come from."""
    return logits(chunk.rows(head.hidden), head.matrix, scale, layout.softcap)


def tokens_of(layout: Layout, inputs: Inputs) -> Tokens:
    """The tokens of this device, filled up to whole chunks."""
    real = jnp.arange(inputs.source.shape[0]) < inputs.counts[0]
    first = lax.axis_index(VOCABULARY) * inputs.matrix.shape[0] if layout.sliced else 0
    tokens = Tokens(real, jnp.where(real, inputs.source, 0), inputs.target - first)
    return jax.tree.map(partial(whole_chunks, layout), tokens)


def whole_chunks(layout: Layout, values: Array) -> Array:
    """Per-token values, followed by zeros up to a multiple of the chunk."""
    return jnp.pad(values, (0, -values.shape[0] % layout.chunk))


def chunks(layout: Layout, inputs: Inputs) -> Array:
    """How many chunks hold a real token."""
    count = jnp.minimum(inputs.counts[0], inputs.source.shape[0])
    return (count + layout.chunk - 1) // layout.chunk


def part(layout: Layout, i: Array, values: Any) -> Any:
    """Chunk i of per-token arrays."""
    return jax.tree.map(
        lambda x: lax.dynamic_slice(x, (i * layout.chunk,), (layout.chunk,)), values
    )
