"""``modeseek rollouts``: what a run's policy wrote while it learned, and what it was told of it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from modeseek.train import quiet

if TYPE_CHECKING:
    from llm.rollouts import Rollout, Rollouts

COLUMNS = (
    ("reward", "reward", "z.3f"),
    ("gold", "gold", "z.3f"),
    ("response_length", "tokens", ".1f"),
    ("finished", "finished", ".1%"),
    ("ties", "ties", ".1%"),
    ("reverse_kl", "reverse KL", "z.3f"),
    ("forward_kl", "forward KL", "z.3f"),
    ("sampler_gap", "sampler gap", ".1e"),
)
"""Numbers of a collection, what they are called, and how they are written."""

LISTED = 24
"""Collections listed at most, evenly spread over the run."""

STRONG = 1.0
"""Nats, or units of the advantage, from which a colour is full."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Read what the policy of an online run wrote: all collections in a table, or one of them."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    iteration: int | None = None
    """A collection to read, counted from 0; negative ones count from the last."""
    prompts: int = 3
    """Prompts to show of it, from the best mean reward to the worst, evenly spread."""
    tokens: bool = False
    """Show every token with what policy, reference, critic and advantage say of it."""
    out: Path | None = None
    """Write the collection (all of them without --iteration) as JSON lines, ready to train on."""


def main(arguments: list[str]) -> None:
    """Parse the line and show."""
    quiet()
    look = tyro.cli(Look, args=arguments, prog="modeseek rollouts")
    if look.prompts < 1:
        raise ValueError(f"--prompts is {look.prompts}; it must be at least 1.")
    if look.tokens and look.iteration is None:
        raise ValueError("--tokens shows one collection: name it with --iteration (-1, the last).")
    show(look, Console(highlight=False))


def show(look: Look, console: Console) -> None:
    """Read and print.

    Raises:
        ValueError: if there is no such collection; says which there are.
        OSError: if one cannot be read.
    """
    from llm.rollouts import read_rollouts

    files = collections(look.run)
    chosen = list(files) if look.iteration is None else [pick(files, look.iteration)]
    if look.out is not None:
        written = write_lines(look.out, (read_rollouts(files[number]) for number in chosen))
        console.print(f"{written:,} prompts with their responses: {escape(str(look.out))}")
    if look.iteration is None:
        console.print(overview(files))
        if len(files) > LISTED:
            console.print(f"{LISTED} of {len(files):,} collections, evenly spread.")
        return
    collected = read_rollouts(files[chosen[0]])
    tokenizer = tokenizer_of(look.run) if look.tokens else None
    console.print(line_of(chosen[0], collected.facts["numbers"]))
    for rollout in spread(collected.rollouts, look.prompts):
        console.print()
        console.print(answered(rollout))
        for table in token_tables(rollout, tokenizer) if look.tokens else ():
            console.print(table)


def collections(run: Path) -> dict[int, Path]:
    """A run's collections by their numbers.

    Raises:
        ValueError: if there are none.
    """
    from llm.rollouts import rollout_files

    if not run.is_dir():
        raise ValueError(f"there is no folder {run}: give the folder of a run, its --out.")
    files = {int(file.stem): file for file in rollout_files(run) if file.stem.isdigit()}
    if not files:
        raise ValueError(
            f"{run} holds no rollouts: only an online recipe writes some (modeseek train "
            "online_dpo, ppo, ...), the first as soon as its first collection is complete."
        )
    return files


def pick(files: dict[int, Path], number: int) -> int:
    """The number of a collection; a negative one counts from the last.

    Raises:
        ValueError: if there is no such collection.
    """
    there = sorted(files)
    if number < 0 and -number <= len(there):
        return there[number]
    if number not in files:
        raise ValueError(
            f"there is no collection {number}; there are {len(there)}, from {there[0]} to "
            f"{there[-1]}."
        )
    return number


