"""A study as a list of stages, each a training run with everything it is told.

Stages read each other's models and the data that the study writes, all under one folder, so the
same command goes on wherever a pod was taken away.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.settings import Training
from llm.state import MODEL
from llm.workload import Workload
from objectives.recipes import Recipe

DATA = "data"
"""The folder of what a study reads, under its own."""

ROWS = 48
"""Rows that a rehearsal reads of a data set."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the data: measured once they are there, assumed before.

    Attributes:
        measured: whether they were.
        demonstrations: rows to imitate.
        pairs: rows of preference.
        prompts: to be answered.
        prompt_tokens: of a prompt, mean.
        response_tokens: of a response, mean.
        longest: tokens of the longest prompt with its responses.
        target: tokens of the response that is preferred, where closeness to a length is.
        agreement: share of pairs whose label is what ``target`` predicts.
    """

    measured: bool = False
    demonstrations: int
    pairs: int
    prompts: int
    prompt_tokens: float
    response_tokens: float
    longest: int
    target: int | None = None
    agreement: float | None = None

    def load(self, prompts: int, responses: int) -> Workload:
        """So many prompts of this data, each with so many responses."""
        return Workload(
            prompts=prompts,
            prompt_tokens=self.prompt_tokens,
            response_tokens=self.response_tokens,
            responses=responses,
            longest=self.longest,
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a study happens.

    Attributes:
        model: folder or Hub name.
        data: folder of local data sets; None for the Hub.
        out: the study's folder.
        gold: a reward to measure; None for the study's own.
        seed: of the main line; None for the authors'.
        devices: how many share a run.
        limit: most rows to read of a data set.
    """

    model: str
    data: Path | None
    out: Path
    gold: str | None = None
    seed: int | None = None
    devices: int = 1
    limit: int | None = None

    def source(self, name: str) -> str:
        """A data set: its Hub name, or the folder or file of that name under ``data``."""
        if self.data is None:
            return name
        return str(self.data / name.split("/")[-1].split(":")[0])

    def file(self, name: str) -> Path:
        """A file that the data stage writes."""
        return self.out / DATA / name


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training run of a study.

    Attributes:
        name: also its folder under the study's.
        recipe_name: what ``modeseek train`` calls the method.
        recipe: the method.
        settings: everything else.
        load: what its data are like.
        needs: stages whose models it reads.
        says: where its numbers come from.
        main: whether it belongs to the main line, which runs when no stage is named.
    """

    name: str
    recipe_name: str
    recipe: Recipe
    settings: Training
    load: Workload
    needs: tuple[str, ...] = ()
    says: str = ""
    main: bool = True

    def is_done(self, out: Path) -> bool:
        """Whether its model is there."""
        return (out / self.name / MODEL).is_dir()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study of the paper.

    Attributes:
        name: of its file.
        title: one line for the help.
        model: Hub name of the authors' model.
        config: what a plan needs of its config.json, so that planning takes no network.
        assumed: of the data, before they are read.
        write_data: reads the data sets and writes what the stages read.
        stages: all stages, in an order in which they can run.
    """

    name: str
    title: str
    model: str
    config: dict[str, Any]
    assumed: Facts
    write_data: Callable[[Place, Callable[[str], None]], Facts]
    stages: Callable[[Place, Facts], list[Stage]]


def choose(stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
    """The stages asked for, in the study's order.

    Raises:
        ValueError: for a name or pattern that no stage has; lists them.
    """
    if not wanted:
        return [stage for stage in stages if stage.main]
    for pattern in wanted:
        if not any(fnmatch.fnmatchcase(stage.name, pattern) for stage in stages):
            names = ", ".join(stage.name for stage in stages)
            raise ValueError(f"there is no stage {pattern!r}; there are {names}.")
    return [s for s in stages if any(fnmatch.fnmatchcase(s.name, pattern) for pattern in wanted)]


def rehearsed(stage: Stage) -> Stage:
    """The same stage, two small steps of it."""
    settings, recipe = stage.settings, stage.recipe
    minibatches = min(recipe.reuse.minibatches, 2)
    reuse = dataclasses.replace(
        recipe.reuse, minibatches=minibatches, inner_steps=min(recipe.reuse.inner_steps, 2)
    )
    collection = dataclasses.replace(recipe.collection, prompts=2 * minibatches)
    return dataclasses.replace(
        stage,
        recipe=dataclasses.replace(recipe, collection=collection, reuse=reuse),
        settings=dataclasses.replace(
            settings,
            batch=2,
            steps=2,
            evaluate_prompts=2,
            reading=dataclasses.replace(settings.reading, max_length=None, max_prompt_length=24),
            packing=dataclasses.replace(settings.packing, max_tokens=1024),
            sampling=dataclasses.replace(settings.sampling, max_new_tokens=8, rows=8),
        ),
    )
