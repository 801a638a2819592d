"""The decoder: what a family's config says (``architecture``), and what is computed from it."""

from llm.model.decoder import (
    ActorCritic,
    Decoder,
    Hidden,
    M,
    Remat,
    RewardModel,
    abstract_decoder,
    parameters,
    with_parameters,
)

__all__ = [
    "ActorCritic",
    "Decoder",
    "Hidden",
    "M",
    "Remat",
    "RewardModel",
    "abstract_decoder",
    "parameters",
    "with_parameters",
]
