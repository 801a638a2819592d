"""``modeseek bandit``: one recipe on one problem, as a table and a picture."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.catalogue import check_known
from experiments.intervals import half_width

COLUMNS = (
    ("reward", "reward"),
    ("reverse_kl", "KL(pi, ref)"),
    ("entropy", "entropy"),
    ("chosen_log_ratio", "log-ratio\nof winners"),
    ("rejected_log_ratio", "log-ratio\nof losers"),
)
ROWS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How to run a recipe on a bandit, whatever the recipe is."""

    problem: str = "R1"
    """R1 (peak where the reference is thin), R2 (where it is thick), and their variants."""
    policy: Literal["table", "network", "tokens"] = "table"
    """One logit per bin, the paper's contextual network, or its 10-token transformer."""
    steps: int = 200
    """Gradient steps."""
    learning_rate: float = 0.01
    """Adam's."""
    seeds: int = 10
    """Repetitions; the table and the bands are over these."""
    seed: int = 0
    """Root of all randomness."""
    beta_star: float = 0.1
    """Which optimum pi* to compare with, reward per nat."""
    out: Path = Path("reproduced")
    """Folder of the picture."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from objectives import RECIPES

    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"name a recipe: {', '.join(RECIPES)}.")
    if name is not None:
        check_known("recipe", name, RECIPES)
    run, recipe = parse(name or "ipo", arguments[1:] if name else arguments)
    simulate_and_show(name or "ipo", run, recipe)


def parse(name: str, arguments: list[str]) -> tuple[Run, Any]:
    """Read flags for the run and for every field of the recipe.

    Raises:
        ValueError: for a number the recipe refuses, or a problem that does not exist.
    """
    from bandit import PROBLEMS
    from modeseek.options import mirror, unmirror
    from objectives import RECIPES

    plain = mirror(RECIPES[name])
    fields = [
        (field.name, field.type, field)
        for owner in (plain, Run())
        for field in dataclasses.fields(owner)
    ]
    made = dataclasses.make_dataclass("Bandit", fields, frozen=True, kw_only=True)
    made.__doc__ = (
        "Train a bandit policy with a recipe and show how its probability mass moved.\n\n"
        f"RECIPE is the first word of the line: {', '.join(RECIPES)}. Flags are shown for {name}."
    )
    options = tyro.cli(made, args=arguments, prog=f"modeseek bandit {name}")
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Run)}
    recipe = unmirror(
        dataclasses.replace(
            plain, **{f.name: getattr(options, f.name) for f in dataclasses.fields(plain)}
        )
    )
    run = Run(**chosen)
    check_known("problem", run.problem, PROBLEMS)
    if (PROBLEMS[run.problem].tokens > 1) != (run.policy == "tokens"):
        raise ValueError(
            f"--problem {run.problem} and --policy {run.policy} do not fit: the -tokens problems "
            "need --policy tokens, and only they do."
        )
    if run.steps < 1:
        raise ValueError(f"--steps is {run.steps}; it must be at least 1.")
    if run.seeds < 2:
        raise ValueError(f"--seeds is {run.seeds}; an interval needs at least 2.")
    return run, recipe


def simulate_and_show(name: str, run: Run, recipe: Any) -> None:
    """Run the sweep over seeds, print the table, draw the picture."""
    from bandit import PROBLEMS, ContextualMLP, Setting, Tabular, TokenTransformer, sweep
    from modeseek.reproduce import check_writable

    check_writable(run.out)
    policies = {"table": Tabular(), "network": ContextualMLP(), "tokens": TokenTransformer()}
    problem = PROBLEMS[run.problem]
    every = next(e for e in range(max(1, run.steps // 50), run.steps + 1) if run.steps % e == 0)
    console = Console()
    began = time.perf_counter()
    with console.status(f"compiling, then {run.seeds} runs of {run.steps} steps"):
        traces = sweep(
            [Setting(recipe, problem, run.learning_rate)],
            policies[run.policy],
            run.seeds,
            run.steps,
            record_every=every,
            beta_star=run.beta_star,
            keep=("step", "samples", "probability", *(field for field, _ in COLUMNS)),
            root=run.seed,
        )
    trace = {field: values[0] for field, values in traces.items()}
    console.print(summary(f"{name} on {run.problem}", trace))
    from figures import bandit_run, style

    optimum = np.exp(np.asarray(problem.optimum(run.beta_star)))
    figure = bandit_run.draw(
        f"{name} on {run.problem}",
        type(recipe.objective).__name__,
        trace,
        np.exp(np.asarray(problem.ref_logp)),
        np.asarray(problem.reward),
        (optimum, run.beta_star) if problem.tokens == 1 else None,
    )
    paths = style.write(figure, run.out / "figures", f"bandit_{name}_{run.problem}")
    console.print(f"{time.perf_counter() - began:.1f} s. Picture: {', '.join(map(str, paths))}")


def summary(title: str, trace: dict[str, np.ndarray]) -> Table:
    """A few rows of the trace: means over seeds with 95% half-widths."""
    seeds = len(trace["step"])
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_style="bold")
    table.caption = f"means over {seeds} seeds ± half a 95% interval; divergences in nats"
    for heading in ("step", "labels", *(heading for _, heading in COLUMNS)):
        table.add_column(heading, justify="right", no_wrap=True)
    records = trace["step"].shape[1]
    for row in np.unique(np.linspace(0, records - 1, ROWS).round().astype(int)):
        cells = [
            f"{trace[field][:, row].mean():.2f} ± {half_width(trace[field][:, row]):.2f}"
            for field, _ in COLUMNS
        ]
        table.add_row(str(trace["step"][0, row]), str(trace["samples"][0, row]), *cells)
    return table