def numbers_of(file: Path) -> dict[str, float]:
    """The numbers of a collection, without reading its responses.

    Raises:
        OSError: if the file is broken; names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llm.rollouts import METADATA

    try:
        return json.loads((pq.read_schema(file).metadata or {})[METADATA])["numbers"]
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise OSError(
            f"the rollouts {file} cannot be read ({type(error).__name__}): the file is damaged. "
            "Delete it; the run makes it again where it still needs it."
        ) from None


def overview(files: dict[int, Path]) -> Table:
    """A line for each collection, or for some, with the columns that any of them has."""
    there = sorted(files)
    if len(there) > LISTED:
        there = [there[i] for i in np.linspace(0, len(there) - 1, LISTED).round().astype(int)]
    found = {number: numbers_of(files[number]) for number in there}
    columns = [c for c in COLUMNS if any(c[0] in numbers for numbers in found.values())]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("collection", *(title for _, title, _ in columns)):
        table.add_column(name, justify="right")
    for number, numbers in found.items():
        said = (format(numbers[n], how) if n in numbers else "" for n, _, how in columns)
        table.add_row(str(number), *said)
    return table


def line_of(number: int, numbers: dict[str, float]) -> str:
    """One collection in a line."""
    said = [f"{title} {numbers[name]:{how}}" for name, title, how in COLUMNS if name in numbers]
    return f"[bold]collection {number}[/]: {', '.join(said)}"


def spread(rollouts: Sequence["Rollout"], many: int) -> list["Rollout"]:
    """Prompts from the best mean reward to the worst: a fair choice, the middle included."""
    ranked = sorted(rollouts, key=lambda rollout: -float(np.mean(rollout.reward)))
    places = np.linspace(0, len(ranked) - 1, min(many, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def answered(rollout: "Rollout") -> Text:
    """A prompt and its responses, the best first."""
    shown = Text()
    shown.append(f"{rollout.where}, written by the {rollout.source}\n", style="bold")
    shown.append(f"{rollout.responses[0].prompt}\n", style="dim")
    for n in ranked_responses(rollout):
        response = rollout.responses[n]
        gold = "" if rollout.gold is None else f", gold {rollout.gold[n]:z.3f}"
        cut = "" if response.finished else ", cut before its end"
        shown.append(
            f"reward {rollout.reward[n]:z.3f}{gold}, {len(response.tokens):,} tokens{cut}\n",
            style="cyan",
        )
        shown.append(f"{response.response}\n")
    return shown


def ranked_responses(rollout: "Rollout") -> list[int]:
    """Numbers of a prompt's responses, the best first."""
    return sorted(range(len(rollout.reward)), key=lambda n: -float(rollout.reward[n]))


def token_tables(rollout: "Rollout", tokenizer: Any) -> Iterable[Table]:
    """A table for each response: a line per token, differences coloured by their sign."""
    # A token's space in front is kept by reading it behind another one.
    first = tokenizer("a", add_special_tokens=False)["input_ids"]
    alone = tokenizer.decode(first)
    ends = np.cumsum(rollout.lengths)[:-1]
    known = {name: np.split(values, ends) for name, values in rollout.known.items()}
    for n in ranked_responses(rollout):
        table = Table(box=None, padding=(0, 2, 0, 0), title=f"reward {rollout.reward[n]:z.3f}")
        table.add_column("token")
        own = {name: values[n] for name, values in known.items()}
        if {"old_logp", "ref_logp"} <= own.keys():
            own["log-ratio"] = own["old_logp"] - own["ref_logp"]
        titles = {
            "old_logp": "logp",
            "ref_logp": "ref",
            "log-ratio": "logp - ref",
            "old_value": "value",
            "advantage": "advantage",
        }
        shown = [name for name in titles if name in own]
        for name in shown:
            table.add_column(titles[name], justify="right")
        for t, token in enumerate(rollout.responses[n].tokens.tolist()):
            said = tokenizer.decode([*first, token], clean_up_tokenization_spaces=False)
            written = Text(repr(said.removeprefix(alone))[1:-1])
            table.add_row(written, *(coloured(name, float(own[name][t])) for name in shown))
        yield table


def coloured(name: str, value: float) -> Text:
    """A number; what can point either way is green above 0 and red below, by its size."""
    if name not in ("log-ratio", "advantage"):
        return Text(f"{value:z.3f}")
    strength = round(255 * (1 - min(abs(value) / STRONG, 1) * 0.8))
    red, green = (strength, 255) if value > 0 else (255, strength)
    return Text(f"{value:+z.3f}", style=f"rgb({red},{green},{strength})")


def tokenizer_of(run: Path) -> Any:
    """The tokenizer of the model that a run trains."""
    from llm.inputs import read_tokenizer
    from llm.runs import open_run
    from llm.state import MODEL

    folder = run / MODEL
    return read_tokenizer(folder if folder.is_dir() else open_run(run).source(print))


def write_lines(path: Path, collected: Iterable["Rollouts"]) -> int:
    """Write collections as JSON lines in the layout of rated responses; says how many prompts."""
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for one in collected:
            for rollout in one.rollouts:
                line = {
                    "prompt": rollout.responses[0].prompt,
                    "responses": [response.response for response in rollout.responses],
                    "rewards": rollout.reward.tolist(),
                    "gold": None if rollout.gold is None else rollout.gold.tolist(),
                    "finished": [bool(response.finished) for response in rollout.responses],
                    "tokens": rollout.lengths,
                    "iteration": one.iteration,
                    "source": rollout.source,
                    "where": rollout.where,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                written += 1
    return written
