"""Responses as a campaign needs them: a few to each prompt, each pair cut at a length of its own.

The sampler reports two log-probabilities of every token: under the distribution it was drawn from
and under the model itself. The second is what an implicit reward is made of, so no pair that the
policy has written is ever read by the policy again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm.data.examples import Group
from llm.rewards import Written
from llm.rollouts import as_written
from llm.sampler import Sample, Sampling
from llm.sampler.engine import Engine


@dataclass(frozen=True, eq=False)
class Scribe:
    """Whoever writes, and how.

    Attributes:
        engine: writes with the parameters it was given last.
        tokenizer: of the model.
        sampling: how.
        shortest: responses are cut after a number of tokens drawn evenly from this to the limit,
            the same for all responses to a prompt; None to cut at the limit.
        seed: of those numbers.
    """

    engine: Engine
    tokenizer: Any
    sampling: Sampling
    shortest: int | None = None
    seed: int = 0

    def draw(
        self, groups: Sequence[Group], ids: Sequence[int], responses: int
    ) -> list[list[Sample]]:
        """Responses to the prompts of groups, as the sampler has them."""
        settings = replace(self.sampling, responses=responses)
        written = self.engine.write([group.prompt for group in groups], settings, ids)
        return [
            [sample.cut(self.length(number)) for sample in samples]
            for number, samples in zip(ids, written, strict=True)
        ]

    def write(
        self, groups: Sequence[Group], ids: Sequence[int], responses: int
    ) -> list[tuple[list[Written], list[Sample]]]:
        """The same, each response as text too."""
        return [
            ([self.read(group, s.tokens, s.finished) for s in samples], samples)
            for group, samples in zip(groups, self.draw(groups, ids, responses), strict=True)
        ]

    def length(self, number: int) -> int:
        """Most tokens of a response to a prompt, by the prompt's number."""
        most = self.sampling.max_new_tokens
        if self.shortest is None:
            return most
        draw = np.random.default_rng([self.seed, number])
        return int(draw.integers(self.shortest, most + 1))

    def given(self, group: Group) -> Written:
        """The data set's own response to a prompt."""
        return self.read(group, group.responses[0], True)

    def read(self, group: Group, tokens: np.ndarray, finished: bool) -> Written:
        """A response as a person, or a reward, reads it."""
        stop = self.sampling.stop
        return as_written(self.tokenizer, group.prompt, tokens, finished=finished, stop=stop)
