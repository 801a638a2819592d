"""Contestants take turns, each in a process of its own, so that what slows one down slows all.

A process of its own keeps memory, thread pools and allocators apart; turns keep a machine that is
busy with something else from deciding who wins. What a run had to say is written down as soon as it
has ended, so that a benchmark that is killed loses one run.
"""

import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from experiments.benchmarks.ours import BEGAN
from experiments.benchmarks.tasks import Task, TrainTask, save_task
from experiments.results import commit
from llm.simulated import simulated

Place = Literal["cpu", "gpu"]

ROOT = Path(__file__).parents[2]
OURS = "modeseek"
NO_ROOM = "ran out of memory"
EXHAUSTED = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "MemoryError")
"""How JAX, torch and Python say so."""
NOTHING: Mapping[str, str] = MappingProxyType({})
PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "trl")


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Whoever carries out a task.

    Attributes:
        name: in the table.
        module: of ``experiments.benchmarks``, run with the path of a task.
        needs: packages without which there is nobody to run.
        checkout: of the project, whose ``llm`` runs in the place of this one's.
        python: the interpreter of an environment of its own; this one when None.
    """

    name: str
    module: str = "ours"
    needs: tuple[str, ...] = ()
    checkout: Path | None = None
    python: str | None = None

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed here; of another environment nothing is known."""
        if self.python is not None:
            return []
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


MODESEEK = Contestant(name=OURS)
TRL = Contestant(name="TRL", module="trl_peer", needs=("torch", "trl"))
TRANSFORMERS = Contestant(name="transformers", module="transformers_peer", needs=("torch",))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One contestant and what it is to do."""

    who: Contestant
    task: Task


class Failed(OSError):
    """A contestant did not finish; says who, and the last that it said."""


def run(
    turn: Turn, place: Place, *, limit: float | None = None, told: Mapping[str, str] = NOTHING
) -> dict[str, Any]:
    """Let one contestant do its task in a process of its own.

    Args:
        turn: who, and what.
        place: where arrays live.
        limit: seconds after which it is stopped; None for never.
        told: environment variables.

    Returns:
        What it printed last.

    Raises:
        Failed: if it did not come to an end.
    """
    said, trouble = listen(turn, place, limit=limit, told=told)
    if trouble is not None:
        raise Failed(trouble)
    return said[-1]


def listen(
    turn: Turn, place: Place, *, limit: float | None = None, told: Mapping[str, str] = NOTHING
) -> tuple[list[dict[str, Any]], str | None]:
    """The same for one who says something now and then: a contestant that is stopped was heard.

    Returns:
        Every line of JSON that it printed, and what went wrong, or None.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = save_task(Path(folder) / "task.json", turn.task)
        python = turn.who.python or sys.executable
        line = [python, "-m", f"experiments.benchmarks.{turn.who.module}", str(path)]
        if turn.who.checkout is not None:
            line.append(str(turn.who.checkout))
        out, err = Path(folder) / "out", Path(folder) / "err"
        trouble = None
        with out.open("w") as stdout, err.open("w") as stderr:
            try:
                done = subprocess.run(
                    line,
                    cwd=ROOT,
                    stdout=stdout,
                    stderr=stderr,
                    env={**environment(turn.task, place), **told},
                    timeout=limit,
                )
            except subprocess.TimeoutExpired:
                trouble = f"{turn.who.name} did not finish within {limit:.0f} s"
            else:
                if done.returncode:
                    trouble = explained(turn.who.name, err.read_text())
        lines = [text for text in out.read_text().splitlines() if text.startswith("{")]
    said = []
    for text in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the peers print things of their own
            said.append(json.loads(text))
    if trouble is None and not said:
        trouble = f"{turn.who.name} said nothing"
    return said, trouble


def explained(who: str, text: str) -> str:
    """What went wrong, in short where it is the usual thing."""
    if any(sign in text for sign in EXHAUSTED):
        return f"{who} {NO_ROOM}"
    return f"{who} failed:\n{text[-1500:]}"


def environment(task: Task, place: Place) -> dict[str, str]:
    """What a contestant's process is told: where, with how many threads, and when it began."""
    cores = str(os.cpu_count() or 1)
    told = {
        BEGAN: str(time.time()),
        "OMP_NUM_THREADS": cores,
        "MKL_NUM_THREADS": cores,
        "JAX_PLATFORMS": "cpu" if place == "cpu" else "cuda",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a compilation that is read is not one
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.94",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if place == "cpu":
        told["CUDA_VISIBLE_DEVICES"] = ""
    if isinstance(task, TrainTask) and task.devices > 1:
        told |= simulated(task.devices)
    return os.environ | told


def in_turn(
    turns: Sequence[Turn], rounds: int, place: Place, limit: float | None = None
) -> Iterator[dict[str, Any]]:
    """A B A B: in every round each contestant once.

    Yields:
        After every round what each had to say, by name; where one failed, ``error``.
    """
    for _ in range(rounds):
        found: dict[str, Any] = {}
        for turn in turns:
            try:
                found[turn.who.name] = run(turn, place, limit=limit)
            except Failed as error:
                found[turn.who.name] = {"error": str(error)}
        yield found


@contextlib.contextmanager
def checked_out(what: str) -> Iterator[Contestant]:
    """Another state of this repository as a contestant.

    Args:
        what: a folder that holds one, or a commit, which is laid out in a folder of its own until
            the end of the block.

    Raises:
        ValueError: if it is neither.
    """
    if Path(what).is_dir():
        yield Contestant(name=f"{OURS} before", checkout=Path(what).resolve())
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = str(Path(folder) / "before")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "prune"], capture_output=True, check=False)  # after a run cut short
        made = subprocess.run([*git, "add", "--detach", tree, what], capture_output=True, text=True)
        if made.returncode:
            raise ValueError(f"--before {what} is neither a folder nor a commit: {made.stderr}")
        try:
            yield Contestant(name=f"{OURS} at {what[:8]}", checkout=Path(tree).resolve())
        finally:
            subprocess.run([*git, "remove", "--force", tree], capture_output=True, check=False)


def as_before(turns: Sequence[Turn], before: Contestant | None) -> list[Turn]:
    """Turns, and of each of ours the same again in another checkout."""
    found = list(turns)
    if before is not None:
        found += [replace(turn, who=before) for turn in turns if turn.who == MODESEEK]
    return found


def machine() -> dict[str, Any]:
    """Where this is: processor, cores, what else is running, versions; no names and no paths."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "commit": commit(),
    }
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def processor() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def peak_of_cpu() -> float:
    """FLOP/s of a matrix product here, which MFU is a share of."""
    code = "from llm.devices import this_cpu; print(this_cpu().flops)"
    told = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=told
    )
    return float(done.stdout.strip().splitlines()[-1])


class Notebook:
    """A file of JSON lines: what is known is on disk.

    Args:
        path: of the file; begun anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")

    def write(self, part: str, **known: Any) -> Mapping[str, Any]:
        """Add a line."""
        line = {"part": part, **known}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line
