"""Compilers for accelerators that are not there, made ready before JAX is imported.

JAX and libtpu read the environment once, when they are loaded. So this file imports neither.
"""

import importlib.util
from collections.abc import MutableMapping

from llm.simulated import simulated

CPU = "cpu"
"""What the name of a topology of simulated devices begins with."""

EXTRA = "tpu-plan"
"""Of the project: what has to be installed to compile for TPUs."""

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

    Args:
        topology: name of what will be compiled for; one that does not exist changes nothing.
        environment: of this process, before JAX is imported.
    """
    kind, _, count = topology.partition(":")
    if kind != CPU:
        settings = ELSEWHERE
    elif count.isdecimal():
        settings = simulated(int(count))
    else:
        settings = {}
    for key, value in settings.items():
        environment.setdefault(key, value)


def check_compiler(topology: str) -> None:
    """Raise ValueError where there is no compiler for a topology; names what to install."""
    if not topology.startswith(f"{CPU}:") and importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"libtpu, which compiles for {topology}, is not installed: pip install -e "
            f"'.[{EXTRA}]' (700 MB; no TPU is needed)."
        )
