"""From a recipe to a fine-tuned checkpoint: prepare, load, compile, train, measure, export.

This is the whole story of a run in the order it happens; each chapter is a file of its own.
"""

import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from llm.answers import JUDGED, answer, show_answers, show_extremes, show_judgement
from llm.data.examples import Group
from llm.data.order import InOrder, Order
from llm.data.packing import Batch
from llm.data.plan import Plan, make_plan
from llm.export import ADAPTER, MODEL, export_adapter, export_model
from llm.journal import METRICS, Journal, read_lines
from llm.loading import Loaded, load
from llm.mesh import describe
from llm.model import RewardModel, with_parameters
from llm.optimizer import optimizer, schedule
from llm.preparation import HARBOUR, Prepared, prepare
from llm.progress import Bar, counted
from llm.reference import cached_reference
from llm.settings import Training
from llm.state import Saver, check_same_run
from llm.train import Put, Step, means, run, shape
from llm.update import Fixed, Learner, Parameters
from objectives.recipes import Recipe

ROUNDING = 1e-5
"""Margins smaller than this are 0."""


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

    loaded = load(
        prepared.model, prepared.architecture, prepared.settings, prepared.is_reward_model
    )
    plan = plan_of(prepared, loaded)
    describe_run(prepared, loaded, plan, console)
    learner = learner_of(prepared, loaded, plan.steps)
    fixed = Fixed(loaded.frozen, reference_parameters(prepared, loaded))
    plan, held_out = with_reference(prepared, loaded, learner, fixed, plan, console)
    objective = prepared.recipe.objective

    began = time.monotonic()
    with console.status("compiling"):
        start = jax.jit(learner.start)
        example = loaded.put(example_of(plan))
        state, sums = start(loaded.trainable, fixed, example, objective)
        evaluate = evaluator(learner, state.trainable, fixed, objective, held_out, loaded.put)
        step = Step(learner, fixed, objective, state, sums, plan, loaded.put)
    seconds = time.monotonic() - began
    programs = step.compilations + (held_out is not None)
    console.print(f"compiled {programs} programs in {seconds:.1f} s, the last of this run")

    with ExitStack() as opened:
        saver = opened.enter_context(closing(Saver(prepared.out, settings.save, state)))
        restored = saver.restore(state)
        done = -1 if restored is None else int(restored.step)
        journal = Journal(prepared.out, settings.log, done, name, prepared.record)
        opened.enter_context(closing(journal))
        if restored is None:
            journal.write(0, "eval", evaluate(state.trainable), {})
            saver.save(0, state)
        else:
            state = restored
            console.print(f"going on after step {done}")
        with Bar(console, name, plan.steps, max(done, 0)) as bar:
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
    export(prepared, loaded, end.state.trainable)
    compare(prepared, loaded, end.state.trainable, console)
    conclude(prepared, console)
    return prepared.out


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


def example_of(plan: Plan) -> Batch:
    """A batch of the first of a plan's shapes."""
    return (plan.examples(cut=False) + plan.examples(cut=True))[0]


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
    if prepared.reference != "cache" or isinstance(loaded.module, RewardModel):
        return plan, aside
    compiled: dict[Any, Any] = {}
    given = loaded.trainable, fixed

    def score(batch: Batch) -> np.ndarray:
        placed = loaded.put(batch)
        if shape(batch) not in compiled:
            scores = jax.jit(lambda *given: learner.look(*given).logp)
            compiled[shape(batch)] = scores.lower(*given, placed).compile()
        return np.asarray(compiled[shape(batch)](*given, placed))

    everything = [*prepared.groups, *held]
    passed = one_pass(prepared, loaded, everything)
    found = (batch for step in range(passed.steps) for batch in passed.micro_batches(step))
    total = round(passed.steps * passed.micro_batches_per_step)
    key = f"{prepared.reference_key}-{loaded.module.dtype}"
    batches = counted(console, "reference", found, total)
    numbers = cached_reference(everything, key, batches, score)
    cut = len(prepared.groups)
    if aside is not None:
        aside = aside.with_reference(numbers[cut:])
    return plan.with_reference(numbers[:cut]), aside


def evaluator(
    learner: Learner,
    trainable: Parameters,
    fixed: Fixed,
    objective: Any,
    held_out: Plan | None,
    put: Put,
) -> Callable[[Parameters], dict[str, float]]:
    """A function that measures the held-out groups under parameters like those given."""
    if held_out is None:
        return lambda trainable: {}
    objective = jax.device_put(objective)  # once, because a step forbids it
    given = trainable, fixed, put(example_of(held_out)), objective
    measure = jax.jit(learner.measure).lower(*given).compile()

    def evaluate(trainable: Parameters) -> dict[str, float]:
        found = [
            jax.device_get(measure(trainable, fixed, put(batch), objective))
            for step in range(held_out.steps)
            for batch in held_out.micro_batches(step)
        ]
        return means(jax.tree.map(lambda *parts: sum(parts), *found))

    return evaluate


def export(prepared: Prepared, loaded: Loaded, trainable: Parameters) -> None:
    """Write the fine-tuned model, and its adapters beside it, for others to load."""
    if loaded.lora is not None and not prepared.is_reward_model:
        export_adapter(loaded, trainable, prepared.out / ADAPTER, source=prepared.model)
    export_model(
        loaded,
        trainable,
        prepared.out / MODEL,
        source=prepared.model,
        config=prepared.config,
        tokenizer=prepared.tokenizer,
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


def compare(prepared: Prepared, loaded: Loaded, trainable: Parameters, console: Console) -> None:
    """Answer held-out prompts before and after, for people to read and for an exact judge."""
    module, harbour = loaded.module, prepared.data == HARBOUR
    shown = prepared.settings.show
    nothing = shown == 0 or (shown is None and not harbour)
    if isinstance(module, RewardModel) or nothing or not prepared.held_out:
        return
    before, after = (
        answer(
            with_parameters(module, loaded.values | trained),
            prepared.tokenizer,
            prepared.held_out,
            JUDGED if harbour else shown or 0,
            seed=prepared.settings.seed,
        )
        for trained in (loaded.trainable, trainable)
    )
    if shown is None:
        show_extremes(console, before, after, prepared.preference)
    else:
        show_answers(console, before, after, shown)
    if harbour:
        show_judgement(console, before, after, prepared.preference)


def conclude(prepared: Prepared, console: Console) -> None:
    """What changed on the held-out groups, and what to do next."""
    lines = [line for line in read_lines(prepared.out / METRICS) if line["kind"] == "eval"]
    if len(lines) > 1 and prepared.held_out:
        table = Table("held-out", "before", "after", box=None, padding=(0, 2, 0, 0))
        for name, after in lines[-1].items():
            if name in lines[0] and name not in ("step", "kind", "clock"):
                # Before the first step margins are rounding errors, and their signs say nothing.
                said = name != "accuracy" or abs(lines[0].get("margin", 1)) > ROUNDING
                table.add_row(name, f"{lines[0][name]:.4f}" if said else "", f"{after:.4f}")
        console.print(table)
    console.print(f"model: {prepared.out / MODEL}")
