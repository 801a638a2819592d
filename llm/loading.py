"""A model on its devices, taken apart: what it is, its numbers, and which of them train.

Training replaces some numbers of a model and leaves the others alone, so the two are held apart
from the structure that says how they are used. What a run trains depends on its settings only; a
checkpoint holds that part, and the rest is the model it began from.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from llm.checkpoints.read import load_decoder
from llm.data.packing import Batch
from llm.mesh import batch_sharding, make_mesh, sharding
from llm.model import ActorCritic, Decoder, M, RewardModel, parameters, with_parameters
from llm.model.architecture import Architecture
from llm.model.lora import LoRA
from llm.settings import Training
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

    def put(self, batch: Batch) -> Batch:
        """Place a batch on the devices."""
        if self.mesh is None:
            return jax.device_put(batch)
        return jax.device_put(batch, batch_sharding(self.mesh))


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
    mesh = None
    if jax.device_count() > 1:
        sizes = settings.mesh
        mesh = make_mesh(data=sizes.data, fsdp=sizes.fsdp, tensor=sizes.tensor)
    lora = None
    if settings.adapters.rank:
        chosen_adapters = settings.adapters
        lora = LoRA(
            rank=chosen_adapters.rank,
            alpha=chosen_adapters.alpha,
            targets=chosen_adapters.targets,
        )
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
            path: jax.device_put(value, sharding(mesh, path, value.shape))
            for path, value in values.items()
        }
    trains = frozenset(path for path in values if does_train(path, settings))
    return Loaded(structure(model), values, trains, lora, mesh)


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
