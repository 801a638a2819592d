"""What the stages of a study will take, said and judged before any of them begins.

Memory, tokens and time come from ``llm.estimate``. What cannot work is refused here: a model that
no stage makes, fewer rows than a step takes, more memory than the devices have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.llm.full_scale.stages import Facts, Place, Stage, Study
from llm.devices import Device
from llm.estimate import GIB, Estimate, duration, estimate
from llm.model.architecture import Architecture


@dataclass(frozen=True)
class Planned:
    """A stage and what it will take."""

    stage: Stage
    estimate: Estimate
    done: bool


def plan(
    stage: Stage, architecture: Architecture, device: Device, count: int, out: Path
) -> Planned:
    """What a stage will take."""
    found = estimate(
        architecture, stage.recipe_name, stage.recipe, stage.settings, stage.load, device, count
    )
    return Planned(stage, found, stage.is_done(out))


def check(plans: Sequence[Planned], stages: Sequence[Stage], out: Path) -> None:
    """Raise ValueError if a stage lacks a model it reads, or rows for a step, or memory."""
    done = {stage.name for stage in stages if stage.is_done(out)}
    coming = done | {planned.stage.name for planned in plans}
    for planned in plans:
        stage, found = planned.stage, planned.estimate
        missing = [name for name in stage.needs if name not in coming]
        if missing and not planned.done:
            raise ValueError(
                f"stage {stage.name} reads the model of {missing[0]}, which is not in {out}: run "
                f"it too, with --stage {missing[0]} --stage {stage.name}."
            )
        if stage.load.prompts < stage.settings.batch and not planned.done:
            raise ValueError(
                f"stage {stage.name} takes steps of {stage.settings.batch} prompts, and there are "
                f"{stage.load.prompts}: its data are too few for the authors' settings; --rehearse "
                "takes smaller steps."
            )
        if not found.fits and not planned.done:
            raise ValueError(
                f"stage {stage.name} needs {found.peak / GIB:,.0f} GiB on each of {found.devices} "
                f"x {found.device.name}, which hold {found.device.memory / GIB:,.0f} GiB: plan for "
                "more of them with --devices, or for larger ones with --device."
            )


def show(
    study: Study, place: Place, facts: Facts, plans: Sequence[Planned], console: Console
) -> None:
    """Print the plan."""
    first = plans[0].estimate
    console.print(f"[bold]{study.title}[/]\n{place.model}, {first.devices} x {first.device.name}")
    if not facts.measured:
        console.print("[yellow]The data are not there yet; what they are like is assumed.[/]")
    console.print(
        f"data: {facts.demonstrations:,} demonstrations, {facts.pairs:,} pairs, {facts.prompts:,} "
        f"prompts; {facts.prompt_tokens:.0f} tokens a prompt, {facts.response_tokens:.0f} a "
        "response"
    )
    if facts.target is not None:
        console.print(
            f"preferred length: {facts.target} tokens, which predicts {facts.agreement:.1%} of the "
            "labels"
        )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stage", overflow="fold")
    for column in ("steps", "trained on", "written", "memory", "time", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for planned in plans:
        found = planned.estimate
        table.add_row(
            planned.stage.name,
            f"{found.steps:,}",
            f"{found.trained / 1e6:,.2f} M",
            f"{found.generated / 1e6:,.2f} M" if found.collections else "",
            f"{found.peak / GIB:,.1f} GiB",
            duration(found.seconds),
            "done" if planned.done else "",
        )
    waiting = [planned for planned in plans if not planned.done]
    seconds = sum(planned.estimate.seconds for planned in waiting)
    table.add_row(f"[bold]{len(waiting)} to run[/]", *[""] * 4, f"[bold]{duration(seconds)}[/]", "")
    console.print(table)
    largest = max(plans, key=lambda planned: planned.estimate.peak)
    console.print(f"\n[bold]{largest.stage.name}[/], the largest:")
    console.print(largest.estimate.table())
    for planned in plans:
        if planned.stage.says:
            console.print(f"[cyan]{planned.stage.name}[/]: {planned.stage.says}")
