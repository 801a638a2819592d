"""Reading a checkpoint: check all of it, then let every device fetch its own shard.

A checkpoint and a model disagree in many small ways at once, so everything is compared before
anything is read, and reported together. Then each device receives the slices that it will hold and
no others; on the way through host memory there is never more than one shard of one parameter.
"""

import functools
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from llm.checkpoints.folders import (
    CONFIG,
    DTYPES,
    Stored,
    find_model,
    open_weights,
    read_architecture,
)
from llm.checkpoints.names import FAMILIES, Bounds, Tensor, is_buffer, tensors
from llm.mesh import sharding
from llm.model import Decoder, Remat, abstract_decoder, parameters, with_parameters
from llm.model.architecture import Architecture
from llm.model.lora import LoRA, adapt


def match(
    found: Mapping[str, Stored],
    architecture: Architecture,
    lost: Set[str] = frozenset(),
    beside: Sequence[Tensor] = (),
) -> tuple[dict[Tensor, Stored], list[str]]:
    """Find each tensor that an architecture needs among those that are stored.

    Args:
        found: from ``open_weights``.
        architecture: what the weights must fit.
        lost: names whose absence has been reported already.
        beside: what is needed beside the architecture's own: another head.

    Returns:
        Where each tensor is, and what is missing, unexpected or of the wrong shape or dtype.
    """
    names = FAMILIES[architecture.family]
    placed: dict[Tensor, Stored] = {}
    problems: list[str] = []
    known: set[str] = set()
    for tensor in (*tensors(architecture), *beside):
        # A checkpoint saved from the model without its head leaves the prefix out.
        candidates = (tensor.name, tensor.name.removeprefix(names.prefix))
        name = next((name for name in candidates if name in found), None)
        if name is not None:
            placed[tensor] = found[name]
        if (name or tensor.name) in known:
            continue  # a fused tensor is reported once
        known.add(name or tensor.name)
        shape = list(tensor.stored)
        if name is None and not lost.isdisjoint(candidates):
            continue
        if name is None:
            problems.append(
                f"{tensor.name} of shape {shape} is missing: the export or the download is "
                f"incomplete, or {CONFIG} belongs to another model."
            )
            continue
        stored = found[name]
        if stored.shape != tensor.stored:
            problems.append(
                f"{name} in {stored.file.name} has shape {list(stored.shape)}, expected {shape}: "
                f"the file and {CONFIG} belong to different models."
            )
        if stored.dtype not in DTYPES:
            problems.append(
                f"{name} in {stored.file.name} is stored as {stored.dtype}, and only "
                f"{', '.join(DTYPES)} are read: use a checkpoint that is not quantized."
            )
    for name, stored in sorted(found.items()):
        ours = name in known or is_buffer(name) or (architecture.tied and name == names.head)
        if not ours:
            problems.append(
                f"{name} in {stored.file.name} of shape {list(stored.shape)} has no place in a "
                f"{architecture.family} model of this {CONFIG}: another head or an adapter is not "
                "read, so use a checkpoint of the language model alone."
            )
    return placed, problems


def read_parameters(
    path: Path,
    architecture: Architecture,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    beside: Sequence[Tensor] = (),
) -> dict[str, Array]:
    """Every parameter of a model folder, each device reading its own shard.

    Args:
        path: the model's folder.
        architecture: what the weights must fit.
        dtype: of the arrays; as stored if None (layers stored differently: the wider of them).
        mesh: where they go, by the table of ``llm.mesh``; the first device if None.
        beside: tensors of another head than the language model's.

    Returns:
        Parameters by '/'-joined path, layers stacked on the leading axis.

    Raises:
        ValueError: if the files do not fit; one line for each thing that is wrong.
    """
    found, problems, lost = open_weights(path)
    placed, misfits = match(found, architecture, lost, beside)
    problems += misfits
    if not problems and architecture.tied:
        problems += _untied_copy(found, placed, architecture)
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        raise ValueError(f"{path} cannot be loaded ({count}):\n  " + "\n  ".join(problems))
    by_path: dict[str, list[Tensor]] = {}
    for tensor in placed:
        by_path.setdefault(tensor.path, []).append(tensor)
    return {name: _assemble(layers, placed, dtype, mesh) for name, layers in by_path.items()}


