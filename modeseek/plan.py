"""``modeseek plan``: does a run fit, how fast can it be, what will it cost, on devices unbought."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.markup import escape

from experiments.catalogue import check_known
from llm.plan.compilers import check_compiler, hushed, prepare_environment
from modeseek.train import parse

if TYPE_CHECKING:
    from llm.model.architecture import Architecture
    from llm.plan.abstract import Question
    from llm.plan.planned import Planned
    from llm.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the data are like: none are read."""

    prompts: int = 60_000
    """Groups (prompts) to train on."""
    prompt_tokens: int = 512
    """Tokens of a prompt."""
    response_tokens: int = 256
    """Tokens of a response; fresh ones may have up to --sampling.max-new-tokens."""
    responses: int = 2
    """Responses to a prompt, where the data hold them."""
    longest: int | None = None
    """Tokens of the longest prompt with all its responses; the mean when not given."""

    def __post_init__(self) -> None:
        for name in ("prompts", "prompt_tokens", "response_tokens", "responses"):
            if getattr(self, name) < 1:
                raise ValueError(f"load.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.longest is not None and self.longest < self.mean:
            raise ValueError(
                f"load.longest is {self.longest}, and a mean group already has {self.mean} tokens: "
                "raise it, or leave it out."
            )

    @property
    def mean(self) -> int:
        """Tokens of a mean group."""
        return self.prompt_tokens + self.responses * self.response_tokens

    def workload(self) -> "Workload":
        """The same as the planner wants it."""
        from llm.workload import Workload

        return Workload(
            prompts=self.prompts,
            prompt_tokens=float(self.prompt_tokens),
            response_tokens=float(self.response_tokens),
            responses=self.responses,
            longest=self.longest or self.mean,
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Compile a run for TPUs or GPUs that nobody here owns; say what it takes, and what it costs.

    RECIPE is the first word of the line. All flags of `modeseek train RECIPE` are understood, and
    --model is needed: a folder with a config.json (weights are not read), or the name of a public
    model. No data are read; --load says what they are like.
    """

    topology: str
    """The slice: v5e:4x4, v5p:2x2x2, v6e:16x16, ...; GPUs of a host, or of several: a100:1, h100:8,
    h200:4x8, ...; cpu:8 simulates devices."""
    load: Load = field(default_factory=Load)
    largest: bool = False
    """Find the largest micro-batch that fits, up to what --batch leaves each device."""
    sweep: bool = False
    """Compare meshes, and what is computed again, and recommend one."""
    quick: bool = False
    """Compile with little effort: several times faster; memory is right to a tenth, and memory
    traffic only a lower bound. A sweep always does."""
    price: float | None = None
    """US dollars per chip and hour; the list price when not given."""
    out: Path | None = None
    """Also write everything as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    prepare_environment(value_of("--topology", arguments), os.environ)
    with hushed():  # a compiler for GPUs says in many lines that there is none
        from llm.settings import TRAIN_RECIPES

    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"name a recipe: {', '.join(TRAIN_RECIPES)}.")
    if name is not None:
        check_known("recipe", name, TRAIN_RECIPES)
    prog = f"modeseek plan {name or 'RECIPE'}"
    given = arguments[1:] if name else arguments
    asked, rest = tyro.cli(Asked, args=given, prog=prog, return_unknown_args=True)
    recipe, settings = parse(name or "dpo", rest)
    say(asked, name or "dpo", recipe, settings, Console(highlight=False))


def value_of(flag: str, arguments: list[str]) -> str:
    """What a flag is given, before anything is imported that could parse it."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
    return ""


def say(asked: Asked, name: str, recipe: Any, settings: Any, console: Console) -> None:
    """Plan, print, and write it down.

    Raises:
        ValueError: for anything that cannot be planned; nothing slow has begun then.
    """
    from llm.plan.abstract import Question, abstract_run
    from llm.plan.apart import apart
    from llm.plan.choices import largest, recommended, sweep
    from llm.plan.tables import as_json, summary, sweep_table, tables
    from llm.plan.topology import read_topology

    topology = read_topology(asked.topology)
    check_compiler(asked.topology)
    architecture, load = architecture_of(settings.model), asked.load.workload()

    def asking(settings: Any, quick: bool = asked.quick) -> "Question":
        return Question(
            architecture=architecture,
            name=name,
            recipe=recipe,
            settings=settings,
            load=load,
            topology=topology,
            price=asked.price,
            quick=quick,
        )

    if not asked.sweep:  # what cannot be laid out is refused here and not by a compiler
        assert abstract_run(asking(settings)).shape
    tried: list[Planned] = []
    best: Planned | None = None
    with apart() as plan:

        def compiled(settings: Any, quick: bool = asked.quick) -> "Planned":
            with console.status(f"compiling for {topology.name}"):
                return plan(asking(settings, quick))

        if asked.sweep:
            for found in sweep(lambda s: compiled(s, True), architecture, settings, topology):
                tried.append(found)
                if console.is_terminal:
                    console.print(f"{found.mesh} remat {found.remat}: {verdict(found)}")
            best = recommended(tried)
            console.print(sweep_table(tried, best))
            if best is None:
                raise ValueError(
                    f"no way to lay out {name} fits {topology.name}: give more chips, a smaller "
                    "--packing.max-tokens, or --adapters.rank."
                )
            settings = laid_out_as(settings, best)
        if asked.largest:
            planned = largest(compiled, settings)
        elif best is not None and asked.quick:
            planned = best
        else:
            planned = compiled(settings)
    console.print(summary(planned, topology))
    if planned.refused is not None:
        console.print(f"[red]does not fit[/]: {escape(planned.refused)}")
    for table in tables(planned, topology):
        console.print()
        console.print(table)
    if asked.out is not None:
        kept = {"plan": as_json(planned), "sweep": [as_json(one) for one in tried]}
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        console.print(f"\nwritten: {asked.out}")


def laid_out_as(settings: Any, best: "Planned") -> Any:
    """A run with the mesh and the remat of a plan."""
    mesh = dataclasses.replace(settings.mesh, **best.mesh)
    return dataclasses.replace(settings, mesh=mesh, remat=best.remat)


def verdict(planned: "Planned") -> str:
    """Whether a plan fits, in a word or two."""
    return f"at least {planned.step_seconds:.3g} s a step" if planned.fits else "does not fit"


def architecture_of(model: str | None) -> "Architecture":
    """What a model is, from its config alone.

    Raises:
        ValueError: if it is neither a public model that is known here nor a folder.
    """
    from llm.checkpoints.folders import read_architecture
    from llm.model.architecture import architecture_from_config
    from llm.plan.public import PUBLIC

    if model in PUBLIC:
        return architecture_from_config(PUBLIC[model])
    if model is None or not Path(model).is_dir():
        what = "--model is missing" if model is None else f"there is no folder {model}"
        raise ValueError(
            f"{what}: give a folder with a config.json, whose weights are not read, or one of "
            f"{', '.join(PUBLIC)}."
        )
    return read_architecture(Path(model))
