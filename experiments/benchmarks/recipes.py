"""What does an objective cost? Every recipe of ``modeseek train`` beside SFT, ours alone.

Recipes run one after the other in one process, on rows of the same lengths, and a round does so
from the first to the last or from the last to the first; SFT runs again and again between them, and
each recipe is compared with the SFT nearest to it. What is compared is the step: tokens that it
trains on, per second, without what was written and judged before it, and without the reference's
pass, which stand beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks.numbers import answered
from experiments.benchmarks.report import Report
from experiments.benchmarks.rounds import MODESEEK, Failed, Notebook, Turn, listen
from experiments.benchmarks.speed import Sizes, written_down
from experiments.benchmarks.tasks import (
    Lengths,
    Model,
    SweepTask,
    TrainTask,
    llama,
    make_rows,
    save_rows,
)

BASELINE = "sft"
EVERY = 4
"""Recipes between two runs of the baseline."""

HEADINGS = (
    "recipe",
    "trained tokens/s",
    "of SFT",
    "reference s per step",
    "writing and judging s per step",
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A recipe in one round.

    Attributes:
        tokens_per_second: positions of a step over its seconds.
        of_baseline: the same in units of the baseline's.
        reference: seconds of the reference's pass, per step.
        collecting: seconds of writing and judging, per step.
    """

    tokens_per_second: float
    of_baseline: float
    reference: float
    collecting: float


def tasks_of(sizes: Sizes, model: Model, folder: Path, **more: Any) -> dict[str, TrainTask]:
    """What each recipe is given; a step has about as many positions in all of them.

    Args:
        sizes: how much there is to do.
        model: that is trained.
        folder: for the rows.
        more: fields of every task.
    """
    from llm.settings import ONLINE_RECIPES, TRAIN_RECIPES

    same = Lengths(prompt=sizes.text, response=sizes.text, spread=0.0, longest=sizes.longest)
    room = sizes.pairs * 3 * sizes.text
    found = {}
    for name, recipe in TRAIN_RECIPES.items():
        online = name in ONLINE_RECIPES
        many = recipe.collection.responses if online else 2
        batch = max(room // (sizes.text + many * sizes.text), 1)
        path = folder / f"{'prompts' if online else 'pairs'}-{batch}.npz"
        if not path.exists():
            number = 0 if online else many
            save_rows(path, make_rows(batch * sizes.steps, number, same, model.words, 0))
        given = {"model": model, "rows": str(path), "batch": batch, "steps": sizes.steps}
        if online:
            given |= {"responses": many, "max_new_tokens": sizes.text}
        found[name] = TrainTask(recipe=name, **given | more)
    return found


def order_of(names: Sequence[str], backwards: bool) -> list[str]:
    """The recipes with the baseline before every few of them and at the end."""
    others = [name for name in names if name != BASELINE]
    if backwards:
        others.reverse()
    found = []
    for start in range(0, len(others), EVERY):
        found += [BASELINE, *others[start : start + EVERY]]
    return [*found, BASELINE]


def recipes(
    sizes: Sizes, folder: Path, rounds: int, notebook: Notebook, names: Sequence[str] = ()
) -> Iterator[str | Report]:
    """Make the table; programs are compiled once, and read from the disk afterwards.

    Args:
        sizes: how much there is to do.
        folder: for data and model.
        rounds: times that everything runs.
        notebook: gets every round as it ends.
        names: of the recipes; all when empty.

    Yields:
        What is being done, now and then; at last the report.
    """
    model = written_down(folder / "swept", llama(sizes.width, sizes.layers, sizes.words, 512))
    tasks = tasks_of(sizes, model, folder)
    tasks = {name: task for name, task in tasks.items() if not names or name in (BASELINE, *names)}
    kept = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    found: list[dict[str, Cost | str]] = []
    for number in range(rounds):
        yield f"recipes, round {number + 1} of {rounds}"
        order = order_of(list(tasks), backwards=number % 2 == 1)
        asked = SweepTask(runs=[tasks[name] for name in order])
        results, trouble = listen(Turn(who=MODESEEK, task=asked), "cpu", told=kept)
        if trouble is not None:
            raise Failed(trouble)
        notebook.write("recipes", round=number + 1, order=order, results=results)
        found.append(costs(order, tasks, results))
    yield report_of(found)


def costs(
    order: Sequence[str], tasks: Mapping[str, TrainTask], results: Sequence[Mapping[str, Any]]
) -> dict[str, Cost | str]:
    """What each recipe cost, in units of the nearest run of the baseline."""
    given = zip(order, results, strict=True)
    rates = [None if "error" in found else rate(tasks[name], found) for name, found in given]
    at = [place for place, name in enumerate(order) if name == BASELINE and rates[place]]
    found: dict[str, Cost | str] = {}
    for place, name in enumerate(order):
        if (own := rates[place]) is None:
            found[name] = results[place]["error"]
            continue
        nearest = rates[min(at, key=lambda other: abs(other - place))]
        task, result = tasks[name], results[place]
        found[name] = Cost(
            tokens_per_second=own,
            of_baseline=own / nearest if nearest else float("nan"),
            reference=result["reference_seconds"] / task.steps,
            collecting=result["collecting_seconds"] / (task.steps - task.warm),
        )
    return found


def rate(task: TrainTask, found: Mapping[str, Any]) -> float:
    """Positions trained on per second, from the end of the warm steps to the last."""
    rows, timed = answered(task, found["written"]), task.steps - task.warm
    if task.responses:  # every collection is learned from equally often
        positions = sum(len(row.prompt) + row.scored for row in rows) / len(found["written"])
        positions *= timed
    else:
        visited = rows[task.warm * task.batch : task.steps * task.batch]
        positions = sum(len(row.prompt) + row.scored for row in visited)
    return positions / (found["seconds"] - found["collecting_seconds"])


def report_of(found: Sequence[Mapping[str, Cost | str]]) -> Report:
    """Medians over rounds, and the least and the most of what is compared."""
    rows, record = [], {}
    for name in found[0]:
        own = [cost for each in found if isinstance(cost := each[name], Cost)]
        if not own:
            why = next(str(each[name]) for each in found)
            rows.append((name, "", why.splitlines()[0], "", ""))
            record[name] = {"error": why}
            continue
        shares = [cost.of_baseline for cost in own]
        row = {
            "tokens_per_second": median(cost.tokens_per_second for cost in own),
            "of_sft": [median(shares), min(shares), max(shares)],
            "reference_seconds_per_step": median(cost.reference for cost in own),
            "collecting_seconds_per_step": median(cost.collecting for cost in own),
        }
        record[name] = row
        rows.append(
            (
                name,
                f"{row['tokens_per_second']:,.0f}",
                f"{median(shares):.2f} ({min(shares):.2f}–{max(shares):.2f})",
                f"{row['reference_seconds_per_step']:.2f}",
                f"{row['collecting_seconds_per_step']:.2f}",
            )
        )
    title = f"Every recipe beside SFT, ours alone, medians of {len(found)} rounds"
    return Report(title=title, headings=HEADINGS, rows=rows, record=record)
