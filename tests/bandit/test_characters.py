"""What the paper says of its methods, at settings where it truly shows.

The contextual network, 10 responses per prompt, and final rewards over contexts never trained on.
Learning rates are matched: a comparison of two methods at two learning rates compares nothing.

Key to the axes: G settings, S seeds, R records.
"""

import functools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from bandit import PROBLEMS, R1, R2, ContextualMLP, Setting, TokenTransformer, sweep
from objectives import AWR, IPO, RECIPES, Collection, Recipe
from tests.bandit.watching import SWEEP, quick

SEEDS = 3


def rewards(settings: list[Setting], steps: int, record_every: int) -> np.ndarray:
    # A little slower to run than as in production, and a good deal faster to compile.
    light = SWEEP.COMPILER_OPTIONS | {k: v for k, v in quick().items() if "fusion" in k}
    with mock.patch.object(SWEEP, "COMPILER_OPTIONS", light):
        return sweep(settings, ContextualMLP(), SEEDS, steps, record_every=record_every)["reward"]


@functools.cache
def offline(name: str) -> np.ndarray:
    """Rewards [R1 or R2, S, R] of 200 steps on one data set of 100 prompts."""
    data = Collection("dataset", prompts=100, responses=10)
    objectives = {"ipo": IPO(tau=0.05, threshold=0.2), "best_of_n": RECIPES["best_of_n"].objective}
    settings = [Setting(Recipe(objectives[name], data), problem, 0.003) for problem in (R1, R2)]
    return rewards(settings, 200, record_every=200)


@functools.cache
def online_best_of_n() -> np.ndarray:
    """Rewards [R1 or R2, S, R] of 450 steps, collecting anew every 15."""
    recipe = RECIPES["online_best_of_n"].with_reuse(inner_steps=15)
    settings = [Setting(recipe, problem, 0.001) for problem in (R1, R2)]
    return rewards(settings, 450, record_every=75)


def test_offline_a_negative_gradient_beats_imitation_where_the_reward_is_far_from_the_reference():
    ipo, best_of_n = offline("ipo")[0, :, -1], offline("best_of_n")[0, :, -1]
    assert ipo.min() > best_of_n.max() + 0.2
    assert best_of_n.mean() == pytest.approx(0.304, abs=0.05)
    assert ipo.mean() == pytest.approx(0.707, abs=0.08)


def test_offline_the_two_are_about_equal_where_the_reward_is_near_the_reference():
    ipo, best_of_n = offline("ipo")[1, :, -1], offline("best_of_n")[1, :, -1]
    assert abs(ipo.mean() - best_of_n.mean()) < 0.05
    assert min(ipo.min(), best_of_n.min()) > 0.9


def test_imitation_reaches_a_far_reward_on_policy_and_never_offline():
    on_policy, off = online_best_of_n()[0, :, -1], offline("best_of_n")[0, :, -1]
    assert on_policy.min() > 0.97 and off.max() < 0.4


def test_on_policy_a_near_reward_is_reached_sooner_than_a_far_one():
    far, near = online_best_of_n().mean(axis=1)
    assert near[1] > 0.95
    assert far[1] < 0.5


@pytest.mark.slow
def test_whether_weighted_imitation_finds_a_far_reward_offline_is_a_matter_of_its_temperature():
    data = Collection("dataset", prompts=100, responses=10)
    betas = (0.05, 0.1, 1.0)
    recipes = [Recipe(AWR(beta=beta, max_weight=float("inf")), data) for beta in betas]
    settings = [Setting(recipe, R1, 0.003) for recipe in recipes]
    greedy, cool, warm = rewards(settings, 200, record_every=200)[..., -1].mean(axis=-1)
    assert greedy > 0.9 and cool > 0.9 > offline("ipo")[0, :, -1].mean()
    assert warm < 0.06


def of_tokens(recipe: Recipe, learning_rate: float, steps: int) -> np.ndarray:
    """Final rewards [S] of the transformer on R1, whose ceiling is 0.918."""
    settings = [Setting(recipe, PROBLEMS["R1-tokens"], learning_rate)]
    return sweep(settings, TokenTransformer(), SEEDS, steps, record_every=steps)["reward"][0, :, -1]


@pytest.mark.slow
def test_offline_a_negative_gradient_beats_imitation_in_sequences_too():
    ipo = RECIPES["ipo"].objective
    ipo = of_tokens(Recipe(replace(ipo, tau=0.05), Collection("dataset")), 0.01, 100)
    best_of_n = of_tokens(RECIPES["best_of_n"], 0.01, 100)
    assert ipo.min() > best_of_n.max() + 0.3
    assert ipo.mean() > 0.5 and best_of_n.mean() < 0.16


@pytest.mark.slow
def test_imitation_on_policy_reaches_the_ceiling_in_sequences_too():
    recipe = RECIPES["online_best_of_n"].with_reuse(inner_steps=5)
    assert of_tokens(recipe, 0.001, 200).min() > 0.9
