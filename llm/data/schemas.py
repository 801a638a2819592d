"""The columns people really have, each layout a function from a row to an ``Example``.

Preference data come as prompt/chosen/rejected in text or in chat messages, as two transcripts with
a common beginning, as responses with ratings or with a thumb up or down; demonstrations come as
prompt/completion, as messages, as instructions or as plain text. Prompts may also come alone, for a
model to answer. A layout is recognised by the names of its columns, and a row that breaks it says
which field and what would do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llm.data.examples import Example, Message

Fields = Mapping[str, Any]

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

# How the authors of 2404.14367 write a conversation for Pythia.
ANSWER, END = "<|assistant|>", "<|endoftext|>"

RESPONSES = ("responses", "completions")
RATINGS = ("rewards", "scores", "ratings")
RESPONSE = ("response", "completion", "text", "content")
RATING = ("score", "reward", "rating")


class RowError(ValueError):
    """A row that breaks its layout; the message names the field and the remedy."""


class Schema(NamedTuple):
    """A layout: the columns that give it away, how a row is read, and what to call it in words."""

    columns: str
    read: Callable[[Fields, str], Example]


def text(row: Fields, field: str) -> str:
    """A field that must be text."""
    value = row.get(field)
    if value is None:
        raise RowError(f"field {field!r} is missing; every row of this layout needs it.")
    if not isinstance(value, str):
        raise RowError(f"field {field!r} is a {type(value).__name__}; it must be text.")
    return value


def messages(row: Fields, field: str) -> list[Message]:
    """A field that must be chat messages."""
    value = row.get(field)
    if value is None:
        raise RowError(f"field {field!r} is missing; every row of this layout needs it.")
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(f"field {field!r} is a {type(value).__name__}; it must be chat messages.")
    for number, message in enumerate(value, start=1):
        good = isinstance(message, Mapping) and isinstance(message.get("role"), str)
        if not good or not isinstance(message.get("content"), str):
            raise RowError(
                f"message {number} of field {field!r} must be an object with a text `role` and a "
                "text `content`."
            )
    return [dict(message) for message in value]


def answer(turns: list[Message], field: str) -> list[Message]:
    """Messages that must be an answer and nothing else."""
    if not turns or any(turn["role"] == "user" for turn in turns):
        raise RowError(
            f"what field {field!r} adds to the prompt must be turns of the assistant; end it with "
            "one, and let both conversations differ in nothing before it."
        )
    return turns


def is_chat(value: Any) -> bool:
    """Whether a field is meant as chat messages, well-formed or not."""
    return value is not None and not isinstance(value, str)


def turns_of(row: Fields, field: str) -> list[Message]:
    """A response to a chat prompt, given as messages or as text."""
    if isinstance(row.get(field), str):
        return [{"role": "assistant", "content": row[field]}]
    return messages(row, field)


def read_preference(row: Fields, where: str) -> Example:
    """Prompt, chosen and rejected, as text or as chat; or two conversations without a prompt."""
    prompt = row.get("prompt")
    if not is_chat(prompt) and not is_chat(row.get("chosen")):
        pair = text(row, "chosen"), text(row, "rejected")
        return Example(text(row, "prompt"), pair, (1.0, 0.0), where)
    first, second = turns_of(row, "chosen"), turns_of(row, "rejected")
    if is_chat(prompt):
        before = messages(row, "prompt")
        first, second = without(before, first), without(before, second)
    else:
        shared = common_length(first, second)
        before, first, second = first[:shared], first[shared:], second[shared:]
        if not before and prompt is not None:
            before = [{"role": "user", "content": prompt}]
    if not before:
        raise RowError("'chosen' and 'rejected' share no first message to take as the prompt.")
    pair = answer(first, "chosen"), answer(second, "rejected")
    return Example(before, pair, (1.0, 0.0), where)


def without(before: list[Message], turns: list[Message]) -> list[Message]:
    """A conversation without the prompt it may repeat."""
    return turns[len(before) :] if turns[: len(before)] == before else turns


def common_length(first: list[Message], second: list[Message]) -> int:
    """Messages two conversations begin with, the last of each left to be its answer."""
    most = max(min(len(first), len(second)) - 1, 0)
    same = [a == b for a, b in zip(first[:most], second[:most], strict=True)]
    return same.index(False) if False in same else most


def read_transcript(row: Fields, where: str) -> Example:
    """Two transcripts, `Human:` and `Assistant:` in turn, with a common beginning (HH-RLHF)."""
    pair = text(row, "chosen"), text(row, "rejected")
    same = [a == b for a, b in zip(*pair, strict=False)]
    common = same.index(False) if False in same else len(same)
    shared = pair[0][:common].rfind(ASSISTANT)
    if shared < 0:
        raise RowError(
            "'chosen' and 'rejected' have no common beginning up to an `Assistant:` turn; they "
            "must be two ends of one conversation."
        )
    cut = shared + len(ASSISTANT)
    for field, transcript in zip(("chosen", "rejected"), pair, strict=True):
        if HUMAN in transcript[cut:]:
            raise RowError(
                f"field {field!r} goes on with a `Human:` turn after the two conversations "
                "part; they must differ only in the last answer."
            )
    return Example(pair[0][:cut], (pair[0][cut:], pair[1][cut:]), (1.0, 0.0), where)


def read_relabeled(row: Fields, where: str) -> Example:
    """Two texts that repeat the prompt and end the turn, one preferred (relabeled AlpacaFarm)."""
    prompt = text(row, "prompt")
    pair = tuple(answered(row, field, prompt) for field in ("y_w", "y_l"))
    return Example(prompt, pair, (1.0, 0.0), where)


def answered(row: Fields, field: str, prompt: str) -> str:
    """What a text that repeats its prompt adds to it, without the marker that ends the turn."""
    whole = text(row, field)
    said = whole.removeprefix(prompt) if whole.startswith(prompt) else whole.split(ANSWER)[-1]
    return said.split(END)[0]


def read_completion(row: Fields, where: str) -> Example:
    """A prompt and the one response to imitate."""
    prompt, response = prompt_and_response(row)
    return Example(prompt, (response,), (1.0,), where)


def read_kto(row: Fields, where: str) -> Example:
    """A prompt, a response and whether it is good."""
    prompt, response = prompt_and_response(row)
    label = row.get("label")
    if not isinstance(label, bool) and label not in (0, 1):
        raise RowError(f"field 'label' is {label!r}; it must be true or false.")
    return Example(prompt, (response,), (float(label),), where)


def prompt_and_response(row: Fields) -> tuple[str | list[Message], str | list[Message]]:
    """The two halves of a completion, both text or both chat."""
    field = "completion" if "completion" in row else "response"
    if not is_chat(row.get("prompt")):
        return text(row, "prompt"), text(row, field)
    return messages(row, "prompt"), answer(turns_of(row, field), field)


def read_messages(row: Fields, where: str) -> Example:
    """A conversation whose last turn is the response to imitate."""
    turns = messages(row, "messages")
    if len(turns) < 2:
        raise RowError("field 'messages' needs a turn before the assistant's last.")
    return Example(turns[:-1], (answer(turns[-1:], "messages"),), (1.0,), where)


def read_rated(row: Fields, where: str) -> Example:
    """A prompt with several responses and a rating for each."""
    field = first_of(row, RESPONSES)
    listed = row.get(field)
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise RowError(f"field {field!r} must be a list of at least one response.")
    if all(isinstance(item, Mapping) for item in listed):
        responses = [text(item, first_of(item, RESPONSE)) for item in listed]
        ratings = [item.get(first_of(item, RATING)) for item in listed]
    else:
        responses = [text({field: item}, field) for item in listed]
        ratings = row.get(first_of(row, RATINGS))
    if not isinstance(ratings, Sequence) or len(ratings) != len(responses):
        raise RowError(f"field {first_of(row, RATINGS)!r} must hold one number for each response.")
    for rating in ratings:
        number = isinstance(rating, (int, float)) and math.isfinite(rating)
        if not number:
            raise RowError(f"rating {rating!r} is not a finite number.")
    rewards = tuple(float(rating) for rating in ratings)
    if isinstance(row.get("prompt"), str):
        return Example(row["prompt"], tuple(responses), rewards, where)
    chat = tuple([{"role": "assistant", "content": response}] for response in responses)
    return Example(messages(row, "prompt"), chat, rewards, where)


def first_of(row: Fields, names: Sequence[str]) -> str:
    """The first of several names for one thing that the row has."""
    return next((name for name in names if name in row), names[0])


def instruction(row: Fields) -> str:
    """An instruction and what it is about, each a paragraph."""
    about = text(row, "input") if row.get("input") else ""
    return "".join(f"{part}\n\n" for part in (text(row, "instruction"), about) if part)


def read_instruction(row: Fields, where: str) -> Example:
    """An instruction, perhaps an input, and the output to imitate."""
    return Example(instruction(row), (text(row, "output"),), (1.0,), where)


def read_instruction_preference(row: Fields, where: str) -> Example:
    """An instruction, perhaps an input, and two outputs of which one is preferred."""
    pair = text(row, "chosen"), text(row, "rejected")
    return Example(instruction(row), pair, (1.0, 0.0), where)


def read_prompt(row: Fields, where: str) -> Example:
    """A prompt alone, text or chat; an instruction, perhaps with an input, is one too."""
    if "prompt" not in row and "instruction" in row:
        return Example(instruction(row), (), (), where)
    if not is_chat(row.get("prompt")):
        return Example(text(row, "prompt"), (), (), where)
    return Example(messages(row, "prompt"), (), (), where)


def read_text(row: Fields, where: str) -> Example:
    """Plain text, all of it to imitate."""
    return Example("", (text(row, "text"),), (1.0,), where)


SCHEMAS: dict[str, Schema] = {
    "preference": Schema("prompt, chosen, rejected", read_preference),
    "transcript": Schema("chosen, rejected (Human/Assistant transcripts)", read_transcript),
    "instruction_preference": Schema(
        "instruction, [input,] chosen, rejected", read_instruction_preference
    ),
    "relabeled_alpacafarm": Schema("prompt, y_w, y_l", read_relabeled),
    "rated": Schema("prompt, responses, rewards", read_rated),
    "kto": Schema("prompt, completion, label", read_kto),
    "completion": Schema("prompt, completion", read_completion),
    "messages": Schema("messages", read_messages),
    "instruction": Schema("instruction, [input,] output", read_instruction),
    "text": Schema("text", read_text),
    "prompt": Schema("prompt or instruction, [input] (to be answered)", read_prompt),
}
"""Every layout by name."""


def detect(row: Fields, where: str) -> str:
    """The name of a row's layout, by its columns.

    Raises:
        ValueError: if it has none that is known; lists the columns and the layouts.
    """
    has = {name for name, value in row.items() if value is not None}
    completion = has & {"completion", "response"}
    if {"chosen", "rejected"} <= has:
        if "prompt" in has or not isinstance(row["chosen"], str):
            return "preference"
        return "instruction_preference" if "instruction" in has else "transcript"
    if {"prompt", "y_w", "y_l"} <= has:
        return "relabeled_alpacafarm"
    if "prompt" in has and has & set(RESPONSES):
        return "rated"
    if "prompt" in has and completion:
        return "kto" if "label" in has else "completion"
    for name, columns in (
        ("messages", {"messages"}),
        ("instruction", {"instruction", "output"}),
        ("text", {"text"}),
        ("prompt", {"prompt"}),
        ("prompt", {"instruction"}),
    ):
        if columns <= has:
            return name
    layouts = "; ".join(schema.columns for schema in SCHEMAS.values())
    raise ValueError(
        f"{where} has the columns {', '.join(sorted(has)) or 'none'}, which is no known layout. "
        f"Rename them to one of these: {layouts}; or name the layout with --reading.schema."
    )


def reader(name: str) -> Callable[[Fields, str], Example]:
    """The function that reads a layout.

    Raises:
        ValueError: if there is no layout of that name; lists them.
    """
    if name not in SCHEMAS:
        raise ValueError(f"there is no schema {name!r}; there are auto, {', '.join(SCHEMAS)}.")
    return SCHEMAS[name].read
