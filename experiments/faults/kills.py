"""One run: killed, given again, killed again, and at last compared with one that was never killed.

What must not be lost is looked for on the disk after every kill: checkpoints that were complete,
collections and parts of collections. What must not be loaded is known beforehand: the state after
every step of the run that nobody disturbed.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.faults.children import BUSY, Child, Command, start, wait
from experiments.faults.runs import KEEP, STEPS

PATIENCE = 300.0
"""Seconds after which a process that should have ended hangs."""

GRACE = 90.0
"""Seconds in which the other processes of a run must notice that one was killed."""

AIMS = ("any", "steps", "saves", "collections", "parts", "exports")
"""Where a kill may be aimed: at any moment of a run, or at what begins then."""

WITHIN = {"steps": 0.02, "saves": 0.15, "exports": 0.05, "collections": 0.5, "parts": 0.02}
"""Seconds after something has begun within which it is killed."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that was never killed.

    Attributes:
        folder: of the run.
        states: checksums of the state after every step.
        seconds: it took.
        counts: how often each thing was begun.
    """

    folder: Path
    states: dict[int, dict[str, str]]
    seconds: float
    counts: dict[str, int]


@dataclass(frozen=True)
class Kill:
    """One kill, and what the run was doing.

    Attributes:
        aim: where it was aimed.
        hit: what the folder and the counters say of that moment: a save may be under way beside
            anything else.
        seconds: after the start of the command.
        process: which of the run's processes was killed.
        survivors: seconds until the others had ended.
    """

    aim: str
    hit: tuple[str, ...]
    seconds: float
    process: int = 0
    survivors: float = 0.0


@dataclass(frozen=True)
class Disk:
    """What a run's folder holds that must not be lost.

    Attributes:
        checkpoints: a digest of every complete one, by step.
        collections: what tells a file from another under its name, by name.
    """

    checkpoints: dict[int, str] = field(default_factory=dict)
    collections: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Story:
    """What happened to one run.

    Attributes:
        kills: in order.
        resumed: how often it went on from a checkpoint.
        losses: what was on disk, and then was not; a sentence each.
        divergences: where it was not what an undisturbed run is; a sentence each.
    """

    kills: list[Kill] = field(default_factory=list)
    resumed: int = 0
    losses: list[str] = field(default_factory=list)
    divergences: list[str] = field(default_factory=list)


def undisturbed(command: Command) -> Undisturbed:
    """Run a command to its end, twice, and make sure that both are the same run.

    Raises:
        RuntimeError: if it fails.
    """
    run_through(command)
    again = replace(
        command,
        out=command.out.with_name(f"{command.out.name}-again"),
        states=command.states.with_name(f"{command.states.name}-again"),
    )
    began = time.monotonic()
    counts = run_through(again)
    seconds = time.monotonic() - began
    different = differences(again.out, command.out)
    if different:
        raise RuntimeError(f"{command.recipe}: two undisturbed runs differ: {different[0]}")
    states = {line["step"]: line["checksums"] for line in lines_of(command.states)}
    return Undisturbed(command.out, states, seconds, counts)


def run_through(command: Command) -> dict[str, int]:
    """Run a command to its end; how often each thing was begun."""
    children = start(command)
    statuses = wait(children, PATIENCE)
    if set(statuses) != {0}:
        raise RuntimeError(f"{command.recipe} ended with {statuses}; its words: {command.log}")
    return {name: children[0].watch[name] for name in AIMS if name != "any"}


def kill_and_resume(
    command: Command, before: Undisturbed, kills: int, rng: np.random.Generator
) -> Story:
    """Kill a run so many times, give its command again each time, and let it end at last.

    Args:
        command: of the run, whose folder does not exist.
        before: the same run, undisturbed.
        kills: most times it is killed; fewer if it ends before.
        rng: says when.
    """
    story, disk = Story(), Disk()
    while True:
        given = replace(command, save_every=int(rng.integers(1, 3)))
        marks = len(lines_of(command.states))
        children, began = start(given), time.monotonic()
        kill, statuses = None, []
        left = 1 - max(disk.checkpoints, default=0) / STEPS
        # A run that has nothing left to do but to write its model has been killed enough.
        if len(story.kills) < kills and (left > 0 or rng.random() < 0.3):
            counts = {aim: round(left * count) for aim, count in before.counts.items()}
            counts["exports"] = 1
            kill = strike(children, began, given.out, before.seconds, counts, rng)
        if kill is None:
            statuses = wait(children, PATIENCE)
        check_states(lines_of(command.states)[marks:], before, disk, story)
        found = look(given.out)
        check_disk(disk, found, story)
        disk = found
        if kill is None:
            if set(statuses) != {0}:
                story.divergences.append(f"the command ended with {statuses}")
            break
        if kill.survivors > GRACE:
            story.divergences.append("a process did not notice that another was killed")
        story.kills.append(kill)
    story.divergences += differences(given.out, before.folder)
    return story


def strike(
    children: list[Child],
    began: float,
    folder: Path,
    seconds: float,
    counts: Mapping[str, int],
    rng: np.random.Generator,
) -> Kill | None:
    """Kill one of a run's processes at a moment that is drawn.

    Args:
        children: the processes.
        began: when they were started.
        folder: of the run.
        seconds: that a run takes.
        counts: how often each thing will be begun.
        rng: draws.

    Returns:
        What was hit; None if the run ended before.
    """
    aims = [aim for aim in AIMS if aim == "any" or counts[aim]]
    aim = str(rng.choice(aims, p=weights(aims)))
    number = int(rng.integers(len(children)))
    child = children[number]
    delay = rng.uniform(0, seconds if aim == "any" else WITHIN[aim])
    if aim != "any":
        nth = int(rng.integers(1, counts[aim] + 1))
        until = began + PATIENCE
        while child.watch[aim] < nth and not exported(child) and time.monotonic() < until:
            if has_ended(child):
                return None
            time.sleep(0.0005)
        if exported(child):
            delay = rng.uniform(0, WITHIN["exports"])
    until = time.monotonic() + delay
    while time.monotonic() < until:
        if has_ended(child):
            return None
        time.sleep(0.0005)
    if has_ended(child):
        return None
    child.kill()
    struck = time.monotonic()
    wait([child], PATIENCE)
    hit = doing(child, folder)
    others = [other for other in children if other is not child]
    wait(others, GRACE + 1)
    survivors = time.monotonic() - struck if others else 0.0
    return Kill(aim, hit, struck - began, number, survivors)


def weights(aims: Sequence[str]) -> np.ndarray:
    """How often each aim is taken: saves and what is collected are where it hurts most."""
    found = np.array(
        [
            {"exports": 0.3, "saves": 1.5, "collections": 2.0, "parts": 2.0}.get(aim, 1.0)
            for aim in aims
        ]
    )
    return found / found.sum()


def exported(child: Child) -> bool:
    """Whether a run has come to its end but for the writing of the model."""
    return child.watch["exports"] > 0


def has_ended(child: Child) -> bool:
    """Whether a process has ended by itself; its status is left for ``wait``."""
    found = os.waitid(os.P_PID, child.process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None


def doing(child: Child, folder: Path) -> tuple[str, ...]:
    """What a process was doing when it was killed."""
    found = []
    # What an earlier kill has left of a save is cleared away before the next one begins.
    if child.watch["saves"] and any((folder / "checkpoints").glob("*.orbax-checkpoint-tmp")):
        found.append("save")
    if child.watch["exports"]:
        found.append("export")
    elif child.watch[BUSY]:
        found.append("collect")
    elif child.watch["steps"]:
        found.append("step")
    return tuple(found) or ("start",)


def look(folder: Path) -> Disk:
    """What a run's folder holds that must not be lost."""
    from llm.state import CHECKPOINTS, saved_steps

    files = (folder / "rollouts").rglob("*.parquet")
    kept = [file for file in files if not file.name.startswith(".")]
    return Disk(
        {step: digest(folder / CHECKPOINTS / str(step)) for step in saved_steps(folder)},
        {
            file.relative_to(folder).as_posix(): (file.stat().st_ino, file.stat().st_size)
            for file in kept
        },
    )


