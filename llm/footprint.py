"""What a run keeps in the memory of a device, by kind.

Weights, gradients and moments are as large as their shapes say, and JAX says what an optimizer
keeps without keeping it. What the backward pass of a layer holds on to is asked of JAX too, for one
row and for two: the difference belongs to a row, and no formula has to follow the model.

Key to the axes: R rows, S positions of a row, D width, L layers, V vocabulary.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from llm.devices import Device
from llm.flops import matrix_size
from llm.logprobs.primitive import ACCELERATOR_BLOCK_BYTES, BLOCK_BYTES
from llm.model import abstract_decoder
from llm.model.architecture import Architecture
from llm.model.attention import attend, attend_back, rotation, visible
from llm.model.block import Block
from llm.model.lora import LoRA
from llm.optimizer import optimizer
from llm.settings import AdapterSettings, MeshSettings, Training, is_online
from llm.workload import Workload
from objectives.recipes import Recipe

MASTER = 4
"""Bytes of a float32 number: weights, gradients and moments."""

WEIGHTS, OPTIMIZER, GRADIENT = "weights that train", "optimizer", "gradient, added up"
"""What an optimizer step reads and writes."""

OUTPUT, CHUNK = "output matrix, put together", "logits of a chunk"
"""What a model that writes nothing does without."""

LOGIT_ARRAYS = 3
"""Blocks of logits that exist at once: the logits, their softmax, what is to be told them."""


@dataclass(frozen=True)
class Item:
    """A kind of memory: what it is, bytes on one device, and when it is needed."""

    what: str
    bytes: float | int
    when: Literal["always", "training", "sampling"]


def resident(
    settings: Training,
    shapes: dict[str, Any],
    trains: dict[str, Any],
    pieces: int = 1,
    stays: bool = True,
) -> list[Item]:
    """What every step finds in memory.

    Args:
        settings: of the run.
        shapes: all parameters.
        trains: those that train.
        pieces: that all of it is cut into, one for a device.
        stays: whether what trains is there twice, once as it was read.
    """
    weights = MASTER * total(trains) / pieces
    kept = jax.eval_shape(optimizer(settings.optimizer, optax.constant_schedule(1.0)).init, trains)
    moments = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) / pieces
    read = total(shapes) - (0 if stays else total(trains))
    as_read = Item("model as it was read", MASTER * read / pieces, "always")
    return [as_read] * bool(read) + [
        Item(WEIGHTS, weights, "always"),
        Item(OPTIMIZER, moments, "always"),
        Item(GRADIENT, weights, "always"),
    ]


ROOM = 0.5
"""Share of a device's memory that ``resident`` may take where nobody says how it is cut."""


def laid_out(
    mesh: MeshSettings, devices: int, resident: float, memory: float | None
) -> MeshSettings:
    """How a model is spread where the flags leave it open: in as few pieces as fit.

    Copies of the whole model exchange gradients once in a step; pieces of it are sent for every
    layer. So a model that leaves a device room for the rest is kept whole on each.

    Args:
        mesh: what was asked for.
        devices: there are.
        resident: bytes that every step finds in memory, uncut.
        memory: of a device, bytes; None where it is not known.
    """
    if mesh.fsdp is not None:
        return mesh
    if mesh.data is not None or memory is None or devices % mesh.tensor:
        return dataclasses.replace(mesh, fsdp=1 if mesh.data is None else None)
    most = devices // mesh.tensor
    fits = (
        pieces
        for pieces in range(1, most + 1)
        if most % pieces == 0 and resident / (pieces * mesh.tensor) <= ROOM * memory
    )
    return dataclasses.replace(mesh, fsdp=next(fits, most))


def total(shapes: dict[str, Any]) -> int:
    """How many numbers there are."""
    return sum(math.prod(leaf.shape) for leaf in shapes.values())


def lora_of(settings: AdapterSettings) -> LoRA | None:
    """The adapters that settings ask for."""
    if not settings.rank:
        return None
    return LoRA(rank=settings.rank, alpha=settings.alpha, targets=settings.targets)


