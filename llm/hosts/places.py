"""Where a process stands among the others: given, or found out from whatever started it.

Slurm sets variables; a TPU slice has a list of its workers, in variables on GKE and in the metadata
server on a TPU VM. Where nothing of the kind is there, a process is alone.
"""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from llm.hosts.settings import HostSettings

TPU_PORT = 8475
"""Where the workers of a TPU slice meet; JAX's own coordinator uses the ports around it."""

SLURM_PORTS = 61440
"""First of the ports where the tasks of a Slurm job meet; which of 4096 is the job's number."""

METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"
ANSWERS = 10
"""Seconds the metadata server has to answer."""

DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""It is a part of this machine, and no proxy knows it."""

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class Place:
    """Where a process stands.

    Attributes:
        host: of process 0.
        port: where all meet there.
        count: of all processes.
        index: of this one.
        devices: numbers of this host's GPUs that are this process's; all of them if None.
        found: how it is known, in words.
    """

    host: str
    port: int
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    found: str = "given"


def find_place(
    settings: HostSettings, environment: Mapping[str, str] | None = None, tpu: bool | None = None
) -> Place | None:
    """Where this process stands; None if it is alone.

    Args:
        settings: what was given.
        environment: variables; those of the process if None.
        tpu: whether this host has TPU chips that JAX will use; JAX is asked if None.

    Raises:
        ValueError: if variables contradict each other.
    """
    names = os.environ if environment is None else environment
    if settings.coordinator is None:
        settings = from_variables(settings, names)
    if settings.coordinator is not None:
        assert settings.count is not None and settings.index is not None
        host, _, port = settings.coordinator.rpartition(":")
        place = Place(host.strip("[]"), int(port), settings.count, settings.index)
    elif all(name in names for name in SLURM):
        place = of_slurm(names)
    elif on_tpu() if tpu is None else tpu:
        place = of_tpu(names)
    else:
        place = None
    return None if place is None or place.count == 1 else place


def check_alone(command: str) -> None:
    """Raise ValueError for a command that one process does, where several were started."""
    place = find_place(HostSettings())
    if place is not None:
        raise ValueError(
            f"{command} is done by one process, and this is process {place.index} of {place.count} "
            f"({place.found}): start it once, on one host."
        )


def from_variables(settings: HostSettings, names: Mapping[str, str]) -> HostSettings:
    """Settings with what MODESEEK_COORDINATOR, MODESEEK_COUNT and MODESEEK_INDEX say.

    Raises:
        ValueError: if some are set and not all, or are no numbers.
    """
    fields = ("COORDINATOR", "COUNT", "INDEX")
    found = {name: names[f"MODESEEK_{name}"] for name in fields if f"MODESEEK_{name}" in names}
    if not found:
        return settings
    try:
        return HostSettings(
            coordinator=found["COORDINATOR"],
            count=int(found["COUNT"]),
            index=int(found["INDEX"]),
            join_timeout=settings.join_timeout,
        )
    except (KeyError, ValueError) as error:
        said = ", ".join(f"MODESEEK_{name}={value}" for name, value in found.items())
        raise ValueError(
            f"{said} do not say where this process stands ({error}): set MODESEEK_COORDINATOR to "
            "HOST:PORT of process 0, MODESEEK_COUNT to the number of processes and MODESEEK_INDEX "
            "to this one's, from 0."
        ) from None


def of_slurm(names: Mapping[str, str]) -> Place:
    """A task of a Slurm step: alone on its node it has all GPUs, else the one of its number."""
    host = first_node(names["SLURM_STEP_NODELIST"])
    port = SLURM_PORTS + int(names["SLURM_JOB_ID"]) % 4096
    on_node = names.get("SLURM_STEP_TASKS_PER_NODE", names.get("SLURM_TASKS_PER_NODE", ""))
    several = any(int(number) > 1 for number in re.findall(r"(?:^|,)(\d+)", on_node))
    devices = (int(names["SLURM_LOCALID"]),) if several else None
    count, index = int(names["SLURM_NTASKS"]), int(names["SLURM_PROCID"])
    return Place(host, port, count, index, devices, "found in Slurm's variables")


def first_node(nodes: str) -> str:
    """The first host of a list such as ``gpu[007-009,012],other``."""
    name, rest = re.fullmatch(r"([^,\[]*)(.*)", nodes, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    inside = re.match(r"\[([^\],-]*)[^\]]*\]([^,]*)", rest)
    return name + inside[1] + inside[2] if inside else name


def on_tpu() -> bool:
    """Whether JAX will use TPU chips of this host; asking does not start them."""
    import jax

    # Where there are chips and libtpu, importing JAX puts tpu first; and it says where there is no
    # metadata server to ask.
    return "tpu" in (jax.config.jax_platforms or "").split(",")  # pyright: ignore[reportAttributeAccessIssue]


def of_tpu(names: Mapping[str, str]) -> Place | None:
    """A worker of a TPU slice, or of several; None where nobody knows of others."""
    workers = names.get("TPU_PROCESS_ADDRESSES", names.get("TPU_WORKER_HOSTNAMES"))
    if workers is not None:
        within, found = int(names.get("TPU_WORKER_ID", "0")), "found in the variables of GKE"
    elif "TPU_SKIP_MDS_QUERY" in names:
        return None
    else:
        number = metadata(names, "agent-worker-number")
        workers = metadata(names, "worker-network-endpoints")
        if number is None or workers is None:
            return None
        within, found = int(number), "found in the metadata of the TPU VM"
    hosts = [address(worker) for worker in workers.split(",")]
    slices = int(megascale(names, "NUM_SLICES") or 1)
    slice_index = int(megascale(names, "SLICE_ID") or 0)
    first = (megascale(names, "COORDINATOR_ADDRESS") or hosts[0]).split(":")[0]
    index = slice_index * len(hosts) + within
    return Place(first, TPU_PORT, slices * len(hosts), index, None, found)


def address(worker: str) -> str:
    """The host of an entry of a list of workers: HOST, HOST:PORT or NAME:NUMBER:HOST."""
    parts = worker.strip().split(":")
    return parts[2] if len(parts) == 3 else parts[0]


def megascale(names: Mapping[str, str], name: str) -> str | None:
    """A fact about several slices, from a variable or from the metadata server."""
    variable = f"MEGASCALE_{name}"
    if variable in names or "TPU_SKIP_MDS_QUERY" in names or "TPU_WORKER_HOSTNAMES" in names:
        return names.get(variable)
    found = re.search(rf"^{variable}: *'?([^'\n]*)", metadata(names, "tpu-env") or "", re.MULTILINE)
    return found[1].strip() if found else None


def metadata(names: Mapping[str, str], key: str) -> str | None:
    """An attribute of this VM; None where there is no such server or attribute."""
    server = names.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        METADATA.format(server, key), headers={"Metadata-Flavor": "Google"}
    )
    try:
        with DIRECTLY.open(request, timeout=ANSWERS) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError):
        return None
