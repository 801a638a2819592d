"""One run: what it collects, what it learns from, and that its trace tells the exact truth.

Key to the axes: B prompts, N responses per prompt, T tokens, K bins, R records.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bandit import (
    PROBLEMS,
    R1,
    R2,
    Policy,
    Problem,
    Start,
    Tabular,
    TokenTransformer,
    bump,
    prepare,
    simulate,
)
from bandit.policies import token_logp
from bandit.simulate import Collected, collect, measure
from objectives import (
    IPO,
    PPO,
    RECIPES,
    REINFORCE,
    SFT,
    BestOfN,
    Collection,
    KLPenalty,
    Recipe,
    Responses,
    Reuse,
    RunningMean,
)
from tests.bandit.samples import p_value
from tests.bandit.watching import compiled, run, watch

NOTHING = RunningMean(jnp.zeros(()), jnp.zeros(()))
SMALL = TokenTransformer(layers=1, heads=1, width=8, evaluation_prompts=6, fit_steps=3)
WRITTEN = Problem(R1.ref_logp, R1.reward, tokens=3, prompt_earns=True)
"""A world of short sequences."""


def bytes_of(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


# Randomness: everything comes from the key.


def test_one_seed_gives_the_same_bytes_twice_and_another_seed_gives_others():
    once, again, other = (run(RECIPES["rloo"], R1, seed=seed, steps=2) for seed in (3, 3, 4))
    assert bytes_of(once) == bytes_of(again)
    assert (once.reward[1:] != other.reward[1:]).all()


@pytest.mark.parametrize(
    ("policy", "problem", "recipe"),
    [
        pytest.param(Tabular(), R2, RECIPES["ppo"].with_reuse(minibatches=2), id="table"),
        pytest.param(SMALL, WRITTEN, RECIPES["dpo"], id="transformer"),
    ],
)
def test_no_key_is_used_twice_in_a_run(policy, problem, recipe, key):
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: simulate(recipe, problem, policy, key, 4, contexts=20)).lower(key)


def test_runs_mapped_over_keys_are_the_runs_one_by_one():
    def final(key):
        return simulate(RECIPES["reinforce"], R2, Tabular(), key, 20, learning_rate=0.05)

    keys = jnp.stack([jax.random.key(seed) for seed in range(5)])
    together = compiled(jax.vmap(final))(keys)
    for row in range(5):
        expected = run(RECIPES["reinforce"], R2, seed=row, steps=20, learning_rate=0.05)
        mapped = jax.tree.map(lambda leaf, row=row: leaf[row], together)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), mapped,
                     expected)  # fmt: skip


def test_numbers_are_data_so_a_sweep_over_them_is_traced_once():
    traced = []

    def final(learning_rate, tau, peak_reward):
        traced.append(1)
        recipe = dataclasses.replace(RECIPES["online_ipo"], objective=IPO(tau=tau))
        problem = jax.tree.unflatten(jax.tree.structure(R1), [R1.ref_logp, peak_reward])
        key = jax.random.key(0)
        trace = simulate(recipe, problem, Tabular(), key, 8, learning_rate=learning_rate)
        return trace.reward[-1]

    rates, taus = jnp.array([0.01, 0.1, 0.1]), jnp.array([0.05, 0.05, 0.5])
    rewards = jnp.stack([bump(70, 10), bump(20, 10), bump(20, 10)])
    together = compiled(jax.vmap(final))(rates, taus, rewards)
    assert len(traced) == 1
    alone = compiled(final)
    one_by_one = [alone(*given) for given in zip(rates, taus, rewards, strict=True)]
    assert len(traced) == 2
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4)
    assert len(set(np.asarray(together).tolist())) == 3


# Collecting: where responses come from and what is written on them.


def gathered(recipe: Recipe, problem: Problem, policy: Policy, contexts: int, seed: int = 0):
    """One collection by a policy that has left its start, with the logits that drew it."""
    given = (recipe, problem, policy, jax.random.key(seed))
    return jax.tree.map(np.asarray, gather()(*given, contexts))


@functools.cache
def gather() -> Any:
    def look(recipe, problem, policy, key, contexts):
        start_key, collect_key = jax.random.split(key)
        start = prepare(problem, policy, start_key, contexts)
        params = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.sin(7 * leaf), start.params)
        collected, _ = collect(recipe, problem, policy, params, start, NOTHING, collect_key)
        prompts, tokens = collected.prompts, collected.tokens
        now = policy.logits(params, prompts, tokens)
        at_start = policy.logits(start.params, prompts, tokens)
        shape = (*tokens.shape, problem.bins)
        return collected, jnp.broadcast_to(now, shape), jnp.broadcast_to(at_start, shape)

    return compiled(look, static_argnums=4)


def logp_of(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    logp = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    return np.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("world", "source"),
    [("table", "policy"), ("table", "reference"), ("table", "dataset"), ("transformer", "dataset")],
)
def test_log_probabilities_are_those_of_the_distribution_that_drew(world, source, temperature):
    policy, problem = {"table": (Tabular(), R1), "transformer": (SMALL, WRITTEN)}[world]
    recipe = Recipe(SFT(), Collection(source, prompts=4, responses=6, temperature=temperature))
    collected, now, at_start = gathered(recipe, problem, policy, contexts=4)
    batch, tokens = collected.responses, collected.tokens
    old = logp_of((now if source == "policy" else at_start) / temperature, tokens)
    np.testing.assert_allclose(batch.old_logp, old, rtol=1e-4, atol=1e-5)
    ref = logp_of(at_start / temperature, tokens)
    np.testing.assert_allclose(batch.ref_logp, ref, rtol=1e-4, atol=1e-5)
    assert batch.mask.all() and batch.valid.all()
    assert tokens.shape == (4, 6, problem.tokens)
    reward = np.asarray(problem.reward, np.float64)[tokens].sum(axis=-1)
    if problem.prompt_earns:
        reward = (reward + np.asarray(problem.reward)[collected.prompts][:, None]) / 4
    np.testing.assert_allclose(batch.reward, reward, rtol=1e-5)


@pytest.mark.parametrize("source", ["policy", "reference", "dataset"])
def test_responses_follow_the_tempered_distribution_of_their_source(source):
    collection = Collection(source, prompts=3, responses=20_000, temperature=1.8)
    collected, now, at_start = gathered(Recipe(SFT(), collection), R2, Tabular(), contexts=3)
    drew = now if source == "policy" else at_start
    p = scipy.special.softmax(np.float64(drew[0, 0, 0]) / 1.8)
    counts = np.bincount(collected.tokens.reshape(-1), minlength=100)
    assert p_value(counts, p) > 1e-3
    other = at_start if source == "policy" else now
    assert p_value(counts, scipy.special.softmax(np.float64(other[0, 0, 0]) / 1.8)) < 1e-3


@pytest.mark.parametrize(("world", "temperature"), [("table", 0.5), ("transformer", 2.0)])
def test_at_the_first_step_ratios_are_1_and_log_ratios_are_0_at_any_temperature(world, temperature):
    quiet = dataclasses.replace(SMALL, dropout=0.0)
    policy, problem = {"table": (Tabular(), R2), "transformer": (quiet, WRITTEN)}[world]
    collection = Collection("policy", prompts=4, responses=5, temperature=temperature)
    objective = PPO(kl=KLPenalty(0.1, "k3"))
    reuse = Reuse(inner_steps=3)
    recipe = Recipe(objective, collection, reuse, advantage="group_mean", kl_in_reward=0.1)
    story = watch(recipe, problem, policy, steps=6, learning_rate=0.1)
    for taken, (logp, batch) in enumerate(story.steps):
        ratio, log_ratio = np.exp(logp - batch.old_logp), logp - batch.ref_logp
        assert (abs(ratio - 1).max() > 1e-4) == (taken % 3 > 0)
        assert (abs(log_ratio).max() > 1e-4) == (taken > 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(story.trace))
    np.testing.assert_allclose(story.trace.chosen_log_ratio[0], 0, atol=1e-5)
    # Nor does a penalty take anything off the reward yet.
    first = story.collections[0]
    paid = np.asarray(problem.reward)[first.tokens].sum(axis=-1)
    if problem.prompt_earns:
        paid = (paid + np.asarray(problem.reward)[first.prompts][:, None]) / 4
    np.testing.assert_allclose(story.steps[0].responses.reward, paid, atol=1e-5)


def test_a_penalty_in_the_reward_is_beta_times_the_log_ratio_of_the_samples():
    recipe = dataclasses.replace(RECIPES["rloo"], kl_in_reward=0.7)
    collected, now, at_start = gathered(recipe, R2, Tabular(), contexts=10)
    tokens = collected.tokens
    penalty = 0.7 * (logp_of(now, tokens) - logp_of(at_start, tokens))[..., 0]
    expected = np.asarray(R2.reward)[tokens[..., 0]] - penalty
    np.testing.assert_allclose(collected.responses.reward, expected, rtol=1e-4, atol=1e-5)
    others = expected.sum(axis=-1, keepdims=True) - expected
    np.testing.assert_allclose(
        collected.responses.advantage[..., 0], expected - others / 9, rtol=1e-3, atol=1e-4
    )


def test_the_running_mean_remembers_all_rewards_so_far():
    story = watch(RECIPES["reinforce"], R2, steps=4, learning_rate=0.1)
    rewards = [seen.responses.reward for seen in story.collections]
    for taken, (_, batch) in enumerate(story.steps):
        expected = rewards[taken] - np.mean(rewards[: taken + 1])
        np.testing.assert_allclose(batch.advantage[..., 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_the_floor_of_a_recipe_reaches_its_z_score(floor):
    recipe = dataclasses.replace(RECIPES["ppo"], std_floor=floor)
    batch = gathered(recipe, R2, Tabular(), contexts=10)[0].responses
    std = np.maximum(batch.reward.std(axis=-1, keepdims=True), floor) + 1e-6
    expected = (batch.reward - batch.reward.mean(axis=-1, keepdims=True)) / std
    np.testing.assert_allclose(batch.advantage[..., 0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("advantage", "share"), [("leave_one_out", 1), ("group_mean", 3 / 4)])
def test_sampled_gradients_average_to_the_exact_policy_gradient(advantage, share):
    # The mean of the response's own group holds the response itself, which costs 1/N of it.
    ref = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    reward, z = np.array([0.0, 1.0, 0.2, 0.5, 0.9]), np.array([0.3, -0.2, 0.1, 0.5, -0.4])
    problem = Problem(jnp.log(jnp.float32(ref)), jnp.float32(reward))
    recipe = Recipe(REINFORCE(), Collection(prompts=1, responses=4), advantage=advantage)
    params = jnp.float32(np.log(ref) + z)[None]
    start = Start(params, jnp.arange(1), jnp.arange(1))

    def sampled(key):
        batch, _ = collect(recipe, problem, Tabular(), params, start, NOTHING, key)

        def loss(params):
            logp = token_logp(Tabular(), params, batch.prompts, batch.tokens)
            return recipe.objective(logp, batch.responses).mean()

        return jax.grad(loss)(params)[0]

    count = 40_000
    keys = jax.random.split(jax.random.key(1), count)
    gradients = np.asarray(compiled(jax.vmap(sampled))(keys), np.float64)
    p = scipy.special.softmax(np.log(ref) + z)
    exact = -p * (reward - p @ reward) * share
    error = gradients.std(axis=0) / np.sqrt(count)
    assert (abs(gradients.mean(axis=0) - exact) < 4 * error).all()
    assert (abs(exact) > 10 * error).sum() >= 3


# Using: how often, in which order, and how much of it.


@pytest.mark.parametrize(
    ("source", "inner_steps", "collections"),
    [("dataset", 3, 1), ("policy", 1, 12), ("policy", 5, 3), ("reference", 4, 3)],
)
def test_responses_are_used_inner_steps_times_and_a_data_set_for_ever(
    source, inner_steps, collections
):
    recipe = Recipe(SFT(), Collection(source, prompts=2, responses=3), Reuse(inner_steps))
    story = watch(recipe, R2, steps=12, record_every=4, learning_rate=0.1)
    assert len(story.collections) == collections and len(story.steps) == 12
    rewards = [seen.responses.reward for seen in story.collections]
    for taken, (_, batch) in enumerate(story.steps):
        held = 0 if source == "dataset" else taken // inner_steps
        np.testing.assert_array_equal(batch.reward, rewards[held])
    if collections > 1:
        assert (rewards[0] != rewards[1]).any()
    used = [0, 4, 8, 12]
    drawn = [max(-(-taken // inner_steps), 1) if source != "dataset" else 1 for taken in used]
    np.testing.assert_array_equal(story.trace.step, used)
    np.testing.assert_array_equal(story.trace.samples, 6 * np.array(drawn))


def test_a_data_set_does_not_change_however_far_the_policy_moves():
    recipe = Recipe(SFT(), Collection("dataset", prompts=1, responses=5))
    learned = run(recipe, R2, steps=400, record_every=400, learning_rate=0.1).probability[-1]
    share = learned[learned > 0.05]
    assert share.sum() > 0.98  # nothing but the five responses it has ever seen
    np.testing.assert_allclose(share * 5, np.round(share * 5), atol=0.05)


def test_the_reference_as_a_source_is_drawn_anew_and_the_policy_stays_near_it():
    recipe = Recipe(SFT(), Collection("reference", prompts=1, responses=200))
    trace = run(recipe, R2, steps=60, record_every=60, learning_rate=0.01)
    assert trace.reverse_kl[-1] < 0.05


@pytest.mark.parametrize("source", ["policy", "dataset"])
def test_minibatches_visit_every_prompt_exactly_once_per_pass_in_an_order_of_their_own(source):
    collection = Collection(source, prompts=6, responses=4)
    recipe = Recipe(BestOfN(), collection, Reuse(inner_steps=2, minibatches=3))
    story = watch(recipe, R2, steps=12, record_every=4, learning_rate=0.05)
    orders = []
    for begin in range(0, 12, 3):
        held = 0 if source == "dataset" else begin // 6
        whole = [row.tobytes() for row in story.collections[held].responses.reward]
        assert len(set(whole)) == 6
        batches = [step.responses.reward for step in story.steps[begin : begin + 3]]
        assert all(batch.shape == (2, 4) for batch in batches)
        orders.append(tuple(whole.index(row.tobytes()) for batch in batches for row in batch))
        assert sorted(orders[-1]) == list(range(6))
    assert len(set(orders)) == 4


def test_minibatches_carry_their_prompts_along():
    # A table's rows move only when their prompt is in the batch.
    recipe = Recipe(BestOfN(), Collection("dataset", prompts=4, responses=3), Reuse(1, 4))
    story = watch(recipe, R2, steps=3, learning_rate=0.5)
    logp = [step.logp - step.responses.ref_logp for step in story.steps]
    assert all(abs(moved).max() < 1e-5 for moved in logp)  # each prompt met for the first time


def test_fewer_prompts_than_contexts_are_a_new_subset_each_time():
    recipe = Recipe(BestOfN(), Collection(prompts=5, responses=2))
    story = watch(recipe, R2, steps=8, contexts=20)
    subsets = [tuple(seen.prompts.tolist()) for seen in story.collections]
    assert all(len(set(subset)) == 5 and max(subset) < 20 for subset in subsets)
    assert len(set(subsets)) == 8
    assert len(set(sum(subsets, ()))) > 14


@pytest.mark.parametrize(("prompts", "contexts"), [(5, 5), (6, 3), (5, 3)])
def test_as_many_prompts_as_contexts_or_more_use_every_context_evenly(prompts, contexts):
    recipe = Recipe(BestOfN(), Collection(prompts=prompts, responses=2))
    collected, *_ = gathered(recipe, R2, Tabular(), contexts)
    np.testing.assert_array_equal(collected.prompts, np.arange(prompts) % contexts)


# Measuring: a trace is exact.


def test_a_table_is_at_0_nats_from_the_reference_at_step_0():
    trace = run(RECIPES["rloo"], R1, steps=2)
    for name in ("reverse_kl", "forward_kl", "chosen_log_ratio", "rejected_log_ratio"):
        np.testing.assert_allclose(getattr(trace, name)[0], 0, atol=1e-6)
    np.testing.assert_allclose(trace.probability[0], np.exp(R1.ref_logp), rtol=1e-5)


def test_every_record_can_be_recomputed_from_the_probabilities_of_a_single_context():
    recipe = RECIPES["online_ipo"].with_collection(prompts=1)
    trace = run(recipe, R2, steps=30, record_every=5, learning_rate=0.05, beta_star=0.3)
    assert trace.probability.shape == (7, 100)
    p, q = np.float64(trace.probability), np.exp(np.float64(R2.ref_logp))
    r = np.float64(R2.reward)
    optimum = q * np.exp(r / 0.3)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    close(p.sum(axis=-1), 1)
    close(trace.reward, p @ r)
    close(trace.reverse_kl, (p * np.log(p / q)).sum(axis=-1))
    close(trace.forward_kl, (q * np.log(q / p)).sum(axis=-1))
    close(trace.entropy, -(p * np.log(p)).sum(axis=-1))
    close(trace.distance, abs(p - optimum / optimum.sum()).sum(axis=-1) / 2)
    assert trace.reverse_kl[-1] > 0.1


def test_a_record_of_several_contexts_is_the_mean_of_theirs():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 100))
    start = Start(jnp.float32(z), jnp.arange(3), jnp.arange(3))
    tokens = rng.integers(0, 100, (2, 4, 1))
    reward, ref_logp = rng.normal(size=(2, 4)), rng.normal(size=(2, 4, 1))
    given = [jnp.float32(x) for x in (reward, ref_logp)]
    batch = Responses(jnp.ones((2, 4, 1), bool), *given, old_logp=given[1])
    held = Collected(jnp.array([2, 0]), jnp.asarray(tokens), batch)
    seen = compiled(
        lambda key, temperature: measure(
            R1, Tabular(), start.params, start, held, 0.1, key, temperature
        )
    )(jax.random.key(0), 2.0)

    p, q, r = scipy.special.softmax(z, axis=-1), np.exp(np.float64(R1.ref_logp)), R1.reward
    optimum = np.exp(np.float64(R1.optimum(0.1)))
    by_hand = {
        "probability": p.mean(axis=0),
        "reward": (p @ np.asarray(r)).mean(),
        "reverse_kl": (p * np.log(p / q)).sum(axis=-1).mean(),
        "forward_kl": (q * np.log(q / p)).sum(axis=-1).mean(),
        "entropy": -(p * np.log(p)).sum(axis=-1).mean(),
        "distance": abs(p - optimum).sum(axis=-1).mean() / 2,
    }
    logp = scipy.special.log_softmax(z / 2, axis=-1)[[2, 0]]
    ratio = np.take_along_axis(logp, tokens[..., 0], axis=-1) - ref_logp[..., 0]
    best = np.eye(4, dtype=bool)[reward.argmax(axis=-1)]
    by_hand |= {
        "chosen_log_ratio": ratio[best].mean(),
        "rejected_log_ratio": ratio[~best].mean(),
    }
    assert set(seen) == set(by_hand)
    for name, expected in by_hand.items():
        np.testing.assert_allclose(seen[name], expected, rtol=2e-5, atol=1e-6, err_msg=name)


def test_a_record_of_sequences_adds_nats_over_positions_and_averages_reward_over_tokens():
    # Logits that depend on the position alone, so that whatever prefix is sampled is the same.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: SMALL.fresh(key, WRITTEN), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(0, 0.5, leaf.shape)), shapes)
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])
    moved, at_start = ({**params, "tokens": params["tokens"] * 0, "head": h * params["head"]}
                       for h in (1.0, 0.2))  # fmt: skip
    prompts = jnp.array([70, 0, 60])
    start = Start(at_start, prompts, prompts)

    def look(key):
        recipe = Recipe(SFT(), Collection(prompts=3, responses=2))
        held, _ = collect(recipe, WRITTEN, SMALL, moved, start, NOTHING, key)
        tokens = held.tokens
        both = (SMALL.logits(params, prompts, tokens)[0, 0] for params in (moved, at_start))
        return measure(WRITTEN, SMALL, moved, start, held, 0.1, key), *both

    seen, z, z_ref = jax.tree.map(np.float64, compiled(look)(jax.random.key(0)))
    p, q = (scipy.special.softmax(x, axis=-1) for x in (z, z_ref))
    r = np.float64(R1.reward)
    by_hand = {
        "probability": p.mean(axis=0),
        "reward": ((p @ r).sum() + r[np.asarray(prompts)].mean()) / 4,
        "reverse_kl": (p * np.log(p / q)).sum(),
        "forward_kl": (q * np.log(q / p)).sum(),
        "entropy": -(p * np.log(p)).sum(),
    }
    for name, expected in by_hand.items():
        np.testing.assert_allclose(seen[name], expected, rtol=1e-4, err_msg=name)
    assert by_hand["reverse_kl"] > 0.1


# Every recipe.

QUICKLY = {"sft", "best_of_n", "ipo", "online_ipo", "reinforce", "ppo", "dr_grpo", "gspo"}
"""One recipe of each family and of each way through a run; each takes a compilation."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICKLY else pytest.mark.slow) for name in RECIPES],
)
def test_every_recipe_runs_and_all_but_sft_raise_the_reward(name):
    recipe = RECIPES[name]
    trace = run(recipe, R2, steps=40, record_every=40, learning_rate=0.05)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trace))
    collections = 40 // recipe.reuse.steps if recipe.on_policy else 1
    assert trace.samples[-1] == 100 * collections
    gained = trace.reward[-1] - trace.reward[0]
    assert gained > 0.05 or name == "sft"


# What makes no sense is refused before anything runs.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0 and record_every=1"),
        ({"steps": 10, "record_every": 3}, "record_every must divide steps"),
        ({"steps": 10, "record_every": 0}, "at least 1"),
        ({"steps": 10, "contexts": 0}, "contexts is 0"),
        ({"steps": 10, "learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"steps": 10, "learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"steps": 10, "learning_rate": float("nan")}, "learning_rate is nan"),
        ({"steps": 10, "learning_rate": float("inf")}, "learning_rate is inf"),
        ({"steps": 10, "beta_star": 0.0}, "beta_star is 0.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_run_that_makes_no_sense_is_refused(options, message, key):
    with pytest.raises(ValueError, match=message):
        simulate(RECIPES["sft"], PROBLEMS["R1"], Tabular(), key, **options)
