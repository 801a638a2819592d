"""Writing responses: read every prompt once, then draw one token at a time for all of them.

A prompt is read in one pass, what its tokens left in the cache is copied for each of its responses,
and from there every step adds one token to every row that has not met a stop token. Each draw has a
key of its own, made from (seed, prompt, response, position) and from nothing else, so a response
does not depend on what it was batched with, on padding, or on the order of the prompts (float
rounding differs between shapes, so a draw may move that falls within it of a boundary). The
log-probability that comes with a token is that of the distribution it was really drawn from, after
temperature and truncation: what an importance weight has to divide by.

Key to the axes: B prompts, S prompt positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int, Int32, UInt32

from llm.checkpoints.folders import CONFIG, read_json
from llm.model import Decoder
from llm.sampler.draft import Sample, begin, collect, write
from llm.sampler.draws import Rule
from objectives.hyperparameters import require, require_nonnegative

Prompt: TypeAlias = Int[np.ndarray, " _"]

SHORTEST = 16
"""Prompts are padded to this length or to a power of 2 above it, so that programs are few."""

ROWS = 256
"""Responses written side by side unless told otherwise; bounds the cache."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are written."""

    responses: int = 1
    """Responses to each prompt."""
    max_new_tokens: int = 128
    """A response is cut after this many tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token every time."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability, after top_k."""
    seed: int = 0
    """Root of all randomness."""
    stop: tuple[int, ...] = ()
    """Tokens that end a response, and belong to it."""

    def __post_init__(self) -> None:
        require(self.responses >= 1, self, "responses", "at least 1")
        require(self.max_new_tokens >= 1, self, "max_new_tokens", "at least 1")
        require(np.isfinite(self.temperature), self, "temperature", "a finite number")
        require_nonnegative(self, "temperature", "top_k")
        require(0 <= self.seed < 2**32, self, "seed", "from 0 to 2**32 - 1")
        require(0 < self.top_p <= 1, self, "top_p", "a probability above 0")

    @property
    def rule(self) -> Rule:
        """The part that a program is compiled for."""
        return Rule(self.temperature, self.top_k, self.top_p)


def sample(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    settings: Sampling,
    *,
    prompt_ids: Sequence[int] | None = None,
    rows: int = ROWS,
) -> list[list[Sample]]:
    """Write responses to prompts.

    Args:
        decoder: the policy.
        prompts: token ids.
        settings: how many responses, how long, how random.
        prompt_ids: what tells the prompts apart in the random keys; 0, 1, ... when None.
        rows: most responses written side by side, for the memory their caches take.

    Returns:
        The responses of every prompt, in the order of the prompts.

    Raises:
        ValueError: if a prompt is empty, leaves no room for the response, or holds a token that
            the model does not have, or if the model's logits are not finite.
    """
    ids = range(len(prompts)) if prompt_ids is None else prompt_ids
    if len(ids) != len(prompts) or not all(0 <= number < 2**32 for number in ids):
        raise ValueError(
            f"prompt_ids has {len(ids)} numbers for {len(prompts)} prompts; give one for each, "
            "from 0 to 2**32 - 1."
        )
    check(decoder, prompts, settings)
    responses: list[list[Sample]] = [[] for _ in prompts]
    # Prompts of similar length share a batch, and full batches share a shape.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    together = max(rows // settings.responses, 1)
    together = 1 << (together.bit_length() - 1)
    graphdef, weights = nnx.split(decoder)
    everywhere = replicated(decoder)
    room = settings.max_new_tokens
    for start in range(0, len(order), together):
        chosen = order[start : start + together]
        laid = lay_out([prompts[index] for index in chosen], [ids[index] for index in chosen])
        # Explicit transfers, because training forbids the others.
        inputs = jax.device_put((*laid, np.uint32(settings.seed)), everywhere)
        end = jax.device_put((stops(settings), np.int32(room)), everywhere)
        draft = begin(graphdef, weights, *inputs, responses=settings.responses, room=room)
        draft = write(graphdef, weights, draft, *end, rule=settings.rule)
        written = collect(draft)
        for place, index in enumerate(chosen):
            first = place * settings.responses
            responses[index] = written[first : first + settings.responses]
    return responses


