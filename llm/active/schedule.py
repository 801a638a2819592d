"""How many labels and gradient steps each round has: known before the first label is given."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm.active.settings import Active
from llm.data.order import Order


@dataclass(frozen=True)
class Schedule:
    """The rounds of a campaign, counted from 0, and the steps they take, counted over all rounds.

    Attributes:
        settings: of the campaign.
    """

    settings: Active

    def learned_from(self, number: int) -> int:
        """Labels that a round learns from."""
        return self.settings.labels * (number + 1 if self.settings.learn == "all" else 1)

    def order(self, number: int) -> Order:
        """How a round goes through them."""
        many = self.learned_from(number)
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        return Order(many, min(self.settings.batch, many), seed)

    @cached_property
    def ends(self) -> list[int]:
        """Optimizer steps taken at the end of each round."""
        rounds = range(self.settings.rounds)
        steps = [self.order(number).steps(self.settings.epochs) for number in rounds]
        return np.cumsum(steps).tolist()

    def begin(self, number: int) -> int:
        """Optimizer steps taken before a round."""
        return self.ends[number - 1] if number else 0

    def round_at(self, step: int) -> int:
        """The round that the step after so many belongs to."""
        return int(np.searchsorted(self.ends, step, side="right"))
