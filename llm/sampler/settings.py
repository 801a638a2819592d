"""How responses are written, and what of it a model cannot do.

A ``Sampling`` says how many responses there are, how random they are and when they end. Everything
that would make them wrong or impossible is refused before the model is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from llm.checkpoints.folders import CONFIG, read_json
from llm.model import Decoder
from llm.sampler.draws import Rule
from objectives.hyperparameters import require, require_nonnegative

Prompt: TypeAlias = Int[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are written."""

    responses: int = 1
    """Responses to each prompt."""
    max_new_tokens: int = 128
    """A response is cut after this many tokens."""
    min_new_tokens: int = 0
    """Tokens before the first that may end a response: until then no stop token can be drawn, and
    the log-probabilities are those of what can, which a scorer of the model does not know."""
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
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response with the token that completes them."""

    def __post_init__(self) -> None:
        require(self.responses >= 1, self, "responses", "at least 1")
        require(self.max_new_tokens >= 1, self, "max_new_tokens", "at least 1")
        require(
            0 <= self.min_new_tokens < self.max_new_tokens,
            self,
            "min_new_tokens",
            f"from 0 to below max_new_tokens, {self.max_new_tokens}",
        )
        require(np.isfinite(self.temperature), self, "temperature", "a finite number")
        require_nonnegative(self, "temperature", "top_k")
        require(0 <= self.seed < 2**32, self, "seed", "from 0 to 2**32 - 1")
        require(0 < self.top_p <= 1, self, "top_p", "a probability above 0")
        require(all(self.stop_strings), self, "stop_strings", "texts of at least one character")

    @property
    def rule(self) -> Rule:
        """The part that a program is compiled for."""
        return Rule(self.temperature, self.top_k, self.top_p)


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
