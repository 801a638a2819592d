"""From a recipe to a fine-tuned checkpoint: prepare, load, compare, compile, train, measure, export.

This is the whole story of a run in the order it happens; each chapter is a file of its own.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from llm.checkpoints.adapters import save_adapter
from llm.checkpoints.read import load_decoder
from llm.checkpoints.write import save_model
from llm.data.examples import Group
from llm.data.order import InOrder, Order
from llm.data.packing import Batch
from llm.data.plan import Plan, make_plan
from llm.journal import METRICS, Journal, read_lines
from llm.lora import LoRA, merge
from llm.mesh import batch_sharding, describe, make_mesh, sharding
from llm.model import Decoder, RewardModel, parameters, with_parameters
from llm.optimizer import optimizer, schedule
from llm.preparation import Prepared, prepare
from llm.progress import Bar, counted
from llm.reference import cached_reference
from llm.settings import Training
from llm.state import Saver, check_same_run
from llm.train import Put, Step, means, run, shape
from llm.update import Fixed, Learner, Parameters
from objectives.recipes import Recipe

MODEL, ADAPTER = "model", "adapter"
"""Folders of the fine-tuned model and of its adapters, in the folder of the run."""

EMBEDDINGS = ("embedding/matrix", "positions/matrix", "head/matrix")
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

    module: Decoder | RewardModel
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
    def shards(self) -> int:
        """Devices that share a batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def put(self, batch: Batch) -> Batch:
        """Place a batch on the devices."""
        if self.mesh is None:
            return jax.device_put(batch)
        return jax.device_put(batch, batch_sharding(self.mesh))


def finetune(name: str, recipe: Recipe, settings: Training, console: Console) -> Path:
    """Train a model by a recipe, from wherever the run stands.

    Args:
        name: of the recipe.
        recipe: the method.
        settings: everything else.
        console: where to say what happens.

    Returns:
        Folder of the run; the fine-tuned model is in its folder ``model``.

    Raises:
        ValueError: for anything that cannot be trained as asked; nothing slow has begun then.
        OSError: if something cannot be read or written.
        FloatingPointError: if training diverges; the last good state is saved.
    """
    prepared = prepare(name, recipe, settings, console.print)
    begun = check_same_run(prepared.out, prepared.record)
    if begun and (prepared.out / MODEL).exists():
        console.print(f"This run is complete: {prepared.out / MODEL}")
        return prepared.out

    loaded = load(prepared)
    plan = plan_of(prepared, loaded)
    describe_run(prepared, loaded, plan, console)
    learner = learner_of(prepared, loaded, plan.steps)
    fixed = Fixed(loaded.frozen, reference_parameters(prepared, loaded))
    plan, held_out = with_reference(prepared, loaded, learner, fixed, plan, console)
    objective = prepared.recipe.objective

    began = time.monotonic()
    with console.status("compiling"):
        start = jax.jit(learner.start)
        example = loaded.put((plan.examples(cut=False) + plan.examples(cut=True))[0])
        state, sums = start(loaded.trainable, fixed, example, objective)
        evaluate = evaluator(learner, fixed, objective, held_out, loaded.put)
        step = Step(learner, fixed, objective, state, sums, plan, loaded.put)
    seconds = time.monotonic() - began
    console.print(f"compiled {step.compilations} programs in {seconds:.1f} s, the last of this run")

    saver = Saver(prepared.out, settings.save, state)
    state = saver.restore(state) or state
    done = int(state.step)
    if done:
        console.print(f"going on after step {done}")
    journal = Journal(prepared.out, settings.log, done, name, prepared.record)
    if not done:
        journal.write(0, "eval", evaluate(state.trainable), {})
        saver.save(0, state)
    try:
        with Bar(console, name, plan.steps, done) as bar:
            end = run(
                prepared,
                plan,
                step,
                state,
                loaded.put,
                evaluate,
                saver=saver,
                journal=journal,
                bar=bar,
            )
        if end.signal is not None:
            console.print(
                f"stopped by {signal.Signals(end.signal).name}; saved after step {end.step} of "
                f"{plan.steps}. The same command goes on from there."
            )
            raise SystemExit(128 + end.signal)
        journal.write(plan.steps, "eval", evaluate(end.state.trainable), {})
    finally:
        saver.close()
        journal.close()
    export(prepared, loaded, end.state.trainable)
    conclude(prepared, console)
    return prepared.out


