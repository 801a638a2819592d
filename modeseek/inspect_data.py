"""``modeseek inspect-data``: what a model would be trained on, token by token."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm.data.examples import DataSettings, Group, PackingSettings

if TYPE_CHECKING:
    from llm.data.contract import Finding
    from llm.data.plan import Plan

BINS = 10
BAR = 40
SHOWN = 10
AROUND = 30
"""Tokens shown at either end of a long prompt or response."""

PROMPT, RESPONSE, ENDING = "dim", "green", "bold yellow"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """Show data as a model would be trained on them: layout, lengths, padding, every token."""

    source: Annotated[str, tyro.conf.Positional]
    """A Hub name (org/name or org/name:config), a folder, or a JSONL, JSON or parquet file."""
    tokenizer: str
    """Folder or Hub name of the model whose tokenizer to use."""
    rows: int = 3
    """Examples to print token by token."""
    batch: int = 32
    """Prompts in one optimizer step, for the share of padding."""
    pairs: bool = False
    """Hold the data to what recipes that compare responses need."""
    reading: DataSettings = dataclasses.field(default_factory=DataSettings)
    """How rows become tokens, as in `modeseek train`."""
    packing: PackingSettings = dataclasses.field(default_factory=PackingSettings)
    """How groups become rows of a batch, as in `modeseek train`."""


def main(arguments: list[str]) -> None:
    """Parse the line and show the data."""
    look = tyro.cli(Look, args=arguments, prog="modeseek inspect-data")
    for field, least in (("rows", 0), ("batch", 1)):
        value = getattr(look, field)
        if value < least:
            raise ValueError(f"--{field} is {value}; it must be at least {least}.")
    inspect(look, Console())


def inspect(look: Look, console: Console) -> None:
    """Read, judge, plan and print; rows that break the contract are listed, not refused."""
    from llm.data.contract import summarise
    from llm.data.order import Order
    from llm.data.plan import make_plan
    from llm.data.rendering import judge
    from llm.data.sources import read_examples

    reading = look.reading
    examples = read_examples(
        look.source,
        split=reading.split,
        limit=reading.limit,
        schema=reading.schema,
        bad_rows=reading.bad_rows,
        say=lambda sentence: console.print(sentence, highlight=False),
    )
    tokenizer, limits = load(look.tokenizer)
    groups, findings = judge(examples, tokenizer, reading, **limits, pairs=look.pairs)
    every = [finding for found in findings for finding in found]
    good = [group for group, found in zip(groups, findings, strict=True) if not found]
    if good:
        for sentence in summarise(good).sentences():
            console.print(sentence, highlight=False)
        order = Order(len(good), min(look.batch, len(good)), 0)
        console.print(histogram([group.length for group in good]))
        plan = make_plan(good, order, look.packing, steps=order.steps(1))
        console.print(packed(plan), highlight=False)
    console.print(verdict(every, len(groups) - len(good), len(groups)))
    for group in groups[: look.rows]:
        console.print()
        console.print(example(group, tokenizer))


def load(name: str) -> tuple[Any, dict[str, Any]]:
    """A tokenizer, and what its model asks of data where the model's config is beside it.

    Raises:
        ValueError: if there is no tokenizer of that name.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--tokenizer {name} cannot be loaded: {reason}") from None
    if not (Path(name) / "config.json").is_file():
        return tokenizer, {}
    from llm.checkpoints import read_architecture

    architecture = read_architecture(Path(name))
    limits = {"context": architecture.max_positions, "vocab_size": architecture.vocab_size}
    return tokenizer, limits


def histogram(lengths: Sequence[int]) -> Table:
    """How long groups are: tokens of a prompt with all its responses."""
    longest = max(lengths)
    width = -(-longest // BINS)
    counts = [0] * BINS
    for length in lengths:
        counts[(length - 1) // width if length else 0] += 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("tokens", justify="right")
    table.add_column("prompts", justify="right")
    table.add_column("")
    for number, count in enumerate(counts):
        bar = "█" * round(BAR * count / max(counts)) or ("▏" if count else "")
        first = number * width + 1
        if first <= longest:
            table.add_row(f"{first}-{(number + 1) * width}", f"{count:,}", bar)
    return table


def packed(plan: "Plan") -> str:
    """The shapes of the batches and how full they are."""
    shapes = ", ".join(f"{shape.rows} x {shape.length}" for shape in plan.shapes)
    return (
        f"steps of {plan.order.batch_size} prompts: batches of {shapes} positions, "
        f"{plan.micro_batches_per_step:.1f} of them in a step, {plan.padding:.1%} padding"
    )


def verdict(findings: Sequence["Finding"], bad: int, rows: int) -> Table | Text:
    """What breaks the contract: how often, where first, and what to do."""
    from llm.data.contract import REMEDIES

    if not findings:
        return Text(f"all {rows:,} rows keep the data contract", style="green")
    table = Table(box=SIMPLE_HEAD, title=f"{bad:,} of {rows:,} rows break the data contract")
    table.add_column("rows", justify="right")
    table.add_column("what", style="bold")
    table.add_column("where", overflow="fold")
    table.add_column("what to do")
    for kind, remedy in REMEDIES.items():
        places = list(dict.fromkeys(f.where for f in findings if f.kind == kind))
        if places:
            more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
            table.add_row(f"{len(places):,}", kind, ", ".join(places[:SHOWN]) + more, remedy)
    return table


def example(group: Group, tokenizer: Any) -> Text:
    """One group, token by token: scored tokens stand in brackets, the others between bars."""
    shown = Text()
    shown.append(f"{group.where}\n", style="bold")
    lost = f", {group.lost_prompt:,} older ones lost" if group.lost_prompt else ""
    shown.append(f"prompt, {len(group.prompt):,} tokens{lost}: not scored\n")
    write(shown, group.prompt.tolist(), tokenizer, scored=False)
    for number, (ids, reward) in enumerate(
        zip(group.responses, group.rewards.tolist(), strict=True), start=1
    ):
        ended = "" if ids[-1:].tolist() == [tokenizer.eos_token_id] else ", cut before its end"
        shown.append(f"response {number}, reward {reward:g}, {len(ids):,} tokens{ended}: scored\n")
        write(shown, ids.tolist(), tokenizer, scored=True)
    return shown


def write(shown: Text, ids: list[int], tokenizer: Any, *, scored: bool) -> None:
    """Add tokens, the middle of a long run left out."""
    left_out = max(len(ids) - 2 * AROUND, 0)
    first = tokenizer("a", add_special_tokens=False)["input_ids"]  # keeps a token's space in front
    alone = tokenizer.decode(first)
    head, tail = (ids[:AROUND], ids[-AROUND:]) if left_out else (ids, [])
    for number, part in enumerate((head, tail)):
        if number and left_out:
            shown.append(f" ... {left_out:,} tokens ... ", style="italic")
        for token in part:
            whole = tokenizer.decode([*first, token], clean_up_tokenization_spaces=False)
            said = whole.removeprefix(alone).replace("\n", "⏎")
            ending = scored and token == tokenizer.eos_token_id
            style = ENDING if ending else RESPONSE if scored else PROMPT
            shown.append(f"[{said}]" if scored else f"{said}|", style=style)
    shown.append("\n")
