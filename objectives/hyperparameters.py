"""The numbers and words an objective is configured with, and the checks they pass on creation.

A number may be a Python number or a traced scalar, so that a sweep is a ``vmap``. A traced number
cannot be looked at, so only concrete numbers are checked.
"""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

Number: TypeAlias = float | int | Float[Array, ""]

Normalize: TypeAlias = Literal["token", "response", "length"]
"""How a response counts: every token once; once with its tokens summed; once, tokens averaged."""

PairRule: TypeAlias = Literal["all", "best_vs_worst"]


def require(holds: Any, owner: object, field: str, remedy: str) -> None:
    """Raise if a concrete condition on a field does not hold.

    Args:
        holds: the condition, an outcome of a comparison; a traced one is not looked at.
        owner: the value whose field is checked; names it in the message.
        field: the field's name.
        remedy: what would be accepted.

    Raises:
        ValueError: names the field, the value and the remedy.
    """
    if isinstance(holds, Tracer):
        return
    if not np.all(holds):
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it must be {remedy}.")


def require_positive(owner: object, *fields: str) -> None:
    """Every named field must be above zero (NaN is not)."""
    for field in fields:
        require(getattr(owner, field) > 0, owner, field, "greater than 0")


def require_nonnegative(owner: object, *fields: str) -> None:
    """Every named field must be zero or more (NaN is not)."""
    for field in fields:
        require(getattr(owner, field) >= 0, owner, field, "0 or more")


def require_number(owner: object, *fields: str) -> None:
    """Every named field must be a number, of either sign (NaN is not)."""
    for field in fields:
        value = getattr(owner, field)
        require((value >= 0) | (value < 0), owner, field, "a number")


def require_one_of(owner: object, field: str, choices: Iterable[str]) -> None:
    """The named field must be one of the given words."""
    words = tuple(choices)
    require(getattr(owner, field) in words, owner, field, "one of " + ", ".join(map(repr, words)))
