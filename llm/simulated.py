"""Devices that a CPU passes for: what many do together can be seen where there is one."""

import os
import re

THREADS = "PJRT_NPROC"
"""Where XLA looks for how many threads it may start."""

FLAG = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def simulated(devices: int) -> dict[str, str]:
    """What the environment of a process says, for its CPU to pass for so many devices."""
    return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), THREADS: threads(devices)}


def threads(devices: int) -> str:
    """How many are enough for so many devices.

    In a collective every device holds a thread until the last has come. XLA starts one for each
    device or core, whichever are more: where anything else takes one meanwhile, the last device
    never comes, and after a minute XLA aborts the process.
    """
    return str(max(os.cpu_count() or 1, 2 * devices))


def give_threads() -> None:
    """Let this process have them; to be called before the first use of a device."""
    asked = FLAG.search(os.environ.get("XLA_FLAGS", ""))
    devices = asked[1] if asked else os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if devices.isdecimal() and int(devices) > 1:
        os.environ.setdefault(THREADS, threads(int(devices)))
