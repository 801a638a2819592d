"""``modeseek reproduce``: every experiment, every figure, one table of claims and verdicts.

With ``--format`` it exports figures from results that are there, for slides or a paper.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.catalogue import CATALOGUE, GROUPS, STUDIES, chosen, module_of, sources
from experiments.results import Result, Size, Verdict, fingerprint, is_current, load, save
from modeseek.pictures import draw, is_drawn, playable, there
from modeseek.workers import Task, run_tasks

SEEDS = {
    "bandit": {"quick": 3, "default": 10, "full": 30},
    "text": {"quick": 2, "default": 5, "full": 10},
    "reviews": {"quick": 2, "default": 5, "full": 5},
}
CLAIMS = {"bandit": "CLAIMS.md", "text": "CLAIMS-text.md", "reviews": "CLAIMS-reviews.md"}
READING = 5.0
"""Seconds an experiment on a language model takes once its runs are there."""

NOT_RUN = "not run"
"""How the error of a task begins whose input has failed."""

FILES = {False: ("svg", "png", "gif"), True: ("svg", "png", "pdf", "gif", "mp4")}
"""Files of a figure that nothing else is said of: beside its experiment, and exported."""

COLOURS = {"held": "green", "held under this condition": "yellow", "did not hold": "red"}


@dataclass(frozen=True)
class Reproduce:
    """Run the experiments and draw the figures: the didactic study, or those on language models.

    An experiment whose result is already there, from the same code and settings, is kept. Interrupt
    it at any time: what is finished stays, and the same command continues.

    With --format only figures are made, in seconds, from results that are there already: in --out,
    or those kept with the code.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiments to run, with those they read; `text` for all of the study on text, `reviews` for
    all of active preference learning on film reviews; all of the didactic ones if none is named."""
    quick: bool = False
    """Small and few: to see that everything works, not to judge a claim."""
    full: bool = False
    """The paper's lengths and 30 seeds, or on text a larger model and 10; takes a while. On reviews
    the paper's budget, for a GPU."""
    seeds: int | None = None
    """Repetitions of every setting; 10, or 3 with --quick, or 30 with --full; on text 5, 2, 10; on
    reviews 5, 2, 5."""
    out: Path = Path("reproduced")
    """Folder for results and figures; created if it is missing."""
    fresh: bool = False
    """Compute again what is already there."""
    processes: int | None = None
    """Experiments, or runs of a language model, side by side; one per core, four at most."""
    format: Literal["slides", "paper", "screen"] | None = None
    """Export figures instead: slides (16:9, large type, one idea each), paper (column width, small
    type, no titles), or screen (as the README shows them). Nothing is computed unless there is no
    result of these settings; one that other code has made is drawn too, and the command says so."""
    files: tuple[Literal["svg", "png", "pdf", "gif", "mp4"], ...] = ()
    """Kinds of files; svg, png and gif, or with --format all: svg, png, pdf, gif, mp4. The last two
    are for figures that move."""

    def __post_init__(self) -> None:
        if self.quick and self.full:
            raise ValueError("--quick and --full exclude each other; give one.")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"--processes is {self.processes}; it must be at least 1.")
        if not self.files:
            object.__setattr__(self, "files", FILES[self.format is not None])

    def size(self, study: str) -> Size:
        """How much of a study to compute."""
        name = "quick" if self.quick else "full" if self.full else "default"
        return Size(name, SEEDS[study][name] if self.seeds is None else self.seeds)


def check_writable(folder: Path) -> None:
    """Raise unless files can be made in a folder.

    Raises:
        OSError: names the folder and the remedy.
    """
    probe = folder / ".can-be-written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"--out {folder} can't be written ({error.strerror}); name a folder of your own."
        ) from None


def run_one(name: str, size: Size, out: str, files: tuple[str, ...]) -> float:
    """Run one experiment, save its result, draw its figure; the work of a worker process.

    Returns:
        Seconds it took.
    """
    began = time.perf_counter()
    results = Path(out) / CATALOGUE[name].study
    experiment = importlib.import_module(module_of(name))
    inputs = {read: load(results, read) for read in CATALOGUE[name].reads}
    result: Result = experiment.run(size, inputs) if inputs else experiment.run(size)
    save(result, results, size, mark_of(name, size))
    # As it is kept, so that the same figure comes of it at any later time.
    draw(load(results, name), Path(out) / "figures", files)
    return time.perf_counter() - began


def run_part(name: str, work: Callable[[], Any] | None, *arguments: Any) -> float:
    """Run one experiment, or compute one unit of a study on a language model.

    Returns:
        Seconds it took.
    """
    if work is None:
        return run_one(name, *arguments)
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def mark_of(name: str, size: Size) -> str:
    """What tells a result from those of other code or settings."""
    mark = fingerprint(sources(name), size)
    study = CATALOGUE[name].study
    return f"{mark}-{module_of_study(study).mark(size)}" if study in STUDIES else mark


