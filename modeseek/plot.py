"""``modeseek plot``: the story of a run, or of several on top of each other, as one picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

if TYPE_CHECKING:
    from figures.training_run import Curves

ROUNDING = 1e-5
"""Margins, and nats, below this are differences of equal numbers."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw what training runs wrote down, finished or not."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    out: Path | None = None
    """File of the picture; `training` in the first run's folder when not given."""
    format: Literal["png", "svg", "pdf"] | None = None
    """Of the picture; by the ending of --out, or png, when not given."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    options = tyro.cli(Plot, args=arguments, prog="modeseek plot")
    if not options.runs:
        raise ValueError("name the folder of a run, or of several.")
    path = target(options)
    named = zip(options.runs, names(options.runs), strict=True)
    runs = [curves(folder, name) for folder, name in named]
    from figures import style, training_run

    figure = training_run.draw(runs)
    (written,) = style.write(figure, path.parent, path.stem, (path.suffix[1:],))
    Console(highlight=False).print(f"picture: {written}")


def target(options: Plot) -> Path:
    """The file to write.

    Raises:
        ValueError: if its ending is not one of a picture, or not that of --format.
    """
    path = options.out or options.runs[0] / "training"
    if path.suffix not in (".png", ".svg", ".pdf"):
        if options.out is not None and path.suffix:
            raise ValueError(f"--out is {path}; its ending must be .png, .svg or .pdf.")
        return path.with_name(f"{path.name}.{options.format or 'png'}")
    if options.format is not None and path.suffix[1:] != options.format:
        raise ValueError(f"--out is {path} and --format {options.format}: leave one of them out.")
    return path


def names(folders: tuple[Path, ...]) -> list[str]:
    """What to call runs: their folders' names, with as much before as it takes to differ."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def curves(folder: Path, name: str) -> "Curves":
    """Read a run.

    Raises:
        ValueError: if the folder is not that of a run, or of one that has not taken a step.
    """
    from figures.training_run import Curves
    from llm.journal import METRICS, read_lines
    from llm.runs import open_run

    run = open_run(folder)
    lines = [decided(line) for line in read_lines(folder / METRICS)]
    train, fresh, held_out = (columns(lines, kind) for kind in ("train", "rollout", "eval"))
    if not train:
        raise ValueError(f"{folder} has taken no step yet: there is nothing to draw.")
    objective = run.record["objective"][""] if run.name != "reward_model" else run.name
    stale = train.get("off_policy_per_token")
    if stale is not None and stale[1].max() < ROUNDING:
        del train["off_policy_per_token"]  # every step saw samples of the policy it moved
    # Rounds of a campaign are few, and what they are about is measured on held-out prompts.
    rounds = {"surprise": columns(lines, "round").get("surprise")}
    rounds["win_rate"] = held_out.get("win_rate")
    known = {metric: values for metric, values in rounds.items() if values is not None}
    return Curves(name, objective, train | fresh | known, held_out)


def decided(line: dict[str, Any]) -> dict[str, Any]:
    """A line without the accuracy of margins that are rounding errors, before anything is learned.

    Their signs say nothing.
    """
    undecided = abs(line.get("margin", 1.0)) < ROUNDING
    return {
        metric: value for metric, value in line.items() if not (undecided and metric == "accuracy")
    }


def columns(lines: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    """Steps and values of every metric of one kind of lines."""
    these = [line for line in lines if line["kind"] == kind]
    metrics = {metric for line in these for metric in line} - {"step", "kind", "clock"}
    return {
        metric: np.array([(x["step"], x[metric]) for x in these if metric in x], float).T
        for metric in sorted(metrics)
    }
