"""How much faster is a seed of the didactic study here than in the authors' code, torch and NumPy?

Command: ``python -m experiments.benchmarks.bandit_speed [--authors CHECKOUT] [--rounds N]``. Every
contestant runs the same settings (``settings.py``) in a process of its own, pinned to one thread,
in turn within each round, so that a machine that slows down slows everyone. Medians over rounds,
and the ratio is taken round by round. ``--authors`` is the path of a checkout of the authors'
public code; without it their column stays empty. Ours includes fitting the policy to the reference
and excludes compilation, which is paid once per sweep and shown beside it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.settings import SETTINGS
from experiments.results import atomically

ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
} | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


@dataclass(frozen=True)
class Options:
    """Time the didactic study against other implementations, paired."""

    authors: Path | None = None
    """Checkout of the authors' public repository."""
    rounds: int = 3
    """Times that everyone runs everything."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Settings whose name contains one of these; all when empty."""
    out: Path = Path("reproduced/benchmarks/bandit_speed.json")
    """Where the figures go."""


def run_one(who: str, setting: str, *rest: str) -> dict[str, Any]:
    """One contestant, one setting, one process on one core."""
    line = [sys.executable, "-m", "experiments.benchmarks.contestants", who, setting, *rest]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        raise OSError(f"{who} on {setting!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Time, print, save."""
    options = tyro.cli(Options)
    names = [n for n in SETTINGS if not options.only or any(part in n for part in options.only)]
    rest = {"authors": (str(options.authors.resolve()),)} if options.authors else {}
    contestants = ["modeseek", "torch", "numpy", *rest]
    console = Console()
    table = Table(title="seconds per seed, one core (median); in brackets: times modeseek's")
    table.add_column("setting")
    for heading in ("modeseek", "to compile", "torch", "numpy", "authors", "peak GiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    record: dict[str, Any] = {}
    for name in names:
        rounds = []
        for count in range(options.rounds):
            with console.status(f"{name}, round {count + 1} of {options.rounds}"):
                rounds.append({who: run_one(who, name, *rest.get(who, ())) for who in contestants})
        record[name] = rounds
        text = json.dumps(record, indent=1) + "\n"
        atomically(options.out, lambda path, text=text: path.write_text(text, encoding="utf-8"))
        seconds = {
            who: [r[who]["seconds"] for r in rounds if "seconds" in r[who]] for who in contestants
        }
        ours = [r["modeseek"] for r in rounds]

        def against(who: str, seconds: dict[str, list[float]] = seconds) -> str:
            if not seconds.get(who):
                return ""
            pairs = zip(seconds[who], seconds["modeseek"], strict=True)
            ratio = median(theirs / mine for theirs, mine in pairs)
            return f"{median(seconds[who]):.3g} (×{ratio:.0f})"

        table.add_row(
            name,
            f"{median(seconds['modeseek']):.3g}",
            f"{median(r['compile'] for r in ours):.1f}",
            *(against(who) for who in ("torch", "numpy", "authors")),
            f"{max(r['peak_gib'] for r in ours):.2f}",
        )
    console.print(table)
    console.print(f"every round: {options.out}")


if __name__ == "__main__":
    main()
