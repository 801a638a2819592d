"""A person as the one who labels: asked by ``modeseek label`` about pairs that were chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llm.rewards.contract import PerResponse, RewardError, Written


@dataclass(frozen=True)
class Person:
    """Stands where a reward stands, and cannot be called.

    Attributes:
        name: what it was asked for as.
    """

    name: str

    compares: ClassVar[bool] = True
    person: ClassVar[bool] = True

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """Nobody is there.

        Raises:
            RewardError: always.
        """
        raise RewardError("A person is asked with `modeseek label`, about the pairs of a campaign.")
