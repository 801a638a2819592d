"""The authors' data sets and how they write a conversation, turned into plain files.

Every stage reads JSON lines that the data stage wrote, so a study needs the Hub once, what it was
trained on can be read, and the numbers that the paper leaves open are measured on exactly these
rows. A prompt is ``<|prompter|>instruction, newline, input<|endoftext|><|assistant|>``. The
authors' own demonstrations have a space after ``<|prompter|>`` where there is an input, their
prompts to be answered have none; here none has, so that training and sampling agree.

Source: the authors' repository, Asap7772/understanding-rlhf, llm_experiment/trainers.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from experiments.llm.full_scale.stages import Facts, Place
from llm.data.examples import Example, Message
from llm.data.schemas import ANSWER, END, RowError, reader
from llm.data.sources import Row, read_rows
from llm.inputs import read_tokenizer

FARM = "tatsu-lab/alpaca_farm:alpaca_instructions"
LABELLED = "Asap7772/relabeled_alpacafarm_pythiasft_20K_preference_data"
PAIRS = {
    "alpaca": LABELLED,
    "min": f"{LABELLED}_minlength",
    "mode": f"{LABELLED}_modelength",
    "skew": "Asap7772/alpaca_skewexp_minlength_merged",
}
"""Preference data of each task: labels of a gold reward model, or of length alone."""

MEASURED = 2000
"""Rows from which lengths are measured."""


def asked(instruction: str, about: str) -> str:
    """A prompt as the authors write it."""
    said = f"{instruction}\n{about}" if about else instruction
    return f"<|prompter|>{said}{END}{ANSWER}"


def write_farm(place: Place, say: Callable[[str], None]) -> dict[str, int]:
    """Write AlpacaFarm's demonstrations, the prompts to be answered, and those to judge by.

    Returns:
        Rows of each file.
    """
    found = {}
    for split, name in (("sft", "sft"), ("unlabeled", "prompts"), ("val", "val")):
        rows = read_rows(place.source(FARM), split=split, limit=place.limit)
        found[name] = write(place.file(f"{name}.jsonl"), (farm_row(row) for row in rows))
        say(f"{place.file(name)}.jsonl: {found[name]:,} rows of {FARM}, split {split}")
    return found


def farm_row(row: Row) -> dict[str, str]:
    """A row with its prompt written out.

    Raises:
        ValueError: if it is no row of AlpacaFarm.
    """
    try:
        instruction, output = row.fields["instruction"], row.fields["output"]
    except KeyError as missing:
        raise ValueError(
            f"{row.where} has no column {missing}; a row of {FARM} has instruction, input and "
            "output."
        ) from None
    return {"prompt": asked(instruction, row.fields.get("input") or ""), "completion": output}


def write_pairs(
    place: Place, task: str, say: Callable[[str], None]
) -> tuple[list[Example], list[Example]]:
    """Write a task's preference data.

    Returns:
        What was written, to train on and to judge by; rows with a blank response are left out, as
        the authors do.
    """
    found = []
    for split in ("train", "test"):
        rows = read_rows(place.source(PAIRS[task]), split=split, limit=place.limit)
        examples = [example for row in rows if (example := pair(row)) is not None]
        path = place.file(f"{task}/{split}.jsonl")
        written = write(path, (as_row(example) for example in examples))
        left_out = len(rows) - written
        say(f"{path}: {written:,} rows of {PAIRS[task]}, {left_out:,} with a blank left out")
        found.append(examples)
    return found[0], found[1]


def pair(row: Row) -> Example | None:
    """Two responses of which the first is preferred; None if one is blank.

    Raises:
        ValueError: if it is no such row.
    """
    try:
        example = reader("relabeled_alpacafarm")(row.fields, row.where)
    except RowError as error:
        raise ValueError(f"{row.where}: {error}") from None
    return example if all(plain(said).strip() for said in example.responses) else None


def as_row(example: Example) -> dict[str, Any]:
    """An example in a layout everybody reads."""
    chosen, rejected = example.responses
    return {"prompt": example.prompt, "chosen": chosen, "rejected": rejected}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSON lines; says how many."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def measure(place: Place, facts: Facts, examples: Sequence[Example]) -> Facts:
    """Lengths in the tokens of the model, on the first rows.

    Args:
        place: of the study.
        facts: counts.
        examples: pairs, the first of which are tokenized.

    Raises:
        ValueError: if there are none.
    """
    if not examples:
        raise ValueError("no pair is left to measure and to train on: look at what was read.")
    tokenizer = read_tokenizer(Path(place.model))
    some = list(islice(examples, MEASURED))
    prompts = count(tokenizer, [plain(example.prompt) for example in some])
    flat = count(tokenizer, [plain(said) for example in some for said in example.responses]) + 1
    return dataclasses.replace(
        facts,
        measured=True,
        prompt_tokens=float(prompts.mean()),
        response_tokens=float(flat.mean()),
        longest=int((prompts + flat.reshape(-1, 2).sum(axis=1)).max()),
    )


def plain(said: str | list[Message]) -> str:
    """Text, or what messages say."""
    return said if isinstance(said, str) else "\n".join(turn["content"] for turn in said)


def count(tokenizer: Any, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
    """Tokens of each text."""
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return np.array([len(each) for each in ids], np.int64)


def preferred_length(place: Place, examples: Sequence[Example]) -> tuple[int, float]:
    """The length that labels prefer closeness to, read off the labels themselves.

    The paper calls it the average length of the preference data and does not state it. A pair whose
    preferred response is the shorter says that the length lies below the middle of the two; one
    whose preferred response is the longer, that it lies above. The length that most pairs agree
    with is the one.

    Returns:
        Tokens, the end not counted, and the share of pairs of different lengths that agree.

    Raises:
        ValueError: if no pair has two different lengths.
    """
    tokenizer = read_tokenizer(Path(place.model))
    flat = count(tokenizer, [plain(said) for example in examples for said in example.responses])
    chosen, rejected = flat.reshape(-1, 2).T
    differ = chosen != rejected
    if not differ.any():
        raise ValueError("all responses of a pair are equally long, so no length can be preferred.")
    chosen, rejected = chosen[differ], rejected[differ]
    candidates = np.arange(1, flat.max() + 2)
    nearer = abs(chosen[:, None] - candidates[None]) < abs(rejected[:, None] - candidates[None])
    agree = nearer.mean(axis=0)
    best = np.flatnonzero(agree == agree.max())
    return int(candidates[best[len(best) // 2]]), float(agree.max())
