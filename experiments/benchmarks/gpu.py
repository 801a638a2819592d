"""The same on one GPU, within a quarter of an hour, at the size of a model that people train.

Command: ``python -m experiments.benchmarks.gpu``; ``--tiny`` runs all of it on a CPU in sizes that
only show that it works. A model of Pythia-1.4B's shape and random weights, made on the device;
texts of 1,024 tokens; bfloat16 arithmetic over float32 weights for training, bfloat16 weights for
writing. First two checks that no CPU can make, then DPO against TRL in turns, writing against
``generate``, the longest texts and the largest models that fit, found by doubling until one does
not, and every recipe. Each part is a process of its own with a time limit, and what it
says is on disk as soon as it is said: a run that is stopped loses the part it was in. Where TRL or
transformers is not installed, ours runs alone and the table says so.
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from experiments.benchmarks.numbers import HEADINGS, Line, Numbers, lines_of, trained, written
from experiments.benchmarks.recipes import BASELINE, rate
from experiments.benchmarks.report import Report, save
from experiments.benchmarks.rounds import (
    MODESEEK,
    NO_ROOM,
    TRANSFORMERS,
    TRL,
    Contestant,
    Failed,
    Notebook,
    Place,
    Turn,
    listen,
    machine,
    run,
)
from experiments.benchmarks.tasks import (
    Case,
    Lengths,
    Model,
    SampleTask,
    SweepTask,
    TrainTask,
    llama,
    make_rows,
    pythia,
    save_rows,
)

CHECKS = Contestant(name="checks", module="gpu_checks")
ENOUGH = 25.0
"""Seconds without which a part is not begun."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time training and writing on one GPU, each part bounded in time."""

    minutes: float = 14.0
    """For everything."""
    only: tuple[str, ...] = ()
    """Parts whose name contains one of these; all when empty."""
    rounds: int = 2
    """Times that the headline runs, in turns with TRL."""
    tiny: bool = False
    """All of it on a CPU, in sizes that only show that it works."""
    flags: str = ""
    """XLA_FLAGS of ours."""
    out: Path = Path("reproduced/benchmarks/gpu.json")
    """Where the figures go; the tables beside it as .md, every run as .jsonl."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much there is to do.

    Attributes:
        model: of the headline.
        larger: shapes to try for the largest that fits, smallest first.
        text: tokens of a prompt, and of a response.
        pairs: in a step of DPO.
        steps: of a run.
        new: tokens of a response that is written.
        answers: prompts that are answered at a time, at most.
        longest: tokens of a prompt with a response, tried in this order.
        budget: positions on the device at a time.
        swept: model that every recipe trains.
        dtype: of the arithmetic.
        recipes: to time; all when empty.
    """

    model: Model
    larger: tuple[Model, ...]
    text: int = 512
    pairs: int = 16
    steps: int = 8
    new: int = 128
    answers: int = 64
    longest: tuple[int, ...] = (2048, 4096, 8192, 16384, 32768, 65536)
    budget: tuple[int, ...] = (24576, 12288, 6144)
    swept: Model
    dtype: str = "bfloat16"
    recipes: tuple[str, ...] = ()


PYTHIA = pythia(2048, 24, 16)
USUAL = Sizes(
    model=PYTHIA,
    larger=(
        PYTHIA,
        pythia(2560, 32, 32),
        pythia(4096, 32, 32),
        pythia(5120, 36, 40),
        pythia(6144, 44, 64),
    ),
    swept=pythia(1024, 16, 16),
)
SMALL = llama(64, 1, 64, 64)
TINY = Sizes(
    model=SMALL,
    larger=(SMALL,),
    text=8,
    pairs=2,
    steps=3,
    new=4,
    answers=2,
    longest=(32,),
    budget=(24576,),
    swept=SMALL,
    dtype="float32",
    recipes=("sft", "rloo"),
)
ADAPTERS = 16
"""Rank of the adapters with which the largest model is looked for."""


