"""Log-probabilities without logits: one primitive that every objective and metric reads."""

from llm.logprobs.primitive import default_chunk, token_logprobs
from llm.logprobs.vocabulary import TokenStatistics

__all__ = ["TokenStatistics", "default_chunk", "token_logprobs"]
