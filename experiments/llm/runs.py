"""One run of one method: the unit that is computed once, kept, and shared by experiments.

A run is trained in a folder of its own like any other, its lines of metrics are read, and the
folder goes. What stays is a small file under a name made of everything that decided it, so an
interrupted study goes on where it was, and two experiments that want the same run get the same.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from experiments.llm.methods import LEARNING_RATE, METHODS, recipe_of, spread_of
from experiments.llm.study import Study, folder, keep, kept, quiet_process
from experiments.llm.tasks import (
    PROXY,
    Proxy,
    data_file,
    facts_of,
    gold_spec,
    proxy,
    proxy_folder,
    reference,
)
from llm.data.examples import DataSettings
from llm.data.plan import PackingSettings
from llm.settings import LogSettings, OptimizerSettings, SamplingSettings, SaveSettings, Training
from objectives.recipes import Reuse

Columns = dict[str, list[float]]
"""Numbers by name, one per line of a kind, the steps among them."""

REFERENCE = "reference"
REFERENCE_SECONDS, PROXY_SECONDS = 60.0, 12.0
ONLINE_SECONDS, OFFLINE_SECONDS = 0.3, 0.2
"""What the reference, a proxy and a gradient step take: for the estimate of the time left."""

PACKING = PackingSettings(row_length=448, max_tokens=4 * 448, shapes=1)
"""One shape for every seed of a task, so that a program is compiled once for all of them."""

ALL = 0
"""As a number of prompts: all that the data set has."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything about a run but the size of the study.

    Attributes:
        task: a name in ``TASKS``.
        method: a name in ``METHODS``.
        seed: of data, proxy, order and samples.
        minibatches: B / M, gradient steps per pass over a collection.
        passes: T.
        prompts: how many of the data set's are learned from, or ``ALL``.
        labelled: how many of them the proxy learned from, or ``ALL``.
        learning_rate: Adam's.
    """

    task: str
    method: str
    seed: int
    minibatches: int = 1
    passes: int = 1
    prompts: int = ALL
    labelled: int = ALL
    learning_rate: float = LEARNING_RATE

    @property
    def name(self) -> str:
        """What tells it from the others of the study."""
        prompts, labelled = (many or "all" for many in (self.prompts, self.labelled))
        return (
            f"{self.task}, {self.method}, seed {self.seed}, B/M {self.minibatches}, "
            f"T {self.passes}, rate {self.learning_rate:g}, prompts {prompts}, labelled {labelled}"
        )

    @property
    def online(self) -> bool:
        """Whether it needs a proxy."""
        return METHODS[self.method].online


Curves = Mapping[str, Columns]
"""Columns by kind of line: train, rollout, eval."""


def path_of(study: Study, run: Run) -> Path:
    """Where a run's numbers are kept."""
    return folder(study) / "runs" / f"{mark(run)}.json"


def mark(run: Run) -> str:
    """A run's name for files."""
    return hashlib.sha256(run.name.encode()).hexdigest()[:20]


def measured(study: Study, run: Run) -> Curves:
    """A run's numbers; it is trained if they are not there yet."""
    path = path_of(study, run)
    found = kept(path)
    if found is None:
        found = {"run": asdict(run), "curves": train(study, run)}
        keep(path, found)
    return found["curves"]


