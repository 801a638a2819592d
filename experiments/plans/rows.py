"""The rows of the tables: which runs, on which slices, laid out how, and what the compiler says.

Every run is the same work whatever the slice: steps of 256 prompts of 512 tokens, responses of 256.
The layout is chosen by what ``llm.footprint`` counts, which costs nothing, and then compiled; what
does not fit is tried with fewer rows at a time and then with less kept. So each row is a
compilation that succeeded, or at last one that the compiler refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llm.footprint import dtype_of, memory, total
from llm.model import abstract_decoder, parameters
from llm.model.architecture import Architecture, architecture_from_config
from llm.model.public import PUBLIC
from llm.plan import Planned, plan
from llm.plan_choices import MOST_TENSOR, REMATS, with_rows
from llm.settings import TRAIN_RECIPES, MeshSettings, SamplingSettings, Training
from llm.topology import Topology, read_topology
from llm.workload import Workload

BATCH, PROMPT, RESPONSE = 256, 512, 256
LOAD = Workload(
    prompts=60_000,
    prompt_tokens=PROMPT,
    response_tokens=RESPONSE,
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


def compile_row(row: Row) -> Planned:
    """Choose a layout and compile it; where it does not fit, the next smaller one.

    Returns:
        The first that fits, or the smallest there is.
    """
    architecture = architecture_from_config(PUBLIC[row.model])
    topology = read_topology(row.topology)
    recipe = TRAIN_RECIPES[row.recipe]
    found = None
    for settings in layouts(row, architecture, topology):
        found = plan(architecture, row.recipe, recipe, settings, LOAD, topology, quick=True)
        if found.fits:
            break
    assert found is not None
    return found


def layouts(row: Row, architecture: Architecture, topology: Topology) -> Iterator[Training]:
    """Layouts from the first that should fit to the smallest."""
    recipe = TRAIN_RECIPES[row.recipe]
    responses = recipe.collection.responses
    fresh = recipe.collection.source != "dataset"
    length = PROMPT + RESPONSE * (responses if fresh else LOAD.responses)
    settings = settings_for(row, architecture, topology)
    fsdp = settings.mesh.fsdp or 1
    most = min(-(-BATCH // fsdp), MOST_ROWS)
    sizes = [rows for rows in (8, 4, 2, 1) if rows <= most]
    choices = [
        with_rows(replace(settings, remat=remat), rows, length)
        for remat in REMATS
        for rows in sizes
    ]
    shapes = parameters(abstract_decoder(architecture))
    likely = [counted(row, one, shapes, architecture, topology) for one in choices]
    first = likely.index(True) if any(likely) else len(choices) - 1
    yield from choices[first:]


def settings_for(row: Row, architecture: Architecture, topology: Topology) -> Training:
    """A run of a row, all of its chips along fsdp and tensor."""
    recipe = TRAIN_RECIPES[row.recipe]
    fresh = recipe.collection.source != "dataset"
    training = Training(model=row.model, batch=BATCH)
    tensor, gather = 1, True
    if fresh:
        # Whoever writes has the weights whole but for tensor, in the dtype of the arithmetic.
        number = dtype_of(training, topology.device).itemsize
        size = number * total(parameters(abstract_decoder(architecture)))
        allowed = WHOLE * topology.generation.usable
        while tensor < min(MOST_TENSOR, topology.chips) and size / tensor > allowed:
            tensor *= 2
        gather = size / tensor <= allowed
    fsdp = topology.chips // tensor
    collected = BATCH * recipe.collection.responses
    sampling = SamplingSettings(
        max_new_tokens=RESPONSE, rows=min(ROWS_TO_WRITE * fsdp, collected), gather=gather
    )
    mesh = MeshSettings(data=1, fsdp=fsdp, tensor=tensor)
    return replace(training, mesh=mesh, sampling=sampling)


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
    for item in memory(*given, scored_by=0):
        held[item.when] += item.bytes
    peak = held["always"] + max(held["training"], held["sampling"])
    return peak <= ROOM * topology.generation.usable
