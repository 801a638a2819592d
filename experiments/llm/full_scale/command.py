"""The command line of a study: plan it, then run what is not done.

Before anything runs, the whole plan is printed for the devices at hand or for others. Then the data
are written, the plan is made again with what was measured on them, and stage follows stage.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.markup import escape

from experiments.llm.full_scale.plans import Planned, check, plan, show
from experiments.llm.full_scale.stages import DATA, ROWS, Facts, Place, Study, choose, rehearsed
from llm.checkpoints.folders import find_model, read_architecture
from llm.devices import DEVICES, Device, device_named
from llm.flops import PEAK_FLOPS
from llm.model.architecture import Architecture, architecture_from_config
from llm.rewards.specs import parse
from llm.settings import as_record

FACTS = "facts.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plan or run a study of the paper, stage after stage."""

    dry_run: bool = False
    """Print the plan and stop; nothing is fetched or written."""
    rehearse: bool = False
    """Two small steps of every stage on a few rows, in a folder beside the study's."""
    stage: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A stage to run, by name or pattern (``min/batch/*``), once for each; those of the main line
    when not given."""
    model: str | None = None
    """Folder of a model in place of the authors', which comes from the Hub."""
    data: Path | None = None
    """Folder that holds the data sets under the last part of their Hub names."""
    gold: str | None = None
    """A reward that is measured and never trained on; the study's own when not given."""
    out: Path = Path("runs/full_scale")
    """Folder of the study; the same command goes on where it stopped."""
    device: str | None = None
    """Plan for h200, h100, a100, v5e, v5p or cpu; for the devices at hand when not given."""
    devices: int | None = None
    """How many of them; as many as are at hand when not given."""
    seed: int | None = None
    """In place of the authors' seeds in the main line."""


def main(study: Study, arguments: Sequence[str] | None = None) -> None:
    """Parse a line and do it; exit with 2 for bad input."""
    with bad_input_is_one_line(study.name):
        options = tyro.cli(
            Options,
            args=sys.argv[1:] if arguments is None else list(arguments),
            prog=program(study.name),
            description=study.title,
        )
        run(study, options, Console(highlight=False))


def program(name: str) -> str:
    """How a study is called."""
    return f"python -m experiments.llm.full_scale.{name}"


@contextmanager
def bad_input_is_one_line(name: str) -> Iterator[None]:
    """Within the block libraries are quiet, and what cannot be done is one red line.

    Raises:
        SystemExit: with 2, for bad input.
    """
    for variable in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        complain = Console(stderr=True, soft_wrap=True, highlight=False)
        complain.print(f"[bold red]{name}:[/] {escape(str(error))}")
        raise SystemExit(2) from None


def run(study: Study, options: Options, console: Console) -> None:
    """Plan the stages that are asked for, and run them unless it is a dry run.

    Raises:
        ValueError: for stages that are not there, lack an input, or do not fit the devices; before
            any of them has begun.
        OSError: if something cannot be read or fetched.
    """
    if options.gold is not None:
        parse(options.gold)  # hours before a stage would find it wrong
    device, count = devices_of(options.device, options.devices, dry_run=options.dry_run)
    place = Place(
        model=options.model or study.model,
        data=options.data,
        out=options.out / "rehearsal" if options.rehearse else options.out,
        gold=options.gold,
        seed=options.seed,
        devices=count,
        limit=ROWS if options.rehearse else None,
    )
    architecture = architecture_of(place.model, study.model, study.config)
    facts = read_facts(study, place) or study.assumed

    def planned() -> list[Planned]:
        stages = study.stages(place, facts)
        if options.rehearse:
            stages = [rehearsed(stage) for stage in stages]
        plans = [
            plan(stage, architecture, device, count, place.out)
            for stage in choose(stages, options.stage)
        ]
        check(plans, stages, place.out)
        return plans

    show(study, place, facts, planned(), console)
    if options.dry_run:
        return
    place = dataclasses.replace(place, model=str(find_model(place.model).resolve()))
    if not facts.measured:
        console.rule(DATA)
        facts = study.write_data(place, console.print)
        write_facts(study, place, facts)
        show(study, place, facts, planned(), console)
    from llm.finetune import finetune

    for stage in [each.stage for each in planned() if not each.done]:
        console.rule(stage.name)
        finetune(stage.recipe_name, stage.recipe, stage.settings, console)
    console.print(f"[bold]{study.name} is complete:[/] {place.out}")


def devices_of(name: str | None, many: int | None, *, dry_run: bool) -> tuple[Device, int]:
    """What to plan for: what is asked for, or else what is at hand.

    Args:
        name: of a device; None for what is at hand.
        many: how many of them; None for as many as are at hand.
        dry_run: whether nothing will run on them.

    Raises:
        ValueError: for devices that nothing is known of, or a run on others than there are.
    """
    here = jax.device_count()
    if not dry_run and many not in (None, here):
        raise ValueError(
            f"--devices is {many}, and a run uses all {here} that are here: leave it "
            "out, or add --dry-run to plan for others."
        )
    count = many or (here if name is None or not dry_run else 1)
    if name is not None:
        return device_named(name), count
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        return device_named("cpu"), count
    known = [d for d in DEVICES.values() if d.flops == PEAK_FLOPS.get(kind)]
    if not known:
        raise ValueError(f"nothing is known of the device {kind}: name a like one with --device.")
    return known[0], count


def architecture_of(model: str, usual: str, config: Mapping[str, Any]) -> Architecture:
    """Of the model, from its folder where there is one, else from what the study knows of it.

    Args:
        model: folder, or Hub name.
        usual: the study's own.
        config: of that.

    Raises:
        ValueError: for a model that is neither a folder nor the study's own.
    """
    if Path(model).is_dir():
        return read_architecture(Path(model))
    if model != usual:
        raise ValueError(
            f"--model {model} is no folder, and a plan needs its config.json: give a folder, "
            f"or leave it out for {usual}."
        )
    return architecture_from_config(config)


def facts_file(study: Study, place: Place) -> Path:
    """Where the facts of a study's data are kept."""
    return place.out / DATA / study.name / FACTS


def read_facts(study: Study, place: Place) -> Facts | None:
    """What is known of the data; None before they are written."""
    path = facts_file(study, place)
    return Facts(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_facts(study: Study, place: Place, facts: Facts) -> None:
    """Keep what was measured; written last, so that it stands for all of the data."""
    path = facts_file(study, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = as_record(facts)
    del record[""]
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
