"""Find the command, hand it the rest of the line, and turn bad input into a plain sentence.

``modeseek --help`` answers at once: nothing heavy is imported before a command runs.
"""

import importlib
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COMMANDS = {
    "reproduce": "run the experiments, draw the figures, end with a table of claims and verdicts",
    "bandit": "one recipe on one problem: a table and a picture in seconds",
    "lecture": "a page that moves: two objectives side by side, in one file for a lecture",
    "objectives": "every objective with its place in the paper's taxonomy",
    "train": "fine-tune a language model, on data that exist or on what it writes itself",
    "plan": "compile a run for TPUs or GPUs nobody here owns: memory, time, cost; does it fit",
    "launch": "the same training command on every host: a TPU slice, Slurm, GKE, or here",
    "active": "choose which pairs to have labelled, learn from the labels, choose again",
    "label": "answer by hand what `active` asks: two responses, one key",
    "inspect-data": "what a model would be trained on: rows token by token, with masks",
    "evaluate": "held-out loss, preference accuracy with intervals, exact KLs",
    "plot": "the curves of one or more training runs",
    "rollouts": "what an online run's policy wrote: rewards, prompts, token by token",
    "sample": "responses to prompts: JSONL in, JSONL out, rated if asked",
    "classifier": "a linear classifier of labelled texts, to reward responses by",
    "export": "a Hugging Face folder from any checkpoint of a run",
    "chat": "talk to a model by hand",
}

EXAMPLES = (
    ("modeseek reproduce", "the whole didactic study, three to five minutes"),
    ("modeseek reproduce negative_gradient --seeds 30", "one experiment, more seeds"),
    ("modeseek bandit ipo --problem R1", "how offline IPO moves mass when the peak is far away"),
    ("modeseek bandit online_dpo --objective.beta 0.3", "any number of a recipe is a flag"),
    ("modeseek lecture --serve", "drag the reward, watch where the probability goes"),
    ("modeseek reproduce relocation --format slides", "slides and a film of one figure"),
    ("modeseek objectives", "which objectives push down, seek modes, need fresh samples"),
    ("modeseek train dpo", "the embedded model and language: no network, about three minutes"),
    ("modeseek train ipo --model DIR --data FILE", "your model, your preferences"),
    ("modeseek plan dpo --model llama-3-8b --topology v5e:8x8 --sweep", "before it is paid for"),
    ("modeseek train online_dpo --reward short", "learn from what it writes itself"),
    ("modeseek launch local --processes 2 -- train dpo", "as on two hosts, on this machine"),
    ("modeseek rollouts runs/online_dpo --iteration -1", "what the policy writes, best to worst"),
    ("modeseek active certainty", "ask for the labels that matter"),
    ("modeseek chat runs/dpo/model", "what came of it"),
)


def show_help(console: Console) -> None:
    """Print what there is, and lines worth copying."""
    console.print(
        "[bold]modeseek[/] shows how preference fine-tuning objectives move probability mass.\n"
    )
    for title, rows in (("Commands", COMMANDS.items()), ("Try", EXAMPLES)):
        table = Table(box=None, show_header=False, padding=(0, 3, 0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        for left, right in rows:
            table.add_row(f"[cyan]{left}[/]", right)
        console.print(f"[bold]{title}[/]")
        console.print(table)
        console.print()
    console.print("`modeseek COMMAND --help` lists a command's flags with their defaults.")


def main() -> None:
    """Run a command; exit with 2 for bad input, 130 when interrupted."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        show_help(Console())
        return
    complain = Console(stderr=True, soft_wrap=True, highlight=False)
    command, rest = arguments[0], arguments[1:]
    try:
        if command not in COMMANDS:
            from experiments.catalogue import check_known

            check_known("command", command, COMMANDS)
        importlib.import_module(f"modeseek.{command.replace('-', '_')}").main(rest)
    except (ValueError, OSError, FloatingPointError) as error:
        complain.print(f"[bold red]modeseek {escape(command)}:[/] {escape(str(error))}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        complain.print("interrupted.")
        raise SystemExit(130) from None
