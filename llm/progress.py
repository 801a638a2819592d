"""What a person watches while something long runs: what it is, how far, how fast, how long yet."""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

# What is shown beside the bar, in this order, where a step has it.
SHOWN = (
    ("reward", "reward {:.3g}"),
    ("loss", "loss {:.4f}"),
    ("accuracy", "accuracy {:.2f}"),
    ("margin", "margin {:+.3f}"),
    ("reverse_kl_per_token", "KL {:.4f}"),
)


class Bar:
    """Progress of something that counts, with numbers beside it.

    Args:
        console: where to draw.
        what: is going on.
        total: how many steps there are.
        done: how many were done before.
    """

    def __init__(self, console: Console, what: str, total: int, done: int = 0) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self.task = self.progress.add_task(what, total=total, completed=done, numbers="")
        self.lasting: dict[str, float] = {}

    def show(self, done: int, numbers: Mapping[str, float], tokens_per_second: float = 0.0) -> None:
        """Move on and show what the latest numbers are."""
        numbers = {**self.lasting, **numbers}
        parts = [form.format(numbers[name]) for name, form in SHOWN if name in numbers]
        if tokens_per_second:
            parts.append(f"{tokens_per_second:,.0f} tokens/s")
        self.progress.update(self.task, completed=done, numbers="  ".join(parts))

    def keep(self, **numbers: float) -> None:
        """Show numbers from here on, until there are others of these names."""
        self.lasting |= numbers

    def say(self, what: str) -> None:
        """Show something in the place of the numbers, while no step is taken."""
        self.progress.update(self.task, numbers=what)

    def print(self, line: str) -> None:
        """Say something above the bar."""
        self.progress.console.print(line)

    def __enter__(self) -> "Bar":
        """Begin to draw."""
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last line standing."""
        self.progress.stop()


def counted(console: Console, what: str, items: Iterable[T], total: int) -> Iterable[T]:
    """Go through items with a bar."""
    with Bar(console, what, total) as bar:
        for number, item in enumerate(items, 1):
            yield item
            bar.show(number, {})
