"""Active preference learning: ask for the labels that matter.

``campaign`` is the loop of acquiring, labelling and fine-tuning; ``acquisition`` names the ways to
choose, ``pool`` makes what is chosen from, ``labels`` keeps every answer, ``contest`` says how good
the policy has become.
"""

from llm.active.acquisition import ACQUISITIONS
from llm.active.campaign import active
from llm.active.settings import EMBEDDED, Active, ContestSettings, PoolSettings

__all__ = [
    "ACQUISITIONS",
    "EMBEDDED",
    "Active",
    "ContestSettings",
    "PoolSettings",
    "active",
]
