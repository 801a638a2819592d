"""From text and messages to token ids, so that training sees what the model will see.

A model is given the prompt's tokens and goes on from there. So prompt and response are tokenized
apart: no token may straddle the border, or the model would be scored on a token it can never be
asked for. Chat messages go through the tokenizer's own template, once up to where the assistant
begins and once to the end of its turn; the response is what the second adds to the first. EOS ends
every response exactly once. What is scored is decided here, by where tokens come from, and never
later by what they are.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm.data.contract import Contract, Finding, enforce, examine, summarise
from llm.data.examples import DataSettings, Example, Group, Message
from llm.data.schemas import ASSISTANT, HUMAN
from llm.data.sources import silent

ANCHOR = "\n"
"""Stands before a response for tokenizers that would put a space before any text."""

AT_ONCE = 1024
"""Examples whose text is tokenized together."""


def tokenize(
    examples: Sequence[Example],
    tokenizer: Any,
    settings: DataSettings,
    *,
    context: int | None = None,
    vocab_size: int | None = None,
    pairs: bool = False,
    prompts_only: bool = False,
    say: Callable[[str], None] = silent,
) -> list[Group]:
    """Turn examples into token ids and hold them to the contract.

    Args:
        examples: as read.
        tokenizer: of ``transformers``, the model's own.
        settings: lengths, template and what to do with bad rows.
        context: most tokens the model can read; None if there is no model.
        vocab_size: ids of the model are below this; None if there is no model.
        pairs: whether the recipe compares responses to one prompt.
        prompts_only: leave out the responses the examples may have, because the model will write
            its own. A prompt is then cut to ``settings.max_prompt_length``, or to half the context
            where that is not given.
        say: told what is worth knowing, a sentence at a time.

    Returns:
        A group for each example that was not left out, in their order.

    Raises:
        ValueError: for a tokenizer or template that cannot do it, and for rows that break the
            contract, all of them in one message.
    """
    groups, findings = judge(
        examples,
        tokenizer,
        settings,
        context=context,
        vocab_size=vocab_size,
        pairs=pairs,
        prompts_only=prompts_only,
    )
    kept = [groups[number] for number in enforce(findings, settings.bad_rows == "drop")]
    if len(kept) < len(groups):
        say(f"{len(groups) - len(kept)} of {len(groups)} rows left out: they break the contract")
    for sentence in summarise(kept).sentences():
        say(sentence)
    return kept


def judge(
    examples: Sequence[Example],
    tokenizer: Any,
    settings: DataSettings,
    *,
    context: int | None = None,
    vocab_size: int | None = None,
    pairs: bool = False,
    prompts_only: bool = False,
) -> tuple[list[Group], list[list[Finding]]]:
    """Turn examples into token ids and say what is wrong with each, nothing for a good one.

    The arguments are those of ``tokenize``.

    Raises:
        ValueError: for a tokenizer or template that cannot do it.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no EOS token, so no response could end. Name one as `eos_token` in "
            "its tokenizer_config.json."
        )
    if prompts_only:
        examples = [replace(example, responses=(), rewards=()) for example in examples]
    limit = length_limit(settings, context)
    groups = render(examples, tokenizer, settings, limit)
    contract = Contract(
        eos=tokenizer.eos_token_id,
        bos=tokenizer.bos_token_id,
        vocab_size=vocab_size,
        max_length=limit,
        pairs=pairs,
        prompts_only=prompts_only,
    )
    # In a chat the template writes the end of the prompt.
    reader = None if settings.chat or settings.template is not None else tokenizer
    return groups, [
        examine(example, group, contract, reader)
        for example, group in zip(examples, groups, strict=True)
    ]


def length_limit(settings: DataSettings, context: int | None) -> int | None:
    """Most tokens of a prompt with one response.

    Raises:
        ValueError: if more is asked for than the model can read.
    """
    if context is None or settings.max_length is None:
        return settings.max_length if context is None else context
    if settings.max_length > context:
        raise ValueError(
            f"--reading.max-length is {settings.max_length}, but the model reads at most {context} "
            "tokens; lower it or leave it out."
        )
    return settings.max_length


def render(
    examples: Sequence[Example], tokenizer: Any, settings: DataSettings, limit: int | None
) -> list[Group]:
    """Tokenize examples and cut them to length, without judging the outcome.

    Args:
        examples: as read.
        tokenizer: of ``transformers``.
        settings: template and lengths.
        limit: most tokens of a prompt with one response.
    """
    template = read_template(settings.template)
    opening = opening_ids(tokenizer)
    anchored = needs_anchor(tokenizer)
    groups: list[Group] = []
    for start in range(0, len(examples), AT_ONCE):
        some = examples[start : start + AT_ONCE]
        if settings.chat or template is not None:
            some = [as_chat(example) for example in some]
        written = [
            write_chat(example, tokenizer, template) if example.is_chat else write_plain(example)
            for example in some
        ]
        prompts = encode(tokenizer, [prompt for prompt, _ in written])
        flat = [response for _, responses in written for response in responses]
        answers = iter(encode_responses(tokenizer, flat, anchored))
        for example, prompt, (_, responses) in zip(some, prompts, written, strict=True):
            ids = [finish(next(answers), tokenizer) for _ in responses]
            if not example.is_chat:
                prompt = (opening or bos_alone(tokenizer, prompt)) + prompt
            groups.append(fit_group(prompt, ids, example, settings, limit, tokenizer.bos_token_id))
    return groups


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts, without anything added."""
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]


def encode_responses(tokenizer: Any, texts: Sequence[str], anchored: bool) -> list[list[int]]:
    """Ids of texts that continue another one."""
    if not anchored:
        return encode(tokenizer, texts)
    (anchor,) = encode(tokenizer, [ANCHOR])
    found = encode(tokenizer, [ANCHOR + text for text in texts])
    return [
        ids[len(anchor) :] if ids[: len(anchor)] == anchor else encode(tokenizer, [text])[0]
        for ids, text in zip(found, texts, strict=True)
    ]


def needs_anchor(tokenizer: Any) -> bool:
    """Whether a text's first token depends on its being the first (Llama 2 prepends a space)."""
    together, anchor, alone = encode(tokenizer, [ANCHOR + "a", ANCHOR, "a"])
    return together != anchor + alone and together[: len(anchor)] == anchor


