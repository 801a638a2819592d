"""Recipes: a catalogue in which every name runs, and the paper's Table 1 read off the classes."""

import re
from dataclasses import FrozenInstanceError

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives import (
    ADVANTAGES,
    AWR,
    DPO,
    GSPO,
    IPO,
    OBJECTIVES,
    PPO,
    RECIPES,
    REINFORCE,
    RWR,
    BestOfN,
    Collection,
    KLPenalty,
    Recipe,
    Reuse,
)
from tests.objectives.batches import draw, loss_and_gradient, on_device

every_recipe = pytest.mark.parametrize("name", RECIPES)


def test_the_catalogue_holds_the_methods_of_the_paper_and_those_that_came_after():
    promised = "sft pref_ft best_of_n online_best_of_n rwr online_rwr awr dpo ipo online_dpo "
    promised += "online_ipo reinforce rloo ppo grpo"
    assert set(promised.split()) <= set(RECIPES)
    assert {"dr_grpo", "dapo", "gspo", "kto", "slic", "simpo", "cpo", "orpo"} <= set(RECIPES)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in RECIPES)


def test_every_objective_has_a_recipe():
    assert {type(recipe.objective).__name__ for recipe in RECIPES.values()} == set(OBJECTIVES)


@every_recipe
def test_a_recipe_runs(name):
    recipe = RECIPES[name]
    with jax.enable_x64(True):
        logp, responses = on_device(draw(0, None))
        if recipe.advantage is not None:
            advantage = ADVANTAGES[recipe.advantage](responses.reward, responses.exists)
            if recipe.advantage == "running_mean":
                advantage, _ = advantage
            responses = on_device(draw(0)._replace(advantage=np.asarray(advantage)[..., None]))[1]
        _, loss, gradient = loss_and_gradient(recipe.objective, logp, responses)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert np.asarray(gradient).any()


@every_recipe
def test_online_means_fresh_samples_of_the_policy(name):
    recipe = RECIPES[name]
    assert recipe.on_policy == (recipe.collection.source == "policy")
    if name.startswith("online_"):
        assert recipe.on_policy
        assert recipe.objective == RECIPES[name.removeprefix("online_")].objective
    if recipe.objective.on_policy == "required":
        assert recipe.on_policy
        assert recipe.advantage in ADVANTAGES


