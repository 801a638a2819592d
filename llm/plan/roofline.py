"""The least time a program can take: its arithmetic, its memory traffic, its messages.

A chip multiplies at most so fast, reads its memory at most so fast and talks to its neighbours at
most so fast. At best all three happen at once, so a program takes at least as long as the slowest
of them. What it really takes is more; how much more, only the chip knows.

Key to the axes: R rows, S positions of a row, P scored tokens, V vocabulary, D width, H query
heads, C head width, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm.data.packing import Shape
from llm.flops import matrix_size
from llm.model.architecture import Architecture
from llm.model.attention import blocks
from llm.plan.collectives import Collective
from llm.plan.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds that each of the three takes by itself.

    Attributes:
        arithmetic: matrix products.
        memory: reading and writing a chip's memory.
        messages: what chips send to each other.
    """

    arithmetic: float = 0.0
    memory: float = 0.0
    messages: float = 0.0

    @property
    def seconds(self) -> float:
        """The least time there is."""
        return max(self.arithmetic, self.memory, self.messages)

    @property
    def limit(self) -> str:
        """Which of the three it is."""
        return max(("arithmetic", "memory", "messages"), key=lambda name: getattr(self, name))

    def times(self, often: float | int) -> "Roofline":
        """The same so many times, one after the other."""
        return Roofline(
            arithmetic=often * self.arithmetic,
            memory=often * self.memory,
            messages=often * self.messages,
        )


def roofline(
    flops: float | int,
    moved: float | int,
    exchanges: Sequence[Collective],
    topology: Topology,
    devices: Sequence[Any],
) -> Roofline:
    """Bounds of a program.

    Args:
        flops: arithmetic on all chips together.
        moved: bytes that one chip reads and writes.
        exchanges: what chips say to each other.
        topology: the chips.
        devices: the same in the order of the mesh, which groups of ``exchanges`` count in.
    """
    device = topology.device
    said = (
        x.times * topology.seconds(x, [place_of(devices[number], number) for number in x.group])
        for x in exchanges
    )
    return Roofline(
        arithmetic=flops / (device.flops * topology.chips),
        memory=moved / device.bandwidth,
        messages=sum(said, 0.0),
    )


def place_of(device: Any, number: int) -> tuple[int, ...]:
    """Where a chip stands in its torus or host; simulated devices stand in a row."""
    coordinates = getattr(device, "coords", None)
    return (number,) if coordinates is None else tuple(coordinates)


@dataclass(frozen=True)
class Passes:
    """How often an example goes through the parts of a model, counted in forward passes.

    Attributes:
        blocks: the matrices of the layers.
        attention: products of queries, keys and values.
        head: the output matrix.
    """

    blocks: float | int
    attention: float | int
    head: float | int


FORWARD = Passes(1, 1, 1)
"""A pass without a gradient."""


def learning_passes(remat: str, adapters: bool) -> Passes:
    """What a training step does, everything it does twice included.

    The backward pass is worth two, or one where the matrices do not train. Logits are made again
    whatever is kept, and so are the scores of attention, which is half of it.

    Args:
        remat: what the backward pass computes again besides.
        adapters: whether only adapters train.
    """
    factor = 2 if adapters else 3
    again = {"none": 0.5, "dots": 1.5, "full": 1.5}[remat]
    return Passes(factor + (remat == "full"), 3 + again, factor + 1)


def executed_flops(architecture: Architecture, shape: Shape, shards: int, passes: Passes) -> float:
    """Matrix products on a micro-batch as it is computed, padding included, on all chips.

    Args:
        architecture: of the decoder.
        shape: of the micro-batch on one shard.
        shards: of it.
        passes: over each part of the model.
    """
    a, rows = architecture, shape.rows * shards
    blocks = 2.0 * matrix_size(a) * rows * shape.length
    attention = 4.0 * rows * pairs(shape.length) * a.heads * a.head_width * a.layers
    head = 2.0 * a.width * a.vocab_size * shape.scored * shards
    return passes.blocks * blocks + passes.attention * attention + passes.head * head


def pairs(length: int) -> int:
    """Products of a query with a key in a row, as ``llm.model.attention`` cuts it in blocks."""
    return sum((end - start) * end for start, end in blocks(length))