def memory(
    architecture: Architecture,
    settings: Training,
    recipe: Recipe,
    load: Workload,
    device: Device,
    shapes: dict[str, Any],
    trains: dict[str, Any],
    scored_by: int,
    stays: bool,
) -> list[Item]:
    """What lies in one device's memory, by kind.

    Args:
        architecture: of the policy.
        settings: of the run.
        recipe: the method.
        load: what the data are like.
        device: one of them.
        shapes: all parameters.
        trains: those that train.
        scored_by: reward models that are kept beside the policy.
        stays: whether the model that the run began from is kept too.
    """
    a, online = architecture, is_online(recipe)
    pieces = (settings.mesh.fsdp or 1) * settings.mesh.tensor
    dtype = dtype_of(settings, device)
    number = dtype.itemsize
    weights = MASTER * total(trains) / pieces
    items = resident(settings, shapes, trains, pieces, stays)
    if scored_by:
        items.append(Item("reward models", scored_by * MASTER * total(shapes) / pieces, "always"))
    S = settings.packing.row_length or longest_group(settings, recipe, load)
    R = max(1, settings.packing.max_tokens // S)
    fused = device.kind == "gpu" and dtype.itemsize == 2  # as llm.model.attention decides
    per_row, copies = residuals(a, S, dtype, settings.remat, fused=fused)
    working, _ = residuals(a, S, dtype, "none", fused=fused)
    tensor = settings.mesh.tensor
    items += [
        Item("gradient of a micro-batch", weights, "training"),
        Item("activations kept", a.layers * R * per_row / tensor, "training"),
        Item("activations of a layer", R * working / tensor, "training"),
    ]
    if dtype.itemsize < MASTER:
        items.append(Item(f"{dtype.name} copies", a.layers * copies / pieces, "training"))
    output = "embedding/matrix" if a.tied else "head/matrix"
    moves = any(path.endswith(output) for path in trains)
    items += whole_weights(a, dtype, settings.mesh.fsdp or 1, tensor, moves)
    block = BLOCK_BYTES if device.kind == "cpu" else ACCELERATOR_BLOCK_BYTES
    whole = R * S * a.vocab_size * MASTER
    items.append(Item(CHUNK, LOGIT_ARRAYS * min(block, whole), "training"))
    if not any(path.endswith(output) for path in shapes):  # a reward model writes nothing
        items = [item for item in items if item.what not in (OUTPUT, CHUNK)]
    if online:
        # What is written ahead is written while steps are taken, by a copy of the policy.
        writing = "always" if settings.ahead else "sampling"
        if settings.ahead:
            items.append(Item("policy that writes ahead", weights, "always"))
        if number < MASTER:
            whole = number * total(shapes) / (tensor if settings.sampling.gather else pieces)
            items.append(Item(f"weights to write with, {dtype.name}", whole, writing))
        rows, room = writing_rows(settings, recipe), cache_room(settings, load, a)
        mine = math.ceil(rows / ((settings.mesh.data or 1) * (settings.mesh.fsdp or 1)))
        cache = mine * room * cache_bytes(a, dtype) / tensor
        items += [
            Item(f"cache of {rows} x {room} tokens", cache, writing),
            Item("logits of a token", LOGIT_ARRAYS * mine * a.vocab_size * MASTER, writing),
        ]
    return items


def whole_weights(
    architecture: Architecture, dtype: Any, fsdp: int, tensor: int, moves: bool
) -> list[Item]:
    """Weights as arithmetic needs them: put together along ``fsdp``, for as long as they are used.

    Args:
        architecture: of the policy.
        dtype: of the arithmetic.
        fsdp: pieces that are put together.
        tensor: pieces that stay apart.
        moves: whether the output matrix trains.
    """
    a, number = architecture, jnp.dtype(dtype).itemsize
    words = a.vocab_size * a.width / tensor
    items = []
    if number < MASTER or fsdp > 1:
        # Its gradient is added up whole, and then each device gets its piece.
        gradient = MASTER * words if moves and fsdp > 1 else 0
        items.append(Item(OUTPUT, number * words, "training"))
        items.append(Item("its gradient, added up whole", gradient, "training"))
    if fsdp > 1:
        layer = matrix_size(a) / a.layers / tensor
        items.append(Item("layer, put together, and gradient", 2 * number * layer, "training"))
    return [item for item in items if item.bytes]


def dtype_of(settings: Training, device: Device) -> Any:
    """Of the arithmetic, there."""
    auto = "float32" if device.kind == "cpu" else "bfloat16"
    return jnp.dtype(auto if settings.dtype == "auto" else settings.dtype)


@cache
def residuals(
    architecture: Architecture, length: int, dtype: Any, remat: str, *, fused: bool
) -> tuple[int, int]:
    """What the backward pass of one layer needs of the forward pass, in bytes.

    Args:
        architecture: of the decoder.
        length: positions of a row.
        dtype: of the arithmetic.
        remat: what is computed again instead, see ``Decoder``.
        fused: whether attention is one kernel that never builds its scores.

    Returns:
        For each row, and once: copies of the layer's weights in the dtype of the arithmetic.
    """
    one = dataclasses.replace(architecture, layers=1, windows=architecture.windows[:1])
    graphdef, stack = nnx.split(abstract_decoder(one, dtype=dtype).blocks)
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
    scoring = {"scale": one.query_scale, "softcap": one.attention_softcap}

    def layer(x: Any, weights: Any) -> Any:
        # Layers share the mask and the rotation; here each has its own, a percent too much.
        positions = jnp.broadcast_to(jnp.arange(length)[None], x.shape[:2])
        mask = visible(jnp.ones_like(positions), jnp.zeros_like(positions))
        block: Block = nnx.merge(graphdef, weights)

        def look(query: Any, key: Any, value: Any) -> tuple[Any, None]:
            key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
            if not fused:
                return attend_back(query, key, value, mask, **scoring), None
            kernel = jax.checkpoint(lambda q, k, v: attend(q, k, v, mask, **scoring))
            return kernel(query, key, value), None

        return block(x, rotation(one, positions), look)[0]

    if remat != "none":
        dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        layer = jax.checkpoint(layer, policy={"dots": dots, "full": None}[remat])

    def kept(rows: int) -> list[Any]:
        x = jax.ShapeDtypeStruct((rows, length, one.width), dtype)
        return jax.tree.leaves(jax.eval_shape(lambda *g: jax.vjp(layer, *g)[1], x, weights))

    one_row, two_rows = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in kept(rows)) for rows in (1, 2)
    )
    originals = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(weights)}
    copied = {(shape, jnp.dtype(dtype)) for shape, _ in originals} - originals
    copies = [leaf for leaf in kept(1) if (leaf.shape, leaf.dtype) in copied]
    return two_rows - one_row, sum(leaf.size * leaf.dtype.itemsize for leaf in copies)


def longest_group(settings: Training, recipe: Recipe, load: Workload) -> int:
    """Tokens of the longest prompt with all its responses."""
    if not is_online(recipe):
        return load.longest
    prompt = settings.reading.max_prompt_length or round(load.prompt_tokens)
    return prompt + recipe.collection.responses * settings.sampling.max_new_tokens


def writing_rows(settings: Training, recipe: Recipe) -> int:
    """Responses that are written side by side."""
    collected = settings.batch * recipe.reuse.minibatches * recipe.collection.responses
    return min(settings.sampling.rows, collected)


def cache_room(settings: Training, load: Workload, architecture: Architecture) -> int:
    """Tokens of a row of the sampler's cache: the longest prompt and the longest response."""
    prompt = settings.reading.max_prompt_length or load.longest
    return min(prompt + settings.sampling.max_new_tokens, architecture.max_positions)


def cache_bytes(architecture: Architecture, dtype: Any) -> int:
    """Keys and values of one token, in all layers."""
    a = architecture
    return 2 * a.layers * a.kv_heads * a.head_width * jnp.dtype(dtype).itemsize
