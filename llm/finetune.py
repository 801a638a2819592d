"""From a recipe to a fine-tuned checkpoint: prepare, load, compile, train, measure, export.

This is the whole story of a run in the order it happens; each chapter is a file of its own.
"""

import math
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from llm import hosts
from llm.ahead import left_behind
from llm.answers import JUDGED, answer, show_answers, show_extremes, show_judgement
from llm.data.packing import Shape
from llm.data.plan import Plan
from llm.export import export_adapter, export_model
from llm.fresh_groundwork import fresh_examples, fresh_of, shapes_of, trial_of
from llm.groundwork import (
    evaluator,
    learner_of,
    plan_of,
    reference_parameters,
    steps_of,
    with_reference,
)
from llm.journal import METRICS, Journal, read_lines
from llm.loading import Loaded, load
from llm.lock import only_writer
from llm.mesh import describe
from llm.model import RewardModel
from llm.preparation import HARBOUR, Prepared, prepare
from llm.progress import Bar
from llm.settings import Training, keeps_start
from llm.state import ADAPTER, MODEL, Saver, check_same_run, flatten, is_free, saved_steps
from llm.step import Step
from llm.train import Source, Stored, run
from llm.update import Fixed, Parameters
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
    record, out = prepared.record, prepared.out
    hosts.check_same("run", {k: v for k, v in flatten(record).items() if not is_free(k)})
    hosts.HERE.advice = lambda: going_on(out)
    with only_writer(out) if hosts.is_first() else nullcontext():
        begun = hosts.from_first(lambda: check_same_run(out, record))
        hosts.check_one_folder(out)
        if begun and hosts.from_first((out / MODEL).exists):
            console.print(f"This run is complete: {prepared.out / MODEL}")
        else:
            carry_out(prepared, console)
    return prepared.out


def going_on(folder: Path) -> str:
    """What the command of a run does when it is given again."""
    steps = saved_steps(folder)
    return f"goes on after step {steps[-1]}" if steps else "begins anew"


def carry_out(prepared: Prepared, console: Console) -> None:
    """Everything between what was asked for and the model it makes, in a folder that is the run's.

    Args:
        prepared: what is run.
        console: where to say what happens.
    """
    settings = prepared.settings
    loaded, steps = read_model(prepared), steps_of(prepared)
    stays = keeps_start(settings, prepared.name, prepared.recipe)
    learner = learner_of(prepared, loaded, steps)
    reference = reference_parameters(prepared, loaded)
    trial = trial_of(prepared, loaded, learner, reference)
    objective = prepared.recipe.objective
    if prepared.is_online:
        # What the reference says of a response is asked once, when it is written.
        plan, held_out, shapes = None, None, shapes_of(prepared, loaded)
        trainer, fixed = replace(learner, base=False), Fixed(loaded.frozen, None)
        whole = pieces = fresh_examples(prepared, loaded, shapes)
        describe_run(prepared, loaded, steps, shapes, None, console)
    else:
        plan = plan_of(prepared, loaded, steps)
        describe_run(prepared, loaded, steps, plan.shapes, plan, console)
        trainer, fixed = learner, Fixed(loaded.frozen, reference)
        plan, held_out = with_reference(prepared, loaded, learner, fixed, plan, console)
        shapes = plan.shapes
        whole, pieces = plan.examples(cut=False), plan.examples(cut=True)

    hosts.check_same("batch shapes", [tuple(shape) for shape in shapes])
    began = time.monotonic()
    with console.status("compiling"):
        start = jax.jit(trainer.start, donate_argnums=() if stays else 0)
        state = start(loaded.trainable, fixed, loaded.put([*whole, *pieces][0]), objective)
        loaded = loaded if stays else loaded.without_start
        evaluate = evaluator(
            trainer, state.trainable, fixed, objective, held_out, loaded.put, trial
        )
        step = Step(
            trainer,
            fixed,
            objective,
            state,
            whole,
            pieces,
            put=loaded.put,
            ahead=not prepared.is_online,
        )
    seconds = time.monotonic() - began
    programs = step.compilations + (held_out is not None)
    if prepared.is_online:
        most = step.compilations + 2 * len(shapes)
        console.print(f"at most {most} programs judge and learn; each is compiled when first met")
    else:
        console.print(f"compiled {programs} programs in {seconds:.1f} s, the last of this run")

    with ExitStack() as opened:
        # Where collections are made ahead, a checkpoint also holds who makes them.
        behind = left_behind(state) if settings.ahead else None
        whole_state = replace(state, behind=behind)
        saver = opened.enter_context(closing(Saver(prepared.out, settings.save, whole_state)))
        restored = saver.restore(whole_state, console.print)
        done = -1 if restored is None else int(hosts.fetch(restored.step))
        hosts.check_same("step to go on after", done)
        journal = Journal(prepared.out, settings.log, done, prepared.name, prepared.record)
        opened.enter_context(closing(journal))
        if restored is None:
            journal.write(0, "eval", evaluate(state.trainable), {})
            saver.save(0, whole_state)
        else:
            state, behind = replace(restored, behind=None), restored.behind
            console.print(f"going on after step {done}")
        with Bar(console, prepared.name, steps, max(done, 0)) as bar:
            source: Source
            if plan is None:
                about = {"journal": journal, "bar": bar, "begin": max(done, 0), "behind": behind}
                source = fresh_of(prepared, loaded, learner, reference, shapes, **about)
            else:
                source = Stored(plan, max(done, 0), loaded.put)
            end = run(
                prepared,
                source,
                step,
                state,
                evaluate,
                steps=steps,
                put=loaded.put,
                saver=saver,
                journal=journal,
                bar=bar,
            )
        if end.signal is not None:
            console.print(
                f"stopped by {signal.Signals(end.signal).name}; saved after step {end.step} of "
                f"{steps}. The same command goes on from there."
            )
            raise SystemExit(128 + end.signal)
    export(prepared, loaded, end.state.trainable)
    compare(prepared, loaded, end.state.trainable, console)
    conclude(prepared, console)


