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
from pathlib import Path
from typing import Any, TextIO

from llm.settings import LogSettings

METRICS = "metrics.jsonl"


class Journal:
    """The lines of a run, on disk and wherever else they should go.

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
        self.tensorboard = self.wandb = None
        if settings.tensorboard:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

            self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        if settings.wandb is not None:
            import wandb  # pyright: ignore[reportMissingImports]

            self.wandb = wandb.init(
                project=settings.wandb, name=name, id=run_id(folder), resume="allow", config=record
            )
        self.file: TextIO = reopen(folder / METRICS, step)

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
        """
        line = {"step": step, "kind": kind, **numbers, "clock": dict(clock)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        named = {f"{kind}/{name}": value for name, value in {**numbers, **clock}.items()}
        if self.tensorboard is not None:
            for name, value in named.items():
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(named, step=step)

    def close(self) -> None:
        """Finish writing."""
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


def reopen(path: Path, step: int) -> TextIO:
    """Open the lines for appending, without those after a step and without a broken last one."""
    kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step]
    partial = path.with_name(f".{path.name}")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
    return path.open("a", encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a run's metrics; none when there is no file.

    Args:
        path: ``metrics.jsonl`` of a run.
    """
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
