"""The order in which pairs are asked about is the acquisition function's, and nothing else's."""

import jax
import numpy as np
import pytest

from llm.active import ACQUISITIONS
from llm.active.acquisition import Beliefs, ranked

PAIRS = 40


def beliefs(members: int = 3, seed: int = 0) -> Beliefs:
    rng = np.random.default_rng(seed)
    return Beliefs(rng.normal(0, 3, (members, PAIRS, 2)), rng.normal(size=(PAIRS, 4)))


def order(name: str, about: Beliefs, wanted: int = 8, seed: int = 0) -> np.ndarray:
    return ranked(ACQUISITIONS[name], about, wanted, 2.0, jax.random.key(seed))


def gap(about: Beliefs) -> np.ndarray:
    return np.abs(about.h[0, :, 0] - about.h[0, :, 1])


@pytest.mark.parametrize("name", ["certainty", "hybrid"])
def test_certainty_ranks_exactly_as_the_implicit_reward_difference_does(name):
    about = beliefs()
    np.testing.assert_array_equal(order(name, about), np.argsort(-gap(about), kind="stable"))


def test_the_ablations_ask_about_the_least_the_middle_and_the_tails():
    about = beliefs()
    off = np.abs(gap(about) - np.median(gap(about)))
    np.testing.assert_array_equal(order("uncertainty", about), np.argsort(gap(about)))
    assert off[order("middle", about)[0]] == pytest.approx(off.min())
    assert (np.diff(off[order("tails", about)]) <= 0).all()


def test_an_ensemble_is_asked_about_what_its_members_disagree_on():
    about = beliefs()
    spread = np.var(about.h[:, :, 0] - about.h[:, :, 1], axis=0)
    np.testing.assert_array_equal(order("disagreement", about), np.argsort(-spread))


@pytest.mark.parametrize("name", ["random", "certainty", "middle"])
def test_without_beliefs_a_choice_is_random(name):
    nothing = Beliefs(np.zeros((1, PAIRS, 2)))
    keys = jax.random.split(jax.random.key(0), 100)
    found = [ranked(ACQUISITIONS[name], nothing, 8, 2.0, key) for key in keys]
    assert all(sorted(order) == list(range(PAIRS)) for order in found)
    counts = np.bincount(np.concatenate([order[:8] for order in found]), minlength=PAIRS)
    assert counts.min() >= 5 and counts.max() <= 40  # 20 expected, give or take 4


def test_diverse_begins_with_the_surest_and_takes_what_is_far_from_it():
    about = beliefs()
    surest = np.argsort(-gap(about))
    found = order("diverse", about, wanted=8)
    assert found[0] == surest[0]
    assert set(found[:8]) < set(surest[:16])
    assert set(found[:8]) != set(surest[:8])
    assert sorted(found) == list(range(PAIRS))
    assert about.features is not None
    distance = np.linalg.norm(about.features[surest[:16]] - about.features[found[0]], axis=1)
    assert found[1] == surest[:16][np.argmax(distance)]
    # Whoever replaces one of them is the next in certainty.
    rest = [pair for pair in surest if pair not in set(found[:8])]
    np.testing.assert_array_equal(found[8:], rest)
