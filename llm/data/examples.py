"""What a data set is made of: examples as people wrote them, groups as the model reads them.

Every file format and every column layout becomes one of two things. An ``Example`` is a prompt with
one or more rated responses, still as text or as chat messages. A ``Group`` is the same thing in
token ids. A preference pair is a group of two responses rated 1 and 0; a demonstration is a group
of one; N rated samples are a group of N; a prompt that the model itself shall answer is a group of
none. Nothing downstream knows more schemas than that.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32

Message = dict[str, Any]

BadRows = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Example:
    """A prompt and its rated responses, as written.

    Attributes:
        prompt: text, or the chat messages before the answer.
        responses: each a text, or the chat messages of one answer; none for a prompt alone.
        rewards: of each response; higher is better. A preferred response has 1, the other 0.
        where: file and row it was read from, for messages.
    """

    prompt: str | list[Message]
    responses: tuple[str | list[Message], ...]
    rewards: tuple[float, ...]
    where: str

    @property
    def is_chat(self) -> bool:
        """Whether it needs a chat template."""
        return not isinstance(self.prompt, str)


@dataclass(frozen=True)
class Group:
    """A prompt and its rated responses, as token ids.

    Attributes:
        prompt: what the responses are conditioned on; it is never scored.
        responses: scored tokens; each ends with EOS unless it was cut to fit. None for a prompt
            alone.
        rewards: of each response; higher is better.
        where: file and row it was read from, for messages.
        lost_prompt: tokens taken from the front of the prompt to make it fit.
        cut_responses: how many responses lost their tail, and with it their EOS.
    """

    prompt: Int32[np.ndarray, "_"]
    responses: tuple[Int32[np.ndarray, "_"], ...]
    rewards: Float32[np.ndarray, " N"]
    where: str
    lost_prompt: int = 0
    cut_responses: int = 0

    @property
    def scored(self) -> int:
        """Response tokens, over all responses."""
        return sum(len(response) for response in self.responses)

    @property
    def length(self) -> int:
        """Tokens, with the prompt counted once."""
        return len(self.prompt) + self.scored


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which rows of the data, and how they become tokens."""

    split: str | None = None
    """Which split; left out, it is `train` where there is one, else everything."""
    schema: str = "auto"
    """How columns are read; `auto` recognises the layout by the names of the columns."""
    limit: int | None = None
    """Read only this many rows, from the first."""
    eval_source: str | None = None
    """Held-out data of its own; left out, a share of the prompts is held out."""
    eval_share: float = 0.05
    """Share of distinct prompts held out where there is no eval source."""
    chat: bool = False
    """Turn text rows into chat turns (an HH transcript into its turns) and use the template."""
    template: str | None = None
    """File with a chat template (Jinja) to use in place of the tokenizer's own."""
    max_length: int | None = None
    """Most tokens of a prompt with one response; left out, the model's context."""
    max_prompt_length: int | None = None
    """Most tokens of a prompt; left out, half of max_length where a response needs the room."""
    truncate: bool = True
    """Cut what is too long (prompts lose their oldest tokens, responses their end); else refuse."""
    bad_rows: BadRows = "refuse"
    """What to do with rows that break the contract: name them and stop, or leave them out."""

    def __post_init__(self) -> None:
        for field in ("limit", "max_length", "max_prompt_length"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"reading.{field} is {value}; it must be at least 1, or left out.")
        if not 0 <= self.eval_share < 1:
            raise ValueError(
                f"reading.eval_share is {self.eval_share}; it is a share of the prompts, from 0 to "
                "below 1."
            )
        if (
            self.max_length is not None
            and self.max_prompt_length is not None
            and self.max_prompt_length >= self.max_length
        ):
            raise ValueError(
                f"reading.max_prompt_length is {self.max_prompt_length} and reading.max_length "
                f"{self.max_length}; leave room for a response by lowering the first."
            )


@dataclass(frozen=True, kw_only=True)
class PackingSettings:
    """How groups become rows."""

    max_tokens: int = 16384
    """Positions (rows x row length) on one device at a time; larger steps are cut in pieces."""
    row_length: int | None = None
    """Positions in a row; left out, what makes the run cheapest."""
    share_prompt: bool = True
    """Encode a prompt once for all its responses; else once for each."""
    shapes: int = 4
    """Most batch shapes, each of which is compiled once."""

    def __post_init__(self) -> None:
        for field in ("max_tokens", "row_length", "shapes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"PackingSettings.{field} is {value}; it must be at least 1.")
