"""What a response is worth: rewards that are programs, models, or judges.

A reward is named by a short text, ``specs.read_reward`` makes it, and it gives every response of
every prompt a number. ``lengths``, ``words`` and ``functions`` hold exact ones, ``bradley_terry``
and ``classifier`` learned ones, ``judge`` asks a language model elsewhere.
"""

from llm.rewards.contract import (
    PerResponse,
    Reward,
    RewardContext,
    RewardError,
    Written,
    asks_once,
    asks_person,
    only_compares,
)
from llm.rewards.person import Person
from llm.rewards.settings import JudgeSettings, RewardSettings
from llm.rewards.specs import identity, read_reward

__all__ = [
    "JudgeSettings",
    "PerResponse",
    "Person",
    "Reward",
    "RewardContext",
    "RewardError",
    "RewardSettings",
    "Written",
    "asks_once",
    "asks_person",
    "identity",
    "only_compares",
    "read_reward",
]
