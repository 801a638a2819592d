"""The same steps and the same responses on many meshes; ``test_spread`` runs it on eight devices.

It writes what it finds to a file: every number by mesh, case and name.
"""

import sys
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from llm.data.order import InOrder
from llm.data.packing import Batch
from llm.data.plan import PackingSettings, make_plan
from llm.mesh import batch_sharding, make_mesh, sharding
from llm.model import ActorCritic, Decoder, abstract_decoder, parameters, with_parameters
from llm.model.architecture import architecture_from_config
from llm.model.lora import LoRA
from llm.sampler import Sampling, sample
from llm.settings import CriticSettings
from llm.update import Fixed, Learner, Parameters
from objectives import DPO, PPO
from tests.llm.tiny_runs import CONFIG, loud, make_groups

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 260,
}
MESHES = {
    "one": None,
    "one as a mesh": (1, 1, 1),
    "data 2": (2, 1, 1),
    "fsdp 2": (1, 2, 1),
    "tensor 2": (1, 1, 2),
    "fsdp 2, tensor 2": (1, 2, 2),
    "data 8": (8, 1, 1),
    "fsdp 8": (1, 8, 1),
    "data 2, fsdp 2, tensor 2": (2, 2, 2),
    "fsdp 2, tensor 4": (1, 2, 4),
}
CASES: dict[str, dict[str, Any]] = {
    "dpo": {},
    "adapters": {"lora": LoRA(rank=2)},
    "critic": {"unroll": 2},
    "dots": {"remat": "dots"},
    "full": {"remat": "full", "unroll": 2},
}
FEW = ("one", "data 2, fsdp 2, tensor 2")
"""Meshes on which every case is tried; on the others the first is."""
STEPS = 2


def mesh_of(sizes: tuple[int, int, int] | None) -> Mesh | None:
    """A mesh of the first devices."""
    if sizes is None:
        return None
    data, fsdp, tensor = sizes
    devices = jax.devices()[: data * fsdp * tensor]
    return make_mesh(devices, data=data, fsdp=fsdp, tensor=tensor)


def model_on(mesh: Mesh | None, case: str) -> tuple[Any, Parameters]:
    """A model's structure, and its parameters where they belong."""
    architecture = architecture_from_config(CONFIG | SIZES)
    module: Any = abstract_decoder(architecture, mesh=mesh, **CASES[case])
    if case == "critic":
        module = ActorCritic(module)
    shapes = {path: np.zeros(leaf.shape, np.float32) for path, leaf in parameters(module).items()}
    return module, {
        path: jax.device_put(value, None if mesh is None else sharding(mesh, path, value.shape))
        for path, value in loud(shapes).items()
    }


def batch_on(mesh: Mesh | None, case: str) -> Batch:
    """Eight groups, cut into as many runs as the mesh wants."""
    groups = make_groups(*((3 + n, 4 + n, 9 - n) for n in range(8)))
    known: dict[str, Any] = {"ref_logp": [np.full(g.scored, -5.0, np.float32) for g in groups]}
    if case == "critic":
        for name in ("old_logp", "advantage", "old_value", "returns"):
            known[name] = [np.linspace(-5, -4, g.scored, dtype=np.float32) for g in groups]
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    settings = PackingSettings(row_length=64, shapes=1)
    plan = make_plan(groups, InOrder(8, 8), settings, steps=1, shards=shards, width=32)
    [batch] = plan.with_known(**known).micro_batches(0)
    return jax.device_put(batch, None if mesh is None else batch_sharding(mesh))


def steps_on(mesh: Mesh | None, case: str) -> dict[str, np.ndarray]:
    """Gradients and losses of a few steps, and where everything lay."""
    module, values = model_on(mesh, case)
    moving = {p: v for p, v in values.items() if case != "adapters" or "lora_" in p}
    fixed = Fixed({p: v for p, v in values.items() if p not in moving})
    objective = DPO(beta=0.5) if case != "critic" else PPO()
    learner = Learner(
        module=module,
        transformation=optax.adamw(1e-2),
        rate=optax.constant_schedule(1e-2),
        base=case == "adapters",
        mesh=mesh,
        critic=CriticSettings() if case == "critic" else None,
    )
    batch = batch_on(mesh, case)
    given = moving, fixed, batch, objective
    state, sums = jax.jit(learner.start)(*given), jax.jit(learner.nothing)(*given)
    add = jax.jit(learner.add, donate_argnums=0)
    apply = jax.jit(learner.apply, donate_argnums=(0, 1))
    found: dict[str, np.ndarray] = {}
    for step in range(STEPS):
        sums = add(sums, state.trainable, fixed, batch, objective)
        for path, gradient in sums.gradient.items():
            found[f"{step}/gradient/{path}"] = np.asarray(gradient)
        state, sums, report = apply(state, sums)
        for name, (total, weight) in report.totals.items():
            found[f"{step}/{name}"] = np.asarray(total / weight)
    check_places(mesh, (state, sums))
    state, report = jax.jit(learner.step, donate_argnums=0)(state, fixed, batch, objective)
    check_places(mesh, state)
    for name, (total, weight) in report.totals.items():
        found[f"{STEPS}/{name}"] = np.asarray(total / weight)
    return found


def check_places(mesh: Mesh | None, tree: Any) -> None:
    """Parameters, gradients and moments lie where the table says after the last step too."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if mesh is not None:
            wanted = sharding(mesh, name, leaf.shape)
            assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), (name, leaf.sharding)


def tokens_on(mesh: Mesh | None, case: str) -> dict[str, np.ndarray]:
    """What a policy writes."""
    module, values = model_on(mesh, case)
    decoder: Decoder = with_parameters(module, values)
    rng = np.random.default_rng(0)
    asked = [rng.integers(2, 258, length).astype(np.int32) for length in (5, 9, 2, 7, 3, 11)]
    settings = Sampling(responses=4, max_new_tokens=24, temperature=0.8, seed=3, stop=(7, 9, 90))
    written = [one for group in sample(decoder, asked, settings) for one in group]
    return {
        f"written/{field}": np.concatenate([getattr(one, field) for one in written])
        for field in ("tokens", "logp", "model_logp")
    }


def main() -> None:
    """Every case on every mesh that there are devices for."""
    found: dict[str, np.ndarray] = {}
    for name, sizes in MESHES.items():
        for case in CASES:
            if case != "dpo" and name not in FEW:
                continue
            mesh = mesh_of(sizes)
            numbers = steps_on(mesh, case)
            if case in ("dpo", "full"):
                numbers |= tokens_on(mesh, case)
            found |= {f"{name}:{case}:{key}": value for key, value in numbers.items()}
    np.savez(sys.argv[1], **{key.replace("/", "|"): value for key, value in found.items()})


if __name__ == "__main__":
    main()
