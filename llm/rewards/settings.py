"""What a reward is told beside its name."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Options of rewards that need some."""