TABLE_1 = {
    # recipe: (on-policy sampling, negative gradient), Tajwar et al. 2024, Table 1.
    "ppo": (True, True),
    "reinforce": (True, True),
    "dpo": (False, True),
    "ipo": (False, True),
    "pref_ft": (False, False),
    "rwr": (False, False),
    "best_of_n": (False, False),
    "online_rwr": (True, False),
    "online_best_of_n": (True, False),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_can_be_read_off_a_recipe(name):
    recipe = RECIPES[name]
    assert (recipe.on_policy, recipe.objective.negative_gradient) == TABLE_1[name]


def test_of_the_two_policy_gradients_of_table_1_ppo_reuses_its_samples_and_reinforce_does_not():
    assert RECIPES["ppo"].reuse.inner_steps > 1
    assert RECIPES["reinforce"].reuse.steps == 1


def test_the_recipes_of_later_papers_are_the_two_objectives_at_other_settings():
    assert RECIPES["rloo"].objective == REINFORCE()
    assert RECIPES["rloo"].advantage == "leave_one_out"
    assert RECIPES["grpo"].objective == PPO(normalize="length", kl=KLPenalty(0.04, "k3"))
    assert RECIPES["grpo"].advantage == "group_zscore"
    assert RECIPES["dr_grpo"].objective.normalize[0] == "constant"
    assert RECIPES["dr_grpo"].advantage == "group_mean"
    assert RECIPES["dapo"].objective.clip_high > RECIPES["dapo"].objective.clip_low
    assert RECIPES["dapo"].objective.normalize == "token"
    assert isinstance(RECIPES["gspo"].objective, GSPO)
    for recipe in RECIPES.values():
        if recipe.advantage == "group_zscore":
            assert recipe.std_floor == 0.05


def test_the_weights_of_the_bandit_recipes_have_no_cap():
    for name in ("rwr", "online_rwr", "awr", "online_awr"):
        assert isinstance(RECIPES[name].objective, RWR | AWR)
        assert RECIPES[name].objective.max_weight == float("inf")
        assert RECIPES[name].objective.beta == 0.05


def test_a_recipe_is_a_value_with_numbers_as_leaves_and_counts_as_structure():
    recipe = Recipe(DPO(), Collection("policy", prompts=4, responses=2), Reuse(2, 2))
    leaves, structure = jax.tree.flatten(recipe)
    assert jax.tree.unflatten(structure, leaves) == recipe
    assert 4 not in leaves
    assert 0.1 in leaves
    other = jax.tree.structure(recipe.with_collection(prompts=6))
    assert other != structure
    hotter = recipe.with_collection(temperature=0.7)
    assert jax.tree.structure(hotter) == structure
    with pytest.raises(FrozenInstanceError):
        recipe.advantage = "batch_mean"


def test_a_recipe_is_changed_by_replacing_what_differs():
    recipe = RECIPES["online_ipo"]
    changed = recipe.with_collection(prompts=20).with_reuse(inner_steps=3, minibatches=5)
    assert changed.collection == Collection("policy", prompts=20)
    assert changed.reuse.steps == 15
    assert changed.objective == IPO()
    assert recipe == Recipe(IPO(), Collection("policy"))


def test_a_recipe_prints_as_the_code_that_makes_it():
    names = OBJECTIVES | {
        "Recipe": Recipe,
        "Collection": Collection,
        "Reuse": Reuse,
        "KLPenalty": KLPenalty,
        "inf": float("inf"),
    }
    for recipe in RECIPES.values():
        assert eval(repr(recipe), names) == recipe


def test_a_recipe_can_be_swept_over_its_numbers():
    def scaled(beta: jax.Array) -> jax.Array:
        return jax.tree.map(lambda x: x * beta, Recipe(BestOfN(), kl_in_reward=1.0)).kl_in_reward

    np.testing.assert_allclose(jax.vmap(scaled)(jnp.asarray([0.1, 0.2])), [0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Collection(prompts=0), "Collection.prompts is 0; it must be at least 1."),
        (lambda: Collection(responses=0), "Collection.responses is 0; it must be at least 1."),
        (lambda: Collection(temperature=0.0), "Collection.temperature is 0.0; it must be greater"),
        (lambda: Reuse(inner_steps=0), "Reuse.inner_steps is 0; it must be T >= 1"),
        (lambda: Reuse(minibatches=0), "Reuse.minibatches is 0; it must be at least 1."),
        (lambda: Recipe(REINFORCE()), "Recipe.advantage is None; it must be an estimator"),
        (lambda: Recipe(DPO(), std_floor=-1.0), "Recipe.std_floor is -1.0; it must be 0 or more."),
        (lambda: Recipe(DPO(), kl_in_reward=-1.0), "Recipe.kl_in_reward is -1.0; it must be 0"),
        (
            lambda: Recipe(DPO(), advantage="zscore"),
            "Recipe.advantage is 'zscore'; it must be one of 'batch_mean'",
        ),
        (
            lambda: Recipe(DPO(), reuse=Reuse(minibatches=3)),
            "Reuse.minibatches is 3; it must be a divisor of prompts=10.",
        ),
    ],
)
def test_a_recipe_that_cannot_work_says_why_before_anything_slow_begins(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_an_unknown_source_is_refused():
    collection = object.__new__(Collection)
    for name, value in {"source": "web", "prompts": 1, "responses": 1, "temperature": 1.0}.items():
        object.__setattr__(collection, name, value)
    with pytest.raises(ValueError, match=r"Collection.source is 'web'; it must be one of 'policy'"):
        collection.__post_init__()


def test_samples_of_the_reference_are_fresh_but_not_on_policy():
    assert not RECIPES["online_dpo"].with_collection(source="reference").on_policy