def load(prepared: Prepared) -> Loaded:
    """Read the weights onto the devices and decide which of them train."""
    settings = prepared.settings
    cpu = jax.default_backend() == "cpu"
    chosen = {"auto": jnp.float32 if cpu else jnp.bfloat16}
    dtype = chosen.get(settings.dtype, settings.dtype)
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
    layers = prepared.architecture.layers
    model: Decoder | RewardModel = load_decoder(
        str(prepared.model),
        dtype=dtype,
        mesh=mesh,
        remat=settings.remat,
        unroll=layers if cpu and layers <= UNROLLED else 1,
        lora=lora,
        seed=settings.seed,
    )
    if prepared.is_reward_model:
        model = RewardModel(model)
    values = parameters(model)
    if mesh is not None:
        values = {
            path: jax.device_put(value, sharding(mesh, path, value.shape))
            for path, value in values.items()
        }
    trains = frozenset(path for path in values if does_train(path, settings))
    graphdef, state = nnx.split(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return Loaded(nnx.merge(graphdef, shapes), values, trains, lora, mesh)


def does_train(path: str, settings: Training) -> bool:
    """Whether a parameter trains: adapters alone, all but the embeddings, or everything."""
    if settings.adapters.rank:
        return "/lora_" in path or path == "head/kernel"
    return not (settings.freeze_embedding and path.endswith(EMBEDDINGS))


def plan_of(prepared: Prepared, loaded: Loaded) -> Plan:
    """Which groups every step sees, and in which shapes."""
    settings = prepared.settings
    order = Order(len(prepared.groups), settings.batch, settings.seed)
    steps = order.steps(settings.epochs) if settings.steps is None else settings.steps
    return make_plan(
        prepared.groups,
        order,
        settings.packing,
        steps=steps,
        shards=loaded.shards,
        width=prepared.architecture.width,
    )


def one_pass(prepared: Prepared, loaded: Loaded, groups: Sequence[Group]) -> Plan:
    """All groups once and in order, in batches of one shape."""
    order = InOrder(len(groups), prepared.settings.batch)
    return make_plan(
        groups,
        order,
        replace(prepared.settings.packing, shapes=1),
        steps=order.steps,
        shards=loaded.shards,
        width=prepared.architecture.width,
    )


def learner_of(prepared: Prepared, loaded: Loaded, steps: int) -> Learner:
    """The pure functions of this run's steps."""
    settings = prepared.settings
    rate = schedule(settings.optimizer, prepared.learning_rate, steps)
    return Learner(
        module=loaded.module,
        transformation=optimizer(settings.optimizer, rate),
        rate=rate,
        log_every=settings.log.every,
        base=prepared.reference == "model" and loaded.lora is not None,
        mesh=loaded.mesh,
    )


def reference_parameters(prepared: Prepared, loaded: Loaded) -> Parameters | None:
    """The frozen copy to compare with in every step, where there is to be one.

    The state trains copies of its own, so the values that were read stay what they are.
    """
    return loaded.values if prepared.reference == "model" and loaded.lora is None else None


def with_reference(
    prepared: Prepared,
    loaded: Loaded,
    learner: Learner,
    fixed: Fixed,
    plan: Plan,
    console: Console,
) -> tuple[Plan, Plan | None]:
    """Give the batches what the reference says of them, if that is said once and for all.

    Returns:
        The plan of the run, and one pass over the held-out groups.
    """
    held = prepared.held_out
    aside = one_pass(prepared, loaded, held) if held else None
    if prepared.reference != "cache":
        return plan, aside
    compiled: dict[Any, Any] = {}
    given = loaded.trainable, fixed

    def score(batch: Batch) -> np.ndarray:
        placed = loaded.put(batch)
        if shape(batch) not in compiled:
            scores = jax.jit(lambda *given: learner.scores(*given).logp)
            compiled[shape(batch)] = scores.lower(*given, placed).compile()
        return np.asarray(compiled[shape(batch)](*given, placed))

    def batches(groups: Sequence[Group]) -> Iterable[Batch]:
        passed = one_pass(prepared, loaded, groups)
        found = (batch for step in range(passed.steps) for batch in passed.micro_batches(step))
        total = round(passed.steps * passed.micro_batches_per_step)
        return counted(console, "reference", found, total)

    everything = [*prepared.groups, *held]
    numbers = cached_reference(everything, prepared.reference_key, batches, score)
    cut = len(prepared.groups)
    if aside is not None:
        aside = aside.with_reference(numbers[cut:])
    return plan.with_reference(numbers[:cut]), aside


def evaluator(
    learner: Learner, fixed: Fixed, objective: Any, held_out: Plan | None, put: Put
) -> Callable[[Parameters], dict[str, float]]:
    """A function that measures the held-out groups under given parameters."""
    if held_out is None:
        return lambda trainable: {}
    measure = jax.jit(learner.measure)

    def evaluate(trainable: Parameters) -> dict[str, float]:
        found = [
            jax.device_get(measure(trainable, fixed, put(batch), objective))
            for step in range(held_out.steps)
            for batch in held_out.micro_batches(step)
        ]
        names = found[0]
        return means(
            {
                name: (sum(one[name][0] for one in found), sum(one[name][1] for one in found))
                for name in names
            }
        )

    return evaluate


def export(prepared: Prepared, loaded: Loaded, trainable: Parameters) -> None:
    """Write the fine-tuned model, and its adapters beside it, for others to load."""
    model = with_parameters(loaded.module, loaded.frozen | trainable)
    decoder = model.decoder if isinstance(model, RewardModel) else model
    if loaded.lora is not None:
        save_adapter(
            prepared.out / ADAPTER, decoder, loaded.lora, str(prepared.model), overwrite=True
        )
        decoder = merge(decoder)
    save_model(
        prepared.out / MODEL,
        decoder,
        config=prepared.config,
        tokenizer=prepared.tokenizer,
        source=prepared.model,
        overwrite=True,
    )


def describe_run(prepared: Prepared, loaded: Loaded, plan: Plan, console: Console) -> None:
    """Say what is about to happen, in numbers."""
    size = sum(math.prod(value.shape) for value in loaded.values.values())
    moving = sum(math.prod(value.shape) for value in loaded.trainable.values())
    shapes = ", ".join(f"{s.rows} x {s.length}" for s in plan.shapes)
    devices = "1 x " + jax.devices()[0].device_kind
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows = {
        "recipe": f"{prepared.name}: {prepared.recipe.objective}",
        "model": f"{prepared.model} ({size:,} parameters, {moving:,} train)",
        "data": f"{len(prepared.groups):,} groups, {len(prepared.held_out):,} held out",
        "steps": f"{plan.steps:,} of {prepared.settings.batch} groups; "
        f"learning rate {prepared.learning_rate:.2g}",
        "batches": f"{shapes} positions, {plan.padding:.1%} padding",
        "devices": devices if loaded.mesh is None else describe(loaded.mesh),
        "folder": str(prepared.out),
    }
    for row in rows.items():
        table.add_row(f"[cyan]{row[0]}[/]", row[1])
    console.print(table)


def conclude(prepared: Prepared, console: Console) -> None:
    """What changed on the held-out groups, and what to do next."""
    lines = [line for line in read_lines(prepared.out / METRICS) if line["kind"] == "eval"]
    if len(lines) > 1 and prepared.held_out:
        table = Table("held-out", "before", "after", box=None, padding=(0, 2, 0, 0))
        for name, before in lines[0].items():
            if name not in ("step", "kind", "clock") and name in lines[-1]:
                table.add_row(name, f"{before:.4f}", f"{lines[-1][name]:.4f}")
        console.print(table)
    console.print(f"model: {prepared.out / MODEL}")
