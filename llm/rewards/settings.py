"""What a reward is told beside its name, as flags of a run.

Nothing is imported from the rest of ``llm``: a run's settings hold these.
"""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from objectives.hyperparameters import require, require_nonnegative, require_positive

HELPFUL = (
    "Which response does better what the prompt asks for: correct, to the point, clearly written, "
    "and without repeating itself?"
)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """A language model behind an OpenAI-compatible server that compares responses in pairs.

    Its key is read from the environment variable OPENAI_API_KEY and recorded nowhere.
    """

    base_url: str | None = None
    """Address of the server, up to and including /v1; OpenAI's own when not given."""
    criterion: str = HELPFUL
    """What the better response is better at, as a question to the judge."""
    temperature: float = 0.05
    """Of the judge's words."""
    max_tokens: int = 200
    """Most tokens of an answer: one sentence and a letter."""
    rounds: int | None = None
    """Compare response i with i+1, ..., i+rounds of its prompt; when not given, all pairs."""
    price_in: float | None = None
    """Dollars per million tokens read."""
    price_out: float | None = None
    """Dollars per million tokens written."""
    max_cost: float | None = None
    """Dollars that may be spent in all, earlier sessions included; needs both prices, and must be
    given for OpenAI's own server."""
    max_calls: int = 20000
    """Requests that may be made in all, failed ones and earlier sessions included."""
    timeout: float = 60.0
    """Seconds to wait for one answer."""
    retries: int = 5
    """How often a failed request is made again."""
    backoff: float = 1.0
    """Seconds before the first of these, doubled each time up to a minute."""
    concurrency: int = 8
    """Requests under way at a time."""
    seed: int = 0
    """With the texts it decides which response is shown first."""

    def __post_init__(self) -> None:
        require(bool(self.criterion.strip()), self, "criterion", "a question, not empty")
        require_nonnegative(self, "temperature", "backoff")
        require_positive(self, "timeout")
        for name in ("max_tokens", "max_calls", "concurrency"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        require(self.retries >= 0, self, "retries", "0 or more")
        require(self.rounds is None or self.rounds >= 1, self, "rounds", "at least 1, or left out")
        prices = ("price_in", "price_out")
        for name in (*prices, "max_cost"):
            value = getattr(self, name)
            require(value is None or value >= 0, self, name, "0 or more dollars")
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise ValueError(
                f"JudgeSettings.max_cost is {self.max_cost}, but what a token costs is not known: "
                "give price_in and price_out, in dollars per million tokens."
            )
        if self.base_url is not None:
            address = urlsplit(self.base_url)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise ValueError(
                    f"JudgeSettings.base_url is {self.base_url!r}; it must be an address such as "
                    "http://localhost:8000/v1."
                )
            if address.username or address.password or address.query:
                raise ValueError(
                    "JudgeSettings.base_url holds a user, a password or a query, and settings are "
                    "recorded: leave them out, and set the environment variable OPENAI_API_KEY."
                )


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Options of rewards that need some."""

    max_tokens: int = 16384
    """Positions a reward model reads at a time; bounds its memory."""
    judge: JudgeSettings = field(default_factory=JudgeSettings)

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, self, "max_tokens", "at least 1 position")
