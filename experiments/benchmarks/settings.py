"""The settings that are timed: those of the authors' published run scripts, one dict for everyone.

Source: Tajwar et al. 2024, arXiv:2404.14367, ``bandit_experiment/scripts``; the PPO row has no
script and takes the values of the 10-token scripts.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Timed:
    """One setting.

    Attributes:
        method: as the authors' program calls it.
        problem: a key of ``bandit.PROBLEMS``.
        learning_rate: Adam's.
        contexts: S, training prompts.
        epochs: collections; 1 is offline.
        inner_steps: T, gradient steps on each collection.
        threshold: least reward difference of a pair, where pairs are formed.
        authors_steps: gradient steps of the authors' code that are timed before extrapolating.
    """

    method: Literal["best_of_n", "ipo", "reinforce", "ppo"]
    problem: str
    learning_rate: float
    contexts: int
    epochs: int
    inner_steps: int
    threshold: float | None = None
    authors_steps: int = 10

    @property
    def tokens(self) -> bool:
        """Whether this is the 10-token world."""
        return self.problem.endswith("-tokens")

    @property
    def steps(self) -> int:
        """Gradient steps of a whole run."""
        return self.epochs * self.inner_steps


ACTIONS = 10
"""N, responses per context, in every setting."""

SETTINGS = {
    "best of N, offline": Timed("best_of_n", "R2", 0.01, 5, 1, 200, authors_steps=200),
    "IPO, offline": Timed("ipo", "R2", 0.003, 10, 1, 200, 0.2),
    "IPO, offline, 100 contexts": Timed("ipo", "R2", 0.003, 100, 1, 200, 0.2, authors_steps=2),
    "best of N, on-policy": Timed("best_of_n", "R1", 0.001, 10, 100, 15, authors_steps=150),
    "IPO, on-policy": Timed("ipo", "R2", 0.01, 10, 100, 15),
    "REINFORCE, on-policy": Timed("reinforce", "R1", 0.001, 10, 100, 1, authors_steps=100),
    "best of N, offline, 10 tokens": Timed(
        "best_of_n", "R2-tokens", 1e-4, 10, 1, 100, authors_steps=2
    ),
    "IPO, on-policy, 10 tokens": Timed("ipo", "R2-tokens", 0.01, 10, 100, 10, authors_steps=2),
    "PPO, on-policy, 10 tokens": Timed("ppo", "R1-tokens", 1e-3, 10, 100, 5, authors_steps=2),
}
