"""Devices a run can be planned for: how fast they multiply, how fast they read, what they hold.

The numbers are the makers' own, and a run never reaches them. Which share of them it is taken to
reach stands beside them, so that whoever has measured another can put it in its place. The machine
at hand is the one that can be measured, and it is.
"""

import math
import os
import time
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from llm.flops import PEAK_FLOPS


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a plan has to know of a device.

    Attributes:
        name: as people say it.
        flops: dense matrix products, FLOP/s, in the dtype a run would use there.
        bandwidth: of its memory, bytes/s.
        memory: bytes.
        mfu: share of ``flops`` that training is taken to reach.
        streaming: share of ``bandwidth`` that sampling is taken to reach.
        kind: decides the dtype, the size of a block of logits, and whether attention is fused.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    mfu: float = 0.4
    streaming: float = 0.5
    kind: Literal["gpu", "tpu", "cpu"]


USABLE = 0.92
"""Share of a device's memory that a program gets; on a GPU the command line asks for that much."""

# Memory and bandwidth are from the makers' data sheets.
DEVICES: dict[str, Device] = {
    "h200": Device(
        name="H200",
        flops=PEAK_FLOPS["NVIDIA H200"],
        bandwidth=4.8e12,
        memory=141e9,
        kind="gpu",
    ),
    "h100": Device(
        name="H100 SXM",
        flops=PEAK_FLOPS["NVIDIA H100 80GB HBM3"],
        bandwidth=3.35e12,
        memory=80e9,
        kind="gpu",
    ),
    "a100": Device(
        name="A100 80 GB",
        flops=PEAK_FLOPS["NVIDIA A100-SXM4-80GB"],
        bandwidth=2.039e12,
        memory=80e9,
        kind="gpu",
    ),
    "v5e": Device(
        name="TPU v5e",
        flops=PEAK_FLOPS["TPU v5 lite"],
        bandwidth=819e9,
        memory=16e9,
        kind="tpu",
    ),
    "v5p": Device(
        name="TPU v5p",
        flops=PEAK_FLOPS["TPU v5"],
        bandwidth=2.765e12,
        memory=95e9,
        kind="tpu",
    ),
    "v6e": Device(
        name="TPU v6e",
        flops=PEAK_FLOPS["TPU v6 lite"],
        bandwidth=1.638e12,
        memory=32e9,
        kind="tpu",
    ),
}
"""Devices a plan can be made for; ``cpu`` is measured where the plan is made."""

PRODUCT, COPIED, TRIES = 1024, 64 * 2**20, 3


def device_named(name: str) -> Device:
    """A device by its name; ``cpu`` is this machine, whose speed is measured in a second.

    Raises:
        ValueError: for any other name; lists those there are.
    """
    if name == "cpu":
        return this_cpu()
    if name not in DEVICES:
        raise ValueError(f"there is no device {name!r}; there are {', '.join(DEVICES)} and cpu.")
    return DEVICES[name]


def this_cpu() -> Device:
    """This machine: a float32 matrix product and a copy, the best of a few."""
    left = jnp.ones((PRODUCT, PRODUCT))
    product = jax.jit(jnp.matmul)
    source = np.ones(COPIED // 8)
    product(left, left).block_until_ready()
    seconds, moved = math.inf, math.inf
    for _ in range(TRIES):
        began = time.perf_counter()
        product(left, left).block_until_ready()
        seconds = min(seconds, time.perf_counter() - began)
        began = time.perf_counter()
        source.copy()
        moved = min(moved, time.perf_counter() - began)
    return Device(
        name="this CPU",
        flops=2 * PRODUCT**3 / seconds,
        bandwidth=2 * COPIED / moved,
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        kind="cpu",
    )
