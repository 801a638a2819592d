"""What a data set is like, in a few means: all that a plan needs to know of it."""

from dataclasses import dataclass

import numpy as np

from llm.data.examples import Group


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the data are like, in means.

    Attributes:
        prompts: groups to train on.
        prompt_tokens: of a prompt.
        response_tokens: of a response, its end included.
        responses: of a prompt, where the data hold them.
        longest: tokens of the longest prompt with all its responses.
    """

    prompts: int
    prompt_tokens: float
    response_tokens: float
    responses: int = 0
    longest: int

    def group(self, responses: int) -> Group:
        """A group of mean size."""
        ids = np.zeros(round(self.response_tokens), np.int32)
        prompt = np.zeros(round(self.prompt_tokens), np.int32)
        return Group(prompt, (ids,) * responses, np.zeros(responses, np.float32), "mean")
