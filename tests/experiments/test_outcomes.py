"""From where a claim holds to its verdict."""

import pytest

from experiments.outcomes import judged


def verdict(holds):
    return judged("a claim", source="a test", evidence="none", holds=holds, subject="learning rate")


def test_a_claim_that_holds_everywhere_held():
    assert verdict({"0.1": True, "0.2": True}).outcome == "held"


def test_a_claim_that_holds_nowhere_did_not_hold():
    assert verdict({"0.1": False, "0.2": False}).outcome == "did not hold"


def test_the_places_where_a_claim_holds_are_its_condition():
    found = verdict({"0.1": True, "0.2": False, "0.3": True})
    assert found.outcome == "held under this condition"
    assert found.condition == "learning rate 0.1 or 0.3"


def test_a_claim_that_was_tested_nowhere_is_an_error():
    with pytest.raises(ValueError, match="tested nowhere"):
        verdict({})
