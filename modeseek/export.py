"""``modeseek export``: any checkpoint of a run as a model folder that others load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from modeseek.train import quiet


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a checkpoint of a run, finished or not, as a Hugging Face model folder.

    Adapters are merged into the weights; a reward model becomes a classifier with one label.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    step: int | Literal["latest"] = "latest"
    """After which step."""
    out: Path | None = None
    """Folder to make; model-STEP in the run's when not given."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights; as in the model that the run began from when not given."""
    adapter_only: bool = False
    """Write the adapters alone, in PEFT's format."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    options = tyro.cli(Export, args=arguments, prog="modeseek export")
    from llm.export import export_checkpoint
    from llm.runs import open_run

    export_checkpoint(
        open_run(options.run),
        Console(highlight=False).print,
        step=None if options.step == "latest" else options.step,
        out=options.out,
        dtype=options.dtype,
        adapter_only=options.adapter_only,
    )
