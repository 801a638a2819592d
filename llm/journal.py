"""What a run writes down while it runs: a line of metrics.jsonl and, by flag, of other loggers.

What a step computed stands in a line under its own name; how long it took stands under ``clock``,
because only the first is the same in every repetition. A resumed run takes back the lines of steps
that it will take again, so the file of a run that was killed reads like that of one that was not.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from llm.hosts import is_first
from llm.settings import LogSettings

METRICS = "metrics.jsonl"


class Journal:
    """The lines of a run, on disk and wherever else they should go.

    Of several processes the first writes them; the others have the same to say, and say nothing.

    Args:
        folder: the run's folder.
        settings: where to write besides metrics.jsonl.
        step: lines of later steps are forgotten, because they will be computed again; all are,
            if it is negative.
        name: of the run.
        record: what the run was asked for.
    """

    def __init__(
        self, folder: Path, settings: LogSettings, step: int, name: str, record: Mapping[str, Any]
    ) -> None:
        self.tensorboard = self.wandb = self.file = None
        self.path = folder / METRICS
        if not is_first():
            return
        if settings.tensorboard:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

            self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        if settings.wandb is not None:
            import wandb  # pyright: ignore[reportMissingImports]

            self.wandb = wandb.init(
                project=settings.wandb, name=name, id=run_id(folder), resume="allow", config=record
            )
        self.file = reopen(self.path, step)

    def write(
        self,
        step: int,
        kind: str,
        numbers: Mapping[str, float | int],
        clock: Mapping[str, float | int],
    ) -> None:
        """Write one line everywhere.

        Args:
            step: optimizer steps taken.
            kind: ``"train"``, ``"rollout"`` or ``"eval"``.
            numbers: what was computed.
            clock: what was measured with a watch.

        Raises:
            OSError: if the disk does not take it.
        """
        if self.file is None:
            return
        line = {"step": step, "kind": kind, **numbers, "clock": dict(clock)}
        rest = json.dumps(line).encode() + b"\n"
        try:
            while rest:
                rest = rest[self.file.write(rest) or 0 :]
        except OSError as error:
            raise refused(self.path, error) from error
        named = {f"{kind}/{name}": value for name, value in {**numbers, **clock}.items()}
        if self.tensorboard is not None:
            for name, value in named.items():
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(named, step=step)

    def close(self) -> None:
        """Finish writing."""
        if self.file is not None:
            self.file.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def check_loggers(settings: LogSettings) -> None:
    """Raise ValueError if a logger was asked for that is not installed."""
    asked = (
        ("--log.tensorboard", "tensorboardX", settings.tensorboard),
        ("--log.wandb", "wandb", settings.wandb is not None),
    )
    for flag, package, wanted in asked:
        if wanted and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{flag} needs the package {package}: install it with `pip install {package}`."
            )


def run_id(folder: Path) -> str:
    """A stable name for the run's folder, so that a resumed run goes on in the same W&B run."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def reopen(path: Path, step: int) -> FileIO:
    """Open the lines for appending, without those after a step and without a broken last one.

    There is no buffer: what a line costs to write is nothing beside the step it tells of, and what
    a full disk has refused is not offered to it again when the file is closed.

    Raises:
        OSError: if a line is damaged, or the disk does not take what is left of them.
    """
    kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step]
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> OSError:
    """What a disk does not take, what is safe, and what to do."""
    return OSError(
        f"{path} cannot be written ({error.strerror}). What was saved is safe: see to the disk, "
        "and give the same command again."
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics; none when there is no file.

    Args:
        path: ``metrics.jsonl`` of a run. A kill may have cut its last line short, which is then
            left out.

    Raises:
        OSError: if any other line is damaged; says which.
    """
    lines: list[dict[str, Any]] = []
    *whole, rest = path.read_bytes().split(b"\n") if path.exists() else (b"",)
    for number, text in enumerate(whole, 1):
        try:
            lines.append(parsed(text))
        except ValueError:
            raise OSError(
                f"line {number} of {path} is damaged. Nothing else is: mend the line, or delete it "
                "and give its numbers up, and give the same command again."
            ) from None
    with suppress(ValueError):
        lines.append(parsed(rest))
    return lines


def parsed(text: bytes) -> dict[str, Any]:
    """One line; ValueError if it is not one that a journal writes."""
    line = json.loads(text)
    if not isinstance(line, dict) or not isinstance(line.get("step"), int) or "kind" not in line:
        raise ValueError("no line of metrics")
    return line
