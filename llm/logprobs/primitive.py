"""Hidden states times the output matrix, down to a few numbers per token, without the logits.

The last layer of a language model makes its largest array: 8 rows of 1024 tokens over a vocabulary
of 150 000 are 5 GB of logits, where an objective reads one log-probability per token. Here only
the tokens that are scored meet the output matrix, a chunk at a time, and a chunk's logits are gone
before the next one's exist. The backward pass makes them again, which costs one matrix product and
frees memory from the product of tokens and vocabulary. The same pass reads off, exactly, the
entropy and both KL divergences to a reference, which are usually estimated from samples. Sums are
float32 at least whatever the inputs are: logits rounded to bfloat16 put the log-probability of a
512-token response off by a third of a nat.

Key to the axes: M hidden states, P scored tokens, V vocabulary, D model, E the reference's model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from llm.logprobs.chunks import Inputs, Layout, Reference, Wanted, backward_pass, forward_pass
from llm.logprobs.vocabulary import VOCABULARY, TokenStatistics, wide
from llm.mesh import ROWS
from llm.sampler.draws import Rule
from objectives.hyperparameters import Number

BLOCK_BYTES = 16 * 2**20
"""Size of a chunk's logits on a CPU, unless ``chunk`` says otherwise: near its caches."""

ACCELERATOR_BLOCK_BYTES = 512 * 2**20
"""The same elsewhere. Adding a chunk to the matrix gradient moves V D numbers, which takes a GPU as
long as the products of several hundred tokens, so chunks there hold thousands."""

FEWEST = 256
"""Tokens below which a matrix product wastes more time than a smaller block is worth."""


