"""A compiled program as XLA prints it, read back: what runs, how often, and on what.

The text of an optimised program is a list of computations, each a list of instructions. Loops,
branches and calls name the computations they run; a fusion names what its one kernel does. The
compiler's own cost figures count the body of a loop once, so here every computation gets the number
of times it runs: a loop over layers turns as often as its condition says.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
"""Of the types whose names do not end with their size."""

SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](\{[^{}]*\})?")
OPENS = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
NAME = re.compile(r"%([\w.-]+)")
RUNS = re.compile(r"(condition|body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Buffer:
    """An array that an instruction makes.

    Attributes:
        dtype: as XLA spells it.
        shape: on one device.
        near: whether it lies in a memory beside the arithmetic and not in the main one.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool = False

    @property
    def bytes(self) -> float:
        """Its size, without the padding of tiles."""
        digits = re.match(r"[a-z]+(\d+)", self.dtype)
        bits = BITS.get(self.dtype, int(digits[1]) if digits else 0)
        return math.prod(self.shape) * bits / 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in its computation.
        opcode: what it does.
        made: the arrays it makes, a tuple's one after the other.
        operands: names of what it reads.
        said: everything after the operands.
        inside: the operands as printed, which is where a constant's value stands.
        root: whether it is what the computation returns.
    """

    name: str
    opcode: str
    made: tuple[Buffer, ...]
    operands: tuple[str, ...]
    said: str
    inside: str
    root: bool

    def runs(self, role: str) -> str | None:
        """The computation it names in a role, such as ``body``."""
        return next((name for part, name in RUNS.findall(self.said) if part == role), None)


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Program:
    """The computations of a program, by name.

    Attributes:
        computations: each a list of instructions by name.
        entry: the one that is run.
        trips: turns of a loop whose end is only known when it runs.
    """

    computations: Mapping[str, Computation]
    entry: str
    trips: float = 1.0

    @cached_property
    def times(self) -> dict[str, float]:
        """How often each computation runs that is not the inside of a fusion."""
        found: dict[str, float] = defaultdict(float)

        def run(name: str, times: float) -> None:
            found[name] += times
            for instruction in self.computations[name].values():
                for inner, turns in self.runs_of(name, instruction):
                    run(inner, times * turns)

        run(self.entry, 1.0)
        return dict(found)

    def runs_of(self, name: str, instruction: Instruction) -> list[tuple[str, float]]:
        """The computations an instruction runs, and how often for each time it is run."""
        if instruction.opcode == "while":
            turns = self.turns(name, instruction)
            parts = [instruction.runs(role) for role in ("body", "condition")]
            return [(part, turns) for part in parts if part is not None]
        if instruction.opcode == "conditional":
            branches = BRANCHES.search(instruction.said)
            named = NAME.findall(branches[1]) if branches else ()
            either = [instruction.runs(f"{truth}_computation") for truth in ("true", "false")]
            return [(part, 1.0) for part in (*named, *either) if part is not None]
        role = {"call": "to_apply", "async-start": "calls"}.get(instruction.opcode)
        part = instruction.runs(role) if role else None
        return [] if part is None else [(part, 1.0)]

    def turns(self, name: str, loop: Instruction) -> float:
        """How often a loop turns: said by the compiler, or by the constant it counts up to."""
        known = KNOWN_TRIPS.search(loop.said)
        if known:
            return float(known[1])
        condition = self.computations[str(loop.runs("condition"))]
        root = next(line for line in condition.values() if line.root)
        if root.opcode == "fusion":  # the comparison is inside
            inner = self.computations[str(root.runs("calls"))]
            given = dict(zip(parameters_of(inner), root.operands, strict=True))
            root = next(line for line in inner.values() if line.root)
            sides = [given.get(side, side) for side in root.operands]
            condition = inner | condition
        else:
            sides = list(root.operands)
        if root.opcode != "compare" or "direction=LT" not in root.said:
            return self.trips
        counter, end = (condition.get(side) for side in sides)
        last = None if end is None else constant(end)
        if counter is None or last is None or counter.opcode != "get-tuple-element":
            return self.trips
        return last - self.begins(name, loop, int(counter.said.split("index=")[1].split(",")[0]))

    def begins(self, name: str, loop: Instruction, index: int) -> float:
        """What a loop begins to count from, usually 0."""
        lines = self.computations[name]
        start = lines.get(loop.operands[0])
        if start is None or start.opcode != "tuple":
            return 0.0
        first = lines.get(start.operands[index])
        return (constant(first) if first is not None else None) or 0.0


def parameters_of(computation: Computation) -> list[str]:
    """Names of a computation's parameters, in order."""
    found = {
        int(line.inside): line.name for line in computation.values() if line.opcode == "parameter"
    }
    return [found[number] for number in sorted(found)]


def constant(line: Instruction) -> float | None:
    """The number a line stands for; None if it is computed."""
    if line.opcode != "constant" or not re.fullmatch(r"-?\d+", line.inside):
        return None
    return float(line.inside)


def read_program(text: str, trips: float = 1.0) -> Program:
    """Read the text of a compiled program.

    Args:
        text: from ``compiled.as_text()``.
        trips: turns of a loop whose end is only known when it runs.

    Raises:
        ValueError: if it is not the text of a program.
    """
    computations: dict[str, Computation] = {}
    entry, lines = None, None
    for line in text.splitlines():
        if lines is None or not line.startswith(" "):
            opened = OPENS.match(line)
            if opened:
                lines = computations.setdefault(opened[2], {})
                entry = opened[2] if opened[1] else entry
            continue
        found = read_instruction(line)
        if found is not None:
            lines[found.name] = found
    if entry is None:
        raise ValueError("the text has no ENTRY computation; give that of a compiled program.")
    return Program(computations, entry, trips)


def read_instruction(line: str) -> Instruction | None:
    """Read a line of a computation; None for one that is not an instruction."""
    begin = INSTRUCTION.match(line)
    if begin is None:
        return None
    rest = line[begin.end() :]
    if rest.startswith("("):
        end = closing(rest, 0) + 1
    else:
        shape = SHAPE.match(rest)
        end = shape.end() if shape else rest.index(" ")
    opcode, _, tail = rest[end:].lstrip().partition("(")
    close = closing("(" + tail, 0) - 1
    inside = tail[:close]
    return Instruction(
        name=begin[2],
        opcode=opcode,
        made=tuple(map(buffer_of, SHAPE.finditer(rest[:end]))),
        operands=tuple(NAME.findall(inside)),
        said=tail[close + 1 :],
        inside=inside,
        root=begin[1] is not None,
    )


def buffer_of(shape: re.Match[str]) -> Buffer:
    """An array from its shape as printed, such as ``bf16[8,128]{1,0:T(8,128)(2,1)S(1)}``."""
    sizes = tuple(int(size.lstrip("<=")) for size in shape[2].split(",") if size)
    # Memory space 0, the main one, is not printed.
    return Buffer(shape[1], sizes, near="S(" in (shape[3] or ""))


def closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at ``start`` is closed."""
    depth = 0
    for sign in re.finditer(r"[()]", text[start:]):
        depth += 1 if sign[0] == "(" else -1
        if not depth:
            return start + sign.start()
    raise ValueError(f"a parenthesis is never closed in {text[:80]!r}.")