def stream(
    decoder: Decoder,
    prompt: Prompt,
    settings: Sampling,
    *,
    prompt_id: int = 0,
    segment: int = 8,
) -> Iterator[Int32[np.ndarray, " new"]]:
    """Write one response and hand it over a few tokens at a time; the tokens are ``sample``'s.

    Args:
        decoder: the policy.
        prompt: token ids.
        settings: how long, how random; ``responses`` is not read.
        prompt_id: as in ``sample``.
        segment: tokens at a time.

    Yields:
        The tokens since the last time, the stop token included.

    Raises:
        ValueError: as ``sample``.
    """
    check(decoder, [prompt], settings)
    graphdef, weights = nnx.split(decoder)
    everywhere = replicated(decoder)
    room = settings.max_new_tokens
    laid = lay_out([prompt], [prompt_id])
    inputs = jax.device_put((*laid, np.uint32(settings.seed)), everywhere)
    draft = begin(graphdef, weights, *inputs, responses=1, room=room)
    shown = 0
    while shown < room:
        until = np.int32(min(shown + segment, room))
        end = jax.device_put((stops(settings), until), everywhere)
        draft = write(graphdef, weights, draft, *end, rule=settings.rule)
        written = collect(draft)[0]
        yield written.tokens[shown:]
        shown = len(written.tokens)
        if written.finished:
            return


def check(decoder: Decoder, prompts: Sequence[Prompt], settings: Sampling) -> None:
    """Refuse what cannot be sampled from; a ValueError names the first prompt, counted from 0."""
    a = decoder.architecture
    outside = [token for token in settings.stop if not 0 <= token < a.vocab_size]
    if outside:
        raise ValueError(
            f"stop token {outside[0]} is not among the model's {a.vocab_size} tokens; use the "
            "tokenizer that belongs to the model."
        )
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(
                f"prompt {number} is empty; begin it with the token that begins a text (BOS)."
            )
        if len(prompt) + settings.max_new_tokens > a.max_positions:
            left = a.max_positions - settings.max_new_tokens
            remedy = f"shorten it to {left}" if left > 0 else "lower max_new_tokens"
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens and max_new_tokens is "
                f"{settings.max_new_tokens}, together more than the model's context of "
                f"{a.max_positions}; {remedy}."
            )
        unknown = prompt[(prompt < 0) | (prompt >= a.vocab_size)]
        if len(unknown):
            raise ValueError(
                f"prompt {number} holds the token {unknown[0]}, and the model's are 0 to "
                f"{a.vocab_size - 1}; use the tokenizer that belongs to the model."
            )


def replicated(decoder: Decoder) -> NamedSharding | None:
    """On every device of the decoder's mesh; None where it has no mesh."""
    held = decoder.output_matrix.sharding
    return NamedSharding(held.mesh, PartitionSpec()) if isinstance(held, NamedSharding) else None


def lay_out(
    prompts: Sequence[Prompt], ids: Sequence[int]
) -> tuple[Int32[np.ndarray, "B S"], Int32[np.ndarray, "B S"], UInt32[np.ndarray, " B"]]:
    """Prompts as one array, their ends aligned, padded in both directions to declared sizes.

    Returns:
        Tokens, positions, and the number of each prompt. A row without positions is padding.
    """
    B, S = bucket(len(prompts), 1), bucket(max(map(len, prompts)), SHORTEST)
    tokens, positions = np.zeros((B, S), np.int32), np.full((B, S), -1, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, S - len(prompt) :] = prompt
        positions[row, S - len(prompt) :] = np.arange(len(prompt))
    numbers = np.zeros(B, np.uint32)
    numbers[: len(prompts)] = ids
    return tokens, positions, numbers


def bucket(size: int, least: int) -> int:
    """The smallest power of 2 times ``least`` that holds ``size``."""
    while least < size:
        least *= 2
    return least


def stops(settings: Sampling) -> Int32[np.ndarray, " stop"]:
    """The stop tokens as an array."""
    return np.asarray(settings.stop, np.int32)


def stop_tokens(folder: Path, end: int | None) -> tuple[int, ...]:
    """Every token that ends an answer of a model: what its folder says, and its tokenizer.

    Args:
        folder: of the model; ``generation_config.json`` may name several, such as the end of a
            turn beside the end of a text.
        end: the tokenizer's ``eos_token_id``.
    """
    found = {end}
    for name in ("generation_config.json", CONFIG):
        if (folder / name).is_file():
            named = read_json(folder / name).get("eos_token_id")
            found.update(named if isinstance(named, list) else [named])
    return tuple(sorted(token for token in found if token is not None))
