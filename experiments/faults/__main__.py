"""Is anything lost when runs are killed? Two hundred kills over every recipe, and a table.

Command: ``python -m experiments.faults [--kills N] [--processes 2]``, about a quarter of an hour
for 200 kills on one core. What to expect: no losses, no divergences. Each recipe trains a model of
a few thousand weights for a few steps. Its run is killed with SIGKILL at a random moment, or at a
random moment of a save, a collection, a part of one, a step, or of writing the model; the same
command is given again until it is complete, and then everything is compared with a run that nobody
disturbed: weights, collections and metrics to the byte, and every state that was saved or loaded by
the checksums of its arrays. With two processes one of them is killed, and the other has to notice.
"""

import dataclasses
import json
import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from experiments.catalogue import check_known
from experiments.results import atomically, commit

HITS = ("start", "step", "collect", "save", "export")
RESULT = "faults"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Kill runs of every recipe at any moment, and see whether anything is lost."""

    kills: int = 200
    """How many, over all recipes."""
    recipes: tuple[str, ...] = ()
    """Which; all of `modeseek train` when not given."""
    processes: int = 1
    """How many processes share each run; one of them is killed."""
    ahead: bool = False
    """Let collections be made while the steps on the one before run: online recipes alone."""
    each: int = 4
    """Most kills of one run before it may end."""
    seed: int = 0
    """Of the moments."""
    out: Path = Path("reproduced/faults")
    """Where the table goes."""


def main() -> None:
    """Kill, resume, compare, print, save."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as folder:
        begin(options, Path(folder))


def begin(options: Options, folder: Path) -> None:
    """Everything, in a folder that nobody else uses."""
    prepare(folder)
    from experiments.faults.children import alone
    from experiments.faults.runs import Place, write_inputs
    from llm.settings import ONLINE_RECIPES, TRAIN_RECIPES

    console, place = Console(), Place(folder)
    names = options.recipes or tuple(ONLINE_RECIPES if options.ahead else TRAIN_RECIPES)
    for name in names:
        check_known("recipe", name, TRAIN_RECIPES)
    alone(folder / "log", lambda: write_inputs(place))
    began, found = time.monotonic(), {}
    for number, name in enumerate(names):
        kills = options.kills // len(names) + (number < options.kills % len(names))
        if kills:
            found[name] = one_recipe(name, place, kills, number, options)
            console.print(line_of(name, found[name]))
            write(found, options, time.monotonic() - began)
    console.print(table_of(found), soft_wrap=True)


def prepare(folder: Path) -> None:
    """Import all that a run needs and touch no device, so that runs can be forked."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "MODESEEK_CACHE": str(folder / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    from orbax.checkpoint import v1  # noqa: F401
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    import llm.finetune  # noqa: F401


def one_recipe(name: str, place: Any, kills: int, number: int, options: Options) -> dict[str, Any]:
    """Runs of one recipe, killed so many times altogether."""
    from experiments.faults.children import Command
    from experiments.faults.kills import forget, kill_and_resume, undisturbed

    def command(which: str) -> Command:
        folder = place.folder / name
        folder.mkdir(exist_ok=True)
        return Command(
            name,
            place,
            folder / which,
            folder / f"{which}.jsonl",
            folder / "log",
            processes=options.processes,
            ahead=options.ahead,
        )

    before = undisturbed(command("undisturbed"))
    rng = np.random.default_rng([options.seed, number])
    stories, left = [], kills
    while left > 0:
        run = command(f"run{len(stories)}")
        story = kill_and_resume(run, before, min(left, options.each), rng)
        stories.append(dataclasses.asdict(story))
        left -= len(story.kills)
        if story.losses or story.divergences:
            kept = options.out / f"{name}-{run.out.name}"
            shutil.copytree(run.out, kept, dirs_exist_ok=True)
        forget(run)
    shutil.rmtree(place.folder / name)
    return {"seconds": round(before.seconds, 2), "runs": stories}


def write(found: dict[str, Any], options: Options, seconds: float) -> None:
    """Keep what is known so far: all of it as JSON, and the table."""
    about = dataclasses.asdict(options)
    del about["out"]
    record = {
        "options": about,
        "minutes": round(seconds / 60, 1),
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "orbax-checkpoint", "pyarrow")},
        },
        "recipes": found,
    }
    stem = RESULT if options.processes == 1 else f"{RESULT}-{options.processes}-processes"
    stem += "-ahead" * options.ahead
    text = json.dumps(record, indent=1) + "\n"
    atomically(options.out / f"{stem}.json", lambda path: path.write_text(text, encoding="utf-8"))
    table = table_of(found)
    atomically(options.out / f"{stem}.md", lambda path: path.write_text(table, encoding="utf-8"))


def table_of(found: dict[str, Any]) -> str:
    """A row for each recipe in Markdown: kills, where they hit, and what came of them."""
    headings = (
        "recipe",
        "kills",
        *(f"in {hit}" for hit in HITS),
        "resumed",
        "losses",
        "divergences",
    )
    rows = [("---", *["---:"] * (len(headings) - 1))]
    rows += [row_of(name, runs["runs"]) for name, runs in found.items()]
    every = [run for runs in found.values() for run in runs["runs"]]
    rows.append(row_of("**all**", every))
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (headings, *rows))


def row_of(name: str, runs: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Sums over runs; a save may be under way beside anything else, so hits add up to more."""
    hits = [hit for run in runs for kill in run["kills"] for hit in kill["hit"]]
    return (
        name,
        sum(len(run["kills"]) for run in runs),
        *(hits.count(hit) for hit in HITS),
        sum(run["resumed"] for run in runs),
        sum(len(run["losses"]) for run in runs),
        sum(len(run["divergences"]) for run in runs),
    )


def line_of(name: str, found: dict[str, Any]) -> str:
    """What there is to say of a recipe as soon as it is known."""
    runs = found["runs"]
    troubles = [text for run in runs for text in (*run["losses"], *run["divergences"])]
    kills = sum(len(run["kills"]) for run in runs)
    return f"{name}: {kills} kills, " + ("; ".join(troubles) or "nothing lost, nothing different")


if __name__ == "__main__":
    main()
