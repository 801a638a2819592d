"""What does it save to write the next collection while the steps on one run, and what does it cost?

Command: ``python -m experiments.benchmarks.ahead [--model FOLDER]``, about ten minutes on two idle
cores. RLOO on the built-in language, with and without ``--ahead``, each in a process of its own,
in turn within each round. Two rewards of the same worth: one answers at once, the other after 50
milliseconds per response, as a judge behind a network does that is asked one text at a time. Shown
are seconds from one collection to the next (median over all but the first two, which compile), and
their ratio in each round. With ``--seeds N`` the embedded language's own reward is trained on too,
for the price: the reward of held-out answers at the end, with samples one collection older.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.results import atomically
from llm.journal import METRICS, read_lines

DELAY = 0.05
"""Seconds that a response takes to be judged."""

WAYS = {"after": [], "ahead": ["--ahead"]}
"""The next collection is written after the steps on one, or while they run."""


def instant(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that answers at once: the shorter the better."""
    return [-float(len(response)) for response in responses]


def waiting(prompts: list[str], responses: list[str]) -> list[float]:
    """The same from far away."""
    time.sleep(DELAY * len(responses))
    return instant(prompts, responses)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time collections that are made after the steps on another, and while they run."""

    model: Path | None = None
    """Folder of a model; the embedded one when not given."""
    rounds: int = 3
    """Times that everyone runs everything."""
    collections: int = 10
    """Of each run that is timed."""
    batch: int = 16
    """Prompts of a step, with 4 responses each."""
    passes: int = 2
    """Times that a collection is learned from."""
    seeds: int = 0
    """Runs of each kind on the built-in reward."""
    steps: int = 60
    """Of each of those."""
    out: Path = Path("reproduced/benchmarks/ahead.json")
    """Where the figures go."""


def train(options: Options, *flags: str) -> list[dict[str, Any]]:
    """The metrics of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        model = () if options.model is None else ("--model", str(options.model))
        line = [sys.executable, "-m", "modeseek", "train", "rloo", *model, "--out", str(out)]
        line += ["--batch", str(options.batch), "--reuse.inner-steps", str(options.passes)]
        line += ["--sampling.max-new-tokens", "32", "--optimizer.learning-rate", "2e-4"]
        line += ["--show", "0", "--save.every", "1000000", "--packing.shapes", "1", *flags]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(line)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
        return read_lines(out / METRICS)


def seconds_of(lines: list[dict[str, Any]], passes: int) -> float:
    """Median seconds from the end of the steps on a collection to that on the next."""
    ends = [
        line["clock"]["seconds"]
        for line in lines
        if line["kind"] == "train" and line["step"] % passes == 0
    ]
    return median(later - earlier for earlier, later in pairwise(ends[1:]))


def timed(options: Options, reward: str, console: Console) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    steps = str(options.collections * options.passes)
    for count in range(options.rounds):
        # Who begins changes, because whoever is second finds programs compiled.
        for way in sorted(WAYS, reverse=bool(count % 2)):
            with console.status(f"{reward}, {way}, round {count + 1} of {options.rounds}"):
                given = ["--reward", f"python:{__spec__.name}:{reward}", "--steps", steps]
                lines = train(options, *given, "--evaluate-prompts", "4", *WAYS[way])
            found[way].append(seconds_of(lines, options.passes))
    return found


def learned(options: Options, console: Console) -> dict[str, list[float]]:
    """Held-out reward at the end of each way with each seed."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        for way, flags in WAYS.items():
            with console.status(f"{way}, seed {seed + 1} of {options.seeds}"):
                lines = train(options, "--seed", str(seed), "--steps", str(options.steps), *flags)
            found[way].append([line for line in lines if line["kind"] == "eval"][-1]["reward"])
    return found


def spread(values: list[float], form: str) -> str:
    """A median and what it is the middle of."""
    low, middle, high = (format(f(values), form) for f in (min, median, max))
    return f"{middle} ({low} to {high})"


def main() -> None:
    """Time, print, save."""
    options, console = tyro.cli(Options, description=__doc__), Console()
    table = Table(title="seconds from one collection to the next: median (range) over rounds")
    table.add_column("reward")
    for heading in ("after the steps", "ahead of them", "times as fast"):
        table.add_column(heading, justify="right", no_wrap=True)
    record: dict[str, Any] = {}
    for reward in ("waiting", "instant"):
        found = record[reward] = timed(options, reward, console)
        ratios = [a / b for a, b in zip(found["after"], found["ahead"], strict=True)]
        table.add_row(
            f"{DELAY:g} s per response" if reward == "waiting" else "at once",
            *(spread(found[way], ".2f") for way in WAYS),
            spread(ratios, ".2f"),
        )
    console.print(table)
    if options.seeds:
        found = record["held-out reward"] = learned(options, console)
        console.print(
            f"held-out reward after {options.steps} steps, {options.seeds} seeds: "
            + "; ".join(f"{way} {spread(found[way], '.3f')}" for way in WAYS)
        )
    text = json.dumps(record, indent=1) + "\n"
    atomically(options.out, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
