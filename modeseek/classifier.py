"""``modeseek classifier``: a linear classifier of labelled texts, to reward responses by."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from llm.rewards.classifier import (
    ClassifierSettings,
    Labelled,
    read,
    read_labelled,
    train_classifier,
)
from modeseek.train import quiet
from objectives.hyperparameters import require

SHOWN = 8
"""Terms of each sign that are shown."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a linear classifier of texts, to reward responses by.

    With --reward classifier:FOLDER a reward is the log-odds of the positive class.
    """

    data: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Labelled texts: JSONL or parquet files, gzipped or not, folders, or names on the Hub."""
    out: Path = Path("classifier")
    """Folder to make; an earlier classifier in it is replaced."""
    held_out: tuple[str, ...] = ()
    """Other labelled texts, to measure the accuracy on; some of the first when not given."""
    share: float = 0.1
    """How many of the texts are kept for that then."""
    text: str = "text"
    """Column with the text."""
    label: str = "label"
    """Column with 1 or true for the positive class, 0 or false for the other."""
    seed: int = 0
    """Decides which texts are kept."""
    settings: ClassifierSettings = field(default_factory=ClassifierSettings)

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("name labelled texts: files, folders, or names on the Hub.")
        require(0 < self.share < 1, self, "share", "a share between 0 and 1")
        require(self.seed >= 0, self, "seed", "0 or more")


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    options = tyro.cli(Train, args=arguments, prog="modeseek classifier")
    console = Console(highlight=False)
    columns = {"text": options.text, "label": options.label}
    found = read_labelled(options.data, **columns)
    if options.held_out:
        training, others = found, read_labelled(options.held_out, **columns)
    else:
        training, others = parted(found, options.share, options.seed)
    with console.status(f"training on {len(training):,} texts"):
        made = train_classifier(training, others, options.out, options.settings)
    console.print(telling(made.folder))
    accuracy = made.accuracy
    between = "" if accuracy.low is None else f" ({accuracy.low:.4f} to {accuracy.high:.4f})"
    console.print(
        f"accuracy {accuracy.value:.4f}{between} on {accuracy.units:,} texts it was not trained "
        f"on; {made.terms:,} terms from {made.texts:,} texts\n"
        f"to reward by it: --reward classifier:{made.folder}",
        soft_wrap=True,
    )


def parted(found: list[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Texts to train on and texts to measure on.

    Raises:
        ValueError: if one of the two would be empty.
    """
    import numpy as np

    many = round(share * len(found))
    if not 0 < many < len(found):
        raise ValueError(
            f"--share {share} of {len(found)} texts keeps {many}: give more texts, another share, "
            "or others with --held-out."
        )
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order[many:]], [found[i] for i in order[:many]]


def telling(folder: Path) -> Table:
    """The terms that say most, for either class."""
    classifier = read(folder)
    order = classifier.weight.argsort()
    table = Table("positive", "", "negative", "", box=None, padding=(0, 2, 0, 0))
    for high, low in zip(order[::-1][:SHOWN], order[:SHOWN], strict=True):
        cells = [(classifier.terms[i], f"{classifier.weight[i]:+.1f}") for i in (high, low)]
        table.add_row(*cells[0], *cells[1])
    return table
