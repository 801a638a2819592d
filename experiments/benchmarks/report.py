"""A table for people, as Markdown, and for programs, as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.results import atomically


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a benchmark found.

    Attributes:
        title: what the rows are about, and in which unit.
        headings: of the columns.
        rows: text, cell by cell.
        record: the same as plain JSON, with every number it was made of.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        """For people, on a page or in a terminal."""
        rule = ["---:" if number else "---" for number in range(len(self.headings))]
        lines = "".join(f"| {' | '.join(line)} |\n" for line in (self.headings, rule, *self.rows))
        return f"{self.title}\n\n{lines}"


def save(path: Path, about: dict[str, Any], reports: dict[str, Report]) -> None:
    """Write reports down, as JSON and beside it as Markdown.

    Args:
        path: of the JSON file.
        about: the machine, and whatever else holds for all.
        reports: by name.
    """
    record = about | {name: report.record for name, report in reports.items()}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    page = "\n".join(report.markdown for report in reports.values())
    atomically(path.with_suffix(".md"), lambda file: file.write_text(page, encoding="utf-8"))
