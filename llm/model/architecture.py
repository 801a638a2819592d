"""Seven families of language models are one decoder with different settings.

GPT-2, Pythia, Llama, Mistral, Qwen and Gemma all embed tokens, let every token look back at the
ones before it, and transform each on its own; what differs is how positions enter, which norm,
which activation, and a handful of switches. An ``Architecture`` holds those settings and nothing
else. It is read from a checkpoint's ``config.json``, where a setting that this decoder does not
implement is an error, and written to one where a model was trained from scratch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from llm.model.configuration import Reading
from llm.model.families import FAMILIES, write

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched so that a model reads further than it was trained to.

    Attributes:
        kind: ``"linear"`` divides every frequency by ``factor``; ``"llama3"`` only the slow ones.
        factor: by how much the context grows.
        low_frequency_factor: wavelengths above ``original_positions`` / this are divided.
        high_frequency_factor: wavelengths below ``original_positions`` / this stay as they are.
        original_positions: the context before stretching.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor of the rope scaling is {self.factor}; it must be at least 1.")
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor is {self.low_frequency_factor}; it must be below "
                f"high_frequency_factor, which is {self.high_frequency_factor}."
            )


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything about a decoder but its weights; hashable, so it can be a static argument.

    Attributes:
        family: the ``model_type`` of its ``config.json``, a key of ``FAMILIES``.
        vocab_size: V.
        width: D, of the residual stream.
        layers: L.
        heads: H, of the queries.
        kv_heads: K, of the keys and values; divides H.
        head_width: C, of one head; H C need not be D.
        mlp_width: F.
        max_positions: the longest sequence, in tokens.
        norm: ``"rms"`` scales by the root mean square, ``"layer"`` also subtracts the mean.
        norm_eps: added to the mean square.
        norm_offset: added to every norm's scale; 1 for Gemma, which stores the scale minus 1.
        learned_positions: a table of positions is added to the embedding, and nothing is rotated.
        rope_theta: base of the rotary wavelengths.
        rope_fraction: share of every head that is rotated.
        rope_scaling: None for the frequencies the model was trained with.
        activation: of the MLP; ``"gelu_tanh"`` is the approximation by a tanh.
        gated_mlp: down(activation(gate x) * up x) in place of down(activation(up x)).
        parallel_residual: attention and MLP read the same input instead of one after the other.
        post_norms: a norm after attention and after the MLP too.
        attention_bias: biases in the query, key and value projections.
        attention_output_bias: a bias in attention's output projection.
        mlp_bias: biases in the MLP.
        qk_norm: an RMS norm on each head's query and key.
        windows: one per layer, how many tokens back attention reaches, itself included; 0 for all.
        query_scale: multiplies the products of queries and keys.
        attention_softcap: scores s become c tanh(s / c); None for no cap.
        logits_softcap: the same for the logits.
        tied: the output matrix is the embedding.
        embedding_scale: multiplies the embedding.
    """

    family: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    max_positions: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    learned_positions: bool = False
    rope_theta: float = 10000.0
    rope_fraction: float = 1.0
    rope_scaling: RopeScaling | None = None
    activation: Activation = "silu"
    gated_mlp: bool = True
    parallel_residual: bool = False
    post_norms: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int, ...]
    query_scale: float
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    tied: bool = False
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads is {self.heads} and kv_heads is {self.kv_heads}; every key head serves the "
                "same number of query heads, so kv_heads must divide heads."
            )
        if self.rotary_width % 2 or self.rotary_width > self.head_width:
            raise ValueError(
                f"rope_fraction is {self.rope_fraction} of a head_width of {self.head_width}, so "
                f"{self.rotary_width} numbers are rotated; they are rotated in pairs, so it must "
                "be even and at most the head."
            )
        if len(self.windows) != self.layers or min(self.windows) < 0:
            raise ValueError(
                f"windows is {self.windows}; it must hold one number per layer, {self.layers} in "
                "all, each 0 or the number of tokens that attention reaches."
            )

    @property
    def rotary_width(self) -> int:
        """How many numbers of every head are rotated."""
        return 0 if self.learned_positions else int(self.head_width * self.rope_fraction)


def architecture_from_config(config: Mapping[str, Any]) -> Architecture:
    """Read the dictionary of a Hugging Face ``config.json``.

    Args:
        config: either layout of the rotary settings: ``rope_theta`` and ``rope_scaling``, or
            ``rope_parameters``.

    Raises:
        ValueError: if the family is unknown, or if anything in the file asks for what this decoder
            does not implement; the message lists all of it.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"model_type is {family!r}, which is not a family this decoder knows; known are "
            f"{', '.join(FAMILIES)}."
        )
    reading = Reading(config)
    settings = FAMILIES[family](reading)
    for key in ("add_cross_attention", "is_encoder_decoder", "tie_encoder_decoder"):
        reading.only(key, False, None)
    reading.only("pruned_heads", {}, None)
    reading.finish()
    scaling = settings.pop("rope_scaling", None)
    return Architecture(
        family=family, rope_scaling=None if scaling is None else RopeScaling(**scaling), **settings
    )


def config_from_architecture(architecture: Architecture) -> dict[str, Any]:
    """The ``config.json`` of a model that was trained from scratch.

    Args:
        architecture: settings that its family can express.

    Returns:
        What ``transformers`` loads; the rotary settings in both of their layouts.

    Raises:
        ValueError: if the family has no words for one of the settings.
    """
    config = write(architecture)
    says = architecture_from_config(config)
    lost = [
        f"{field.name} is {getattr(architecture, field.name)!r}, where {architecture.family} can "
        f"only say {getattr(says, field.name)!r}"
        for field in fields(Architecture)
        if getattr(says, field.name) != getattr(architecture, field.name)
    ]
    if lost:
        raise ValueError(
            f"This architecture is not a {architecture.family} model:\n  " + "\n  ".join(lost)
        )
    return config
