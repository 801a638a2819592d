"""Writing responses: what a response is depends on its keys and on nothing beside it."""

from llm.sampler.draws import Rule
from llm.sampler.engine import Engine, LocalEngine
from llm.sampler.sample import Sample, sample, stream
from llm.sampler.settings import Sampling, stop_tokens
from llm.sampler.sizes import programs

__all__ = [
    "Engine",
    "LocalEngine",
    "Rule",
    "Sample",
    "Sampling",
    "programs",
    "sample",
    "stop_tokens",
    "stream",
]
