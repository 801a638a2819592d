"""Compilers for accelerators that are not there, made ready before JAX is imported.

JAX and its plugins read the environment once, when they are loaded. So this file imports none.
"""

import importlib.util
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import NamedTuple

from llm.simulated import simulated

CPU = "cpu"
"""What the name of a topology of simulated devices begins with."""

GPUS = ("a100", "h100", "h200")
"""What the names of topologies of GPUs begin with."""


class Compiler(NamedTuple):
    """What has to be installed to compile for a kind of device: any of these modules."""

    name: str
    modules: tuple[str, ...]
    extra: str
    size: str


TPU_COMPILER = Compiler("libtpu", ("libtpu",), "tpu-plan", "700 MB; no TPU is needed")
GPU_COMPILER = Compiler(
    "JAX's plugin for CUDA",
    ("jax_cuda12_plugin", "jax_cuda13_plugin"),
    "gpu-plan",
    "500 MB; neither a GPU nor CUDA is needed",
)

GPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # nobody has to hear that there is no GPU
}
"""What the compiler for GPUs has to find in the environment."""

UNTIMED = "--xla_gpu_autotune_level=0"
"""Also in its flags: kernels are not chosen by timing them."""

ELSEWHERE = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_MIN_LOG_LEVEL": "3",
    # Without it, of two processes that only compile one ends: each would lock a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu has to find in the environment, or it looks for chips that are not there."""


def prepare_environment(topology: str, environment: MutableMapping[str, str]) -> None:
    """Set what the compilers read as soon as they are loaded; what is set already stays.

    Of flags ours come last, and count: without a GPU none can be tried.

    Args:
        topology: name of what will be compiled for; one that does not exist changes nothing.
        environment: of this process, before JAX is imported.
    """
    kind, _, count = topology.partition(":")
    if kind in GPUS:
        settings = GPU_ENVIRONMENT
    elif kind != CPU:
        settings = ELSEWHERE
    elif count.isdecimal():
        settings = simulated(int(count))
    else:
        settings = {}
    for key, value in settings.items():
        environment.setdefault(key, value)
    if kind in GPUS:
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {UNTIMED}".strip()


@contextmanager
def hushed() -> Iterator[None]:
    """Within the block libraries write nothing to the terminal's stderr, nor do new processes."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_compiler(topology: str) -> None:
    """Raise ValueError where there is no compiler for a topology; names what to install."""
    kind, _, _ = topology.partition(":")
    if kind == CPU:
        return
    compiler = GPU_COMPILER if kind in GPUS else TPU_COMPILER
    if not any(importlib.util.find_spec(module) for module in compiler.modules):
        raise ValueError(
            f"{compiler.name}, which compiles for {topology}, is not installed: pip install -e "
            f"'.[{compiler.extra}]' -c constraints.txt ({compiler.size})."
        )
