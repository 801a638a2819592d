"""Merged recipes are the recipes themselves, in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandit import R2, Setting, Tabular, sweep
from experiments.merged import OneOf, merged
from objectives import (
    DPO,
    PPO,
    REINFORCE,
    BestOfN,
    Collection,
    Recipe,
    Responses,
    Reuse,
    group_zscore,
    leave_one_out,
)

DATA = Collection(source="policy", prompts=2, responses=4)
RECIPES = [
    Recipe(BestOfN(), DATA),
    Recipe(DPO(beta=0.1), DATA),
    Recipe(DPO(beta=2.0), DATA),
    Recipe(PPO(), DATA, Reuse(inner_steps=3), advantage="group_zscore", std_floor=0.05),
    Recipe(REINFORCE(), DATA, advantage="leave_one_out"),
]


def batch(key, advantage=None):
    reward_key, ref_key, old_key = jax.random.split(key, 3)
    reward = jax.random.uniform(reward_key, (2, 4))
    valid = jnp.ones((2, 4), bool)
    if advantage is not None:
        advantage = advantage(reward, valid)[..., None]
    ref_logp, old_logp = -jax.random.uniform(jnp.stack([ref_key, old_key])[0], (2, 2, 4, 1))
    return Responses(jnp.ones((2, 4, 1), bool), reward, ref_logp, old_logp, advantage, valid)


@pytest.mark.parametrize("which", range(len(RECIPES)))
def test_the_chosen_objective_alone_decides_the_loss_and_its_gradient(which, key):
    estimators = {
        None: None,
        "group_zscore": lambda reward, valid: group_zscore(reward, valid, floor=0.05),
        "leave_one_out": leave_one_out,
    }
    logp = -jax.random.uniform(key, (2, 4, 1))
    recipe = RECIPES[which]
    direct = batch(key, estimators[recipe.advantage])

    @jax.jit
    def loss(objective, responses):
        return jax.value_and_grad(lambda x: objective(x, responses).mean())(logp)

    alone = loss(recipe.objective, direct)
    among = loss(merged(RECIPES)[which].objective, batch(key))
    for one, other in zip(alone, among, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_every_merged_recipe_has_one_structure_and_keeps_its_numbers():
    together = merged(RECIPES)
    assert len({jax.tree.structure(recipe) for recipe in together}) == 1
    assert [recipe.reuse.steps for recipe in together] == [1, 1, 1, 3, 1]
    chosen = [recipe.objective.options[recipe.objective.which] for recipe in together]
    assert [option.objective for option in chosen] == [recipe.objective for recipe in RECIPES]


def test_recipes_that_agree_on_T_keep_it_as_structure():
    assert {type(recipe.reuse) for recipe in merged(RECIPES[:3])} == {Reuse}


def test_an_advantage_that_needs_more_than_a_group_is_refused():
    with pytest.raises(ValueError, match="running_mean"):
        merged([Recipe(REINFORCE(), DATA, advantage="running_mean")])


@pytest.mark.slow
def test_a_merged_sweep_gives_what_separate_ones_give():
    # Not to the last digit: where advantages add up to zero, Adam takes full steps on rounding.
    recipes = RECIPES[2:4]
    options = {"policy": Tabular(), "seeds": 2, "steps": 6, "record_every": 3, "keep": ("reward",)}
    together = sweep([Setting(recipe, R2, 0.3) for recipe in merged(recipes)], **options)["reward"]
    assert np.abs(together[0] - together[1])[:, -1].min() > 0.01
    for recipe, reward in zip(recipes, together, strict=True):
        alone = sweep([Setting(recipe, R2, 0.3)], **options)["reward"][0]
        np.testing.assert_allclose(alone, reward, atol=2e-3)


def test_one_of_has_one_unit(key):
    objective = merged(RECIPES[:2])[0].objective
    assert isinstance(objective, OneOf)
    assert objective(jnp.zeros((2, 4, 1)), batch(key)).total()[1] == 1
