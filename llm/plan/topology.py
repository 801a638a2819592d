"""Slices of accelerators that a run can be planned for without owning one.

A topology is a kind of chip and how many there are: of TPUs along each dimension of the torus that
joins them, ``v5e:4x4``; of GPUs in a host, ``h100:8``, or in several, ``h100:4x8``. The compilers
are wheels (libtpu, and JAX's plugin for CUDA) that compile for any of them on a machine that has
none. ``cpu:8`` stands for eight simulated devices of this machine, on which a plan can be held
against a program that really runs.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from llm.devices import DEVICES, USABLE, Device
from llm.plan.collectives import Collective
from llm.plan.compilers import CPU, check_compiler, hushed
from llm.plan.gpus import target_config

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A kind of chip, and how chips of it are joined.

    Attributes:
        device: one of them.
        usable: bytes of its memory that the compiler lets a program have.
        link: bytes/s over one link in one direction; of TPUs there are two links along each
            dimension, a GPU has one to all others of its host.
        ring: chips along a dimension from which on its ends are joined too.
        network: bytes/s in one direction from a chip to other hosts; None where links go there.
        price: US dollars per chip and hour, on demand in the United States; from memory.
        shapes: slices that can be had, as they are written.
    """

    device: Device
    usable: float
    link: float
    ring: int = 1
    network: float | None = None
    price: float
    shapes: tuple[str, ...]


HOSTS = ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8", "32x8")
FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")


def of_hosts(name: str, link: float, network: float, price: float) -> Generation:
    """A kind of GPU, up to eight of which a host joins."""
    device = DEVICES[name]
    return Generation(
        device=device,
        usable=USABLE * device.memory,
        link=link,
        network=network,
        price=price,
        shapes=HOSTS,
    )


# Links: the makers' bandwidth of a chip to all its neighbours (1600, 4800 and 3200 Gbit/s, as in
# https://cloud.google.com/tpu/docs) over the number of its links. Usable memory: what libtpu names
# where a program is too large. GPUs: NVLink's bandwidth in one direction, and a network card for
# each (400 and, beside an A100, 200 Gbit/s), as the makers' own hosts have.
GENERATIONS: dict[str, Generation] = {
    "v5e": Generation(
        device=DEVICES["v5e"],
        usable=15.75 * GIB,
        link=1600e9 / 8 / 4,
        ring=16,
        price=1.20,
        shapes=FLAT,
    ),
    "v5p": Generation(
        device=DEVICES["v5p"],
        usable=95.74 * GIB,
        link=4800e9 / 8 / 6,
        ring=4,
        price=4.20,
        shapes=DEEP,
    ),
    "v6e": Generation(
        device=DEVICES["v6e"],
        usable=31.25 * GIB,
        link=3200e9 / 8 / 4,
        ring=16,
        price=2.70,
        shapes=FLAT,
    ),
    "a100": of_hosts("a100", link=300e9, network=200e9 / 8, price=1.80),
    "h100": of_hosts("h100", link=450e9, network=400e9 / 8, price=3.00),
    "h200": of_hosts("h200", link=450e9, network=400e9 / 8, price=3.80),
}
"""Accelerators whose compiler needs no accelerator."""

SHARED = ("all-gather", "reduce-scatter", "all-reduce")
"""Exchanges of which every host needs all that is said once, whatever it has of chips."""

EACH_TO_EACH = ("all-to-all", "ragged-all-to-all")
"""Exchanges of which each chip needs something else."""


@dataclass(frozen=True)
class Topology:
    """A slice.

    Attributes:
        name: as it was asked for, such as ``v5e:4x4``.
        generation: its chips; simulated devices have the memory of the machine, and no price.
        shape: how many chips there are along each dimension.
    """

    name: str
    generation: Generation
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def device(self) -> Device:
        """One of them."""
        return self.generation.device

    def links(self, places: Sequence[Sequence[int]]) -> int:
        """Links in one direction over which chips at these places can pass data on to each other.

        Along a dimension that closes to a ring there are two, along any other one.
        """
        count = 0
        for axis, size in enumerate(self.shape):
            along = {place[axis] for place in places}
            if len(along) > 1:
                closed = len(along) == size and size >= self.generation.ring
                count += 2 if closed else 1
        return max(count, 1)

    def seconds(self, exchange: Collective, places: Sequence[Sequence[int]]) -> float:
        """How long an exchange takes at least.

        Args:
            exchange: what is said.
            places: where its group stands.
        """
        link, network = self.generation.link, self.generation.network
        if network is None:
            return exchange.sent / (self.links(places) * link)
        size, hosts = len(places), len({tuple(place[:-1]) for place in places})
        within = exchange.sent / link
        if hosts == 1 or exchange.kind not in (*SHARED, *EACH_TO_EACH):
            return within
        # Of all that goes around, what leaves a host; its chips share that but for what each has
        # to say to each.
        leaves = exchange.sent * (1 - 1 / hosts) / (1 - 1 / size)
        cards = size / hosts if exchange.kind in SHARED else 1
        return max(within, leaves / cards / network)


def read_topology(name: str) -> Topology:
    """A slice by its name.

    Raises:
        ValueError: if there is none of this name; lists those there are.
    """
    kind, _, shape = name.partition(":")
    if kind == CPU:
        if not re.fullmatch(r"[1-9]\d*", shape):
            raise ValueError(f"--topology {name}: give a number of simulated devices, as in cpu:8.")
        return Topology(name, simulated(), (int(shape),))
    if kind not in GENERATIONS or shape not in GENERATIONS[kind].shapes:
        there = "; ".join(
            f"{kind}:{'|'.join(generation.shapes)}" for kind, generation in GENERATIONS.items()
        )
        raise ValueError(f"there is no topology {name!r}; there are {there}; and cpu:N.")
    return Topology(name, GENERATIONS[kind], tuple(map(int, shape.split("x"))))


def simulated() -> Generation:
    """This machine as a device. Its speed says nothing of another's and is a round number."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    device = Device(name="this CPU", flops=1e11, bandwidth=1e10, memory=memory, kind="cpu")
    return Generation(device=device, usable=memory, link=1e10, ring=2, price=0.0, shapes=())


def devices_of(topology: Topology) -> list[Any]:
    """The chips, as far as a compiler has to know them; nothing can run on those of a TPU.

    Raises:
        ValueError: if there is no compiler for them, or if fewer devices are simulated.
    """
    check_compiler(topology.name)
    if topology.device.kind == "tpu":
        return list(topologies.get_topology_desc(topology.name, "tpu").devices)
    if topology.device.kind == "gpu":
        with hushed():
            jax.devices()  # JAX reads its plugins
        hosts, each = (1, *topology.shape)[-2:]
        described = topologies.get_topology_desc(
            "", "cuda", topology=f"1x{hosts}x{each}", target_config=target_config(topology.device)
        )
        return list(described.devices)
    found = jax.devices("cpu")
    if len(found) < topology.chips:
        raise ValueError(
            f"{topology.name} needs {topology.chips} simulated devices and JAX has {len(found)}: "
            f"set JAX_NUM_CPU_DEVICES={topology.chips} before it is imported."
        )
    return found[: topology.chips]
