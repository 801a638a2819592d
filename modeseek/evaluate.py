"""``modeseek evaluate``: a model and data in; numbers with intervals out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.table import Table

from modeseek.train import quiet

if TYPE_CHECKING:
    from llm.evaluate import Report
    from llm.intervals import Estimate

HELP = """Measure a model on preference data or demonstrations it was not trained on.

MODEL is the first word of the line: a Hub name or folder of a model, or the folder of a run, which
is measured on the groups that it held out and compared with the model that it began from. A reward
model is measured by its scores."""

LANGUAGE_ROWS = {
    "loss_per_token": "loss, nats per token",
    "loss_per_token_preferred": "  of preferred responses",
    "loss_per_token_rejected": "  of rejected ones",
    "accuracy_by_sum": "preferred is likelier, by sum",
    "accuracy_by_mean": "  by mean per token",
    "accuracy_by_log_ratio": "  by log-ratio to the reference",
    "accuracy_of_longer": "  preferred is longer",
    "log_ratio": "log-ratio to the reference, nats",
    "log_ratio_preferred": "  of preferred responses",
    "log_ratio_rejected": "  of rejected ones",
    "margin": "  preferred minus rejected",
    "forward_kl_per_token": "KL(reference || model), nats per token",
    "reverse_kl_per_token": "KL(model || reference)",
    "entropy_per_token": "entropy of the model",
    "length": "length, tokens",
    "length_preferred": "  of preferred responses",
    "length_rejected": "  of rejected ones",
}
REWARD_ROWS = {
    "accuracy": "preferred has the higher reward",
    "accuracy_of_longer": "  is the longer one",
    "loss": "Bradley-Terry loss, nats",
    "margin": "preferred minus rejected reward",
    "reward_preferred": "reward of preferred responses",
    "reward_rejected": "  of rejected ones",
    "length_preferred": "length of preferred responses, tokens",
    "length_rejected": "  of rejected ones",
}


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise ValueError("name a model: a Hub name, its folder, or the folder of a run.")
    from llm.evaluate import Evaluation, evaluate
    from llm.hosts import is_first, joined

    settings = tyro.cli(
        Evaluation,
        args=arguments[1:] if name else arguments,
        prog="modeseek evaluate MODEL",
        description=HELP,
    )
    if settings.out is not None and not settings.out.resolve().parent.is_dir():
        raise ValueError(f"--out is {settings.out}, and there is no folder {settings.out.parent}.")
    console = Console(highlight=False)
    with joined(settings.hosts, console.print):
        report = evaluate(name or "", settings, console if is_first() else Console(quiet=True))
        if not is_first():
            return
    console.print(table(report))
    if settings.out is not None:
        write(report, settings.out)
        console.print(f"numbers: {settings.out}")


def table(report: "Report") -> Table:
    """The estimates, one in a row, with their intervals."""
    reward = report.kind == "reward model"
    counts = {estimate.prompts for estimate in report.numbers.values()}
    made = Table(
        report.kind,
        "",
        "95% interval",
        "over",
        box=None,
        padding=(0, 2, 0, 0),
        caption_justify="left",
    )
    for column in made.columns[1:]:
        column.justify = "right"
    for name, words in (REWARD_ROWS if reward else LANGUAGE_ROWS).items():
        if name in report.numbers:
            made.add_row(words, *cells(name, report.numbers[name]))
    against = f", against {report.reference}" if report.reference else ""
    made.title = f"{report.model}{against}"
    made.title_justify = "left"
    made.caption = (
        f"{report.groups:,} groups of {report.prompts:,} prompts: {report.data}. Intervals count "
        "prompts as draws"
        + ("." if min(counts) >= 5 else "; with fewer than 5 there is none.")
        + (
            " KL and entropy are exact sums over the vocabulary, at the data's prefixes."
            if "entropy_per_token" in report.numbers
            else ""
        )
    )
    return made


def cells(name: str, estimate: "Estimate") -> tuple[str, str, str]:
    """Value, interval and count as they are shown."""
    digits = 1 if name.startswith("length") else 3
    unit = (
        "token"
        if name.endswith("per_token") or name.startswith("loss_per_token")
        else ("pair" if name.startswith(("accuracy", "margin")) or name == "loss" else "response")
    )
    low, high = estimate.low, estimate.high
    span = "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
    return f"{estimate.value:.{digits}f}", span, f"{estimate.units:,} {unit}s"


def write(report: "Report", path: Path) -> None:
    """Write everything that was measured as JSON."""
    record = report._asdict() | {
        "numbers": {name: estimate._asdict() for name, estimate in report.numbers.items()}
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
