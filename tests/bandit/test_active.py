"""Active learning on the bandit: what is bought, and what the first round can know."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandit import R1, Tabular
from bandit.active import (
    ACQUISITIONS,
    Campaign,
    Labelled,
    active,
    ask,
    choose,
    learn,
    prepare,
    purchased,
    regret,
    wrongness,
)
from bandit.policies import token_logp

SMALL = Campaign(
    prompts=12, rounds=2, candidates=10, labels=3, pool=5, samples=4, members=2, steps=3, batch=8
)
POLICY = Tabular()
PROMPTS = POLICY.prompts(jax.random.key(0), 12)
REFERENCE = POLICY.init(jax.random.key(0), R1, PROMPTS)
MEMBERS = jnp.stack([REFERENCE] * 2)


@jax.jit
def buy(campaign, key):
    """One round of labels from a policy that is the reference still."""
    return ask(campaign, R1, POLICY, MEMBERS, MEMBERS, PROMPTS, key)[0]


def candidates(key=0, P=10):
    rng = np.random.default_rng(key)
    h = jnp.asarray(rng.normal(size=(2, P, 2)), jnp.float32)
    entropy = jnp.asarray(rng.normal(size=P), jnp.float32)
    return h, entropy, jnp.asarray(rng.permutation(100)[: 2 * P].reshape(P, 2, 1))


@jax.jit
def chosen(campaign, h, entropy, tokens):
    return choose(campaign, h, entropy, R1.reward[tokens[..., 0]], tokens, 100, jax.random.key(0))


def picked(name, h, entropy, tokens):
    campaign = dataclasses.replace(SMALL, acquisition=ACQUISITIONS.index(name))
    return chosen(campaign, h, entropy, tokens).tolist()


def test_each_function_wants_what_its_name_says():
    h, entropy, tokens = candidates()
    certainty = np.abs(h[0, :, 0] - h[0, :, 1])
    assert picked("certainty", h, entropy, tokens) == np.argsort(-certainty)[:3].tolist()
    assert picked("uncertainty", h, entropy, tokens) == np.argsort(certainty)[:3].tolist()
    assert picked("entropy", h, entropy, tokens) == np.argsort(-np.asarray(entropy))[:3].tolist()
    pool = np.argsort(-np.asarray(entropy))[:5]
    assert picked("hybrid", h, entropy, tokens) == pool[np.argsort(-certainty[pool])][:3].tolist()
    apart = np.abs((h[0] - h[1])[:, 0] - (h[0] - h[1])[:, 1])
    assert picked("disagreement", h, entropy, tokens) == np.argsort(-apart)[:3].tolist()
    assert picked("diverse", h, entropy, tokens)[0] == np.argmax(certainty)
    reward = np.asarray(R1.reward)[tokens[..., 0]]
    worth = (reward.max(-1) - reward.min(-1)) * np.asarray(wrongness(h[0], jnp.asarray(reward)))
    assert picked("regret", h, entropy, tokens) == np.argsort(-worth)[:3].tolist()


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_pair_of_equal_responses_is_the_last_to_be_bought(name):
    h, entropy, tokens = candidates()
    tokens = tokens.at[:7, 1].set(tokens[:7, 0])
    assert sorted(picked(name, h, entropy, tokens)) == [7, 8, 9]


def test_without_beliefs_functions_of_belief_choose_at_random():
    _, entropy, tokens = candidates()
    h = jnp.zeros((2, 10, 2))
    at_random = picked("random", h, entropy, tokens)
    for name in ("certainty", "uncertainty", "middle", "tails", "disagreement"):
        assert picked(name, h, entropy, tokens) == at_random


def test_a_pair_is_worth_what_a_choice_by_belief_would_lose():
    h = jnp.log(jnp.array([[3.0, 1.0], [1.0, 3.0], [1.0, 1.0]]))
    reward = jnp.array([[1.0, 0.2], [1.0, 0.2], [0.5, 0.0]])
    np.testing.assert_allclose(wrongness(h, reward), [0.25, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(regret(h, reward), [0.2, 0.6, 0.25], rtol=1e-6)
    # Whichever response comes first.
    np.testing.assert_allclose(regret(h[:, ::-1], reward[:, ::-1]), regret(h, reward), rtol=1e-6)


def test_a_purchase_is_measured_on_the_pairs_that_were_really_bought():
    h = jnp.log(jnp.array([[3.0, 1.0], [1.0, 3.0], [1.0, 1.0], [9.0, 1.0]]))
    reward = jnp.array([[1.0, 0.2], [1.0, 0.2], [0.5, 0.0], [0.0, 1.0]])
    label = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    valid = jnp.array([True, True, True, False])
    bought = Labelled(jnp.arange(4), jnp.zeros((4, 2, 1), int), label, valid)
    told = {name: float(value) for name, value in purchased(h, reward, bought).items()}
    assert told == pytest.approx(
        {
            "surprise": (0 + 1 + 0.5) / 3,
            "truth": 2 / 3,
            "stake": (0.8 + 0.8 + 0.5) / 3,
            "wrongness": (0.25 + 0.75 + 0.5) / 3,
            "regret": (0.2 + 0.6 + 0.25) / 3,
        }
    )


@pytest.mark.parametrize(("temperature", "least", "most"), [(0.0, 0.0, 0.0), (10.0, 0.2, 0.8)])
def test_exact_labels_prefer_the_higher_reward_and_noisy_ones_may_not(temperature, least, most):
    campaign = dataclasses.replace(SMALL, label_temperature=temperature)
    wrong = []
    for seed in range(20):
        bought = buy(campaign, jax.random.key(seed))
        reward = np.asarray(R1.reward)[np.asarray(bought.tokens)[..., 0]]
        preferred = np.asarray(bought.reward)[:, 0] > np.asarray(bought.reward)[:, 1]
        wrong.append((preferred != (reward[:, 0] > reward[:, 1]))[np.asarray(bought.valid)])
    assert least <= np.concatenate(wrong).mean() <= most


def test_learning_raises_the_preferred_response_and_ignores_what_was_not_bought():
    bought = buy(SMALL, jax.random.key(1))
    bought = dataclasses.replace(bought, valid=jnp.array([True, False, True]))

    @jax.jit
    def log_probs():
        key, known = jax.random.key(2), jnp.array(3)
        learned = learn(SMALL, POLICY, REFERENCE, REFERENCE, PROMPTS, bought, known, key)
        return [
            token_logp(POLICY, params, bought.prompt, bought.tokens)[..., 0]
            for params in (REFERENCE, learned)
        ]

    before, after = log_probs()
    toward = jnp.sum((after - before) * (2 * bought.reward - 1), axis=-1)
    assert (toward[jnp.array([0, 2])] > 0).all()
    assert np.abs(after - before)[1].max() < 1e-6


def test_a_campaign_counts_its_labels_and_starts_at_the_reference():
    trace = jax.jit(lambda key: active(SMALL, R1, POLICY, key))(jax.random.key(0))
    assert trace.labels.tolist()[0] == 0
    assert (np.diff(trace.labels) <= 3).all()
    expected = float(jnp.exp(R1.ref_logp) @ R1.reward)
    assert float(trace.reward[0]) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(trace.probability.sum(axis=-1), 1, rtol=1e-4)


def test_a_start_prepared_beforehand_is_the_one_that_a_campaign_would_make():
    key = jax.random.key(0)
    start = prepare(SMALL, R1, POLICY, key)
    own = jax.jit(lambda: active(SMALL, R1, POLICY, key))()
    given = jax.jit(lambda start: active(SMALL, R1, POLICY, key, start))(start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), own, given)


def test_the_first_round_is_the_same_going_on_and_anew_and_the_second_is_not():
    @jax.jit
    def rewards(restart):
        campaign = dataclasses.replace(SMALL, restart=restart)
        return active(campaign, R1, POLICY, jax.random.key(0)).reward

    on, anew = rewards(jnp.array(False)), rewards(jnp.array(True))
    np.testing.assert_array_equal(on[:2], anew[:2])
    assert on[2] != anew[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 13}, "candidates is 13.*at most 12"),
        ({"labels": 6}, "labels is 6.*at most pool=5"),
        ({"pool": 11}, "pool is 11.*at most 10"),
        ({"rounds": 0}, "rounds is 0"),
        ({"label_temperature": -1.0}, "label_temperature is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_a_campaign_that_makes_no_sense_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