def digest(folder: Path) -> str:
    """What tells one folder from another: all bytes of all files."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        found.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def check_disk(before: Disk, after: Disk, story: Story) -> None:
    """Whether everything is still there that was.

    Retention takes the oldest checkpoints, and a kill may have left a part of one that it took.
    """
    newest = sorted(before.checkpoints.keys() | after.checkpoints.keys())[-KEEP:]
    for step in before.checkpoints.keys() & newest:
        if step not in after.checkpoints:
            story.losses.append(f"the checkpoint of step {step} is gone")
        elif after.checkpoints[step] != before.checkpoints[step]:
            story.losses.append(f"the checkpoint of step {step} is another")
    for name, file in before.collections.items():
        collection = f"{name.rpartition('.parts/')[0]}.parquet"
        if name not in after.collections and collection not in after.collections:
            story.losses.append(f"{name} is gone")
        elif after.collections.get(name, file) != file:
            story.losses.append(f"{name} was written, and judged, again")


def check_states(
    lines: list[dict[str, Any]], before: Undisturbed, disk: Disk, story: Story
) -> None:
    """Whether a run went on from its latest checkpoint, and every state is that of its step."""
    latest = max(disk.checkpoints, default=None)
    restored = [line["step"] for line in lines if line["what"] == "restored"]
    story.resumed += bool(restored)
    if latest is not None and any(step != latest for step in restored):
        story.losses.append(f"step {latest} was on disk, and the run went on after {restored[0]}")
    if latest is not None and not restored and lines:
        story.losses.append(f"step {latest} was on disk, and the run began anew")
    for line in lines:
        if line["checksums"] != before.states.get(line["step"]):
            story.divergences.append(f"the state that was {line['what']} at step {line['step']}")


def differences(folder: Path, other: Path) -> list[str]:
    """In what two runs that are complete differ, other than in what was timed."""
    from llm.journal import METRICS, read_lines

    def numbers(run: Path) -> list[str]:
        lines = read_lines(run / METRICS)
        return [json.dumps({k: v for k, v in line.items() if k != "clock"}) for line in lines]

    found = []
    if numbers(folder) != numbers(other):
        found.append(METRICS)
    names = {
        file.relative_to(run).as_posix()
        for run in (folder, other)
        for part in ("model", "rollouts")
        for file in (run / part).rglob("*")
        if file.is_file()
    }
    for name in sorted(names):
        one, two = folder / name, other / name
        if not one.is_file() or not two.is_file() or one.read_bytes() != two.read_bytes():
            found.append(name)
    return found


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of states; the last may be cut short."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return found


def forget(command: Command) -> None:
    """Remove a run that has been looked at."""
    shutil.rmtree(command.out, ignore_errors=True)
    command.states.unlink(missing_ok=True)