class Runner:
    """Runs parts one after the other within a time, and keeps what they said.

    Args:
        options: what was asked for.
        folder: for data and programs.
        notebook: gets every line at once.
    """

    def __init__(self, options: Options, folder: Path, notebook: Notebook) -> None:
        self.options, self.folder, self.notebook = options, folder, notebook
        self.sizes = TINY if options.tiny else USUAL
        self.place: Place = "cpu" if options.tiny else "gpu"
        self.end = time.monotonic() + 60 * options.minutes
        # Rounds after the first read programs: time on the device is short.
        self.told = {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        }
        if options.flags:
            self.told["XLA_FLAGS"] = options.flags

    def begins(self, part: str) -> float | None:
        """Seconds there are for a part; None if it is not wanted, or there are too few."""
        if self.options.only and not any(word in part for word in self.options.only):
            return None
        left = self.end - time.monotonic()
        if left < ENOUGH:
            self.notebook.write(part, error="no time was left")
            print(f"{part}: no time was left", flush=True)
            return None
        return left

    def one(self, part: str, turn: Turn, limit: float) -> dict[str, Any]:
        """One turn of a part, noted down; ``error`` where it failed."""
        left = self.begins(part)
        if left is None:
            return {"error": "not wanted, or no time was left"}
        if turn.who.missing:
            why = f"not installed here: {', '.join(turn.who.missing)}"
            return dict(self.notebook.write(part, who=turn.who.name, error=why))
        print(f"{part}, {turn.who.name}: at most {min(left, limit):.0f} s", flush=True)
        try:
            found = run(turn, self.place, limit=min(left, limit), told=self.told)
        except Failed as error:
            found = {"error": str(error)}
        self.notebook.write(part, who=turn.who.name, **found)
        return found

    def many(self, part: str, task: SweepTask, limit: float) -> list[dict[str, Any]]:
        """The runs of a sweep, as many as there was time for."""
        left = self.begins(part)
        if left is None:
            return []
        print(f"{part}: at most {min(left, limit):.0f} s", flush=True)
        turn = Turn(who=MODESEEK, task=task)
        found, trouble = listen(turn, self.place, limit=min(left, limit), told=self.told)
        self.notebook.write(part, runs=found, error=trouble)
        return found

    def rows(self, name: str, number: int, responses: int, lengths: Lengths, words: int) -> str:
        """A file of rows."""
        path = self.folder / f"{name}.npz"
        save_rows(path, make_rows(number, responses, lengths, words, 0))
        return str(path)


def checks(runner: Runner) -> dict[str, Any]:
    """Padding under fused attention, and saving under the transfer guard."""
    lengths = Lengths(prompt=8, response=8, longest=32)
    path = runner.rows("checks", 2 * 3, 1, lengths, 64)
    model = llama(64, 1, 64, 64)
    task = TrainTask(
        recipe="sft", model=model, rows=path, batch=2, steps=3, dtype=runner.sizes.dtype
    )
    return runner.one("checks", Turn(who=CHECKS, task=task), 150)


def dpo(runner: Runner, name: str, spread: float, times: int) -> list[Line]:
    """DPO against TRL a few times, on texts of equal length or not."""
    from llm.flops import PEAK_FLOPS

    sizes = runner.sizes
    median = sizes.text if not spread else sizes.text * 3 // 4
    lengths = Lengths(prompt=median, response=median, spread=spread, longest=2 * sizes.text)
    path = runner.rows(name, sizes.pairs * sizes.steps, 2, lengths, sizes.model.words)
    task = TrainTask(
        recipe="dpo",
        model=sizes.model,
        rows=path,
        batch=sizes.pairs,
        steps=sizes.steps,
        dtype=sizes.dtype,
    )
    rounds: list[dict[str, Numbers | str]] = []
    for _ in range(times):
        each: dict[str, Numbers | str] = {}
        for who in (MODESEEK, TRL):
            found: dict[str, Any] = {}
            for budget in sizes.budget if who == MODESEEK else sizes.budget[:1]:
                turn = Turn(who=who, task=replace(task, max_tokens=budget))
                found = runner.one(name, turn, 240)
                if NO_ROOM not in found.get("error", ""):
                    break
            peak = PEAK_FLOPS.get(found.get("device", ""), math.nan)
            each[who.name] = found.get("error") or trained(task, found, peak)
        rounds.append(each)
    return lines_of(name, [compiled_first(each, rounds[0]) for each in rounds])


def compiled_first(
    each: Mapping[str, Numbers | str], first: Mapping[str, Numbers | str]
) -> dict[str, Numbers | str]:
    """A round with the first one's seconds of compiling; later ones read what it compiled."""
    found = dict(each)
    for who, numbers in each.items():
        before = first[who]
        if isinstance(numbers, Numbers) and isinstance(before, Numbers):
            found[who] = replace(numbers, compile=before.compile, first=before.first)
    return found


