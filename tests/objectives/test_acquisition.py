"""Acquisition functions: which candidates are asked about, and that nothing leaks between them."""

import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import objectives

# Compiled once each, because a dozen small programs would take longer to build.
disagreement, implicit_reward, middle, predictive_entropy, preference_certainty, tails = map(
    jax.jit,
    (
        objectives.disagreement,
        objectives.implicit_reward,
        objectives.middle,
        objectives.predictive_entropy,
        objectives.preference_certainty,
        objectives.tails,
    ),
)
uncertainty = jax.jit(objectives.uncertainty)
hybrid = jax.jit(objectives.hybrid, static_argnums=2)
select = jax.jit(objectives.select, static_argnums=1)
diverse = jax.jit(objectives.diverse, static_argnums=2)

P, n = 7, 3
margins = hnp.arrays(np.float32, P, elements=st.floats(-4, 4, width=32), unique=True)


def ranking(scores) -> list[int]:
    return list(np.argsort(-np.asarray(scores), kind="stable"))


# Predictive entropy.


def test_the_entropy_of_a_prompt_is_minus_the_mean_of_its_own_samples():
    S = -np.random.default_rng(0).exponential(5, (P, n)).astype(np.float32)
    expected = [-sum(float(S[x, i]) for i in range(n)) / n for x in range(P)]
    np.testing.assert_allclose(predictive_entropy(jnp.asarray(S)), expected, rtol=1e-6)


def windows_that_slide_across_prompts(S: np.ndarray) -> np.ndarray:
    """The published code's slip: all[s : s + n] where all[s * n : (s + 1) * n] is meant."""
    everything = S.reshape(-1)
    return -np.array([everything[s : s + n].mean() for s in range(len(S))])


def leaks(entropy) -> bool:
    """Whether the samples of one prompt move the score of another, or fail to move their own."""
    S = -np.random.default_rng(1).exponential(5, (P, n)).astype(np.float32)
    before = np.asarray(entropy(S))
    for x in range(P):
        changed = S.copy()
        changed[x] -= 10.0
        moved = ~np.isclose(np.asarray(entropy(changed)), before)
        if list(np.flatnonzero(moved)) != [x]:
            return True
    return False


def test_no_prompt_is_scored_by_the_samples_of_another():
    assert not leaks(lambda S: predictive_entropy(jnp.asarray(S)))
    assert leaks(windows_that_slide_across_prompts)


def test_entropy_is_not_divided_by_length():
    # A prompt whose answers are twice as long, at the same rate, is twice as undecided.
    per_token = np.full((P, n), -0.5, np.float32)
    np.testing.assert_allclose(
        predictive_entropy(40 * per_token), 2 * predictive_entropy(20 * per_token)
    )


def test_on_all_samples_weighted_fairly_it_is_the_entropy():
    # Samples in exact proportion to their probabilities 1/2, 1/4, 1/4.
    S = np.log([[0.5, 0.5, 0.25, 0.25]]).astype(np.float32)
    np.testing.assert_allclose(predictive_entropy(S), 1.5 * np.log(2), rtol=1e-6)


# Certainty.


def authors_uncertainty(h_a: np.ndarray, h_b: np.ndarray) -> np.ndarray:
    """U = 1 - 2 |sigmoid(h_a - h_b) - 1/2|; they keep the lowest."""
    return 1 - 2 * abs(1 / (1 + np.exp(-(h_a - h_b))) - 0.5)


@given(margins)
def test_certainty_ranks_like_the_gap_and_against_the_authors_uncertainty(gap):
    h_b = np.linspace(-1, 1, P, dtype=np.float32)
    h_a = (h_b + gap).astype(np.float32)
    certainty = preference_certainty(jnp.asarray(h_a), jnp.asarray(h_b))
    exact = h_a.astype(float) - h_b.astype(float)
    np.testing.assert_allclose(certainty, abs(exact), atol=1e-6)
    u = authors_uncertainty(*(x.astype(float) for x in (h_a, h_b)))
    for i, j in np.ndindex(P, P):
        if abs(exact[i]) > abs(exact[j]) + 1e-5:
            assert certainty[i] > certainty[j]
            assert u[i] < u[j]