def _assemble(
    layers: Sequence[Tensor],
    placed: Mapping[Tensor, Stored],
    dtype: DTypeLike | None,
    mesh: Mesh | None,
) -> Array:
    """One parameter, stacked over its layers where it has layers, on the devices it belongs to."""
    stacked = layers[0].layer is not None
    shape = (len(layers), *layers[0].shape) if stacked else layers[0].shape
    stored = [DTYPES[placed[tensor].dtype] for tensor in layers]
    kind = jnp.dtype(dtype) if dtype is not None else functools.reduce(jnp.promote_types, stored)

    def block(bounds: Bounds) -> np.ndarray:
        if not stacked:
            return layers[0].read(placed[layers[0]].read, bounds).astype(kind, copy=False)
        out = np.empty([stop - start for start, stop in bounds], kind)
        for tensor, row in zip(layers[slice(*bounds[0])], out, strict=True):
            row[...] = tensor.read(placed[tensor].read, bounds[1:])
        return out

    if mesh is None:
        return jax.device_put(block(tuple((0, size) for size in shape)))
    # Devices that hold the same shard share one reading of it, and no two shards are ever in host
    # memory together.
    placement = sharding(mesh, layers[0].path, shape)
    holders: dict[Bounds, list[Any]] = {}
    for device, index in placement.addressable_devices_indices_map(shape).items():
        parts = zip(index or (), shape, strict=True)
        bounds = tuple(part.indices(size)[:2] for part, size in parts)
        holders.setdefault(bounds, []).append(device)
    shards = []
    for bounds, devices in holders.items():
        values = block(bounds)
        shards += [jax.device_put(values, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, placement, shards)


def _untied_copy(
    found: Mapping[str, Stored], placed: Mapping[Tensor, Stored], architecture: Architecture
) -> list[str]:
    """A tied checkpoint may hold the output matrix too, but then it must be the embedding."""
    name = FAMILIES[architecture.family].head
    if name not in found:
        return []
    copy = found[name]
    first = next(stored for tensor, stored in placed.items() if tensor.path == "embedding/matrix")
    rows = 4096  # of the vocabulary at a time, so that neither is in memory whole
    starts = range(0, architecture.vocab_size, rows)
    runs = [(slice(start, min(start + rows, architecture.vocab_size)),) for start in starts]
    # Compared as bytes: a NaN is itself here.
    if (copy.shape, copy.dtype) == (first.shape, first.dtype) and all(
        copy.read(run).tobytes() == first.read(run).tobytes() for run in runs
    ):
        return []
    return [
        f"{name} in {copy.file.name} differs from {first.name}, although {CONFIG} says that they "
        "are one matrix (tie_word_embeddings): set it to false there to use both."
    ]


def load_decoder(
    name: str,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    remat: Remat = "none",
    unroll: int = 1,
    lora: LoRA | None = None,
    seed: int = 0,
) -> Decoder:
    """A decoder with the weights of a model folder or of a model on the Hub.

    Args:
        name: as in ``find_model``.
        dtype: what it computes in.
        param_dtype: what its parameters are held in.
        mesh: where the parameters go; the first device if None.
        remat: what the backward pass computes again, as in ``Decoder``.
        unroll: layers per step of the scan, as in ``Decoder``.
        lora: adapters to put beside the weights; without effect until they are trained.
        seed: of the adapters' random half.

    Returns:
        The decoder; nothing that the checkpoint holds was initialised first.

    Raises:
        ValueError: if the folder or its weights do not fit; lists everything that is wrong.
        OSError: if the Hub does not hand the model over.
    """
    path = find_model(name)
    architecture = read_architecture(path)
    shapes = abstract_decoder(
        architecture,
        param_dtype=param_dtype,
        dtype=dtype,
        remat=remat,
        unroll=unroll,
        mesh=mesh,
    )
    values = read_parameters(path, architecture, dtype=param_dtype, mesh=mesh)
    decoder = with_parameters(shapes, values)
    if lora is None:
        return decoder
    adapted = adapt(decoder, lora, rngs=nnx.Rngs(seed))
    if mesh is None:
        return adapted
    adapters = {key: value for key, value in parameters(adapted).items() if key not in values}
    return with_parameters(
        adapted,
        {
            key: jax.device_put(value, sharding(mesh, key, value.shape))
            for key, value in adapters.items()
        },
    )
