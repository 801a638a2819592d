"""Advantages of whole collections against a derivation by loops, and against the bandit's."""

from collections.abc import Iterable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from llm.fresh_advantages import Carried, advise, steered
from llm.rewards import Written
from llm.rollouts import Rollout
from llm.settings import CriticSettings, KLSettings
from objectives import PPO, REINFORCE
from objectives.advantages import RunningMean, running_mean
from objectives.recipes import RECIPES, Recipe

UNEVEN = [[3, 1, 4], [2], [5, 1], [1, 1, 2, 6]]
NOTHING = Carried(0.0, 0.0, 0.0)


def collection(
    lengths=UNEVEN, seed=0, *, reference=True, critic=False, source="policy", rewards=None
) -> list[Rollout]:
    rng = np.random.default_rng(seed)
    made = []
    for number, group in enumerate(lengths):
        names = ["old_logp"] + ["ref_logp"] * reference + ["old_value"] * critic
        made.append(
            Rollout(
                prompt_id=number,
                where=f"row {number}",
                source=source,
                prompt=np.array([1], np.int32),
                responses=tuple(Written("", "", np.zeros(n, np.int32), True) for n in group),
                reward=rng.normal(size=len(group))
                if rewards is None
                else np.array(rewards[number]),
                known={name: rng.normal(size=sum(group)).astype(np.float32) for name in names},
            )
        )
    return made


def per_response(rollout: Rollout, name: str) -> list[np.ndarray]:
    return np.split(rollout.known[name].astype(np.float64), np.cumsum(rollout.lengths)[:-1])


def given(rollout: Rollout, each: Iterable[float]) -> np.ndarray:
    """What every token of a group gets where all of a response get the same."""
    return np.concatenate(
        [np.full(length, x) for length, x in zip(rollout.lengths, each, strict=True)]
    )


def penalised(rollout: Rollout, beta: float) -> np.ndarray:
    drift = [
        (old - ref).sum()
        for old, ref in zip(
            per_response(rollout, "old_logp"), per_response(rollout, "ref_logp"), strict=True
        )
    ]
    return rollout.reward - beta * np.array(drift)


def told(rollouts, recipe, carried=NOTHING, critic=None, kl=KLSettings()):  # noqa: B008
    return advise(rollouts, recipe, critic, kl, carried)


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_every_estimator_is_what_a_loop_over_the_groups_says(beta):
    rollouts = collection()
    rewards = [penalised(rollout, beta) for rollout in rollouts]
    everything = np.concatenate(rewards)

    def leave_one_out(r):
        return [x - (r.sum() - x) / (len(r) - 1) if len(r) > 1 else 0.0 for x in r]

    derived = {
        "group_mean": lambda r: r - r.mean(),
        "batch_mean": lambda r: r - everything.mean(),
        "group_zscore": lambda r: (r - r.mean()) / (max(r.std(), 0.7) + 1e-6),
        "leave_one_out": leave_one_out,
    }
    for name, estimate in derived.items():
        recipe = Recipe(REINFORCE(), advantage=name, std_floor=0.7, kl_in_reward=beta)
        found, _ = told(rollouts, recipe, Carried(0.0, 0.0, beta))
        for rollout, r, before in zip(found, rewards, rollouts, strict=True):
            assert_close(rollout.known["advantage"], given(before, estimate(r)))
            assert_close(rollout.worth, r)
            np.testing.assert_array_equal(rollout.reward, before.reward)
            assert set(rollout.known) == {"old_logp", "ref_logp", "advantage"}