def token_logprobs(
    hidden: Float[Array, "M D"],
    matrix: Float[Array, "V D"],
    source: Int[Array, "P"],
    target: Int[Array, "P"],
    count: Int[Array, "shards"],
    *,
    temperature: Number = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    softcap: float | None = None,
    reference: Reference | None = None,
    entropy: bool = False,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> TokenStatistics:
    """Log-probabilities of the tokens that are scored, and what else is asked of their logits.

    logits = softcap(hidden[source] @ matrix.T) / temperature, with softcap(x) = c tanh(x / c).
    Gradients flow to ``hidden`` and ``matrix`` from all statistics; of the two, what is not
    differentiated costs no product. Products run in the dtype of ``hidden``, sums in float32 at
    least. Chunks beyond ``count`` are never computed, and what lies beyond it reaches neither
    value nor gradient.

    Args:
        hidden: states after the final norm, all rows and positions in one list.
        matrix: output matrix, one row per word of the vocabulary.
        source: row of ``hidden`` that predicts a scored token; several tokens may share one.
        target: the scored token; one outside the vocabulary has log-probability -inf.
        count: how many of the entries are real. With a mesh, M and P are cut into as many equal
            runs as there are devices along data and fsdp; ``count`` has one number for each run,
            and ``source`` counts from the start of its run.
        temperature: divides the logits of policy and reference alike; may be traced, and no
            gradient flows to it.
        top_k: only the k likeliest words can be drawn; 0 for all.
        top_p: only the likeliest words that together reach this probability can be drawn, after
            ``top_k``. Which words those are is read off the logits of policy and reference, each
            its own, as the sampler does; the target is always among them. The divergences are
            those of the whole distributions, since of truncated ones they may be infinite.
        softcap: c, the bound of the logits of a model trained with one, on both sides.
        reference: hidden states and output matrix of the reference; no gradient flows to them.
        entropy: also return the entropy.
        chunk: tokens at a time; when None, as many as fill a block of fixed size.
        mesh: with axes data, fsdp and tensor. Where tensor does not divide V, every device along
            it computes with the whole vocabulary.

    Returns:
        Per scored token, in nats; what needs a reference is None without one.

    Raises:
        ValueError: if chunk, softcap or temperature is not positive, top_k or top_p makes no
            sense or meets a vocabulary spread over devices, or the mesh does not cut the tokens
            evenly.
    """
    for name, value in (("temperature", temperature), ("softcap", softcap), ("chunk", chunk)):
        if value is not None and not isinstance(value, Tracer) and not value > 0:
            raise ValueError(f"{name} is {value!r}; it must be greater than 0.")
    require_even_runs(mesh, count.shape[0], {"hidden": hidden, "source": source, "target": target})
    slices, pieces = (1 if mesh is None else mesh.shape[x] for x in (VOCABULARY, ROWS[1]))
    sliced = matrix.shape[0] % slices == 0
    rule = truncating(top_k, top_p, slices if sliced else 1)
    if chunk is None:
        platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
        chunk = default_chunk(matrix.shape[0] // (slices if sliced else 1), platform)
    layout = Layout(
        chunk=max(min(chunk, source.shape[0] // count.shape[0]), 1),
        softcap=softcap,
        entropy=entropy,
        rule=rule,
        mesh=mesh,
        sliced=mesh is not None and sliced,
        # With one device there is nothing to share, and libtpu ends at the attempt.
        shared=pieces > 1 and matrix.shape[1] % pieces == 0,
    )
    scale = lax.stop_gradient(1 / jnp.asarray(temperature, wide(hidden)))
    return statistics(layout, hidden, matrix, reference, scale, source, target, count)


def truncating(top_k: int, top_p: float, slices: int) -> Rule | None:
    """The rule that excludes words, or None where there is none.

    Raises:
        ValueError: if it makes no sense, or if no device sees the words it would choose among.
    """
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; it must be at least 0, which is all words.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be greater than 0 and at most 1.")
    if top_k == 0 and top_p == 1:
        return None
    if slices > 1:
        raise ValueError(
            f"top_k is {top_k} and top_p is {top_p}, and the vocabulary is spread over {slices} "
            "devices, none of which sees the words to choose among; leave both out, or give "
            "--mesh.tensor 1."
        )
    return Rule(1.0, top_k, top_p)


def require_even_runs(mesh: Mesh | None, shards: int, lists: dict[str, Array]) -> None:
    """Raise ValueError unless the mesh cuts every list into as many runs as there are counts."""
    expected = 1
    if mesh is not None:
        missing = sorted({*ROWS, VOCABULARY} - set(mesh.axis_names))
        if missing:
            raise ValueError(
                f"mesh has the axes {mesh.axis_names} and lacks {missing}; build it with "
                "llm.mesh.make_mesh, which gives an axis that is not used the size 1."
            )
        expected = mesh.shape["data"] * mesh.shape["fsdp"]
    if shards != expected:
        raise ValueError(
            f"count has {shards} numbers; it must have {expected}, one for each run of tokens "
            "(a run per device along the mesh's axes data and fsdp, one run without a mesh)."
        )
    for name, values in lists.items():
        if values.shape[0] % shards:
            raise ValueError(
                f"{name} has length {values.shape[0]}, which {shards} runs cannot share evenly; "
                f"pad it to a multiple of {shards}."
            )


def default_chunk(words: int, platform: str) -> int:
    """Tokens whose float32 logits fill a block, but not so few that products slow down.

    Args:
        words: of the vocabulary, on one device.
        platform: of the device, as JAX names it.
    """
    block = BLOCK_BYTES if platform == "cpu" else ACCELERATOR_BLOCK_BYTES
    return max(block // (4 * words) // FEWEST * FEWEST, FEWEST)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def statistics(layout: Layout, *inputs: Any) -> TokenStatistics:
    """``token_logprobs`` with a backward pass of its own."""
    return over_mesh(layout, forward_pass)(Inputs(*inputs))[0]


def statistics_forward(layout: Layout, *inputs: Any) -> tuple[TokenStatistics, Any]:
    """The statistics, and what the backward pass keeps: a few numbers per token, no logits."""
    wanted = Wanted(hidden=inputs[0].perturbed, matrix=inputs[1].perturbed)
    values = Inputs(*jax.tree.map(lambda x: x.value, inputs))
    found, normalisers = over_mesh(layout, forward_pass)(values)
    return found, (wanted, values, found, normalisers)


def statistics_backward(layout: Layout, kept: Any, cotangents: TokenStatistics) -> tuple[Any, ...]:
    """Cotangents of the inputs; None, for what has none, stands for zero."""
    wanted, inputs, found, normalisers = kept
    arriving: list[Any] = [None if isinstance(g, SymbolicZero) else g for g in cotangents]
    backward = over_mesh(layout, partial(backward_pass, wanted))
    dhidden, dmatrix = backward(inputs, found, normalisers, TokenStatistics(*arriving))
    return dhidden, dmatrix, None, None, None, None, None


statistics.defvjp(statistics_forward, statistics_backward, symbolic_zeros=True)


def over_mesh(layout: Layout, function: Callable[..., Any]) -> Callable[..., Any]:
    """A pass as each device runs it, on its tokens and its slice of the vocabulary."""
    if layout.mesh is None:
        return partial(function, layout)
    rows = PartitionSpec(ROWS)
    vocabulary = VOCABULARY if layout.sliced else None
    words = PartitionSpec(vocabulary)
    gradients = rows, PartitionSpec(vocabulary, ROWS[1] if layout.shared else None)

    def everywhere(inputs: Inputs, *per_token: Any) -> Any:
        reference = None if inputs.reference is None else (rows, words)
        specs: list[Any] = [rows, words, reference, PartitionSpec(), rows, rows, rows]
        return jax.shard_map(
            partial(function, layout),
            mesh=layout.mesh,
            in_specs=(Inputs(*specs), *(rows for _ in per_token)),
            out_specs=gradients if per_token else (rows, rows),
            check_vma=False,
        )(inputs, *per_token)

    return everywhere
