"""Token ids back to the text they stand for, so exactly that reading it again gives the ids.

A reward model reads text with a tokenizer of its own, so white space at a seam matters: whether a
response begins with a space, or a prompt ends with a new line, was part of what it learned from.
"""

from collections.abc import Collection, Sequence
from typing import Any

from llm.data.rendering import opening_ids

BEFORE = 8
"""Tokens of the prompt that decide how the first token of a response is spelled."""


def prompt_text(tokenizer: Any, prompt: Sequence[int]) -> str:
    """A prompt without what the tokenizer puts before every text; marks inside it are kept."""
    ids, opening = list(prompt), opening_ids(tokenizer)
    if opening and ids[: len(opening)] == opening:
        ids = ids[len(opening) :]
    return spelled(tokenizer, ids)


def response_text(
    tokenizer: Any, prompt: Sequence[int], response: Sequence[int], stop: Collection[int]
) -> str:
    """What a response adds to its prompt, its first space too, without the token that ended it.

    Args:
        tokenizer: of the policy.
        prompt: token ids.
        response: token ids.
        stop: tokens that end a response.
    """
    said = list(response)
    if said and said[-1] in stop:
        said = said[:-1]
    before = list(prompt)[-BEFORE:]
    start = spelled(tokenizer, before)
    whole = spelled(tokenizer, before + said)
    return whole[len(start) :] if whole.startswith(start) else spelled(tokenizer, said)


def spelled(tokenizer: Any, ids: Sequence[int]) -> str:
    """Every token as it is written, white space untouched."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