def test_the_running_mean_goes_on_over_collections_of_uneven_groups():
    recipe, carried = RECIPES["reinforce"], NOTHING
    seen: list[float] = []
    state = None
    for seed, lengths in enumerate((UNEVEN, [[2], [1, 1]], [[4] * 5])):
        rollouts = collection(lengths, seed)
        found, carried = told(rollouts, recipe, carried)
        seen += [float(x) for rollout in rollouts for x in rollout.reward]
        for rollout, before in zip(found, rollouts, strict=True):
            assert_close(rollout.known["advantage"], given(before, before.reward - np.mean(seen)))
        # And so says the bandit's function, on the same numbers laid out as it has them.
        many = max(map(len, lengths))
        padded = np.zeros((len(lengths), many), np.float32)
        valid = np.arange(many)[None, :] < np.array([len(group) for group in lengths])[:, None]
        padded[valid] = np.concatenate([rollout.reward for rollout in rollouts])
        advantage, state = running_mean(jnp.asarray(padded), jnp.asarray(valid), state)
        flat = np.asarray(advantage)[valid]
        each = np.concatenate([[y[0] for y in per_response(r, "advantage")] for r in found])
        np.testing.assert_array_equal(each.astype(np.float32), flat)
        assert isinstance(state, RunningMean)
        assert (carried.total, carried.number) == (float(state.total), float(state.number))
        assert carried.number == len(seen)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_critic_compares_every_token_with_what_was_expected_of_it(whiten):
    settings = CriticSettings(gamma=0.9, lambda_=0.8, whiten=whiten, normalize=False)
    rollouts, beta = collection(critic=True), 0.3
    recipe = Recipe(PPO(), advantage="batch_mean", kl_in_reward=beta)
    found, _ = told(rollouts, recipe, Carried(0.0, 0.0, beta), settings)
    advantages, returns = [], []
    for rollout in rollouts:
        columns = [per_response(rollout, n) for n in ("old_logp", "ref_logp", "old_value")]
        for reward, old, ref, value in zip(rollout.reward, *columns, strict=True):
            earned = -beta * (old - ref)
            earned[-1] += reward
            after = np.append(value[1:], 0.0)
            delta = earned + settings.gamma * after - value
            ahead = [
                sum(
                    (settings.gamma * settings.lambda_) ** k * delta[t + k]
                    for k in range(len(delta) - t)
                )
                for t in range(len(delta))
            ]
            advantages.append(np.array(ahead))
            returns.append(np.array(ahead) + value)
    flat = np.concatenate(advantages)
    if whiten:
        flat = (flat - flat.mean()) / (flat.std() + 1e-8)
    assert_close(np.concatenate([rollout.known["advantage"] for rollout in found]), flat)
    assert_close(
        np.concatenate([rollout.known["returns"] for rollout in found]), np.concatenate(returns)
    )


def test_a_critic_is_told_rewards_on_the_scale_of_the_first_collection():
    recipe = Recipe(PPO(), advantage="batch_mean")
    settings = CriticSettings(lambda_=1.0, whiten=False)
    given_first = [[-30.0, -20.0, -25.0], [-27.0], [-23.0]]
    own = collection([[2, 1, 3], [1], [2]], critic=True, rewards=given_first)
    stored = collection([[4]], seed=1, critic=True, source="dataset", rewards=[[1000.0]])
    found, carried = told(own + stored, recipe, NOTHING, settings)
    drawn = np.concatenate(given_first)
    assert (carried.centre, carried.unit) == pytest.approx((drawn.mean(), drawn.std()))
    scaled = (np.array([*drawn, 1000.0]) - drawn.mean()) / drawn.std()
    assert_close(np.concatenate([rollout.worth for rollout in found]), scaled)
    assert [rollout.reward.tolist() for rollout in found] == [*given_first, [1000.0]]
    # The return of every token is the whole reward, so a critic of 0 is right on average.
    returns = np.concatenate([rollout.known["returns"] for rollout in found])
    assert_close(returns, np.repeat(scaled, [2, 1, 3, 1, 2, 4]))
    # Later collections are measured by the first, and so is their penalty.
    later = collection([[3, 1]], seed=2, critic=True, rewards=[[-5.0, -6.0]])
    beta = replace(carried, kl_coefficient=0.3)
    found, after = told(later, replace(recipe, kl_in_reward=0.3), beta, settings)
    assert (after.centre, after.unit) == (carried.centre, carried.unit)
    drift = penalised(later[0], 0.3) - later[0].reward
    assert_close(found[0].worth, (later[0].reward - drawn.mean()) / drawn.std() + drift)


def test_equal_rewards_have_no_unit_and_nothing_without_a_critic_has_a_scale():
    recipe = Recipe(PPO(), advantage="batch_mean")
    same = collection([[2, 1]], critic=True, rewards=[[0.1 + 0.2, 0.3]])
    found, carried = told(same, recipe, NOTHING, CriticSettings())
    assert carried.unit == 1.0
    assert_close(found[0].worth, np.zeros(2))
    found, carried = told(collection(), Recipe(REINFORCE(), advantage="group_mean"))
    assert (carried.centre, carried.unit) == (0.0, 0.0) and found[0].trained is None