def test_an_implicit_reward_is_beta_times_the_log_ratio():
    S, S_ref = jnp.asarray([-1.0, -5.0]), jnp.asarray([-2.0, -4.5])
    np.testing.assert_allclose(implicit_reward(S, S_ref, 0.2), [0.2, -0.1], rtol=1e-6)


def test_when_policy_and_reference_agree_every_certainty_is_zero_and_the_choice_is_random():
    S = jnp.asarray(np.random.default_rng(2).normal(size=P))
    h = implicit_reward(S, S, 0.2)
    certainty = preference_certainty(h, h)
    np.testing.assert_array_equal(certainty, 0)
    chosen = {tuple(np.asarray(select(certainty, 3, jax.random.key(k)))) for k in range(20)}
    assert len(chosen) > 10


def test_the_ablations_rank_by_the_smallest_the_middle_and_the_outermost():
    certainty = jnp.asarray([0.1, 3.0, 0.9, 2.0, 1.1, 0.0, 1.0])  # the median is 1
    assert ranking(uncertainty(certainty)) == [5, 0, 2, 6, 4, 3, 1]
    assert ranking(middle(certainty))[0] == 6
    assert set(ranking(middle(certainty))[1:3]) == {2, 4}
    assert ranking(tails(certainty))[0] == 1
    assert set(ranking(tails(certainty))[-3:]) == {2, 4, 6}
    np.testing.assert_array_equal(middle(certainty), -tails(certainty))


# Both, and an ensemble.


def test_hybrid_picks_by_certainty_among_the_prompts_of_highest_entropy():
    entropy = jnp.asarray([5.0, 1.0, 4.0, 3.0, 0.0, 2.0, 6.0])
    certainty = jnp.asarray([0.1, 9.0, 0.5, 0.3, 8.0, 7.0, 0.2])
    scores = hybrid(entropy, certainty, 4)
    np.testing.assert_array_equal(
        np.isneginf(scores), [False, True, False, False, True, True, False]
    )
    assert list(select(scores, 3, jax.random.key(0))) == [2, 3, 6]
    # The whole pool is certainty alone; a pool of what is needed is entropy alone.
    assert ranking(hybrid(entropy, certainty, P)) == ranking(certainty)
    assert set(ranking(hybrid(entropy, certainty, 2))[:2]) == {0, 6}


