"""Small decoders of every kind, with every weight at random, and rows for them to read."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm.model import Decoder, abstract_decoder, parameters, with_parameters
from llm.model.architecture import Architecture, RopeScaling

# Compiling is most of these tests' time, and what it makes runs once or twice.
quickly_compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

SMALL: dict[str, Any] = {
    "vocab_size": 31,
    "width": 16,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 6,
    "mlp_width": 20,
    "max_positions": 64,
    "windows": (0, 0, 0),
    "query_scale": 6**-0.5,
}
# Between them: learned and rotary positions, whole and part of the head, windows in some and in
# all layers, both caps, biases, both norms, both residuals.
ARCHITECTURES = {
    "gpt2": Architecture(
        **{**SMALL, "kv_heads": 4},
        family="gpt2",
        norm="layer",
        learned_positions=True,
        gated_mlp=False,
        mlp_bias=True,
        attention_bias=True,
        attention_output_bias=True,
        tied=True,
    ),
    "gpt_neox": Architecture(
        **{**SMALL, "head_width": 8},
        family="gpt_neox",
        norm="layer",
        rope_fraction=0.5,
        activation="gelu",
        gated_mlp=False,
        parallel_residual=True,
    ),
    "llama3": Architecture(
        **SMALL,
        family="llama",
        rope_theta=30.0,
        rope_scaling=RopeScaling(kind="llama3", factor=4.0, original_positions=16),
    ),
    "mistral": Architecture(**{**SMALL, "windows": (5, 5, 5)}, family="mistral"),
    "qwen3": Architecture(**SMALL, family="qwen3", qk_norm=True, attention_bias=True),
    "gemma2": Architecture(
        **{**SMALL, "windows": (5, 0, 5)},
        family="gemma2",
        norm_offset=1.0,
        post_norms=True,
        activation="gelu_tanh",
        attention_softcap=1.0,
        logits_softcap=3.0,
        embedding_scale=4.0,
        tied=True,
    ),
}


def filled(architecture: Architecture, **settings: Any) -> Decoder:
    """A decoder with every weight at random: norms and biases too, so that none can be left out."""
    decoder = abstract_decoder(architecture, **settings)
    rng = np.random.default_rng(0)
    values = {
        path: (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32)
        + (path.endswith("scale") and architecture.norm_offset == 0)
        for path, leaf in sorted(parameters(decoder).items())
    }
    return with_parameters(
        decoder, {path: jnp.asarray(value, jnp.float32) for path, value in values.items()}
    )


@quickly_compiled
def run(decoder: Decoder, *rows: jax.Array) -> jax.Array:
    return decoder(*rows)


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 31, count).astype(np.int32)


def rows(length: int, *examples: tuple[np.ndarray, int, int, int]) -> tuple[jax.Array, ...]:
    """One row from pieces (tokens, first position, segment, branch), padded on the right."""
    columns: list[list[int]] = [[], [], [], []]
    for piece, start, segment, branch in examples:
        columns[0] += piece.tolist()
        columns[1] += range(start, start + len(piece))
        columns[2] += [segment] * len(piece)
        columns[3] += [branch] * len(piece)
    padding = length - len(columns[0])
    return tuple(jnp.asarray([column + [0] * padding], jnp.int32) for column in columns)
