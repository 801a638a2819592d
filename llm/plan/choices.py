"""Among the ways to lay out a run, those worth compiling, and which of them is best.

The least time a step can take is compared, so the choice is as good as a roofline: it knows how
much is computed, moved and sent, and not how well a chip hides one behind the other.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llm.loading import sizes_for
from llm.model.architecture import Architecture
from llm.plan.planned import Planned
from llm.plan.topology import Topology
from llm.settings import MeshSettings, Training

REMATS = ("none", "dots", "full")
"""From what keeps most to what keeps least."""

LANES = 128
"""Numbers side by side in a register."""

MOST_TENSOR = 8
"""Devices that share a layer at most, of those tried: beyond, they wait for each other."""


def with_rows(settings: Training, rows: int, length: int) -> Training:
    """The same run in micro-batches of so many rows on a shard."""
    packing = replace(settings.packing, row_length=length, max_tokens=rows * length)
    return replace(settings, packing=packing)


def largest(plan: Callable[[Training], Planned], settings: Training) -> Planned:
    """The largest micro-batch that fits, found by compiling.

    What a row takes is read off the first two, so a few more are enough.

    Args:
        plan: compiles a run.
        settings: of the run; its batch bounds the micro-batch.

    Returns:
        The plan with it; that of one row where not even that fits.
    """
    first = plan(settings)
    shards = first.mesh["data"] * first.mesh["fsdp"]
    most = -(-first.batch // shards)
    tried = {first.rows: first}

    def tried_with(rows: int) -> Planned:
        if rows not in tried:
            tried[rows] = plan(with_rows(settings, rows, first.length))
        return tried[rows]

    below, above = 0, most + 1
    rows = first.rows
    while True:
        found = tried_with(rows)
        if found.fits:
            below = rows
        else:
            above = rows
        if above - below <= 1:
            return tried_with(max(below, 1))
        rows = min(max(guess(list(tried.values())), below + 1), above - 1)


def guess(tried: Sequence[Planned]) -> int:
    """Rows that should just fit, by what the two nearest that are known to take say of a row."""
    known = sorted((one.rows, one.peak, one.usable) for one in tried if one.refused is None)
    if len(known) < 2:
        rows = [one.rows for one in tried]
        # Nothing to go by: half as many where the compiler refuses, else twice.
        return min(rows) // 2 if not known else 2 * max(rows)
    (few, less, usable), (many, more, _) = known[-2:]
    each = (more - less) / (many - few)
    return many + int((usable - more) // each) if each > 0 else 2 * many


def meshes(
    architecture: Architecture, settings: Training, topology: Topology
) -> Iterator[MeshSettings]:
    """Ways to lay out the devices: tensor divides the heads; fsdp is all, few, or as few as fit."""
    tensor, chips = 1, topology.chips
    while tensor <= min(MOST_TENSOR, chips):
        heads = architecture.heads % tensor == 0 and architecture.kv_heads % tensor == 0
        if heads and chips % tensor == 0:
            rest = chips // tensor
            free = replace(settings, mesh=MeshSettings(tensor=tensor))
            few = sizes_for(architecture, free, chips, topology.generation.usable).fsdp or 1
            # Pieces narrower than a register's lanes are not summed as pieces but whole.
            wide = math.gcd(rest, architecture.width // LANES or 1)
            for fsdp in sorted({rest, wide, few}, reverse=True):
                yield MeshSettings(data=rest // fsdp, fsdp=fsdp, tensor=tensor)
        tensor *= 2


def sweep(
    plan: Callable[[Training], Planned],
    architecture: Architecture,
    settings: Training,
    topology: Topology,
) -> Iterator[Planned]:
    """Every mesh with the remat that keeps most and fits; one that fits needs no other.

    Args:
        plan: compiles a run.
        architecture: of the policy.
        settings: of the run, but for mesh and remat.
        topology: the devices.
    """
    for mesh in meshes(architecture, settings, topology):
        for remat in REMATS:
            found = plan(replace(settings, mesh=mesh, remat=remat))
            yield found
            if found.fits:
                break


def recommended(found: Sequence[Planned]) -> Planned | None:
    """The plan that fits and can be fastest; of equals, to a percent, the one with most room."""
    fit = [one for one in found if one.fits]
    if not fit:
        return None
    best = min(one.step_seconds for one in fit)
    return min((one for one in fit if one.step_seconds <= 1.01 * best), key=lambda one: one.peak)