def test_ties_at_the_border_of_the_pool_all_survive():
    entropy = jnp.asarray([1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    assert np.isfinite(hybrid(entropy, jnp.arange(7.0), 2)).sum() == 3


def test_disagreement_is_the_population_variance_over_the_members():
    rng = np.random.default_rng(3)
    h_a, h_b = rng.normal(size=(2, 4, P)).astype(np.float32)
    score = disagreement(jnp.asarray(h_a), jnp.asarray(h_b))
    for x in range(P):
        gaps = [float(h_a[m, x]) - float(h_b[m, x]) for m in range(4)]
        mean = sum(gaps) / 4
        np.testing.assert_allclose(score[x], sum((g - mean) ** 2 for g in gaps) / 4, rtol=1e-5)


def test_members_that_agree_do_not_disagree_however_certain_they_are():
    h = jnp.broadcast_to(jnp.arange(5.0)[None, :], (3, 5))
    np.testing.assert_array_equal(disagreement(h, -h), 0)


# Choosing.


# No subnormal numbers: XLA takes them for 0, and then they tie.
SCORE = st.floats(-9, 9, width=32, allow_subnormal=False)


@given(hnp.arrays(np.float32, P, elements=SCORE, unique=True))
def test_select_takes_the_highest_scores_best_first(scores):
    assert list(select(jnp.asarray(scores), 3, jax.random.key(0))) == ranking(scores)[:3]


def test_select_breaks_ties_at_random_and_nothing_else():
    scores = jnp.asarray([1.0, 2.0, 1.0, 3.0, 1.0, 1.0, 0.0])
    draws = [list(np.asarray(select(scores, 3, jax.random.key(k)))) for k in range(100)]
    assert all(draw[:2] == [3, 1] for draw in draws)
    counts = np.bincount([draw[2] for draw in draws], minlength=P)
    assert counts[[0, 2, 4, 5]].min() > 8  # 25 each, standard deviation 4
    assert counts.sum() == counts[[0, 2, 4, 5]].sum()


def test_select_is_decided_by_the_key(key):
    scores = jnp.zeros(P)
    np.testing.assert_array_equal(select(scores, 3, key), select(scores, 3, key))


@pytest.mark.parametrize("k", [0, -1, P + 1])
def test_a_count_that_does_not_fit_is_refused(k):
    scores, key = jnp.zeros(P), jax.random.key(0)
    with pytest.raises(ValueError, match=f"k is {k}; it must be between 1 and the {P} candidates"):
        select(scores, k, key)
    with pytest.raises(ValueError, match=f"k is {k}; it must be between 1 and the {P} candidates"):
        diverse(scores, jnp.zeros((P, 2)), k, key)
    with pytest.raises(ValueError, match=f"pool is {k}; it must be between 1 and the {P}"):
        hybrid(scores, scores, k)


def farthest_first(scores: np.ndarray, features: np.ndarray, k: int) -> list[int]:
    """The greedy max-min choice, by looking at everyone every time."""
    picked = [int(scores.argmax())]
    while len(picked) < k:
        allowed = [i for i in range(len(scores)) if i not in picked and scores[i] > -np.inf]
        allowed = allowed or [i for i in range(len(scores)) if i not in picked]
        nearest = [min(np.linalg.norm(features[i] - features[j]) for j in picked) for i in allowed]
        picked.append(allowed[int(np.argmax(nearest))])
    return picked


@pytest.mark.parametrize("seed", range(4))
def test_diverse_is_the_greedy_max_min_choice(seed):
    rng = np.random.default_rng(seed)
    scores, features = rng.normal(size=P).astype(np.float32), rng.normal(size=(P, 2))
    scores[rng.choice(P, 2, replace=False)] = -np.inf
    expected = farthest_first(scores, features.astype(np.float32), P - 2)
    for k in (3, P - 2):
        chosen = diverse(
            jnp.asarray(scores), jnp.asarray(features, jnp.float32), k, jax.random.key(seed)
        )
        assert list(chosen) == expected[:k]


def test_diverse_takes_one_of_each_cluster_where_the_best_scores_are_all_alike():
    features = jnp.asarray([[0.0, 0], [0, 0.1], [0.1, 0], [9, 0], [9, 0.1], [0, 9], [0.1, 9]])
    scores = jnp.asarray([9.0, 8, 7, 3, 2, 1, 0])
    assert set(np.asarray(select(scores, 3, jax.random.key(0)))) == {0, 1, 2}
    chosen = diverse(scores, features, 3, jax.random.key(0))
    assert chosen[0] == 0
    assert len({int(i) for i in chosen} & {3, 4}) == 1
    assert len({int(i) for i in chosen} & {5, 6}) == 1


def test_diverse_never_picks_twice_and_leaves_the_excluded_for_last():
    scores = jnp.asarray([1.0, -jnp.inf, 0.5, -jnp.inf, 0.2, -jnp.inf, 0.0])
    same_place = jnp.zeros((P, 2))
    for features in (same_place, jnp.arange(2.0 * P).reshape(P, 2)):
        chosen = list(np.asarray(diverse(scores, features, P, jax.random.key(0))))
        assert sorted(chosen) == list(range(P))
        assert set(chosen[:4]) == {0, 2, 4, 6}


def test_diverse_breaks_ties_of_the_first_pick_at_random():
    starts = functools.partial(diverse, jnp.zeros(P), jnp.zeros((P, 2)), 1)
    assert len({int(starts(jax.random.key(k))[0]) for k in range(40)}) > 3
