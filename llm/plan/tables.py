"""A plan as people read it, and as a file keeps it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from llm.estimate import duration
from llm.plan.planned import ALWAYS, Held, Part, Planned
from llm.plan.roofline import Roofline
from llm.plan.topology import GIB, Topology

BOUNDS = ("arithmetic", "memory", "messages")
"""What may bound a step."""


FUSED = "attention is compiled in blocks; on the card cuDNN's takes its place, and moves less"
"""What a plan for GPUs cannot know without one."""


def summary(planned: Planned, topology: Topology) -> str:
    """What was planned, in two lines or three."""
    axes = ", ".join(f"{name} {size}" for name, size in planned.mesh.items())
    batches = "micro-batches" if planned.micro_batches > 1 else "micro-batch"
    lines = [
        f"[bold]{planned.recipe}[/] on {planned.chips} x {topology.device.name}: {axes}; "
        f"remat {planned.remat}",
        f"a step: {planned.batch} groups in {planned.micro_batches} {batches} of "
        f"{planned.mesh['data'] * planned.mesh['fsdp']} x {planned.rows} rows of {planned.length}",
    ]
    return "\n".join(lines + [FUSED] * (topology.device.kind == "gpu"))


def tables(planned: Planned, topology: Topology) -> list[Table]:
    """All there is to say of a plan; of one that was refused, what is known."""
    found = [memory_table(planned)] if planned.memory else []
    if planned.parts and planned.refused is None:
        found += [program_table(planned), message_table(planned), result_table(planned, topology)]
    return found


def memory_table(planned: Planned) -> Table:
    """Memory of one chip by kind: what is always there, and what comes with the fullest program."""
    table = plain("memory of a chip", "", "when")
    for item in planned.memory:
        if item.when in (ALWAYS, planned.fullest):
            table.add_row(item.what, size(item.bytes), item.when)
    others = {item.when for item in planned.memory} - {ALWAYS, planned.fullest}
    for when in sorted(others):
        table.add_row(f"all of it during {when}", size(planned.held(when)), when)
    verdict = "fits" if planned.fits else "[red]does not fit[/]"
    table.add_row("[bold]most at a time[/]", f"[bold]{size(planned.peak)}[/]", planned.fullest)
    table.add_row("of", size(planned.usable), verdict)
    for part in planned.parts:
        if part.name == planned.fullest:
            share = planned.counted(part) / part.total
            table.add_row("the compiler says", size(part.total), f"kinds are {share:.1%}")
    return table


def program_table(planned: Planned) -> Table:
    """The programs of a step: how often, how much memory, and the three bounds of their time."""
    table = plain(
        "program", "runs", "memory", "multiply", "read, write", "send", "at least", "compiled"
    )
    for part in planned.parts:
        each = part.bound
        table.add_row(
            part.name,
            f"{part.runs:,.4g}",
            size(part.total),
            *(milliseconds(getattr(each, name)) for name in BOUNDS),
            f"[bold]{milliseconds(each.seconds)}[/]",
            duration(part.seconds),
        )
    return table


def message_table(planned: Planned) -> Table:
    """What a chip sends in a step, by kind of collective."""
    table = plain("collective", "in a step", "a chip sends")
    for kind, (times, sent) in sorted(exchanges(planned).items()):
        table.add_row(kind, f"{times:,.0f}", size(sent))
    return table


def exchanges(planned: Planned) -> dict[str, tuple[float, float]]:
    """Times and bytes that a chip sends in a step, by kind of collective."""
    found: dict[str, tuple[float, float]] = {}
    for part in planned.parts:
        for kind, (times, sent) in part.exchanges.items():
            before = found.get(kind, (0.0, 0.0))
            found[kind] = before[0] + times, before[1] + sent
    return found


def result_table(planned: Planned, topology: Topology) -> Table:
    """Time and cost, and what they stand on."""
    table = plain("bounds", "", "")
    flops = sum(part.flops for part in planned.parts)
    moved = sum(part.moved for part in planned.parts)
    rows = [
        (
            "arithmetic of a step",
            f"{planned.flops:.3e}",
            f"FLOP; {flops:.3e} with padding and what is done twice",
        ),
        ("memory traffic of a step", size(moved), "a chip reads and writes"),
        (
            "time of a step",
            f">= {planned.step_seconds:,.3g} s",
            f"at {speeds(topology)}",
        ),
        ("tokens per second", f"<= {planned.tokens_per_second:,.0f}", "trained on, all chips"),
        ("MFU", f"<= {planned.mfu:.1%}", "useful arithmetic alone counts"),
    ]
    if planned.price:
        rows += [
            (
                "cost of a million tokens",
                f">= ${planned.dollars_per_million_tokens:,.3f}",
                f"at ${planned.price:.2f} per chip and hour",
            ),
            (
                "cost of the run",
                f">= ${planned.dollars:,.0f}",
                f"{planned.steps:,} steps, {duration(planned.steps * planned.step_seconds)}",
            ),
        ]
    for row in rows:
        table.add_row(*row)
    return table


def speeds(topology: Topology) -> str:
    """What a chip does at most."""
    device, link = topology.device, topology.generation.link
    network = topology.generation.network if len(topology.shape) > 1 else None
    beyond = f", {network / 1e9:,.4g} GB/s to other hosts" if network else ""
    return (
        f"{device.flops / 1e12:,.4g} TFLOP/s, {device.bandwidth / 1e9:,.4g} GB/s, "
        f"{link / 1e9:,.4g} GB/s a link{beyond}"
    )


def sweep_table(found: Sequence[Planned], best: Planned | None) -> Table:
    """Meshes and remats side by side."""
    table = plain("", "data", "fsdp", "tensor", "remat", "rows", "memory", "step", "limit", "$/M")
    for one in found:
        limits = {name: sum(getattr(p.bound, name) for p in one.parts) for name in BOUNDS}
        refused = one.refused is not None
        word = "best" if one is best else "" if one.fits else "large"
        if refused and "the compiler ended" in str(one.refused):
            word = "fails"
        table.add_row(
            word,
            *(str(one.mesh[axis]) for axis in ("data", "fsdp", "tensor")),
            one.remat,
            f"{one.rows}x{one.length}",
            size(one.peak) if one.peak else "",
            "" if refused else milliseconds(one.step_seconds),
            "" if refused else max(limits, key=lambda name: limits[name]),
            "" if refused or not one.price else f"{one.dollars_per_million_tokens:,.3f}",
        )
    return table


def plain(*columns: str) -> Table:
    """A table without lines, numbers to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def size(number: float | int) -> str:
    """Bytes in the unit people would use."""
    unit, factor = next(
        (pair for pair in (("GiB", GIB), ("MiB", 2**20)) if number >= pair[1]), ("KiB", 2**10)
    )
    return f"{number / factor:,.2f} {unit}"


def milliseconds(seconds: float | int) -> str:
    """A time to compare programs by."""
    return f"{1e3 * seconds:,.1f} ms"


def as_json(planned: Planned) -> dict[str, Any]:
    """Everything a plan says, as plain JSON."""
    said = dataclasses.asdict(planned)
    said |= {"fits": planned.fits, "peak": planned.peak, "fullest": planned.fullest}
    if planned.parts and planned.refused is None:
        for name in (
            "step_seconds",
            "tokens_per_second",
            "mfu",
            "dollars_per_million_tokens",
            "dollars",
        ):
            said[name] = getattr(planned, name)
    return said


def from_json(said: dict[str, Any]) -> Planned:
    """The plan that ``as_json`` wrote."""
    fields = {field.name for field in dataclasses.fields(Planned)}
    kept = {name: value for name, value in said.items() if name in fields}
    parts = tuple(
        Part(
            **{
                **part,
                "bound": Roofline(**part["bound"]),
                "given": tuple(part["given"]),
                "exchanges": {kind: tuple(found) for kind, found in part["exchanges"].items()},
            }
        )
        for part in said["parts"]
    )
    memory = tuple(Held(**item) for item in said["memory"])
    return Planned(**{**kept, "parts": parts, "memory": memory})
