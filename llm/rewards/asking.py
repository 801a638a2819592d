"""One question to a language model elsewhere: asked until it is answered, and paid for once.

Servers fail for a moment (busy, restarting, slow), and those requests are made again, later each
time; they fail for good (no such model, no money left), and those are not. What is asked again is
the same text to the letter: a retry knows nothing of which response stands first in it, so it can
never turn an answer round. The client's own retries are off, because every request counts.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from llm.rewards.ledger import Ledger
from llm.rewards.settings import JudgeSettings

KEY = "OPENAI_API_KEY"
NO_KEY = "none"
"""Sent to servers of one's own, which ask for none."""

LONGEST_WAIT = 60.0
"""Seconds between two tries."""

MARKS = 64
"""Tokens that a server may put around the two messages."""

# Refusals of one text. Any other would repeat itself for every text.
OF_THIS_TEXT = ("context_length_exceeded", "content_filter", "content_policy_violation")

SPENT = "insufficient_quota"
"""Says a server that is not busy but unpaid."""


class Unanswered(Exception):
    """A question was not answered, and asking once more would not help; says why."""


class Stopped(Exception):
    """Another question failed, so this one was not asked any further."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: the words; empty where the server refuses this text.
        line: what the ledger shall say of it beside its verdict.
        reserved: dollars to give back when it is written down.
    """

    text: str
    line: dict[str, Any]
    reserved: float


@dataclass(frozen=True)
class Asker:
    """Asks a model behind an OpenAI-compatible server.

    Attributes:
        client: of the ``openai`` package, without retries.
        model: what the server calls it.
        settings: of the judge.
        ledger: where every request is written down.
    """

    client: Any
    model: str
    settings: JudgeSettings
    ledger: Ledger

    def ask(self, system: str, user: str, stop: Event) -> Answer:
        """Ask until there is an answer.

        Args:
            system: what the model is there for.
            user: the question.
            stop: set when nobody needs the answer any more.

        Raises:
            Unanswered: if the server refuses, or fails too often.
            CapReached: if the question could cost more than is left.
            Stopped: if ``stop`` is set before a try.
        """
        import openai

        # No text has more tokens than bytes, and a chat's own marks are few.
        most = self.price(len((system + user).encode()) + MARKS, self.settings.max_tokens)
        wait, why = self.settings.backoff, ""
        for attempt in range(self.settings.retries + 1):
            if attempt and stop.wait(wait):
                raise Stopped
            wait = min(2 * wait, LONGEST_WAIT)
            if stop.is_set():
                raise Stopped
            self.ledger.reserve(most)
            try:
                return self.answer(self.request(system, user), most, system + user)
            except (openai.APIError, ValueError) as error:
                if getattr(error, "code", None) in OF_THIS_TEXT:
                    line = self.line(0, 0) | {"refused": getattr(error, "code", "")}
                    return Answer("", line, most)
                why = self.reason(error)
                line = self.line(0, 0) | {"error": why}
                if isinstance(error, openai.APITimeoutError):
                    line["dollars"] = most  # it may have been worked on, and may be billed
                self.ledger.settle(most, line)
                if not is_passing(error):
                    raise Unanswered(f"it refused: {why}") from None
                wait = max(wait, said_to_wait(error))
            except BaseException as error:
                self.ledger.settle(most, self.line(0, 0) | {"error": type(error).__name__})
                raise
        tries = self.settings.retries + 1
        raise Unanswered(f"it failed {tries} time{'s' * (tries > 1)}, last with {why}")

    def request(self, system: str, user: str) -> Any:
        """One request."""
        return self.client.chat.completions.create(
            model=self.model,
            messages=[
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
        )

    def answer(self, found: Any, reserved: float, asked: str) -> Answer:
        """Read a completion, whatever else a server leaves out.

        Raises:
            ValueError: if it is none, such as the page of a proxy.
        """
        choices = getattr(found, "choices", None)
        if not choices:
            raise ValueError("what came back is no chat completion")
        text = getattr(getattr(choices[0], "message", None), "content", None) or ""
        usage = getattr(found, "usage", None)
        # Where a server does not count, no text has more tokens than bytes.
        read = getattr(usage, "prompt_tokens", None) or len(asked.encode())
        written = getattr(usage, "completion_tokens", None) or len(text.encode())
        by = {"by": getattr(found, "model", None) or self.model, "answer": text}
        return Answer(text, self.line(read, written) | by, reserved)

    def line(self, read: int, written: int) -> dict[str, Any]:
        """What is written down of every request."""
        return {
            "asked": self.model,
            "server": urlsplit(str(self.client.base_url)).hostname,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "tokens_in": read,
            "tokens_out": written,
            "dollars": self.price(read, written),
        }

    def price(self, read: int, written: int) -> float:
        """Dollars; 0 where prices are not known."""
        return (
            read * (self.settings.price_in or 0.0) + written * (self.settings.price_out or 0.0)
        ) / 1e6

    def reason(self, error: Exception) -> str:
        """What a server said, on one line, without the key."""
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        key = os.environ.get(KEY)
        return (said.replace(key, "***") if key else said)[:300]


def is_passing(error: Any) -> bool:
    """Whether the same request may succeed later."""
    import openai

    if getattr(error, "code", None) == SPENT:
        return False
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return True  # no connection, no answer in time, or one that cannot be read


def said_to_wait(error: Any) -> float:
    """Seconds that a busy server asks to be left alone for; 0 where it does not say."""
    response = getattr(error, "response", None)
    said = "" if response is None else response.headers.get("retry-after", "")
    try:
        return min(max(float(said), 0.0), LONGEST_WAIT)
    except ValueError:
        return 0.0


def make_client(settings: JudgeSettings) -> Any:
    """A client for the judge's server.

    Raises:
        ValueError: if the package is missing, or the key or the cap that OpenAI's server needs.
    """
    try:
        import openai
    except ImportError:
        raise ValueError(
            "a judge needs the package openai: install it with `pip install openai`."
        ) from None
    key = os.environ.get(KEY)
    address = settings.base_url or os.environ.get("OPENAI_BASE_URL")
    if key is None and address is None:
        raise ValueError(
            f"the judge's server asks for a key: set the environment variable {KEY}, or give the "
            "address of a server of your own with --rewards.judge.base-url."
        )
    if address is None and settings.max_cost is None:
        raise ValueError(
            "the judge's server is paid for by the token, and nothing says how much may be spent: "
            "give --rewards.judge.max-cost with --rewards.judge.price-in and price-out, or the "
            "address of a server of your own with --rewards.judge.base-url."
        )
    return openai.OpenAI(
        api_key=key or NO_KEY, base_url=address, timeout=settings.timeout, max_retries=0
    )
