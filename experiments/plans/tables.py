"""The tables of plans as Markdown: one for each model and method, and how cost grows with chips."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.plans.rows import BATCH, LOAD, RECIPES, SLICES, Row
from llm.plan.public import PUBLIC
from llm.plan.topology import GENERATIONS, GIB
from llm.settings import TRAIN_RECIPES

KINDS = {name: one for name, one in GENERATIONS.items() if one.device.kind == "tpu"}
"""Chips of the tables, in the order of ``SLICES``."""

HEAD = """# What a run takes on slices nobody here owns

Made by `python -m experiments.plans`, which compiles the programs of a training step for each slice
with libtpu, on a machine without a TPU; every row is a compilation that succeeded, or the
compiler's own refusal of the smallest layout that was tried. Nothing here has run.

The work is the same in every row: steps of {batch} prompts of {prompt} tokens, responses of
{response}; DPO on pairs, GRPO with {grpo} fresh responses to each prompt, PPO with one and a
critic.
Full fine-tuning, float32 master weights and AdamW moments, bfloat16 arithmetic. The micro-batch is
rows of a shard x positions, and how many of them a step is.

- **memory** is that of a chip when it holds most: arguments, outputs and temporaries by the
  compiler's account, and what is resident beside them.
- **step**, **tokens/s**, **MFU** and **$/M** are bounds: no step is faster than the slowest of its
  arithmetic, its memory traffic and its messages at the makers' figures; real steps are slower.
  Positions trained on count as tokens, prompts once.
- The programs were compiled with little effort (`--quick`): memory is within a tenth of what a run
  would take, messages are the same, and memory traffic is counted from below (arguments and
  results once, temporaries twice).
- Prices per chip and hour, on demand, are as we remember the public ones, and were not looked up:
  {prices}. Check them before you quote a cost.
"""


def markdown(rows: Mapping[str, dict[str, Any]], wanted: Sequence[Row]) -> str:
    """All tables.

    Args:
        rows: those that are known, by key.
        wanted: all there are to be.
    """
    prices = ", ".join(f"{name} ${one.price:.2f}" for name, one in KINDS.items())
    parts = [
        HEAD.format(
            batch=BATCH,
            prompt=round(LOAD.prompt_tokens),
            response=round(LOAD.response_tokens),
            grpo=TRAIN_RECIPES["grpo"].collection.responses,
            prices=prices,
        )
    ]
    missing = [row for row in wanted if row.key not in rows]
    if missing:
        parts.append(
            f"{len(wanted) - len(missing)} of {len(wanted)} rows are there; the command goes on "
            f"with the others: {listed(missing)}.\n"
        )
    parts.append(growth(rows))
    for model in PUBLIC:
        for recipe in RECIPES:
            found = [
                rows[key]
                for chips in sorted(SLICES)
                for topology in SLICES[chips]
                if (key := Row(model, recipe, topology).key) in rows
            ]
            if found:
                parts.append(f"## {model}, {recipe}\n\n" + table(found))
    return "\n".join(parts)


def listed(rows: Sequence[Row]) -> str:
    """Rows in few words: each model and method once."""
    slices: dict[str, list[str]] = {}
    for row in rows:
        slices.setdefault(f"{row.model} {row.recipe}", []).append(row.topology)
    return "; ".join(f"{run} on {', '.join(names)}" for run, names in slices.items())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each slice."""
    columns = (
        "slice",
        "chips",
        "data x fsdp x tensor",
        "remat",
        "micro-batch",
        "memory",
        "fits",
        "step",
        "bound by",
        "tokens/s",
        "MFU",
        "$/M",
    )
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [
            row["topology"],
            str(row["chips"]),
            " x ".join(str(row["mesh"][axis]) for axis in ("data", "fsdp", "tensor")),
            row["remat"],
            f"{row['rows']} x {row['length']}, {row['micro_batches']}",
            memory_of(row),
            "yes" if row["fits"] else "**no**",
        ]
        if row["fits"]:
            cells += [
                f"{row['step_seconds']:.3g} s",
                limit(row),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['mfu']:.0%}",
                f"{row['dollars_per_million_tokens']:.3f}",
            ]
        else:
            cells += [""] * 5
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def memory_of(row: dict[str, Any]) -> str:
    """What a chip holds, and what it may."""
    return f"{row['peak'] / GIB:.1f} of {row['usable'] / GIB:.1f} GiB"


def limit(row: dict[str, Any]) -> str:
    """What takes most of a step: a program, and which of its three bounds."""
    bounds = ("arithmetic", "memory", "messages")
    slowest = max(row["parts"], key=lambda part: max(part["bound"][name] for name in bounds))
    return f"{slowest['name']}: {max(bounds, key=lambda name: slowest['bound'][name])}"


def growth(rows: Mapping[str, dict[str, Any]]) -> str:
    """How the price of a million tokens grows with the chips of a slice."""
    lines = [
        "## How cost grows with chips\n",
        "Dollars per million positions trained on, at least, and in brackets what of the chips'",
        "peak is useful arithmetic, at most. A dash does not fit; a blank has not been compiled.\n",
        "| model | method | chip | "
        + " | ".join(f"{chips} chips" for chips in sorted(SLICES))
        + " |",
        "| --- | --- | --- |" + " --- |" * len(SLICES),
    ]
    for model in PUBLIC:
        for recipe in RECIPES:
            for place, kind in enumerate(KINDS):
                cells = [
                    price_of(rows.get(Row(model, recipe, SLICES[chips][place]).key))
                    for chips in sorted(SLICES)
                ]
                if any(cells):
                    lines.append(f"| {model} | {recipe} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def price_of(row: dict[str, Any] | None) -> str:
    """A cell of the table above."""
    if row is None:
        return ""
    if not row["fits"]:
        return "-"
    return f"{row['dollars_per_million_tokens']:.3f} ({row['mfu']:.0%})"
