"""``python -m experiments.plans``: compile the rows that are missing, then write the tables.

Needs the extra ``tpu-plan`` and no TPU. Each row is kept as soon as it is known, in ``rows.jsonl``
beside this file, so the command can be stopped at any time and goes on where it was. A row takes
one core from half a minute to three; all of them take one to two hours. ``--tables`` only writes
the tables of the rows that are there.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from llm.plan.compilers import check_compiler, prepare_environment

ROWS = Path(__file__).with_name("rows.jsonl")
TABLES = Path(__file__).with_name("README.md")


@dataclass(frozen=True, kw_only=True)
class Made:
    """Compile the rows that are missing, then write the tables."""

    tables: bool = False
    """Compile nothing."""
    only: str = ""
    """Compile only rows whose name contains this, such as llama-3-8b or v5e:16x16."""
    limit: int | None = None
    """Compile at most so many rows."""


def main() -> None:
    """Do it."""
    made = tyro.cli(Made)
    prepare_environment("v5e:2x4", os.environ)
    from experiments.plans.rows import compile_row, wanted
    from experiments.plans.tables import markdown
    from experiments.results import commit
    from llm.plan.apart import apart
    from llm.plan.tables import as_json

    there = read_rows(ROWS)
    missing = [row for row in wanted() if row.key not in there and made.only in row.key]
    if not made.tables and missing:
        check_compiler("v5e:2x4")
        made_by = commit()
        with apart() as plan:
            for number, row in enumerate(missing[: made.limit], 1):
                began = time.monotonic()
                found = compile_row(row, plan)
                line = {"key": row.key, "model": row.model, "commit": made_by, **as_json(found)}
                with ROWS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                said = f"{found.step_seconds:.3f} s a step" if found.fits else "does not fit"
                seconds = time.monotonic() - began
                print(f"{number}/{len(missing)} {row.key}: {said}, in {seconds:.0f} s", flush=True)
    TABLES.write_text(markdown(read_rows(ROWS), list(wanted())), encoding="utf-8")
    print(f"written: {TABLES}", file=sys.stderr)


def read_rows(file: Path) -> dict[str, dict]:
    """The rows that are known, by key; a later line counts."""
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {row["key"]: row for row in map(json.loads, lines)}


if __name__ == "__main__":
    main()
