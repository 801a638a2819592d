"""A run with shapes in place of numbers: what its programs are compiled from before it exists.

Nothing is read. The groups are as long as those of the data are said to be, the parameters are the
shapes of an architecture, each with its place on the devices; and everything else is what training
itself makes of the same settings.

Key to the axes: R rows, S positions of a row, B prompts, N responses of each, P scored tokens.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from llm.data.cutting import cut
from llm.data.declared import Bounds, declare_shapes
from llm.data.examples import Group
from llm.data.packing import Batch, Shape, empty_batch, run_length
from llm.data.plan import LANE, check_fits, round_up, shape_of
from llm.footprint import dtype_of, longest_group, lora_of
from llm.fresh_groundwork import known_of
from llm.groundwork import learner_of, reference_parameters
from llm.loading import Loaded, does_train, sizes_for, structure
from llm.logprobs.primitive import default_chunk
from llm.mesh import batch_sharding, make_mesh, sharding
from llm.model import ActorCritic, Decoder, RewardModel, abstract_decoder, parameters
from llm.model.architecture import Architecture
from llm.plan.topology import Topology, devices_of
from llm.preparation import Prepared
from llm.refusals import check_ahead
from llm.settings import Training, is_online, keeps_start
from llm.update import Fixed, Learner, Parameters
from llm.workload import Workload
from objectives import KTO
from objectives.recipes import Recipe


@dataclass(frozen=True)
class Abstract:
    """A run with shapes in place of numbers.

    Attributes:
        prepared: the run, with groups of nothing that are as long as its own.
        loaded: the model.
        topology: the devices.
        load: what the data are like.
        quick: whether to compile with little effort, see ``llm.plan.programs.compiled``.
    """

    prepared: Prepared
    loaded: Loaded
    topology: Topology
    load: Workload
    quick: bool = False

    @cached_property
    def shape(self) -> Shape:
        """Of a micro-batch on one shard: the largest there will be."""
        prepared, shards = self.prepared, self.loaded.shards
        settings = prepared.settings
        if prepared.is_online:
            return declare_shapes(self.bounds, settings.packing, shards)[0]
        groups = prepared.groups
        lengths = self.lengths
        check_fits(groups, lengths, settings.packing)
        length = settings.packing.row_length or round_up(int(lengths.max()), LANE)
        most = math.ceil(settings.batch / shards)
        rows = min(most, settings.packing.max_tokens // length)
        return shape_of((rows, length), groups, lengths, most)

    @property
    def bounds(self) -> Bounds:
        """What no fresh group exceeds."""
        settings = self.prepared.settings
        prompt = len(self.prepared.groups[0].prompt)
        responses = self.prepared.recipe.collection.responses
        return Bounds(
            prompt, prompt, responses, settings.sampling.max_new_tokens, groups=settings.batch
        )

    @property
    def lengths(self) -> np.ndarray:
        """Positions that each group of a step takes."""
        share = self.prepared.settings.packing.share_prompt
        return np.array([run_length(group, share) for group in self.prepared.groups], np.int64)

    @cached_property
    def micro_batches(self) -> int:
        """How many a step is cut to."""
        size = (self.shape.rows, self.shape.length)
        rows = list(range(len(self.prepared.groups)))
        width = self.prepared.architecture.width
        return len(cut(rows, self.lengths, [size], self.loaded.shards, width))

    @cached_property
    def learner(self) -> Learner:
        """The pure functions of its steps."""
        return learner_of(self.prepared, self.loaded, steps=1000)

    @property
    def trainer(self) -> Learner:
        """Those of the steps that learn: fresh responses come with the reference's opinion."""
        return replace(self.learner, base=False) if self.prepared.is_online else self.learner

    @property
    def stays(self) -> bool:
        """Whether the model that the run began from is kept until its end."""
        return keeps_start(self.prepared.settings, self.prepared.name, self.prepared.recipe)

    @property
    def reference(self) -> Parameters | None:
        """Numbers of the reference where it is a model in memory."""
        return reference_parameters(self.prepared, self.loaded)

    @property
    def fixed(self) -> Fixed:
        """What steps read and never change."""
        return Fixed(self.loaded.frozen, None if self.prepared.is_online else self.reference)

    @cached_property
    def batch(self) -> Batch:
        """A micro-batch."""
        names: tuple[str, ...] = ("ref_logp",) if self.prepared.reference == "cache" else ()
        if self.prepared.is_online:
            names = known_of(self.prepared)
        return self.over_rows(empty_batch(self.loaded.shards, self.shape, names))

    @property
    def measures(self) -> bool:
        """Whether a mean over the whole step is taken before its micro-batches are added up."""
        objective = self.prepared.recipe.objective
        compares = isinstance(objective, KTO) and objective.reference_point is None
        return compares and self.micro_batches > 1

    @property
    def objective(self) -> Any:
        """What is minimised, with its numbers on the devices."""
        objective = self.prepared.recipe.objective
        if self.measures:
            objective = replace(objective, reference_point=0.0)
        return self.everywhere(jax.device_put(objective))

    def over_rows(self, tree: Any) -> Any:
        """Shapes of arrays that are split by rows."""
        return shapes_at(tree, batch_sharding(self.mesh))

    def everywhere(self, tree: Any) -> Any:
        """Shapes of arrays that are on every device."""
        return shapes_at(tree, NamedSharding(self.mesh, PartitionSpec()))

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices as they are laid out."""
        assert self.loaded.mesh is not None
        return self.loaded.mesh

    @property
    def trips(self) -> int:
        """Chunks of logits that a shard's scored tokens are cut to."""
        words, slices = self.prepared.architecture.vocab_size, self.mesh.shape["tensor"]
        platform = self.mesh.devices.flat[0].platform
        chunk = default_chunk(words // slices if words % slices == 0 else words, platform)
        return math.ceil(self.shape.scored / min(chunk, self.shape.scored))


def shapes_at(tree: Any, place: NamedSharding) -> Any:
    """Shapes and dtypes of arrays, at a place."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=place), tree
    )


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a plan is made for.

    Attributes:
        architecture: of the policy.
        name: of the recipe.
        recipe: the method.
        settings: of the run; all of a step has the longest group's row length.
        load: what the data are like.
        topology: the devices.
        price: US dollars per chip and hour; that of the topology when None.
        quick: whether to compile with little effort, see ``llm.plan.programs.compiled``.

    Raises:
        ValueError: if programs would run beside each other, because a plan counts one at a time.
    """

    architecture: Architecture
    name: str
    recipe: Recipe
    settings: Training
    load: Workload
    topology: Topology
    price: float | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.settings.ahead:
            check_ahead(self.name, self.recipe, self.topology.chips, lambda line: None)
            raise ValueError(
                "--ahead writes while steps are taken, and a plan counts one program at a time: "
                "leave it out, and leave room for a copy of the policy and for what writes."
            )


def abstract_run(question: Question) -> Abstract:
    """A run of which nothing has to be read.

    Raises:
        ValueError: if the mesh does not fit the devices, or a group no batch.
    """
    recipe, settings, load = question.recipe, question.settings, question.load
    if is_online(recipe):
        recipe = recipe.with_collection(prompts=settings.batch * recipe.reuse.minibatches)
        longest = settings.sampling.max_new_tokens
        load = replace(load, response_tokens=min(load.response_tokens, longest))
    prepared = Prepared(
        name=question.name,
        recipe=recipe,
        settings=settings,
        model=Path(settings.model or "."),
        config={},
        architecture=question.architecture,
        tokenizer=None,
        groups=groups_of(recipe, settings, load),
        held_out=[],
        out=Path("."),
        record={},
    )
    topology = question.topology
    return Abstract(prepared, abstract_model(prepared, topology), topology, load, question.quick)


def groups_of(recipe: Recipe, settings: Training, load: Workload) -> list[Group]:
    """The groups of a step: the longest there is, and others of mean size."""
    fresh = is_online(recipe)
    mean = load.group(recipe.collection.responses if fresh else max(load.responses, 1))
    if fresh:
        return [mean] * settings.batch
    each = (longest_group(settings, recipe, load) - len(mean.prompt)) // len(mean.responses)
    longest = replace(mean, responses=(np.zeros(each, np.int32),) * len(mean.responses))
    return [longest, *[mean] * (settings.batch - 1)]


def abstract_model(prepared: Prepared, topology: Topology) -> Loaded:
    """A model on the devices of a topology, without numbers, as ``llm.loading.load`` makes it."""
    settings, lora = prepared.settings, lora_of(prepared.settings.adapters)
    chips, usable = topology.chips, topology.generation.usable
    sizes = sizes_for(prepared.architecture, settings, chips, usable)
    mesh = make_mesh(devices_of(topology), sizes.data, sizes.fsdp, sizes.tensor)
    model: Decoder | RewardModel | ActorCritic = abstract_decoder(
        prepared.architecture,
        dtype=dtype_of(settings, topology.device),
        remat=settings.remat,
        lora=lora,
        mesh=mesh,
    )
    if prepared.is_reward_model:
        model.head = None
        model = RewardModel(model)
    elif prepared.has_critic:
        model = ActorCritic(model)
    values: dict[str, Any] = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(mesh, path, x.shape))
        for path, x in parameters(model).items()
    }
    trains = frozenset(path for path in values if does_train(path, settings))
    return Loaded(structure(model), values, trains, lora, mesh)
