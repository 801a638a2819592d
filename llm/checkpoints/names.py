"""What the tensors of a Hugging Face checkpoint are called, and how each becomes ours.

A stored tensor and our parameter hold the same numbers in another order: axes are transposed, heads
are folded into one axis, query, key and value are fused, layers are separate. All of that is said
by one line of a table, e.g. ``(H C) D -> D H C``, and because a line only moves numbers it can be
read in both directions: what is read and written back is the same bit for bit. A line also tells
which part of a stored tensor a slice of the parameter comes from, so that a device can read its own
shard of a file and nothing else.

Key to the axes: V vocabulary, D model, H query heads, K key/value heads, C head width, F MLP width,
S positions. ``1/3`` is an axis of three of which the parameter is number 1.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm.model.architecture import Architecture


@dataclass(frozen=True)
class Names:
    """How a family of checkpoints names its tensors.

    Attributes:
        prefix: before every name but the head's; absent where only the body was saved.
        blocks: the list of layers.
        head: the output matrix, which tied checkpoints may hold as a copy of the embedding.
        table: our path, stored name and layout, one line each; ``*`` is one layer of the list.
    """

    prefix: str
    blocks: str
    head: str
    table: str


_GPT2 = Names(
    prefix="transformer.",
    blocks="h",
    head="lm_head.weight",
    table="""
    embedding/matrix                  wte.weight               V D -> V D
    positions/matrix                  wpe.weight               S D -> S D
    blocks/attention_norm/scale       *.ln_1.weight            D -> D
    blocks/attention_norm/bias        *.ln_1.bias              D -> D
    blocks/attention/query/kernel     *.attn.c_attn.weight     D (0/3 H C) -> D H C
    blocks/attention/query/bias       *.attn.c_attn.bias       (0/3 H C) -> H C
    blocks/attention/key/kernel       *.attn.c_attn.weight     D (1/3 K C) -> D K C
    blocks/attention/key/bias         *.attn.c_attn.bias       (1/3 K C) -> K C
    blocks/attention/value/kernel     *.attn.c_attn.weight     D (2/3 K C) -> D K C
    blocks/attention/value/bias       *.attn.c_attn.bias       (2/3 K C) -> K C
    blocks/attention/output/kernel    *.attn.c_proj.weight     (H C) D -> H C D
    blocks/attention/output/bias      *.attn.c_proj.bias       D -> D
    blocks/mlp_norm/scale             *.ln_2.weight            D -> D
    blocks/mlp_norm/bias              *.ln_2.bias              D -> D
    blocks/mlp/up/kernel              *.mlp.c_fc.weight        D F -> D F
    blocks/mlp/up/bias                *.mlp.c_fc.bias          F -> F
    blocks/mlp/down/kernel            *.mlp.c_proj.weight      F D -> F D
    blocks/mlp/down/bias              *.mlp.c_proj.bias        D -> D
    norm/scale                        ln_f.weight              D -> D
    norm/bias                         ln_f.bias                D -> D
    """,
)

_GPT_NEOX = Names(
    prefix="gpt_neox.",
    blocks="layers",
    head="embed_out.weight",
    table="""
    embedding/matrix                  embed_in.weight                       V D -> V D
    blocks/attention_norm/scale       *.input_layernorm.weight              D -> D
    blocks/attention_norm/bias        *.input_layernorm.bias                D -> D
    blocks/attention/query/kernel     *.attention.query_key_value.weight    (H 0/3 C) D -> D H C
    blocks/attention/query/bias       *.attention.query_key_value.bias      (H 0/3 C) -> H C
    blocks/attention/key/kernel       *.attention.query_key_value.weight    (K 1/3 C) D -> D K C
    blocks/attention/key/bias         *.attention.query_key_value.bias      (K 1/3 C) -> K C
    blocks/attention/value/kernel     *.attention.query_key_value.weight    (K 2/3 C) D -> D K C
    blocks/attention/value/bias       *.attention.query_key_value.bias      (K 2/3 C) -> K C
    blocks/attention/output/kernel    *.attention.dense.weight              D (H C) -> H C D
    blocks/attention/output/bias      *.attention.dense.bias                D -> D
    blocks/mlp_norm/scale             *.post_attention_layernorm.weight     D -> D
    blocks/mlp_norm/bias              *.post_attention_layernorm.bias       D -> D
    blocks/mlp/up/kernel              *.mlp.dense_h_to_4h.weight            F D -> D F
    blocks/mlp/up/bias                *.mlp.dense_h_to_4h.bias              F -> F
    blocks/mlp/down/kernel            *.mlp.dense_4h_to_h.weight            D F -> F D
    blocks/mlp/down/bias              *.mlp.dense_4h_to_h.bias              D -> D
    norm/scale                        final_layer_norm.weight               D -> D
    norm/bias                         final_layer_norm.bias                 D -> D
    """,
)

# Llama, Mistral, Qwen2 and Qwen3 share their names; each leaves out the lines it has no use for.
_LLAMA = Names(
    prefix="model.",
    blocks="layers",
    head="lm_head.weight",
    table="""
    embedding/matrix                  embed_tokens.weight                   V D -> V D
    blocks/attention_norm/scale       *.input_layernorm.weight              D -> D
    blocks/attention/query/kernel     *.self_attn.q_proj.weight             (H C) D -> D H C
    blocks/attention/query/bias       *.self_attn.q_proj.bias               (H C) -> H C
    blocks/attention/key/kernel       *.self_attn.k_proj.weight             (K C) D -> D K C
    blocks/attention/key/bias         *.self_attn.k_proj.bias               (K C) -> K C
    blocks/attention/value/kernel     *.self_attn.v_proj.weight             (K C) D -> D K C
    blocks/attention/value/bias       *.self_attn.v_proj.bias               (K C) -> K C
    blocks/attention/query_norm/scale *.self_attn.q_norm.weight             C -> C
    blocks/attention/key_norm/scale   *.self_attn.k_norm.weight             C -> C
    blocks/attention/output/kernel    *.self_attn.o_proj.weight             D (H C) -> H C D
    blocks/attention/output/bias      *.self_attn.o_proj.bias               D -> D
    blocks/mlp_norm/scale             *.post_attention_layernorm.weight     D -> D
    blocks/mlp/gate/kernel            *.mlp.gate_proj.weight                F D -> D F
    blocks/mlp/gate/bias              *.mlp.gate_proj.bias                  F -> F
    blocks/mlp/up/kernel              *.mlp.up_proj.weight                  F D -> D F
    blocks/mlp/up/bias                *.mlp.up_proj.bias                    F -> F
    blocks/mlp/down/kernel            *.mlp.down_proj.weight                D F -> F D
    blocks/mlp/down/bias              *.mlp.down_proj.bias                  D -> D
    norm/scale                        norm.weight                           D -> D
    """,
)

# Gemma 2 has a norm behind each branch as well as before it, and names them differently.
_GEMMA2 = replace(
    _LLAMA,
    table=_LLAMA.table.replace("post_attention_layernorm", "pre_feedforward_layernorm")
    + """
    blocks/attention_post_norm/scale  *.post_attention_layernorm.weight     D -> D
    blocks/mlp_post_norm/scale        *.post_feedforward_layernorm.weight   D -> D
    """,
)

FAMILIES = {
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA2,
}

# Constants that older versions stored beside the weights: rotary frequencies and causal masks.
_BUFFER = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(bias|masked_bias))$")

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tensor:
    """A parameter, or one layer of it, as a tensor of a checkpoint or as a part of one.

    Attributes:
        path: our '/'-joined path.
        layer: index on the leading axis of our parameter; None where it has no such axis.
        name: name in the checkpoint.
        layout: how its axes become ours, as in the table.
        stored: shape in the checkpoint.
        shape: our shape, of one layer.
        part: which of the parts that share the stored tensor it is, and of how many.
        factors: the sizes that each stored axis folds into one.
        order: for each of our axes, which factor it is, counted over all stored axes.
        part_at: which factor counts the parts; None where the tensor is not shared.
    """

    path: str
    layer: int | None
    name: str
    layout: str
    stored: tuple[int, ...]
    shape: tuple[int, ...]
    part: tuple[int, int]
    factors: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    part_at: int | None

    def read(self, fetch: Callable[[tuple[slice, ...]], np.ndarray], bounds: Bounds) -> np.ndarray:
        """Read a box of our parameter from the stored tensor.

        Args:
            fetch: takes one slice per stored axis and returns that block.
            bounds: start and stop on each of our axes.

        Returns:
            The block, in our order of axes and in the stored dtype.
        """
        wanted: list[tuple[int, int]] = [(self.part[0], self.part[0] + 1)] * sum(
            len(sizes) for sizes in self.factors
        )
        for axis, factor in enumerate(self.order):
            wanted[factor] = bounds[axis]
        ranges: list[slice] = []
        split: list[int] = []
        inside: list[slice] = []
        taken = 0
        for sizes in self.factors:
            covered, shape, box = _cover(wanted[taken : taken + len(sizes)], sizes)
            taken += len(sizes)
            ranges.append(covered)
            split.extend(shape)
            inside.extend(box)
        block = fetch(tuple(ranges)).reshape(split)[tuple(inside)]
        if self.part_at is None:
            return block.transpose(self.order)
        return block.transpose(self.part_at, *self.order)[0]


def _cover(wanted: Sequence[tuple[int, int]], sizes: Sequence[int]):
    """The contiguous run of a folded axis that holds a box, and how to cut the box out of it.

    Leading factors of which one entry is wanted, and the first of which more are, only move the
    ends of the run; the factors behind it are read whole and cut afterwards.
    """
    lead = next((i for i, (a, b) in enumerate(wanted) if b - a != 1), len(sizes) - 1)
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    start = sum(wanted[i][0] * strides[i] for i in range(lead + 1))
    length = wanted[lead][1] - wanted[lead][0]
    split = [1] * lead + [length, *sizes[lead + 1 :]]
    box = [slice(None)] * (lead + 1) + [slice(a, b) for a, b in wanted[lead + 1 :]]
    return slice(start, start + length * strides[lead]), split, box


def stored_tensor(parts: Sequence[tuple[Tensor, np.ndarray]]) -> np.ndarray:
    """Put a stored tensor together from every parameter of ours that is a part of it.

    Args:
        parts: all tensors of one name, each with its values in our order of axes.

    Returns:
        The tensor as the checkpoint stores it: the inverse of ``Tensor.read``.
    """
    blocks = []
    for tensor, values in sorted(parts, key=lambda part: part[0].part):
        blocks.append(values.transpose(np.argsort(tensor.order)))
    first = parts[0][0]
    whole = blocks[0] if first.part_at is None else np.stack(blocks, axis=first.part_at)
    return np.ascontiguousarray(whole.reshape(first.stored))


def tensors(architecture: Architecture) -> tuple[Tensor, ...]:
    """Every tensor that a checkpoint of this architecture must hold.

    Args:
        architecture: of any known family.

    Returns:
        One entry per parameter and layer, in the order of the table; parameters that are fused in
        the checkpoint are entries with the same name.
    """
    sizes = axis_sizes(architecture)
    names = FAMILIES[architecture.family]
    lines = [line.split(maxsplit=2) for line in names.table.splitlines() if line.strip()]
    rows = [(path, names.prefix + name, layout) for path, name, layout in lines]
    rows.append(("head/matrix", names.head, "V D -> V D"))
    found: list[Tensor] = []
    for path, name, layout in rows:
        if not _present(path, architecture):
            continue
        for layer in range(architecture.layers) if "*" in name else (None,):
            stored_name = name.replace("*", f"{names.blocks}.{layer}")
            found.append(laid_out(path, layer, stored_name, layout, sizes))
    return tuple(found)


def axis_sizes(architecture: Architecture) -> dict[str, int]:
    """How long each axis of a table is."""
    return {
        "V": architecture.vocab_size,
        "D": architecture.width,
        "H": architecture.heads,
        "K": architecture.kv_heads,
        "C": architecture.head_width,
        "F": architecture.mlp_width,
        "S": architecture.max_positions,
    }


def _present(path: str, architecture: Architecture) -> bool:
    """Whether the architecture has this parameter."""
    *_, owner, leaf = path.split("/")
    if owner in ("query", "key", "value") and leaf == "bias":
        return architecture.attention_bias
    if owner == "output" and leaf == "bias":
        return architecture.attention_output_bias
    if owner == "gate" and not architecture.gated_mlp:
        return False
    if owner in ("gate", "up", "down") and leaf == "bias":
        return architecture.mlp_bias
    if owner in ("query_norm", "key_norm"):
        return architecture.qk_norm
    if owner in ("attention_post_norm", "mlp_post_norm"):
        return architecture.post_norms
    if path == "head/matrix":
        return not architecture.tied
    if path == "positions/matrix":
        return architecture.learned_positions
    return leaf != "bias" or architecture.norm == "layer"


def laid_out(path: str, layer: int | None, name: str, layout: str, sizes: dict[str, int]) -> Tensor:
    """A tensor from a line of a table.

    Args:
        path: ours.
        layer: as in ``Tensor``.
        name: the stored one.
        layout: e.g. ``(H 0/3 C) D -> D H C``.
        sizes: of every axis that the layout names.
    """
    stored_side, our_side = layout.split(" -> ")
    groups = [group.strip("()").split() for group in stored_axes(stored_side)]
    tokens = list(itertools.chain.from_iterable(groups))
    part, part_at = (0, 1), None
    for index, token in enumerate(tokens):
        if "/" in token:
            number, count = token.split("/")
            part, part_at = (int(number), int(count)), index
    factors = tuple(tuple(sizes.get(token, part[1]) for token in group) for group in groups)
    return Tensor(
        path=path,
        layer=layer,
        name=name,
        layout=layout,
        stored=tuple(math.prod(group) for group in factors),
        shape=tuple(sizes[token] for token in our_side.split()),
        part=part,
        factors=factors,
        order=tuple(tokens.index(token) for token in our_side.split()),
        part_at=part_at,
    )


def stored_axes(side: str) -> list[str]:
    """The axes of one side of a layout: ``"(H C) D"`` has the axes ``(H C)`` and ``D``."""
    return re.findall(r"\([^)]*\)|\S+", side)


def is_buffer(name: str) -> bool:
    """Whether it is a constant of an older version, which the configuration implies."""
    return _BUFFER.search(name) is not None