def train(study: Study, run: Run) -> dict[str, Columns]:
    """Train a run in a folder of its own and read what it wrote down."""
    from rich.console import Console

    from llm.finetune import finetune
    from llm.journal import METRICS, read_lines

    method, facts = METHODS[run.method], facts_of(study)
    judge = proxy_of(study, run) if method.online else None
    reuse = Reuse(inner_steps=run.passes, minibatches=run.minibatches)
    recipe = recipe_of(method, study, spread_of(method, facts.spread[run.task], judge), reuse)
    out = folder(study) / "running" / mark(run)
    settings = Training(
        model=str(reference(study)),
        data=str(data_file(study, run.task, run.seed)),
        out=out,
        steps=study.steps,
        batch=study.batch,
        seed=run.seed,
        show=0,
        reference="model",
        evaluate_every=study.evaluate_every,
        evaluate_prompts=study.evaluate_prompts,
        reward=f"model:{judge.folder}" if judge else gold_spec(run.task, facts),
        gold=gold_spec(run.task, facts),
        optimizer=OptimizerSettings(
            learning_rate=run.learning_rate, schedule="constant", warmup=0.0
        ),
        sampling=SamplingSettings(max_new_tokens=study.max_new_tokens),
        reading=DataSettings(
            limit=run.prompts or None,
            eval_source=str(data_file(study, run.task, run.seed, held_out=True)),
        ),
        packing=PACKING,
        log=LogSettings(every=study.evaluate_every // 2),
        save=SaveSettings(every=study.steps, keep=1),
    )
    finetune(method.recipe, recipe, settings, Console(quiet=True))
    found = columns(read_lines(out / METRICS))
    shutil.rmtree(out)
    return found


def proxy_of(study: Study, run: Run) -> Proxy:
    """The reward model a run is trained on."""
    return proxy(study, run.task, run.seed, run.labelled or study.data_prompts)


def columns(lines: Iterable[Mapping[str, Any]]) -> dict[str, Columns]:
    """Lines of metrics as columns; a number that some lines lack is NaN there."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line)
    return {
        kind: {
            name: [float(line.get(name, np.nan)) for line in found]
            for name in sorted({name for line in found for name in line} - {"kind", "clock"})
        }
        for kind, found in kinds.items()
    }


@dataclass(frozen=True)
class Unit:
    """A piece of the study that one process computes at a time.

    Attributes:
        name: tells units apart.
        seconds: it is expected to take.
        after: names of the units it starts from.
        path: is there when it has been computed.
        make: computes it.
    """

    name: str
    seconds: float
    after: tuple[str, ...]
    path: Path
    make: partial[Any]


def units_of(
    study: Study, runs: Iterable[Run], seeds: int, proxies: Iterable[str] = ()
) -> list[Unit]:
    """What has to be computed for some runs with every seed, each unit once.

    Args:
        study: the size of everything.
        runs: with the first seed.
        seeds: how many.
        proxies: tasks whose proxies are wanted whether or not a run needs them.
    """
    first = folder(study) / "facts.json"
    units = [Unit(REFERENCE, REFERENCE_SECONDS, (), first, partial(facts_of, study))]
    every = [one for run in runs for one in seeds_of(run, seeds)]
    needed = {(run.task, run.seed, run.labelled) for run in every if run.online}
    needed |= {(task, seed, ALL) for task in proxies for seed in range(seeds)}
    for task, seed, labelled in sorted(needed):
        many = labelled or study.data_prompts
        path = proxy_folder(study, task, seed, many) / PROXY
        make = partial(proxy, study, task, seed, many)
        name = f"proxy {task} {seed} {labelled}"
        units.append(Unit(name, PROXY_SECONDS, (REFERENCE,), path, make))
    for run in every:
        after = f"proxy {run.task} {run.seed} {run.labelled}" if run.online else REFERENCE
        seconds = (ONLINE_SECONDS if run.online else OFFLINE_SECONDS) * study.steps
        make = partial(measured, study, run)
        units.append(Unit(run.name, seconds, (after,), path_of(study, run), make))
    return units


def compute(unit: Unit) -> None:
    """Compute a unit in a process of its own."""
    quiet_process()
    unit.make()


def stacked(
    study: Study, runs: Sequence[Run], kind: str, name: str
) -> Float64[np.ndarray, "seeds records"]:
    """One number of several runs that differ in their seed only, one row each."""
    return np.stack([np.asarray(measured(study, run)[kind][name], np.float64) for run in runs])


def seeds_of(run: Run, seeds: int) -> list[Run]:
    """A run with every seed."""
    return [replace(run, seed=seed) for seed in range(seeds)]


def gain(study: Study, run: Run, seeds: int) -> Float64[np.ndarray, "seeds records"]:
    """Gold reward at every evaluation as a share of what there is to gain.

    The reference has 0 and a policy that always does what the task asks for has 1, whose gold
    reward is 0 tokens. Less than 0 is worse than the reference.
    """
    gold = stacked(study, seeds_of(run, seeds), "eval", "gold")
    return 1 - gold / facts_of(study).gold[run.task]


def steps_of(study: Study, run: Run) -> Int64[np.ndarray, " records"]:
    """Gradient steps at every evaluation."""
    return np.asarray(measured(study, run)["eval"]["step"], np.int64)