def read_model(prepared: Prepared) -> Loaded:
    """The model that a run begins from."""
    return load(
        prepared.model,
        prepared.architecture,
        prepared.settings,
        prepared.is_reward_model,
        critic=prepared.has_critic,
    )


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


def describe_run(
    prepared: Prepared,
    loaded: Loaded,
    steps: int,
    shapes: Sequence[Shape],
    plan: Plan | None,
    console: Console,
) -> None:
    """Say what is about to happen, in numbers."""
    size = sum(math.prod(value.shape) for value in loaded.values.values())
    moving = sum(math.prod(value.shape) for value in loaded.trainable.values())
    sizes = ", ".join(f"{s.rows} x {s.length}" for s in shapes)
    devices = "1 x " + jax.devices()[0].device_kind
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows = {
        "recipe": f"{prepared.name}: {prepared.recipe.objective}",
        "model": f"{prepared.model} ({size:,} parameters, {moving:,} train)",
        "data": f"{len(prepared.groups):,} groups, {len(prepared.held_out):,} held out",
        "steps": f"{steps:,} of {prepared.settings.batch} groups; "
        f"learning rate {prepared.learning_rate:.2g}",
        "batches": f"{sizes} positions" + (f", {plan.padding:.1%} padding" if plan else ""),
        "devices": devices if loaded.mesh is None else describe(loaded.mesh),
        "folder": str(prepared.out),
    }
    if prepared.is_online:
        rows |= collecting(prepared)
    for row in rows.items():
        table.add_row(f"[cyan]{row[0]}[/]", row[1])
    console.print(table)


def collecting(prepared: Prepared) -> dict[str, str]:
    """The two numbers that say how far from on-policy a run is, and who judges."""
    collection, reuse = prepared.recipe.collection, prepared.recipe.reuse
    assert prepared.reward is not None
    gold = "" if prepared.gold is None else f"; {prepared.gold.name} is only measured"
    return {
        "collection": f"{collection.prompts} prompts x {collection.responses} responses of the "
        f"{collection.source} at temperature {collection.temperature:g}",
        "on-policy": f"B/M = {reuse.minibatches} steps in a pass, T = {reuse.inner_steps} passes"
        + f"; written {reuse.steps} steps before" * prepared.settings.ahead,
        "reward": f"{prepared.reward.name}{gold}",
    }


def compare(prepared: Prepared, loaded: Loaded, trainable: Parameters, console: Console) -> None:
    """Answer held-out prompts before and after, for people to read and for an exact judge."""
    module, harbour = loaded.module, prepared.data == HARBOUR
    shown = prepared.settings.show
    nothing = shown == 0 or (shown is None and not harbour)
    if isinstance(module, RewardModel) or nothing or not prepared.held_out:
        return
    began = loaded.trainable or read_model(prepared).trainable
    before, after = (
        answer(
            loaded.policy(trained),
            prepared.tokenizer,
            prepared.held_out,
            JUDGED if harbour else shown or 0,
            seed=prepared.settings.seed,
        )
        for trained in (began, trainable)
    )
    if shown is None:
        show_extremes(console, before, after, prepared.preference)
    else:
        show_answers(console, before, after, shown)
    if harbour:
        show_judgement(console, before, after, prepared.preference)


def conclude(prepared: Prepared, console: Console) -> None:
    """What changed on the held-out groups, and what to do next."""
    if not hosts.is_first():
        return
    lines = [line for line in read_lines(prepared.out / METRICS) if line["kind"] == "eval"]
    if len(lines) > 1 and prepared.held_out:
        table = Table("held-out", "before", "after", box=None, padding=(0, 2, 0, 0))
        for name, after in lines[-1].items():
            if name in lines[0] and name not in ("step", "kind", "clock", "sampler_gap"):
                # Before the first step margins are rounding errors, and their signs say nothing.
                said = name != "accuracy" or abs(lines[0].get("margin", 1)) > ROUNDING
                table.add_row(name, f"{lines[0][name]:.4f}" if said else "", f"{after:.4f}")
        console.print(table)
    console.print(f"model: {prepared.out / MODEL}")
