"""Grade a folder of answers: a table of accepted, rejected, not answered and crashed.

Command: ``python -m experiments.exercises [FOLDER]``, about a minute of one core for a folder of
twelve. Every script whose name is that of an exercise runs in a process of its own, in an empty
folder, without a screen, and one that crashes or never ends does not stop the others. It is the
student's own code that runs here, with your rights: read it first, or grade where that does not
matter.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from experiments.exercises.checks import CHECKS, COLOURS
from experiments.exercises.checks.verdict import Verdict

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Options:
    """Grade a folder of answers."""

    folder: Annotated[Path, tyro.conf.Positional] = HERE
    """Holds scripts with the names of the exercises; the exercises themselves when not given."""
    only: tuple[str, ...] = ()
    """Exercises to grade, by the beginning of their names, such as e03; all when not given."""
    seconds: float = 300.0
    """How long a script may take."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; it must be above 0.")


def main() -> None:
    """Run, judge, print; the exit status says whether every answer was accepted."""
    options = tyro.cli(Options)
    try:
        scripts = scripts_of(options)
    except ValueError as error:
        sys.exit(str(error))
    console = Console()
    verdicts = []
    for number, script in enumerate(scripts, start=1):
        with console.status(f"{script.stem} ({number} of {len(scripts)})"):
            verdicts.append(graded(script, options.seconds))
    console.print(table_of(verdicts))
    accepted = sum(verdict.outcome == "accepted" for verdict in verdicts)
    console.print(f"{accepted} of {len(verdicts)} accepted")
    sys.exit(accepted < len(verdicts))


def scripts_of(options: Options) -> list[Path]:
    """The answers in a folder, in the order of the course.

    Raises:
        ValueError: if there are none.
    """
    wanted = [name for name in CHECKS if not options.only or name.startswith(options.only)]
    scripts = [options.folder / f"{name}.py" for name in wanted]
    found = [script.resolve() for script in scripts if script.is_file()]
    if not found:
        raise ValueError(
            f"{options.folder} holds no answer; scripts are named {', '.join(wanted or CHECKS)}, "
            "each ending in .py."
        )
    return found


def graded(script: Path, seconds: float) -> Verdict:
    """The verdict on one script, whatever it does.

    Args:
        script: named after its exercise.
        seconds: how long it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "verdict.json"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "experiments.exercises.attempt", script, file],
                cwd=folder,
                env=os.environ | {"MPLBACKEND": "agg"},
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Verdict(script.stem, "crashed", f"It did not end within {seconds:g} seconds.")
        if file.is_file():
            return Verdict(**json.loads(file.read_text(encoding="utf-8")))
    said = done.stderr.strip().splitlines()
    if done.returncode and said:
        return Verdict(script.stem, "crashed", f"{said[-1]}{place_of(said, script)}")
    return Verdict(script.stem, "crashed", "It ends without `verdict = check(...)`.")


def place_of(traceback: list[str], script: Path) -> str:
    """The last line of the script that a traceback names."""
    lines = [line.strip() for line in traceback if f'"{script}", line ' in line]
    return f" ({lines[-1].split(', ')[1]})" if lines else ""


def table_of(verdicts: list[Verdict]) -> Table:
    """A row per exercise."""
    table = Table("exercise", "verdict", "why")
    for verdict in verdicts:
        outcome = f"[{COLOURS[verdict.outcome]}]{verdict.outcome}[/]"
        table.add_row(verdict.exercise, outcome, escaped(verdict.message))
    return table


def escaped(message: str) -> str:
    """A message in which a bracket is only a bracket."""
    return message.replace("[", r"\[")


if __name__ == "__main__":
    main()