def module_of_study(study: str) -> Any:
    """The module that says where the runs of a study are kept, and under what name."""
    return importlib.import_module(STUDIES[study])


def tasks_of(name: str, size: Size, out: Path, files: tuple[str, ...]) -> list[Task]:
    """What has to be done for one experiment, the experiment itself last.

    Of the runs of a language model, what has been computed already is no task any more.
    """
    entry = CATALOGUE[name]
    arguments = (None, size, str(out), files)
    if entry.study not in STUDIES:
        return [Task(name, arguments, entry.seconds, entry.reads)]
    from experiments.llm.runs import compute

    units = importlib.import_module(module_of(name)).units(size)
    wanted = {unit.name: unit for unit in units if not unit.path.exists()}
    tasks = [
        Task(
            unit.name,
            (partial(compute, unit),),
            unit.seconds,
            tuple(before for before in unit.after if before in wanted),
        )
        for unit in wanted.values()
    ]
    return [*tasks, Task(name, arguments, READING, (*entry.reads, *wanted))]


def only_writer_of(study: str, size: Size) -> AbstractContextManager[None]:
    """Keep other commands from computing the runs of the same study meanwhile."""
    from llm.lock import only_writer

    return only_writer(module_of_study(study).place(size))


def export(console: Console, options: Reproduce, names: list[str]) -> None:
    """Write figures in the form that is asked for, from results that are there."""
    form = str(options.format)
    folder = options.out / ("figures" if form == "screen" else form)
    older: dict[str, list[str]] = {}
    for name in names:
        found = place_of(name, options)
        assert found is not None, name
        place, commit = found
        with console.status(f"drawing {name}"):
            written = draw(load(place, name), folder, options.files, form)
        for each in written:
            kinds = ",".join(path.suffix[1:] for path in each.paths)
            console.print(f"{folder / each.stem}.{{{kinds}}}", soft_wrap=True, highlight=False)
            idea = " ".join(each.idea.split())
            console.print(f"  {escape(idea)}", soft_wrap=True, highlight=False)
        if commit:
            older.setdefault(commit, []).append(name)
    for commit, drawn in older.items():
        console.print(
            f"[yellow]Drawn from results of other code than this (at {commit}): "
            f"{', '.join(drawn)}. `modeseek reproduce NAME` computes one anew.[/]",
            highlight=False,
        )


def verdict_table(verdicts: dict[str, list[Verdict]]) -> Table:
    """Claims and verdicts, in the order of the story."""
    table = Table(title="Claims and verdicts", title_style="bold", show_lines=True)
    for column, ratio in (("experiment", 2), ("claim", 5), ("verdict", 3), ("evidence", 6)):
        table.add_column(column, ratio=ratio, overflow="fold")
    for name in CATALOGUE:
        for verdict in verdicts.get(name, []):
            outcome = f"[{COLOURS[verdict.outcome]}]{verdict.outcome}[/]"
            if verdict.condition:
                outcome += f": {escape(verdict.condition)}"
            table.add_row(name, escape(verdict.claim), outcome, escape(verdict.evidence))
    return table


def verdict_markdown(verdicts: dict[str, list[Verdict]]) -> str:
    """The same table for a reader of files."""
    lines = ["| experiment | claim | verdict | evidence |", "|---|---|---|---|"]
    for name in CATALOGUE:
        for verdict in verdicts.get(name, []):
            outcome = verdict.outcome + (f": {verdict.condition}" if verdict.condition else "")
            cells = (name, verdict.claim, outcome, verdict.evidence)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def own_tables(names: Iterable[str], results: Path) -> str:
    """What some experiments have to say in a table of their own, below the claims."""
    found = []
    for name in names:
        module = importlib.import_module(module_of(name))
        if hasattr(module, "table"):
            found.append(f"\n## {name}\n\n{module.table(load(results, name))}")
    return "".join(found)


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    options = tyro.cli(Reproduce, args=arguments, prog="modeseek reproduce")
    names, out = chosen(options.names), options.out
    check_writable(out)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    console = Console()
    options = replace(options, files=playable(console, options.files))
    if options.format is None:
        compute(console, options, names)
        return
    asked = [name for name in names if not options.names or name in exported(options.names)]
    missing = [name for name in asked if options.fresh or place_of(name, options) is None]
    if missing:
        console.print(f"computing {', '.join(missing)} first: there is no result of these settings")
        compute(console, options, chosen(missing))
    export(console, options, asked)


def place_of(name: str, options: Reproduce) -> tuple[Path, str] | None:
    """Where the result to draw is, and the commit that made it if that was other code."""
    size = options.size(CATALOGUE[name].study)
    return there(name, size, mark_of(name, size), options.out)


def exported(names: tuple[str, ...]) -> set[str]:
    """The experiments that names stand for, without those they only read."""
    return {part for name in names for part in GROUPS.get(name, (name,))}


