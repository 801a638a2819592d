"""How much a compiled program reads from a device's main memory and writes to it.

Each kernel reads what it is given and writes what it makes, once. Of an array of which a kernel
takes or changes only a part, such as one layer of a stack, only the part counts; and what the
compiler keeps in a memory beside the arithmetic counts nothing. The compiler's own figure is made
the same way, but counts the body of a loop once.
"""

import re
from collections.abc import Iterator, Sequence

from llm.plan.hlo import Buffer, Computation, Instruction, Program, parameters_of

SILENT = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "iota"),
    *("while", "conditional", "call", "after-all", "partition-id", "replica-id"),
    *("copy-done", "slice-done", "all-gather-done", "all-reduce-done", "collective-permute-done"),
    *("async-start", "async-update", "async-done"),
}
"""Opcodes that move nothing, or whose moving is counted elsewhere."""

BOOKKEEPING = re.compile(
    r'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound|Async\w+)"'
)
"""Calls that only tell the compiler something."""

PARTS = ("dynamic-slice", "slice", "gather")
"""Opcodes that read a part of an array."""


def moved(program: Program) -> float:
    """Bytes that one device reads from its main memory and writes to it."""
    total = 0.0
    for name, times in program.times.items():
        computation = program.computations[name]
        each = (moved_by(program, computation, line) for line in computation.values())
        total += times * sum(each)
    return total


def moved_by(program: Program, computation: Computation, line: Instruction) -> float:
    """Bytes of one instruction, each time it runs."""
    if line.opcode in SILENT or BOOKKEEPING.search(line.said):
        return 0.0
    given: list[tuple[Buffer, ...]] = [
        computation[name].made if name in computation else () for name in line.operands
    ]
    if line.opcode in ("copy-start", "slice-start"):
        # A copy between memories, made ahead: what arrives is as large as what is read.
        ends = (given[0][0], line.made[1])
        return sum((line.made[1].bytes for end in ends if not end.near), 0.0)
    if line.opcode == "fusion":
        inner = program.computations[str(line.runs("calls"))]
        return read_by_kernel(program, inner, line, given) + written_by_kernel(inner, line)
    if line.opcode in PARTS:
        return 2 * far(line.made)
    if line.opcode == "dynamic-update-slice":
        return 2 * far(given[1])
    return far(line.made) + sum(map(far, given), 0.0)


def far(buffers: Sequence[Buffer]) -> float:
    """Bytes of those arrays that lie in the main memory."""
    return sum((buffer.bytes for buffer in buffers if not buffer.near), 0.0)


def read_by_kernel(
    program: Program,
    inner: Computation,
    line: Instruction,
    given: Sequence[tuple[Buffer, ...]],
) -> float:
    """Bytes that a kernel reads of its operands."""
    handed_on = {operand for _, operand in passed_on(line.said)}
    total = 0.0
    for number, (name, held) in enumerate(zip(parameters_of(inner), given, strict=True)):
        if number not in handed_on:
            total += min(far(held), used(program, inner, name))
    return total


def used(program: Program, inner: Computation, name: str) -> float:
    """Bytes of an array inside a kernel that its users take of it."""
    whole = sum((buffer.bytes for buffer in inner[name].made), 0.0)
    total = 0.0
    for user in inner.values():
        for place, operand in enumerate(user.operands):
            if operand != name:
                continue
            if user.opcode in PARTS and place == 0:
                total += sum(buffer.bytes for buffer in user.made)
            elif user.opcode == "dynamic-update-slice" and place == 0:
                total += 0.0  # what is not changed stays where it is
            elif user.opcode == "bitcast":
                total += used(program, inner, user.name)
            elif user.opcode == "fusion":
                deeper = program.computations[str(user.runs("calls"))]
                total += used(program, deeper, parameters_of(deeper)[place])
            elif user.opcode != "tuple":
                total += whole
    return min(whole, total)


def written_by_kernel(inner: Computation, line: Instruction) -> float:
    """Bytes of its results that a kernel writes."""
    handed_on = {result for result, _ in passed_on(line.said)}
    root = next(each for each in inner.values() if each.root)
    results = root.operands if root.opcode == "tuple" else (root.name,) * len(line.made)
    total = 0.0
    for place, (buffer, name) in enumerate(zip(line.made, results, strict=False)):
        if place in handed_on or buffer.near:
            continue
        maker = inner.get(name)
        while maker is not None and maker.opcode == "bitcast":
            maker = inner.get(maker.operands[0])
        if maker is not None and maker.opcode == "dynamic-update-slice":
            total += sum(part.bytes for part in inner[maker.operands[1]].made)
        else:
            total += buffer.bytes
    return total


def passed_on(said: str) -> Iterator[tuple[int, int]]:
    """Which results of a kernel are operands that it hands on: (result, operand)."""
    listed = re.search(r"output_to_operand_aliasing=\{((?:\{\d*\}: \(\d+, \{\}\)(?:, )?)+)\}", said)
    if listed is not None:
        for result, operand in re.findall(r"\{(\d*)\}: \((\d+),", listed[1]):
            yield int(result or 0), int(operand)
