"""What the devices of a mesh say to each other while a program runs, and what each of them moves.

Read from the compiled program, so it is what the compiler really put in, not what a formula expects
of it. A collective that is hidden behind arithmetic is printed in several pieces of one number;
only the first of them counts. Bytes are those that one device sends, by the shortest way there is:
around a ring of n devices an all-gather passes on (n - 1) / n of the whole, an all-reduce twice.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llm.plan.hlo import Computation, Instruction, Program

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

BY_LIST = re.compile(r"replica_groups=\{\{([\d,]*)\}")
BY_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
BY_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(([\d,\[\]]+)(?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
USED_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
BY_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}")
PIECE = re.compile(r'"async_collective_fusion_config":\{"flag_start":"(-?\d+)"')


@dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
        kind: one of ``KINDS``.
        bytes: of the whole that is gathered, reduced or exchanged, on each device of the group.
        group: the devices that take part, as places in the mesh; of equal groups the first, and
            where one passes on to another all of them.
        times: how often it runs.
    """

    kind: str
    bytes: float
    group: tuple[int, ...]
    times: float

    @property
    def sent(self) -> float:
        """Bytes that one device sends each time."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.bytes
        n = len(self.group)
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (n - 1) / n


def collectives(program: Program) -> list[Collective]:
    """Every exchange of a program between more than one device."""
    found = []
    for name, times in program.times.items():
        for computation, line in lines_of(program, program.computations[name]):
            kind = line.opcode.removesuffix("-start")
            if kind not in KINDS or is_continued(line):
                continue
            buffers = (computation[operand].made for operand in line.operands)
            read = sum((buffer.bytes for made in buffers for buffer in made), 0.0)
            group = group_of(line.said)
            if kind == "all-reduce" and keeps_a_part(computation, line):
                kind = "reduce-scatter"
            whole = read * len(group) if kind == "all-gather" else read
            if len(group) > 1 and whole:
                found.append(Collective(kind, whole, group, times))
    return found


def lines_of(
    program: Program, computation: Computation
) -> Iterator[tuple[Computation, Instruction]]:
    """The lines of a computation and of the fusions in it, each with where it stands."""
    for line in computation.values():
        yield computation, line
        inner = line.runs("calls") if line.opcode == "fusion" else None
        if inner is not None:
            yield from lines_of(program, program.computations[inner])


def is_continued(line: Instruction) -> bool:
    """Whether a line is a later piece of a collective that was begun elsewhere."""
    piece = PIECE.search(line.said)
    return piece is not None and piece[1] != "-1"


def keeps_a_part(computation: Computation, line: Instruction) -> bool:
    """Whether all that becomes of a sum is that each device keeps a piece: a reduce-scatter."""
    users = [user for user in computation.values() if line.name in user.operands]
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def group_of(said: str) -> tuple[int, ...]:
    """The devices that talk to each other, from any of the ways to print them.

    Raises:
        ValueError: if it is none of them.
    """
    if listed := BY_LIST.search(said):
        return tuple(map(int, filter(None, listed[1].split(","))))
    if iota := BY_IOTA.search(said):
        return tuple(counted(iota[2], iota[3]).reshape(numbers(iota[1]))[0].tolist())
    if mesh := BY_MESH.search(said):
        places = mesh_group(mesh[1], mesh[4])
        if mesh[2] is None:
            return places
        turned = mesh[2].startswith("[")
        devices = counted(mesh[2].strip("[]"), mesh[3]) if turned else np.array(numbers(mesh[2]))
        return tuple(devices.reshape(-1)[list(places)].tolist())
    if paired := BY_PAIRS.search(said):
        # All who take part: pairs talk at the same time, and each over links of its own.
        return tuple(sorted(set(map(int, re.findall(r"\d+", paired[1])))))
    raise ValueError(f"no group of devices is named in {said[:200]!r}.")


def counted(sizes: str, turned: str | None) -> np.ndarray:
    """0, 1, 2, ... in an array of these sizes, its axes in another order where that is said."""
    plain = np.arange(math.prod(numbers(sizes))).reshape(numbers(sizes))
    return plain if turned is None else plain.transpose(numbers(turned))


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]


def mesh_group(axes: str, used: str) -> tuple[int, ...]:
    """The group of device 0 where groups are named by axes of a mesh, or by parts of axes."""
    sizes = {name: int(size) for name, size in MESH_AXIS.findall(axes)}
    # How far apart two neighbours along an axis are.
    strides, stride = {}, 1
    for name in reversed(sizes):
        strides[name], stride = stride, stride * sizes[name]
    group = [0]
    for name, before, size in USED_AXIS.findall(used):
        many = int(size) if size else sizes[name]
        # A part of an axis follows `before` larger parts of it.
        apart = strides[name] * (sizes[name] // (int(before) * many) if size else 1)
        group = [device + apart * step for device in group for step in range(many)]
    return tuple(group)
