"""What an answer is held against: one function per exercise, all of them asked by ``check``."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

from experiments.exercises.checks import descents, gradients, labels, softmax
from experiments.exercises.checks.verdict import Rejected, Unanswered, Verdict

CHECKS: dict[str, Callable[..., str]] = {
    "e01_velocity_of_a_bin": softmax.velocity_of_a_bin,
    "e02_gradient_of_reverse_kl": softmax.gradient_of_reverse_kl,
    "e03_cover_or_seek": softmax.cover_or_seek,
    "e04_what_imitation_imitates": softmax.what_imitation_imitates,
    "e05_gradients_of_dpo_and_ipo": gradients.gradients_of_dpo_and_ipo,
    "e06_kl_estimators": gradients.kl_estimators,
    "e07_leave_one_out": gradients.leave_one_out,
    "e08_stale_data": gradients.stale_data,
    "e09_clipped_surrogate": gradients.clipped_surrogate,
    "e10_likelihood_displacement": descents.likelihood_displacement,
    "e11_where_pushing_hurts": descents.where_pushing_hurts,
    "e12_beat_certainty": labels.beat_certainty,
}
"""The check of each exercise by the name of its script, in the order of the course.

A check takes what the answer cell defines, says in a sentence why it accepts, and raises
``Rejected`` or ``Unanswered`` where it does not.
"""

COLOURS = {"accepted": "green", "rejected": "red", "not answered": "yellow", "crashed": "red"}
"""Of the outcomes, where a terminal has colours."""


def check(exercise: str, *answer: Any) -> Verdict:
    """Judge an answer and print the verdict; an error in the answer itself is not caught.

    Args:
        exercise: name of the script, without its ending.
        answer: what its answer cell defines, in that order.

    Raises:
        ValueError: for an exercise there is not.
    """
    if exercise not in CHECKS:
        raise ValueError(f"exercise is {exercise!r}; there are {', '.join(CHECKS)}.")
    try:
        verdict = Verdict(exercise, "accepted", CHECKS[exercise](*answer))
    except Rejected as because:
        verdict = Verdict(exercise, "rejected", str(because))
    except Unanswered:
        verdict = Verdict(
            exercise, "not answered", "Not answered yet: fill the answer cell and run it again."
        )
    outcome = Text(verdict.outcome.upper(), style=f"bold {COLOURS[verdict.outcome]}")
    Console().print(Text.assemble(f"{exercise}: ", outcome, f"\n{verdict.message}"))
    return verdict
