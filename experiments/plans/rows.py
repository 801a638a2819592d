"""The rows of the tables: which runs, on which slices, laid out how, and what the compiler says.

Every run is the same work whatever the slice: steps of 256 prompts of 512 tokens, responses of 256.
Of the layouts that should fit by what ``llm.footprint`` counts the one that should be fastest is
compiled, then the next; at last the smallest there is. So each row is a compilation that
succeeded, or one of the smallest layout that the compiler refused.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llm.data.packing import Shape
from llm.footprint import dtype_of, memory, total
from llm.model import abstract_decoder, parameters
from llm.model.architecture import Architecture, architecture_from_config
from llm.plan.abstract import Question
from llm.plan.apart import Planner
from llm.plan.choices import LANES, MOST_TENSOR, REMATS, with_rows
from llm.plan.planned import Planned
from llm.plan.public import PUBLIC
from llm.plan.roofline import executed_flops, learning_passes
from llm.plan.topology import Topology, read_topology
from llm.settings import (
    TRAIN_RECIPES,
    MeshSettings,
    SamplingSettings,
    Training,
    is_online,
    keeps_start,
)
from llm.workload import Workload

BATCH, PROMPT, RESPONSE = 256, 512, 256
LOAD = Workload(
    prompts=60_000,
    prompt_tokens=float(PROMPT),
    response_tokens=float(RESPONSE),
    responses=2,
    longest=PROMPT + 2 * RESPONSE,
)
RECIPES = ("dpo", "grpo", "ppo")
SLICES = {
    8: ("v5e:2x4", "v5p:2x2x2", "v6e:2x4"),
    64: ("v5e:8x8", "v5p:4x4x4", "v6e:8x8"),
    256: ("v5e:16x16", "v5p:4x8x8", "v6e:16x16"),
}

ROWS_TO_WRITE = 8
"""Responses that each shard writes side by side, at most."""

ROOM = 0.9
"""Share of the memory that a layout may take by the count, before it is compiled."""

WHOLE = 0.4
"""Share of a chip's memory that a copy of the policy to write with may take."""

MOST_ROWS = 8
"""Rows of a micro-batch at most: more fill a chip no better."""

TRIES = 3
"""Layouts that should fit and are compiled at most, before the smallest."""


@dataclass(frozen=True)
class Row:
    """One run on one slice."""

    model: str
    recipe: str
    topology: str

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.model} {self.recipe} {self.topology}"


def wanted() -> Iterator[Row]:
    """All rows, the most telling first."""
    for recipe in RECIPES:
        for chips in (64, 256, 8):
            for topology in SLICES[chips]:
                for model in PUBLIC:
                    yield Row(model, recipe, topology)


def compile_row(row: Row, plan: Planner) -> Planned:
    """Choose a layout and compile it; where it does not fit, the next one.

    Args:
        row: what.
        plan: compiles.

    Returns:
        The first that fits, or the smallest there is.
    """
    architecture = architecture_from_config(PUBLIC[row.model])
    topology = read_topology(row.topology)
    found = None
    for settings in layouts(row, architecture, topology):
        found = plan(
            Question(
                architecture=architecture,
                name=row.recipe,
                recipe=TRAIN_RECIPES[row.recipe],
                settings=settings,
                load=LOAD,
                topology=topology,
                quick=True,
            )
        )
        if found.fits:
            break
    assert found is not None
    return found


def layouts(row: Row, architecture: Architecture, topology: Topology) -> Iterator[Training]:
    """Layouts to try: those that should fit, the fastest by the count first; then the smallest."""
    recipe = TRAIN_RECIPES[row.recipe]
    fresh = is_online(recipe)
    responses = recipe.collection.responses if fresh else LOAD.responses
    length = PROMPT + RESPONSE * responses
    shapes = parameters(abstract_decoder(architecture))
    choices = [
        with_rows(replace(settings, remat=remat), rows, length)
        for settings in meshes_for(row, architecture, topology)
        for remat in REMATS
        for rows in sizes_of(settings)
    ]
    likely = [one for one in choices if counted(row, one, shapes, architecture, topology)]
    likely.sort(key=lambda one: seconds(one, architecture, topology, total(shapes)))
    yield from likely[:TRIES]
    yield choices[-1]


