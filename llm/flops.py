"""How much arithmetic a batch needs, and how much the device could do: MFU.

Only useful work counts: tokens that are there (no padding), attention to positions that may be
seen, output logits of scored tokens, and no second pass that only saves memory. So a number here
can be compared with other people's and does not grow by wasting work.
"""

from collections.abc import Sequence
from typing import Any

from llm.data.examples import Group
from llm.model.architecture import Architecture

# Dense bfloat16 matrix products in FLOP/s, by the name JAX gives a device. Makers' data sheets.
PEAK_FLOPS = {
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(devices: Sequence[Any]) -> float | None:
    """What JAX devices could do together, FLOP/s; None where the peak is not known."""
    each = [PEAK_FLOPS.get(device.device_kind) for device in devices]
    return None if None in each else sum(peak for peak in each if peak is not None)


def matrix_size(architecture: Architecture) -> int:
    """Parameters that every position is multiplied with: all but embeddings, output and norms."""
    a = architecture
    attention = a.width * a.head_width * (2 * a.heads + 2 * a.kv_heads)
    mlp = a.width * a.mlp_width * (3 if a.gated_mlp else 2)
    return a.layers * (attention + mlp)


def forward_flops(architecture: Architecture, group: Group) -> float:
    """Arithmetic of one forward pass over a group whose prompt is encoded once.

    Args:
        architecture: of the decoder.
        group: a prompt and its responses.
    """
    prompt = len(group.prompt)
    lengths = [len(response) for response in group.responses]
    positions = prompt + sum(lengths)
    pairs = prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in lengths)
    attention = 4 * pairs * architecture.heads * architecture.head_width * architecture.layers
    head = 2 * architecture.width * architecture.vocab_size * sum(lengths)
    return 2 * matrix_size(architecture) * positions + attention + head


def training_factor(adapters: bool) -> int:
    """Passes a training step is worth: forward, gradient of activations, gradient of weights."""
    return 2 if adapters else 3
