"""A model on its devices, taken apart: what it is, its numbers, and which of them train.

Training replaces some numbers of a model and leaves the others alone, so the two are held apart
from the structure that says how they are used. What a run trains depends on its settings only; a
checkpoint holds that part, and the rest is the model it began from.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from llm.checkpoints.read import load_decoder
from llm.data.packing import Batch
from llm.footprint import laid_out, lora_of, resident
from llm.hosts import count, spread
from llm.mesh import batch_sharding, make_mesh, sharding
from llm.model import (
    ActorCritic,
    Decoder,
    M,
    RewardModel,
    abstract_decoder,
    parameters,
    with_parameters,
)
from llm.model.architecture import Architecture
from llm.model.lora import LoRA
from llm.settings import MeshSettings, Training
from llm.update import Parameters

EMBEDDINGS = ("embedding/matrix", "positions/matrix", "head/matrix")
HEADS = ("head/kernel", "head/bias")
"""What reads a number from hidden states, a reward or a value: there is nothing to adapt, so it
trains where adapters do."""
UNROLLED = 12
"""Layers up to which a CPU gets them one after the other and not in a loop: faster by a tenth."""


@dataclass(frozen=True)
class Loaded:
    """A model on its devices, taken apart into structure and numbers.

    Attributes:
        module: the structure.
        values: all parameters by path.
        trains: which of them train.
        lora: the adapters, if that is what trains.
        mesh: the devices; None for one.
    """

    module: Decoder | RewardModel | ActorCritic
    values: Parameters
    trains: frozenset[str]
    lora: LoRA | None
    mesh: Mesh | None

    @property
    def trainable(self) -> Parameters:
        """The parameters that train."""
        return {path: value for path, value in self.values.items() if path in self.trains}

    @property
    def frozen(self) -> Parameters:
        """The others."""
        return {path: value for path, value in self.values.items() if path not in self.trains}

    @property
    def without_start(self) -> "Loaded":
        """The same when what trains has taken the place of the numbers that were read."""
        return replace(self, values=self.frozen)

    def policy(self, values: Parameters) -> Decoder:
        """The decoder with its numbers, without the critic it may train with.

        Args:
            values: what has been trained, by the paths of ``module``; the rest is as it was read.

        Raises:
            ValueError: if it is a reward model, which writes nothing.
        """
        model = with_parameters(self.module, self.frozen | values)
        if isinstance(model, RewardModel):
            raise ValueError("A reward model is no policy: it judges responses and writes none.")
        return model.decoder if isinstance(model, ActorCritic) else model

    @property
    def shards(self) -> int:
        """Devices that share a batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def mine(self) -> frozenset[int] | None:
        """Which shards of a batch this process's devices hold; None where that is all of them."""
        if self.mesh is None or count() == 1:
            return None
        held = batch_sharding(self.mesh).addressable_devices_indices_map((self.shards,))
        return frozenset((index or (slice(0, 1),))[0].start or 0 for index in held.values())

    def put(self, batch: Batch) -> Batch:
        """Place a batch on the devices; of those on other hosts nothing is sent."""
        return spread(batch, None if self.mesh is None else batch_sharding(self.mesh))


def load(
    folder: Path,
    architecture: Architecture,
    settings: Training,
    reward: bool,
    critic: bool = False,
) -> Loaded:
    """Read the weights onto the devices and decide which of them train.

    Args:
        folder: of the model.
        architecture: what its config says.
        settings: of the run.
        reward: whether responses are scored instead of modelled.
        critic: whether a policy has a critic beside it.
    """
    dtype = arithmetic(settings.dtype)
    lora = lora_of(settings.adapters)
    mesh = mesh_for(architecture, settings)
    model: Decoder | RewardModel | ActorCritic = load_decoder(
        str(folder),
        dtype=dtype,
        mesh=mesh,
        remat=settings.remat,
        unroll=unrolled(architecture.layers),
        lora=lora,
        seed=settings.seed,
    )
    if reward:
        # It writes no token, so an output matrix of its own would only take memory.
        model.head = None
        model = RewardModel(model)
    elif critic:
        model = ActorCritic(model)
    values = parameters(model)
    if mesh is not None:
        values = {
            path: placed(value, sharding(mesh, path, value.shape)) for path, value in values.items()
        }
    trains = frozenset(path for path in values if does_train(path, settings))
    return Loaded(structure(model), values, trains, lora, mesh)


def mesh_for(architecture: Architecture, settings: Training) -> Mesh | None:
    """The devices of a run, laid out as the flags say or as the model needs; None for one."""
    if jax.device_count() == 1:
        return None
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    sizes = sizes_for(architecture, settings, jax.device_count(), memory)
    return make_mesh(data=sizes.data, fsdp=sizes.fsdp, tensor=sizes.tensor)


def sizes_for(
    architecture: Architecture, settings: Training, devices: int, memory: float | None
) -> MeshSettings:
    """How a run lays out its devices: as the flags say, or as the model needs.

    Args:
        architecture: of the policy.
        settings: of the run.
        devices: there are.
        memory: of a device, bytes; None where it is not known.
    """
    shapes = parameters(abstract_decoder(architecture, lora=lora_of(settings.adapters)))
    trains = {path: leaf for path, leaf in shapes.items() if does_train(path, settings)}
    kept = sum(item.bytes for item in resident(settings, shapes, trains))
    return laid_out(settings.mesh, devices, kept, memory)


def placed(value: jax.Array, where: NamedSharding) -> jax.Array:
    """A parameter where it belongs; one that every process has made for itself is handed out."""
    made_here = value.is_fully_addressable and not where.is_fully_addressable
    return spread(jax.device_get(value), where) if made_here else jax.device_put(value, where)


def arithmetic(asked: str = "auto") -> np.dtype:
    """The dtype of the arithmetic: bfloat16, or float32 on a CPU, unless another was asked for."""
    usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(usual if asked == "auto" else asked)


def unrolled(layers: int) -> int:
    """How many layers stand one after the other in a program: all or one, by what is faster."""
    return layers if jax.default_backend() == "cpu" and layers <= UNROLLED else 1


def structure(model: M) -> M:
    """A model without its numbers."""
    graphdef, state = nnx.split(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return nnx.merge(graphdef, shapes)


def does_train(path: str, settings: Training) -> bool:
    """Whether a parameter trains: adapters and heads, all but the embeddings, or everything."""
    if settings.adapters.rank:
        return "/lora_" in path or path in HEADS
    return not (settings.freeze_embedding and path.endswith(EMBEDDINGS))
