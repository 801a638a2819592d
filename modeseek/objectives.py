"""``modeseek objectives``: the taxonomy of the paper, read off the classes."""

import inspect
import os
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Objectives:
    """List every objective: what it does to probability mass, and which recipes use it."""

    markdown: bool = False
    """Print the table of the README, each name linked to its equation."""


def readme_table() -> str:
    """The taxonomy in Markdown, with a link from each name to its class."""
    import objectives
    from objectives.taxonomy import taxonomy_markdown

    root = Path(objectives.__file__).parent.parent
    lines = taxonomy_markdown().splitlines()
    for index, (name, cls) in enumerate(objectives.OBJECTIVES.items(), start=2):
        file = Path(inspect.getfile(cls)).relative_to(root)
        line = inspect.getsourcelines(cls)[1]
        lines[index] = lines[index].replace(f"| {name} |", f"| [{name}]({file}#L{line}) |", 1)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    options = tyro.cli(Objectives, args=arguments, prog="modeseek objectives")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.markdown:
        print(readme_table(), end="")
        return
    from objectives.taxonomy import HEADINGS, cells, taxonomy_rows

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    name, _, *facts, recipes, source = HEADINGS
    for heading in (name, *facts, f"{recipes}, [dim]{source}[/]"):
        table.add_column(heading, overflow="fold")
    family = ""
    for row in taxonomy_rows():
        if row.family != family:
            table.add_section()
            family = row.family
        name, _, *facts, recipes, source = cells(row)
        table.add_row(f"[bold]{name}[/]", *facts, f"{recipes}\n[dim]{source}[/]")
    Console().print(table)