def sizes_of(settings: Training) -> list[int]:
    """Rows of a micro-batch that are worth trying."""
    shards = (settings.mesh.data or 1) * (settings.mesh.fsdp or 1)
    most = min(-(-BATCH // shards), MOST_ROWS)
    return [rows for rows in (8, 4, 2, 1) if rows <= most]


def meshes_for(row: Row, architecture: Architecture, topology: Topology) -> list[Training]:
    """A run of a row on few meshes, that with the smallest pieces last."""
    recipe = TRAIN_RECIPES[row.recipe]
    training = Training(model=row.model, batch=BATCH)
    tensor, gather = 1, True
    if is_online(recipe):
        # Whoever writes has the weights whole but for tensor, in the dtype of the arithmetic.
        number = dtype_of(training, topology.device).itemsize
        size = number * total(parameters(abstract_decoder(architecture)))
        allowed = WHOLE * topology.generation.usable
        while tensor < min(MOST_TENSOR, topology.chips) and size / tensor > allowed:
            tensor *= 2
        gather = size / tensor <= allowed
    collected = BATCH * recipe.collection.responses
    most = math.gcd(math.gcd(MOST_TENSOR, architecture.kv_heads), topology.chips)
    found = []
    for pieces in sorted({tensor, most}):
        rest = topology.chips // pieces
        rows = min(ROWS_TO_WRITE * rest, collected)
        sampling = SamplingSettings(max_new_tokens=RESPONSE, rows=rows, gather=gather)
        for fsdp in sorted({rest, math.gcd(rest, architecture.width // LANES)}):
            mesh = MeshSettings(data=rest // fsdp, fsdp=fsdp, tensor=pieces)
            found.append(replace(training, mesh=mesh, sampling=sampling))
    return found


def seconds(
    settings: Training, architecture: Architecture, topology: Topology, parameters: int
) -> float:
    """About how long a step takes, to know which layout to try first."""
    data, fsdp, tensor = settings.mesh.data or 1, settings.mesh.fsdp or 1, settings.mesh.tensor
    length = settings.packing.row_length or 1
    rows = settings.packing.max_tokens // length
    times = -(-BATCH // (data * fsdp * rows))
    shape = Shape(rows, length, rows * (length - PROMPT), rows, 1, length - PROMPT)
    passes = learning_passes(settings.remat, adapters=False)
    flops = executed_flops(architecture, shape, data * fsdp, passes)
    # Weights are put together twice and gradients summed once; whole where pieces are narrow.
    narrow = architecture.width // fsdp < LANES
    sent = 2 * parameters / tensor * ((3 + narrow) * (fsdp > 1) + 2 / fsdp * (data > 1))
    # Along tensor every layer adds up activations twice on the way there and twice on the way back,
    # over the links of one dimension.
    layers = 2 * rows * length * architecture.width * architecture.layers
    added = (tensor > 1) * 2 * (6 if settings.remat == "full" else 4) * layers
    closed = topology.generation.ring <= max(topology.shape)
    links = len(topology.shape) * (2 if closed else 1)
    arithmetic = flops / (topology.device.flops * topology.chips)
    return times * max(arithmetic, (sent / links + added) / topology.generation.link)


def counted(
    row: Row,
    settings: Training,
    shapes: dict[str, Any],
    architecture: Architecture,
    topology: Topology,
) -> bool:
    """Whether a layout should fit, by the count."""
    recipe = TRAIN_RECIPES[row.recipe].with_collection(prompts=BATCH)
    given = architecture, settings, recipe, LOAD, topology.device, shapes, shapes
    held = {"always": 0.0, "training": 0.0, "sampling": 0.0}
    for item in memory(*given, scored_by=0, stays=keeps_start(settings, row.recipe, recipe)):
        held[item.when] += item.bytes
    peak = held["always"] + max(held["training"], held["sampling"])
    return peak <= ROOM * topology.generation.usable
