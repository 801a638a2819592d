"""Who writes better, the policy or what it began from: a win rate on held-out prompts.

Both answer the same prompts at a low temperature with random numbers of their own, and a judge says
whose answer is better. The rival's answers are written once. A tie counts half.

Key to the axes: E held-out prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm.active.writing import Scribe
from llm.data.examples import Group
from llm.intervals import Estimate, share
from llm.rewards import Reward, Written
from llm.update import Parameters


@dataclass(frozen=True, eq=False)
class Contest:
    """Held-out prompts that policy and rival answer.

    Attributes:
        groups: the prompts; with responses where the data set's are the rival.
        policy: writes as the policy does.
        rival: writes as the reference does; None where the data set's responses are the rival.
        judge: who decides.
        values: parameters of the policy by path, from those that train.
    """

    groups: Sequence[Group]
    policy: Scribe
    rival: Scribe | None
    judge: Reward
    values: Callable[[Parameters], Parameters]

    @property
    def ids(self) -> range:
        """Numbers of the prompts in the random keys."""
        return range(len(self.groups))

    @cached_property
    def rivals(self) -> list[Written]:
        """What is to be beaten."""
        if self.rival is None:
            return [self.policy.given(group) for group in self.groups]
        return [one for [one], _ in self.rival.write(self.groups, self.ids, responses=1)]

    def __call__(self, trainable: Parameters) -> dict[str, float]:
        """The win rate with its interval, and what the answers are like."""
        self.policy.engine.load(self.values(trainable))
        mine = [one for [one], _ in self.policy.write(self.groups, self.ids, responses=1)]
        values = self.judge([list(both) for both in zip(mine, self.rivals, strict=True)])
        rewards = np.array(values)
        won = (np.sign(rewards[:, 0] - rewards[:, 1]) + 1) / 2
        rate: Estimate = share(won, np.arange(len(won)))
        found = {
            "win_rate": rate.value,
            "reward": float(rewards[:, 0].mean()),
            "rival_reward": float(rewards[:, 1].mean()),
            "response_length": float(np.mean([len(answer.tokens) for answer in mine])),
        }
        if rate.low is not None and rate.high is not None:
            found |= {"win_rate_low": rate.low, "win_rate_high": rate.high}
        return found