def test_rewards_that_differ_by_less_than_one_reach_the_advantage():
    rollouts = collection([[2, 3]], rewards=[[0.7, 0.2]])
    found, _ = told(rollouts, Recipe(REINFORCE(), advantage="group_mean"))
    assert_close(found[0].known["advantage"], np.array([0.25] * 2 + [-0.25] * 3))
    assert found[0].reward.tolist() == [0.7, 0.2] and found[0].reward.dtype == np.float64
    assert found[0].group.rewards.tolist() == pytest.approx([0.7, 0.2])


def test_objectives_that_compare_are_told_no_advantage_but_the_penalised_reward():
    rollouts = collection()
    found, _ = told(rollouts, RECIPES["online_dpo"], Carried(0.0, 0.0, 0.3))
    for rollout, before in zip(found, rollouts, strict=True):
        assert set(rollout.known) == {"old_logp", "ref_logp"}
        assert_close(rollout.worth, penalised(before, 0.3))


def test_without_a_reference_nothing_is_taken_off():
    rollouts = collection(reference=False)
    found, _ = told(rollouts, RECIPES["rloo"])
    for rollout, before in zip(found, rollouts, strict=True):
        np.testing.assert_array_equal(rollout.reward, before.reward)
        assert set(rollout.known) == {"old_logp", "advantage"}


def test_the_penalty_is_steered_towards_its_target():
    kl = KLSettings(target=2.0, horizon=100)
    assert steered(0.1, 9.0, 10, kl) == pytest.approx(0.1 * (1 + 0.2 * 10 / 100))
    assert steered(0.1, 0.0, 10, kl) == pytest.approx(0.1 * (1 - 0.2 * 10 / 100))
    assert steered(0.1, 2.2, 10, kl) == pytest.approx(0.1 * (1 + 0.1 * 10 / 100))
    assert steered(0.1, 2.0, 10, kl) == 0.1
    assert steered(0.1, 9.0, 10, KLSettings()) == 0.1


def test_a_large_collection_never_turns_the_penalty_into_a_bonus():
    kl = KLSettings(target=2.0, horizon=1)
    assert steered(0.1, 0.0, 10_000, kl) == pytest.approx(0.08)
    assert steered(0.1, 9.0, 10_000, kl) == pytest.approx(0.12)


def test_the_distance_is_measured_on_what_the_policy_wrote_itself():
    kl = KLSettings(target=0.5, horizon=100)
    recipe = Recipe(REINFORCE(), advantage="group_mean", kl_in_reward=0.1)
    own = collection([[2, 2], [3]], seed=1)
    drift = np.concatenate([r.known["old_logp"] - r.known["ref_logp"] for r in own]).sum() / 3
    others = [
        replace(
            rollout, source="dataset", known={n: rollout.known["ref_logp"] for n in rollout.known}
        )
        for rollout in collection(seed=2)
    ]
    carried = Carried(0.0, 0.0, 0.1)
    for rollouts in (own, others + own):
        _, after = told(rollouts, recipe, carried, kl=kl)
        assert after.kl_coefficient == pytest.approx(steered(0.1, float(drift), 3, kl))
    _, after = told(others, recipe, carried, kl=kl)
    assert after.kl_coefficient == 0.1
    # The next collection is penalised by what this one left.
    found, _ = told(own, recipe, replace(carried, kl_coefficient=0.2), kl=kl)
    assert_close(found[0].worth, penalised(own[0], 0.2))


def test_rounding_is_no_advantage_where_every_reward_is_the_same():
    rollouts = collection(rewards=[[3.0] * len(group) for group in UNEVEN])
    read = [rollout.known["ref_logp"] for rollout in rollouts]
    rollouts = [
        replace(r, known=r.known | {"old_logp": r.known["ref_logp"] * np.float32(1 + 2e-7)})
        for r in rollouts
    ]
    rollouts = [
        replace(r, known=r.known | {"old_value": np.zeros_like(r.known["old_logp"])})
        for r in rollouts
    ]
    recipe = Recipe(PPO(), advantage="batch_mean", kl_in_reward=0.05)
    found, _ = advise(
        rollouts, recipe, CriticSettings(), KLSettings(), Carried(0.0, 0.0, 0.05), read
    )
    for rollout in found:
        np.testing.assert_array_equal(rollout.known["advantage"], 0)
