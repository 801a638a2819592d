"""Writing responses: what a response is depends on its keys and on nothing beside it."""

from llm.sampler.draft import Sample
from llm.sampler.sample import Sampling, sample, stop_tokens, stream

__all__ = ["Sample", "Sampling", "sample", "stop_tokens", "stream"]