def writing(runner: Runner) -> list[Line]:
    """Writing against ``generate``."""
    sizes = runner.sizes
    lengths = Lengths(prompt=sizes.text // 4, response=1, spread=0.3, longest=sizes.text)
    few = min(8, sizes.answers)
    task = SampleTask(
        model=sizes.model,
        rows=runner.rows("writing", sizes.answers, 0, lengths, sizes.model.words),
        cases=[
            Case(
                name=f"writing {prompts} × {responses}",
                prompts=prompts,
                responses=responses,
                max_new_tokens=sizes.new,
            )
            for prompts, responses in ((sizes.answers, 1), (few, few), (1, 1))
        ],
        dtype=sizes.dtype,
    )
    results = {
        who.name: runner.one("writing", Turn(who=who, task=task), 200)
        for who in (MODESEEK, TRANSFORMERS)
    }
    lines: list[Line] = []
    for case in task.cases:
        read = {w: r.get("error") or written(task, case.name, r) for w, r in results.items()}
        lines += lines_of(case.name, [read])
    return lines


def largest(runner: Runner) -> list[tuple[str, ...]]:
    """The longest text of the headline's model, and the largest model with and without adapters."""
    sizes, rows = runner.sizes, []

    def sweep(part: str, tasks: Sequence[TrainTask], said: Sequence[str], limit: float) -> None:
        found = runner.many(part, SweepTask(runs=list(tasks), until_one_fails=True), limit)
        for name, result in zip(said, found, strict=False):
            memory = f"{result['memory']:.1f} GiB" if "memory" in result else ""
            why = next(iter(result.get("error", "").splitlines()), "")[:80]
            rows.append((part, name, memory, why or "fits"))
        if len(found) < len(tasks) and not (found and "error" in found[-1]):
            rows.append((part, said[len(found)], "", "no time was left"))

    def task(model: Model, length: int, **more: Any) -> TrainTask:
        half = Lengths(prompt=length // 2, response=length // 2, spread=0.0, longest=length)
        config = model.config | {"max_position_embeddings": max(length, 64)}
        name = f"{length}-{model.words}"
        return TrainTask(
            recipe=BASELINE,
            model=replace(model, config=config),
            rows=runner.rows(name, 2, 1, half, model.words),
            batch=1,
            steps=2,
            warm=1,
            dtype=sizes.dtype,
            remat="full",
            max_tokens=2 * length + 64,
            **more,
        )

    texts = [task(sizes.model, length) for length in sizes.longest]
    sweep("longest text", texts, [f"{length:,} tokens" for length in sizes.longest], 150)
    names = [f"{parameters_of(model) / 1e9:.1f}B parameters" for model in sizes.larger]
    whole = [task(model, 2 * sizes.text) for model in sizes.larger]
    sweep("largest model", whole, names, 120)
    thin = [task(model, 2 * sizes.text, rank=ADAPTERS) for model in sizes.larger]
    sweep(f"largest with adapters of rank {ADAPTERS}", thin, names, 120)
    return rows


def parameters_of(model: Model) -> int:
    """How many there are."""
    from llm.model import abstract_decoder, parameters
    from llm.model.architecture import architecture_from_config

    shapes = parameters(abstract_decoder(architecture_from_config(model.config)))
    return sum(math.prod(shape.shape) for shape in shapes.values())


def every_recipe(runner: Runner) -> list[tuple[str, ...]]:
    """Tokens per second of every recipe's step, as many as there is time for."""
    from experiments.benchmarks.recipes import tasks_of
    from experiments.benchmarks.speed import Sizes as Amount

    sizes = runner.sizes
    amount = Amount(
        text=sizes.text // 4,
        longest=sizes.text,
        pairs=2 * sizes.pairs,
        steps=6 if runner.place == "gpu" else 3,
    )
    tasks = tasks_of(amount, sizes.swept, runner.folder, dtype=sizes.dtype)
    chosen = [name for name in tasks if not sizes.recipes or name in sizes.recipes]
    found = runner.many("recipes", SweepTask(runs=[tasks[name] for name in chosen]), 900)
    rows, base = [], math.nan
    for name, result in zip(chosen, found, strict=False):
        if "error" in result:
            rows.append((name, "", result["error"].splitlines()[0][:80]))
            continue
        speed = rate(tasks[name], result)
        base = speed if name == BASELINE else base
        rows.append((name, f"{speed:,.0f}", f"{speed / base:.2f}"))
    rows += [(name, "", "no time was left") for name in chosen[len(found) :]]
    return rows


def main() -> None:
    """Time, print, save, part by part."""
    options = tyro.cli(Options, description=__doc__)
    notebook = Notebook(options.out.with_suffix(".jsonl"))
    about = machine()
    notebook.write("machine", **about)
    reports: dict[str, Report] = {}

    def add(name: str, title: str, headings: tuple[str, ...], rows: Sequence[Any]) -> None:
        """Keep a table at once."""
        cells = [row.cells if isinstance(row, Line) else row for row in rows]
        record = {"rows": [asdict(row) if isinstance(row, Line) else row for row in rows]}
        reports[name] = Report(title=title, headings=headings, rows=cells, record=record)
        save(options.out, about, reports)
        print(reports[name].markdown, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(options, Path(folder), notebook)
        sound = checks(runner)
        about["checks"] = sound
        print(json.dumps(sound), flush=True)
        about["device"] = sound.get("device", "unknown")
        length = 2 * runner.sizes.text
        lines = dpo(runner, f"DPO, {length} tokens", 0.0, options.rounds)
        title = f"Speed on {about['device']}, {runner.sizes.dtype}"
        add("speed", title, HEADINGS, lines)
        lines += writing(runner)
        add("speed", title, HEADINGS, lines)
        lines += dpo(runner, f"DPO, uneven up to {length} tokens", 0.5, 1)
        add("speed", title, HEADINGS, lines)
        add("largest", "What fits", ("", "", "peak memory", ""), largest(runner))
        recipes = every_recipe(runner)
        add("recipes", "Steps of every recipe", ("recipe", "tokens/s", "of SFT"), recipes)


if __name__ == "__main__":
    main()
