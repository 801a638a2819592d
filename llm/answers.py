"""The same questions before and after training: what a number like "accuracy 0.97" looks like.

Held-out prompts are answered by the model a run began from and by the one it ended with, with the
same random numbers, so that what differs is the training. For the built-in language everything can
be judged exactly: how well the preference is met, and how many answers are still grammatical.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm.data.examples import Group
from llm.embedded import language
from llm.model import Decoder
from llm.sampler import Sampling, sample

JUDGED = 128
"""Answers that an exact judgement of the built-in language rests on."""

TEMPERATURE = 0.7
"""Of the answers. At 1 a model of a million parameters now and then draws one improbable token."""


class Answered(NamedTuple):
    """A prompt and what a model wrote, as text."""

    prompt: str
    answer: str


def answer(
    decoder: Decoder,
    tokenizer: Any,
    groups: Sequence[Group],
    number: int,
    max_new_tokens: int = 128,
    seed: int = 0,
) -> list[Answered]:
    """Answer distinct prompts of a data set, one answer each.

    Args:
        decoder: the model.
        tokenizer: the model's.
        groups: where the prompts come from; the first distinct ones are taken.
        number: how many, at most.
        max_new_tokens: an answer is cut after so many.
        seed: of the answers.
    """
    room = decoder.architecture.max_positions - max_new_tokens
    prompts = {g.prompt.tobytes(): g.prompt for g in groups if 0 < len(g.prompt) <= room}
    chosen = list(prompts.values())[:number]
    if not chosen:
        return []
    settings = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=TEMPERATURE,
        seed=seed,
        stop=(int(tokenizer.eos_token_id),),
    )
    written = sample(decoder, chosen, settings)
    return [
        Answered(
            tokenizer.decode(prompt.tolist(), skip_special_tokens=True).strip(),
            tokenizer.decode(answers[0].tokens.tolist(), skip_special_tokens=True).strip(),
        )
        for prompt, answers in zip(chosen, written, strict=True)
    ]


def show_answers(
    console: Console, before: Sequence[Answered], after: Sequence[Answered], number: int
) -> None:
    """Print the first few prompts with both answers."""
    for old, new in list(zip(before, after, strict=True))[:number]:
        show_pair(console, old, new)


def show_pair(console: Console, old: Answered, new: Answered, remark: str = "") -> None:
    """Print one prompt with both answers."""
    console.print(f"\n[bold]{escape(old.prompt)}[/]  [dim]{remark}[/]")
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    table.add_row("[dim]before[/]", f"[dim]{escape(old.answer)}[/]")
    table.add_row("[green]after[/]", escape(new.answer))
    console.print(table)


def show_extremes(
    console: Console, before: Sequence[Answered], after: Sequence[Answered], preference: str
) -> None:
    """Print the answers whose score gained most, middling and least: no other choice is fair."""
    score = language.PREFERENCES[preference].score
    gains = [score(*new) - score(*old) for old, new in zip(before, after, strict=True)]
    ranked = sorted(range(len(gains)), key=lambda i: gains[i])
    for words, i in (
        ("most", ranked[-1]),
        ("median", ranked[len(ranked) // 2]),
        ("least", ranked[0]),
    ):
        remark = f"{words} of {len(gains)}: score {gains[i]:+g}"
        show_pair(console, before[i], after[i], remark)


def judge(answers: Sequence[Answered], preference: str) -> dict[str, float]:
    """Judge answers to questions of the built-in language, exactly.

    Args:
        answers: to its questions.
        preference: a name in ``language.PREFERENCES``.

    Returns:
        The mean score, the share of answers that are grammatical, and the mean number of words.
    """
    score = language.PREFERENCES[preference].score
    return {
        f"{preference} score": float(np.mean([score(a.prompt, a.answer) for a in answers])),
        "grammatical": float(np.mean([language.is_grammatical(a.answer) for a in answers])),
        "words": float(np.mean([language.length(a.prompt, a.answer) for a in answers])),
    }


def show_judgement(
    console: Console, before: Sequence[Answered], after: Sequence[Answered], preference: str
) -> None:
    """Print what the exact judge of the built-in language says of both."""
    old, new = judge(before, preference), judge(after, preference)
    title = f"{len(after)} answers at temperature {TEMPERATURE}, judged exactly"
    table = Table(title, "before", "after", box=None, padding=(0, 2, 0, 0))
    for name, value in old.items():
        table.add_row(name, f"{value:.2f}", f"{new[name]:.2f}")
    console.print()
    console.print(table)