def compute(console: Console, options: Reproduce, names: list[str]) -> None:
    """Run what has to be run, draw every figure, and end with the table."""
    out = options.out
    began = time.perf_counter()

    studies = {name: CATALOGUE[name].study for name in names}
    sizes = {name: options.size(study) for name, study in studies.items()}
    marks = {name: mark_of(name, sizes[name]) for name in names}
    kept = set()
    if not options.fresh:
        kept = {name for name in names if is_current(out / studies[name], name, marks[name])}
    stale = {name for name in names if set(CATALOGUE[name].reads) & (set(names) - kept)}
    kept -= stale
    wanted = [name for name in names if name not in kept]
    parts = [tasks_of(name, sizes[name], out, options.files) for name in wanted]
    tasks = {task.name: task for part in parts for task in part}
    sizes_of = {studies[name]: sizes[name] for name in names}
    seeds = " and ".join(sorted({str(size.seeds) for size in sizes.values()}))
    size_name = next(iter(sizes.values())).name
    units = len(tasks) - len(parts)
    console.print(
        f"{len(names)} experiments, {seeds} seeds, {size_name} size, into {out}"
        + (f"; {units} runs and proxies to compute" if units else "")
        + (f"; {len(kept)} already there ({', '.join(sorted(kept))})" if kept else "")
    )
    with ExitStack() as held:
        for study in sizes_of.keys() & STUDIES.keys():
            # Two commands would train the same runs in the same folders.
            held.enter_context(only_writer_of(study, sizes_of[study]))
        failures = run_with_progress(console, list(tasks.values()), kept, options.processes)
    verdicts = {
        name: load(out / study, name).verdicts
        for name, study in studies.items()
        if name not in failures
    }
    for name in sorted(kept):
        if not is_drawn(out / "figures", name, options.files):
            draw(load(out / studies[name], name), out / "figures", options.files)
    for study in dict.fromkeys(studies.values()):
        of_study = {name: found for name, found in verdicts.items() if studies[name] == study}
        text = verdict_markdown(of_study)
        if study in STUDIES:
            text += own_tables(of_study, out / study)
        (out / CLAIMS[study]).write_text(text, encoding="utf-8")
    console.print(verdict_table(verdicts))
    folders = " and ".join(str(out / study) for study in dict.fromkeys(studies.values()))
    tables = " and ".join(str(out / CLAIMS[study]) for study in dict.fromkeys(studies.values()))
    console.print(
        f"{time.perf_counter() - began:.0f} s. Figures in {out / 'figures'}, results in {folders}, "
        f"this table in {tables}."
    )
    for name, error in failures.items():
        # What only waits for something that failed is worth a word if it was asked for.
        if name in CATALOGUE or not error.startswith(NOT_RUN):
            console.print(f"[bold red]{escape(name)} failed[/]\n{escape(error)}")
    if failures:
        raise SystemExit(1)


def run_with_progress(
    console: Console, tasks: list[Task], kept: set[str], processes: int | None
) -> dict[str, str]:
    """Run the tasks under a progress bar that estimates the time left.

    Returns:
        The errors of the tasks that failed, by name.
    """
    if not tasks:
        return {}
    workers = processes or min(4, os.cpu_count() or 1)
    failures: dict[str, str] = {}
    running: dict[str, float] = {}
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("about {task.fields[left]} left"),
        TextColumn("[cyan]{task.fields[running]}"),
    )
    share = min(workers, len(tasks))
    with Progress(*columns, console=console) as progress:
        remaining = {task.name: task.seconds for task in tasks}
        pace, began = 1.0, time.perf_counter()
        bar = progress.add_task("", total=len(tasks), left="…", running="starting")

        def refresh() -> None:
            left = pace * sum(remaining.values()) / share
            progress.update(bar, left=f"{left:.0f} s", running=", ".join(running))

        def started(name: str) -> None:
            running[name] = time.perf_counter()
            refresh()

        expected = sum(remaining.values())
        try:
            for outcome in run_tasks(run_part, tasks, kept, workers, started):
                running.pop(outcome.name, None)
                remaining.pop(outcome.name)
                if outcome.error:
                    failures[outcome.name] = outcome.error
                elif outcome.name in CATALOGUE:
                    progress.console.print(f"  {outcome.name}: {outcome.value:.0f} s")
                done = expected - sum(remaining.values())
                pace = (time.perf_counter() - began) * share / max(done, 1.0)
                progress.advance(bar)
                refresh()
        except KeyboardInterrupt:
            finished = [task.name for task in tasks if task.name not in remaining]
            units = [name for name in finished if name not in CATALOGUE]
            parts = [name for name in finished if name in CATALOGUE]
            parts += [f"{len(units)} runs and proxies"] if units else []
            console.print(
                f"interrupted; kept {', '.join(parts) or 'nothing new'}. "
                "The same command continues from here."
            )
            raise
    return failures
