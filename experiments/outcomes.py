"""From where a claim holds to what is said of it.

A claim is tested in several places: learning rates, temperatures, problems. It held if it holds in
all of them, did not hold if in none, and otherwise the places where it does are its condition.
"""

from collections.abc import Mapping

from experiments.results import Verdict


def judged(
    claim: str, *, source: str, evidence: str, holds: Mapping[str, bool], subject: str = ""
) -> Verdict:
    """The verdict on a claim from the places where it holds.

    Args:
        claim: what is claimed.
        source: who claims it.
        evidence: the numbers that decided.
        holds: by the name of the place; at least one.
        subject: what the places are values of, such as "learning rate"; begins the condition.

    Raises:
        ValueError: if there is no place.
    """
    if not holds:
        raise ValueError(f"claim {claim!r} was tested nowhere; holds is empty.")
    places = [place for place, here in holds.items() if here]
    condition = ""
    if len(places) == len(holds):
        outcome = "held"
    elif places:
        outcome = "held under this condition"
        condition = f"{subject} {' or '.join(places)}".strip()
    else:
        outcome = "did not hold"
    return Verdict(
        claim=claim, source=source, outcome=outcome, evidence=evidence, condition=condition
    )
