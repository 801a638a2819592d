"""What a check makes of an answer, and how it compares numbers.

An answer is run on several random inputs, always the same ones, and compared with what the library
computes for them. Where it is not right it is compared with the usual mistakes too, so that the
verdict can say which one it is. The form of an answer does not matter: numpy or JAX, one line or
ten.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Outcome = Literal["accepted", "rejected", "not answered", "crashed"]
Values = list[np.ndarray]
"""Of one quantity, an array per case."""
PerCase = Sequence[Any] | Callable[[], Sequence[Any]]
"""The same in any form of number, or how to work it out."""

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Error that float32 is allowed: of the largest value of a case, and beside it."""


class Rejected(Exception):
    """The answer is wrong; the message says how."""


class Unanswered(Exception):
    """There is no answer yet."""


@dataclass(frozen=True)
class Verdict:
    """What became of one answer.

    Attributes:
        exercise: name of its script.
        outcome: of the check; ``"crashed"`` where the script never came to it.
        message: why, in a sentence or two.
    """

    exercise: str
    outcome: Outcome
    message: str


def ask(answer: Callable[..., Any], *inputs: Any) -> Any:
    """Run an answer on one case.

    Raises:
        Unanswered: if it is still the gap of the exercise.
        Rejected: if it returns nothing.
    """
    if answer is ...:
        raise Unanswered
    try:
        given = answer(*inputs)
    except NotImplementedError as gap:
        raise Unanswered from gap
    parts = given if isinstance(given, tuple) else (given,)
    if any(part is ... for part in parts):
        raise Unanswered
    if any(part is None for part in parts):
        raise Rejected(f"`{answer.__name__}` gives None; does it return its result?")
    return given


def parts_of(given: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """The quantities of an answer that has several.

    Raises:
        Rejected: if there are not as many as names.
    """
    if not isinstance(given, tuple | list) or len(given) != len(names):
        raise Rejected(f"The answer should be a tuple of {len(names)}: {', '.join(names)}.")
    return tuple(given)


def as_numbers(given: Any, right: np.ndarray, name: str) -> np.ndarray:
    """An answer as an array of the right shape.

    Raises:
        Rejected: if it is no such array, or not finite.
    """
    try:
        numbers = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise Rejected(f"{name} is a {type(given).__name__}, not an array of numbers.") from error
    if numbers.ndim == 0:
        numbers = np.broadcast_to(numbers, right.shape)
    if numbers.shape != right.shape:
        raise Rejected(f"{name} has shape {numbers.shape} where {right.shape} is wanted.")
    if not np.all(np.isfinite(numbers)):
        raise Rejected(f"{name} is not finite everywhere: {np.round(numbers, 3)}.")
    return numbers


def close(given: Values, right: Values) -> bool:
    """Whether two quantities agree in every case, up to rounding in float32."""
    return all(
        np.allclose(a, b, rtol=0, atol=ABSOLUTE + RELATIVE * np.max(np.abs(b)))
        for a, b in zip(given, right, strict=True)
    )


def worked_out(values: PerCase) -> Sequence[Any]:
    """A quantity that may have to be worked out first."""
    return values() if callable(values) else values


def compare(
    name: str,
    given: Sequence[Any],
    right: PerCase,
    mistakes: Mapping[str, PerCase],
) -> None:
    """Hold one quantity of an answer against the right one, case by case.

    Args:
        name: of the quantity, for the messages.
        given: what the answer made of each case.
        right: what the library makes of it.
        mistakes: what there is to say about each usual mistake, and what the mistake makes of each
            case; worked out only where the answer is wrong.

    Raises:
        Rejected: if they differ; with the mistake's message where it is a usual one.
    """
    wanted = [np.asarray(values, np.float64) for values in worked_out(right)]
    numbers = [as_numbers(a, b, name) for a, b in zip(given, wanted, strict=True)]
    if close(numbers, wanted):
        return
    for message, wrong in mistakes.items():
        shaped = [
            np.broadcast_to(np.asarray(a, np.float64), b.shape)
            for a, b in zip(worked_out(wrong), wanted, strict=True)
        ]
        if close(numbers, shaped):
            raise Rejected(f"{name}: {message}")
    raise Rejected(f"{name}: {symptom(numbers, wanted)}")


def symptom(given: Values, right: Values) -> str:
    """What can be said about a wrong answer that is none of the usual ones."""
    a, b = (np.concatenate([np.ravel(x) for x in values]) for values in (given, right))
    if close([-x for x in given], right):
        return "right but for its sign, which is the wrong way round."
    factor = float(a @ b / (b @ b)) if np.any(b) else 0.0
    if factor and close([x / factor for x in given], right):
        return f"right but for a factor: yours is {factor:.4g} times what it should be."
    off, reach = np.max(np.abs(a - b)), np.max(np.abs(b))
    said = f"not right: off by up to {off:.2g}, where values reach {reach:.2g}."
    mine, wanted = (max(abs(float(np.sum(x))) for x in values) for values in (given, right))
    if wanted < ABSOLUTE < mine / 10:
        said += (
            f" It should add up to 0 over the bins and adds up to {mine:.2g}: a softmax does not "
            "hear a constant added to all logits."
        )
    return said
