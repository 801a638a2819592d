"""Whoever writes responses for a training loop, be it this process or a server somewhere.

A training loop asks for two things only: take these weights, and write responses to these prompts
with the log-probability of every token. ``LocalEngine`` does both with the decoder at hand. A
server that serves the same model can stand in its place if it reports the log-probabilities of the
distribution it really draws from.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jax import Array

from llm.model import Decoder, with_parameters
from llm.sampler.sample import Sample, sample
from llm.sampler.settings import Prompt, Sampling
from llm.sampler.sizes import ROWS
from llm.sampler.strings import Decode


@runtime_checkable
class Engine(Protocol):
    """What a training loop asks of whoever writes responses."""

    def load(self, values: Mapping[str, Array]) -> None:
        """Write with these parameters of the policy from here on; every one, by its path."""
        ...

    def write(
        self, prompts: Sequence[Prompt], settings: Sampling, prompt_ids: Sequence[int]
    ) -> list[list[Sample]]:
        """Write responses; what they are depends on the weights, the settings and the ids only."""
        ...


class LocalEngine:
    """Writes in this process, on the devices where the parameters are.

    Args:
        module: the policy; it may hold only shapes until ``load`` was called.
        rows: most responses written side by side.
        decode: text of token ids, for stop strings.
        gather: whether to put weights together that lie in pieces along ``fsdp``.
    """

    def __init__(
        self,
        module: Decoder,
        rows: int = ROWS,
        decode: Decode | None = None,
        *,
        gather: bool = True,
    ) -> None:
        self.module, self.rows, self.decode, self.gather = module, rows, decode, gather

    def load(self, values: Mapping[str, Array]) -> None:
        """See ``Engine``; the arrays are shared, not copied."""
        self.module = with_parameters(self.module, values)

    def write(
        self, prompts: Sequence[Prompt], settings: Sampling, prompt_ids: Sequence[int]
    ) -> list[list[Sample]]:
        """See ``Engine`` and ``sample``."""
        return sample(
            self.module,
            prompts,
            settings,
            prompt_ids=prompt_ids,
            rows=self.rows,
            decode=self.decode,
            gather=self.gather,
        )
