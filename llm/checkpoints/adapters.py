"""LoRA adapters in PEFT's format: a few megabytes that turn a known model into a tuned one.

The format stores, beside every adapted matrix, A as ``[r, in]`` and B as ``[out, r]``. Where a
family keeps query, key and value in one matrix (GPT-2, GPT-NeoX) there is one adapter for the three
of them. Ours are three, so they are written as one of three times the rank whose B is block
diagonal, which computes the same; and an adapter that others trained on the fused matrix is read as
three that start with the same A, which computes the same too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open

from llm.checkpoints.folders import read_json
from llm.checkpoints.names import (
    FAMILIES,
    Tensor,
    axis_sizes,
    laid_out,
    stored_axes,
    stored_tensor,
    tensors,
)
from llm.checkpoints.write import (
    Outgoing,
    fresh_folder,
    hand_over,
    in_order,
    write_file,
    write_json,
)
from llm.hosts import fetch, is_first
from llm.mesh import sharding
from llm.model import Decoder, parameters, with_parameters
from llm.model.architecture import Architecture
from llm.model.lora import TARGETS, LoRA, adapt

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# What PEFT puts in front of every name of the model.
_PREFIX = "base_model.model."

# Settings of PEFT under which an adapter computes something else than x A B alpha / r.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
)


@dataclass(frozen=True)
class Pair:
    """The adapter of one kernel of one layer.

    Attributes:
        kernel: the kernel it corrects.
        a: A as stored, as a part of the fused adapter where the kernel is a part of a matrix.
        b: B as stored; its rank is that of the fused adapter.
        columns: which of B's ranks are this kernel's own.
    """

    kernel: Tensor
    a: Tensor
    b: Tensor
    columns: slice

    @property
    def target(self) -> str:
        """The projection, as ``LoRA.targets`` names it."""
        return self.kernel.path.split("/")[-2]


def pairs(architecture: Architecture, rank: int, *, shared: bool = False) -> list[Pair]:
    """The adapter of every projection of every layer, whether or not it is used.

    Args:
        architecture: of the model.
        rank: of our adapters.
        shared: the parts of a fused matrix share one A, as others train it, instead of having a
            block of it each, as we write it.
    """
    found = []
    for kernel in tensors(architecture):
        owner, leaf = kernel.path.split("/")[-2:]
        if kernel.layer is None or leaf != "kernel" or owner not in TARGETS:
            continue
        stored, ours = kernel.layout.split(" -> ")
        letters = ours.split()
        inputs = letters[: 2 if owner == "output" else 1]
        outputs = letters[len(inputs) :]
        axes = stored_axes(stored)
        into = next(axis for axis in axes if inputs[0] in axis)
        out = next(axis for axis in axes if axis != into)
        part, parts = (0, 1) if shared else kernel.part
        sizes = axis_sizes(architecture) | {"r": rank, "R": rank * parts}
        rows = f"({part}/{parts} r)" if parts > 1 else "r"
        module = _PREFIX + kernel.name.removesuffix(".weight")
        path = kernel.path.removesuffix("kernel")
        found.append(
            Pair(
                kernel=kernel,
                a=laid_out(
                    path + "lora_a",
                    kernel.layer,
                    f"{module}.lora_A.weight",
                    f"{rows} {into} -> {' '.join(inputs)} r",
                    sizes,
                ),
                b=laid_out(
                    path + "lora_b",
                    kernel.layer,
                    f"{module}.lora_B.weight",
                    f"{out} R -> R {' '.join(outputs)}",
                    sizes,
                ),
                columns=slice(part * rank, (part + 1) * rank),
            )
        )
    return found


def save_adapter(
    path: Path, decoder: Decoder, lora: LoRA, base_name: str, *, overwrite: bool = False
) -> None:
    """Write the adapters of a decoder, and nothing else of it, in PEFT's format.

    Of several processes the first writes, and all must call.

    Args:
        path: the folder to make.
        decoder: with adapters.
        lora: what they were made from.
        base_name: the model they belong to, as others will find it.
        overwrite: replace what is at ``path``.

    Raises:
        ValueError: if the decoder has no such adapters, or if the folder holds something already.
        OSError: if the disk has no room for it.
    """
    values = parameters(decoder)
    every = pairs(decoder.architecture, lora.rank)
    absent = {pair.a.path for pair in every if pair.target in lora.targets} - values.keys()
    if absent:
        raise ValueError(
            f"The decoder has no adapter at {min(absent)}, although targets names it: "
            "give the LoRA that the decoder was built with."
        )
    # A fused matrix is adapted if any of its parts is.
    used = {pair.a.name for pair in every if pair.target in lora.targets}
    outgoing = [
        _outgoing(name, [pair for pair in every if pair.a.name == name], values, side)
        for name in sorted(used)
        for side in ("a", "b")
    ]
    if not is_first():
        hand_over(in_order(outgoing))
        return
    with fresh_folder(path, sum(tensor.bytes for tensor in outgoing), overwrite) as folder:
        write_file(folder / WEIGHTS, outgoing)
        config = _config(lora, base_name, decoder.architecture, every)
        write_json(folder / CONFIG, config)


def _outgoing(name: str, parts: list[Pair], values: Mapping[str, jax.Array], side: str) -> Outgoing:
    """A or B of one stored matrix, put together from the parts of it that are adapted."""
    stored = [(pair, pair.a if side == "a" else pair.b) for pair in parts]

    def make() -> np.ndarray:
        blocks = []
        for pair, tensor in stored:
            block = np.zeros(tensor.shape, np.float32)
            if tensor.path in values:
                with jax.transfer_guard("allow"):
                    own = fetch(values[tensor.path][tensor.layer]).astype(np.float32)
                block[... if side == "a" else pair.columns] = own
            blocks.append((tensor, block))
        return stored_tensor(blocks)

    tensor = stored[0][1]
    return Outgoing(tensor.name, tensor.stored, "F32", make)


def _config(
    lora: LoRA, base_name: str, architecture: Architecture, every: list[Pair]
) -> dict[str, Any]:
    modules = {pair.kernel.path: _module(pair.kernel, architecture) for pair in every}
    fused = {
        modules[pair.kernel.path]: pair.kernel.part[1]
        for pair in every
        if pair.target in lora.targets and pair.kernel.part[1] > 1
    }
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": architecture.family == "gpt2",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {module: parts * lora.rank for module, parts in fused.items()},
        "alpha_pattern": {module: parts * lora.alpha for module, parts in fused.items()},
        "target_modules": sorted(
            {modules[pair.kernel.path] for pair in every if pair.target in lora.targets}
        ),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _module(kernel: Tensor, architecture: Architecture) -> str:
    """What PEFT calls the projection: its last name, or more of them where that is not enough."""
    blocks = FAMILIES[architecture.family].blocks
    module = kernel.name.removesuffix(".weight").split(f"{blocks}.{kernel.layer}.")[1]
    short = module.rsplit(".", 1)[-1]
    others = {
        tensor.name
        for tensor in tensors(architecture)
        if tensor.layer == kernel.layer and tensor.name.endswith(f".{short}.weight")
    }
    return short if len(others) == 1 else module


def load_adapter(path: Path, decoder: Decoder, *, mesh: Mesh | None = None) -> tuple[Decoder, LoRA]:
    """Put an adapter of PEFT's format beside the weights of a decoder.

    Args:
        path: the adapter's folder.
        decoder: the model it was trained on, without adapters.
        mesh: where the adapters go; the first device if None.

    Returns:
        The decoder with the adapter, sharing its weights, and what the adapter is.

    Raises:
        ValueError: if the adapter is of a kind that is not implemented, or does not fit the model;
            lists everything that is wrong.
    """
    if any(name.endswith("/lora_a") for name in parameters(decoder)):
        raise ValueError("The decoder has adapters already: merge them before loading others.")
    config = _read_config(path)
    file = path / WEIGHTS
    if not file.is_file():
        raise ValueError(
            f"{path} holds no {WEIGHTS}: save the adapter as safetensors, nothing else is read."
        )
    try:
        with safe_open(file, framework="numpy") as stream:
            stored = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read ({error}): fetch the file again.") from None
    lora, values = _fit(file, config, stored, decoder.architecture)
    adapted = adapt(decoder, lora, rngs=nnx.Rngs(0))
    if mesh is None:
        placed = jax.device_put(values)
    else:
        placed = {
            name: jax.device_put(value, sharding(mesh, name, value.shape))
            for name, value in values.items()
        }
    return with_parameters(adapted, placed), lora


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise ValueError(
            f"{path} holds no {CONFIG}. Give the folder of an adapter in PEFT's format."
        )
    config = read_json(file)
    problems = [
        f"{key} is {config[key]!r}, which is not implemented"
        for key in _UNSUPPORTED
        if config.get(key)
    ]
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type is {config.get('peft_type')!r}, and only LORA is read")
    if config.get("bias", "none") != "none":
        problems.append(f"bias is {config['bias']!r}, and only adapters without biases are read")
    for key, kind in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(config.get(key), kind):
            problems.append(f"{key} is {config.get(key)!r}, and it must be a number")
    if problems:
        raise ValueError(
            f"{file} describes an adapter that cannot be used:\n  "
            + "\n  ".join(problems)
            + "\nMerge it into its model with the library that trained it, and load the result."
        )
    return config


def _fit(
    file: Path,
    config: Mapping[str, Any],
    stored: Mapping[str, np.ndarray],
    architecture: Architecture,
) -> tuple[LoRA, dict[str, np.ndarray]]:
    """The adapters of an architecture from the tensors of a file."""
    rank, alpha = config["r"], float(config["lora_alpha"])
    problems: list[str] = []
    blocks: dict[str, dict[int | None, np.ndarray]] = {}
    known: set[str] = set()
    every = zip(pairs(architecture, rank), pairs(architecture, rank, shared=True), strict=True)
    for ours, theirs in every:
        names = {ours.a.name, ours.b.name}
        if not names <= stored.keys():
            continue
        first = not names <= known  # of the parts of a fused matrix, whose problems are the same
        known |= names
        shapes = (stored[ours.a.name].shape, stored[ours.b.name].shape)
        pair = next((p for p in (ours, theirs) if (p.a.stored, p.b.stored) == shapes), None)
        if pair is None:
            if first:
                problems.append(
                    f"{ours.a.name} and its lora_B have shapes {list(shapes[0])} and "
                    f"{list(shapes[1])}, expected {list(theirs.a.stored)} and "
                    f"{list(theirs.b.stored)}: the adapter was trained on another model, or with "
                    "a rank of its own for some projections."
                )
            continue
        module_alpha = _pattern(config.get("alpha_pattern"), ours.kernel.name, alpha)
        if first and not np.isclose(module_alpha / shapes[0][0], alpha / rank):
            problems.append(
                f"{ours.a.name} is scaled by {module_alpha:g} / {shapes[0][0]} and others by "
                f"{alpha:g} / {rank}: only one scale for all projections is implemented."
            )
        a, b = (
            tensor.read(stored[tensor.name].__getitem__, tuple((0, n) for n in tensor.shape))
            for tensor in (pair.a, pair.b)
        )
        if np.any(np.delete(b, np.r_[pair.columns], axis=0)):
            problems.append(
                f"{ours.b.name} mixes the ranks of query, key and value: only a block for each of "
                "them, or one A for all three, is implemented."
            )
        if np.any(a) or np.any(b):  # else a part of a fused matrix that was not adapted
            blocks.setdefault(pair.a.path, {})[pair.kernel.layer] = a
            blocks.setdefault(pair.b.path, {})[pair.kernel.layer] = b[pair.columns]
    for name in sorted(stored.keys() - known):
        problems.append(f"{name} adapts nothing that a {architecture.family} model has here.")
    for name, layers in blocks.items():
        if len(layers) != architecture.layers:
            absent = sorted(set(range(architecture.layers)) - layers.keys())
            problems.append(f"{name} lacks layers {absent}: all layers or none must be adapted.")
    if problems:
        raise ValueError(f"{file} does not fit the model:\n  " + "\n  ".join(problems))
    values = {
        name: np.stack([layers[layer] for layer in range(architecture.layers)]).astype(np.float32)
        for name, layers in blocks.items()
    }
    found = {name.split("/")[-2] for name in values}
    targets = tuple(target for target in TARGETS if target in found)
    return LoRA(rank=rank, alpha=alpha, targets=targets), values


def _pattern(patterns: Mapping[str, Any] | None, kernel_name: str, default: float) -> float:
    """A setting that PEFT can override for the modules whose name ends like a pattern."""
    module = kernel_name.removesuffix(".weight")
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(value)
    return default