def opening_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: BOS, or nothing."""
    whole, (bare,) = tokenizer("a")["input_ids"], encode(tokenizer, ["a"])
    starts = range(len(whole) - len(bare) + 1)
    return next((whole[:k] for k in starts if whole[k : k + len(bare)] == bare), [])


def bos_alone(tokenizer: Any, prompt: list[int]) -> list[int]:
    """BOS for a text that has no prompt, so that something predicts its first token."""
    return [tokenizer.bos_token_id] if not prompt and tokenizer.bos_token_id is not None else []


def finish(ids: list[int], tokenizer: Any) -> list[int]:
    """End a response with EOS exactly once.

    White space a template writes after EOS belongs to the next turn; the model stops before it.
    """
    eos = tokenizer.eos_token_id
    if eos in ids:
        end = len(ids) - ids[::-1].index(eos)
        if not tokenizer.decode(ids[end:]).strip():
            return ids[:end]
    return [*ids, eos]


def write_plain(example: Example) -> tuple[str, list[str]]:
    """Text exactly as given."""
    return str(example.prompt), [str(response) for response in example.responses]


def write_chat(example: Example, tokenizer: Any, template: str | None) -> tuple[str, list[str]]:
    """Prompt and responses as the chat template writes them.

    Raises:
        ValueError: if there is no template, if it refuses the messages, or if what it writes for
            the whole conversation does not begin with what it writes for the prompt.
    """
    if template is None and not tokenizer.chat_template:
        raise ValueError(
            f"{example.where} is chat messages, but the tokenizer has no chat template. Give one "
            "with --reading.template FILE, or use data with text columns."
        )

    def write(turns: Sequence[Message], more: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                list(turns), chat_template=template, tokenize=False, add_generation_prompt=more
            )
        except Exception as error:  # Jinja's, or whatever the template itself raises
            raise ValueError(
                f"{example.where}: the chat template refuses its messages: {error}. Mend the row, "
                "or give another template with --reading.template FILE."
            ) from None

    before = [turn for turn in example.prompt if not isinstance(turn, str)]
    prompt = write(before, True)
    responses = []
    for response in example.responses:
        turns = [turn for turn in response if not isinstance(turn, str)]
        whole = write([*before, *turns], False)
        if not whole.startswith(prompt):
            raise ValueError(
                f"{example.where}: with the answer, the chat template writes the prompt "
                "differently, so the model would be trained on what it is never shown. Give a "
                "template that only appends with --reading.template FILE."
            )
        responses.append(whole[len(prompt) :])
    return prompt, responses


def read_template(path: str | None) -> str | None:
    """The text of a template file.

    Raises:
        OSError: if it cannot be read.
    """
    return None if path is None else Path(path).expanduser().read_text(encoding="utf-8")


def as_chat(example: Example) -> Example:
    """The same example as chat turns; an HH transcript becomes the turns it transcribes.

    Raises:
        ValueError: for plain text without a prompt, which has no turns.
    """
    if not isinstance(example.prompt, str):
        return example
    if not example.prompt.strip():
        raise ValueError(
            f"{example.where} is text without a prompt, which no chat template can hold; leave "
            "out --reading.chat and --reading.template."
        )
    if example.prompt.startswith(HUMAN) and example.prompt.endswith(ASSISTANT):
        parts = re.split(f"({HUMAN}|{ASSISTANT})", example.prompt.removesuffix(ASSISTANT))[1:]
        turns = [
            {"role": "user" if speaker == HUMAN else "assistant", "content": said.strip()}
            for speaker, said in zip(parts[::2], parts[1::2], strict=True)
        ]
    else:
        turns = [{"role": "user", "content": example.prompt.strip()}]
    answers = tuple(
        [{"role": "assistant", "content": str(response).strip()}] for response in example.responses
    )
    return Example(turns, answers, example.rewards, example.where)


def fit_group(
    prompt: list[int],
    responses: list[list[int]],
    example: Example,
    settings: DataSettings,
    limit: int | None,
    bos: int | None,
) -> Group:
    """Cut what is too long: a prompt keeps its BOS and its end, a response its beginning."""
    whole = len(prompt)
    longest = max(map(len, responses), default=limit or 0)
    room = settings.max_prompt_length
    if room is None and limit is not None:
        room = max(limit - longest, limit // 2)
    cut = 0
    if room is not None and limit is not None:
        room = min(room, limit - 1)
    if settings.truncate and room is not None and whole > room:
        begin = prompt[:1] if prompt[0] == bos else []
        prompt = begin + prompt[whole - room + len(begin) :]
    if settings.truncate and limit is not None:
        left = max(limit - len(prompt), 1)
        cut = sum(len(ids) > left for ids in responses)
        responses = [ids[:left] for ids in responses]
    return Group(
        np.array(prompt, np.int32),
        tuple(np.array(ids, np.int32) for ids in responses),
        np.array(example.rewards, np.float32),
        example.where,
        lost_prompt=whole - len(prompt),
        cut_responses=cut,
    )
