"""What cannot be trained as asked, and why: every check of settings, recipe and data.

Each raises ValueError with the flag, its value and a remedy; none reads a file.
"""

from collections.abc import Callable, Sequence

import numpy as np

from llm.data.examples import Group
from llm.rewards import Reward, asks_person, only_compares
from llm.settings import (
    NEEDS_REFERENCE,
    WITH_CRITIC,
    Training,
    is_online,
    offline_prompts,
    reference_kind,
)
from objectives import KTO, PPO, REINFORCE
from objectives.recipes import Recipe

NEEDS_PAIRS = ("DPO", "IPO", "SLiC", "SimPO", "CPO", "ORPO", "PrefFT", "UnlikelihoodBestOfN")
"""Objectives that compare the responses of one prompt."""

COMPARES = ("group_mean", "group_zscore", "leave_one_out")
"""Estimators that do."""


def check_judges(recipe: Recipe, *rewards: Reward | None) -> None:
    """Raise ValueError if a reward that only compares is given one response to each prompt."""
    for reward in rewards:
        if reward is not None and only_compares(reward) and recipe.collection.responses < 2:
            raise ValueError(
                f"{reward.name} compares the responses to a prompt, and --collection.responses is "
                f"{recipe.collection.responses}: give 2 or more."
            )


def check_people(*rewards: Reward | None) -> None:
    """Raise ValueError if a person would have to be asked."""
    if any(asks_person(reward) for reward in rewards if reward is not None):
        raise ValueError(
            "a person labels pairs of `modeseek active --reward person` and nothing else: give "
            "another reward here."
        )


def check_online(name: str, recipe: Recipe, settings: Training) -> None:
    """Raise ValueError for an online run that cannot be trained as asked."""
    if not is_online(recipe):
        raise ValueError(
            f"--collection.source dataset leaves {name} nothing to write: choose policy or "
            "reference, give some prompts the responses of the data set with --offline, or train "
            f"with a recipe for data that exist, such as {name.removeprefix('online_')}."
            if name.startswith("online_")
            else f"--collection.source dataset leaves {name} nothing to write: choose policy or "
            "reference, and give some prompts the responses of the data set with --offline."
        )
    if settings.reference == "cache":
        raise ValueError(
            "--reference cache is for data that exist: what the policy writes is compared with the "
            "reference once, when it is written. Leave it out, or choose model or none."
        )
    kl = getattr(recipe.objective, "kl", None)
    penalised = recipe.kl_in_reward or (kl is not None and kl.beta)
    if settings.reference == "none" and (penalised or recipe.collection.source == "reference"):
        raise ValueError(
            "--reference none leaves nothing to measure a KL penalty by, or to sample from: leave "
            "it out, or set the penalty to 0."
        )
    if settings.kl.target is not None and not recipe.kl_in_reward:
        raise ValueError(
            f"--kl.target {settings.kl.target} steers a penalty that is not there: give "
            "--kl-in-reward a strength to begin with."
        )
    if settings.kl.target is not None and recipe.collection.source == "reference":
        raise ValueError(
            f"--kl.target {settings.kl.target} steers by what the policy writes, and here the "
            "reference writes: leave it out, or give --collection.source policy."
        )
    if not 0 <= settings.seed < 2**32:
        raise ValueError(f"--seed is {settings.seed}; responses are drawn with 0 to 2**32 - 1.")
    prompts, given = recipe.collection.prompts, offline_prompts(settings, recipe)
    if settings.offline and not 0 < given < prompts:
        raise ValueError(
            f"--offline {settings.offline} of the {prompts} prompts of a collection is {given}: "
            "give a share that leaves some to the data set and some to the policy, or more "
            "prompts with --batch or --reuse.minibatches."
        )
    objective = type(recipe.objective).__name__
    ranks = objective == "BestOfN" or (objective == "AWR" and recipe.advantage is None)
    compares = ranks or objective in NEEDS_PAIRS or recipe.advantage in COMPARES
    if compares and recipe.collection.responses < 2 and name not in WITH_CRITIC:
        raise ValueError(
            f"--collection.responses {recipe.collection.responses} leaves {objective} nothing to "
            "compare a response with: give 2 or more."
        )
    if name in WITH_CRITIC and not (
        isinstance(recipe.objective, PPO) and recipe.objective.normalize in ("token", "length")
    ):
        raise ValueError(
            "a critic learns token by token, beside an objective that does: give "
            "--objective.normalize token or length."
        )


def check_ahead(name: str, recipe: Recipe, devices: int, say: Callable[[str], None]) -> None:
    """Say what writing ahead costs a method that does not see it.

    Args:
        name: of the recipe.
        recipe: the method.
        devices: that share the run.
        say: told.

    Raises:
        ValueError: if nothing is written, or by several devices: two threads may start programs in
            another order on one than on the other, and then these wait for each other for ever.
    """
    if not is_online(recipe):
        raise ValueError(
            f"--ahead writes a collection while another is learned from, and {name} learns from "
            "data that exist: leave it out."
        )
    if devices > 1:
        raise ValueError(
            f"--ahead is for one device, and there are {devices}, whose programs have to be "
            "started in one order everywhere: leave it out, or show the run one device."
        )
    if isinstance(recipe.objective, REINFORCE) and recipe.collection.source == "policy":
        say(
            f"--ahead: samples are {recipe.reuse.steps} steps old when they are first learned "
            f"from, and {name} does not correct for it; ppo, grpo and gspo do"
        )


def check_prompts(groups: Sequence[Group]) -> None:
    """Raise ValueError for a prompt that nothing can be written to."""
    empty = [group.where for group in groups if not len(group.prompt)]
    if empty:
        raise ValueError(
            f"{len(empty)} prompts are empty, the first in {empty[0]}: a response is written after "
            "at least one token. Leave those rows out, or use a tokenizer that begins a text."
        )


def check_settings(name: str, recipe: Recipe, settings: Training, groups: int) -> None:
    """Raise ValueError if the settings do not fit the recipe or the number of groups."""
    objective = type(recipe.objective).__name__
    if objective in NEEDS_REFERENCE and reference_kind(settings, name, recipe) == "none":
        raise ValueError(
            f"--reference none leaves {objective} nothing to compare with: choose cache or model."
        )
    asked = recipe.collection.prompts
    if is_online(recipe) and asked > groups:
        raise ValueError(
            f"a collection is --batch {settings.batch} times --reuse.minibatches "
            f"{recipe.reuse.minibatches} = {asked} prompts, and there are {groups}: it would ask "
            "some of them twice. Give fewer."
        )
    if settings.batch > groups:
        raise ValueError(
            f"--batch is {settings.batch}, and there are {groups} groups to train on: one step "
            f"would see some of them twice. Give --batch {groups} or less."
        )


def check_recipe(recipe: Recipe, groups: Sequence[Group]) -> None:
    """Raise ValueError if the data give the objective nothing to learn from."""
    objective = recipe.objective
    rewards = [group.rewards for group in groups]
    differ = any(len(r) > 1 and r.min() < r.max() for r in rewards)
    if type(objective).__name__ in NEEDS_PAIRS and not differ:
        raise ValueError(
            "no group has two responses of different reward, and this recipe learns only from "
            "such: use preference data, or the recipe sft."
        )
    if isinstance(objective, KTO) and not isinstance(objective.threshold, str):
        good = np.concatenate(rewards) > float(objective.threshold)
        if good.all() or not good.any():
            which = "desirable" if good.all() else "undesirable"
            raise ValueError(
                f"every response is {which}: with --objective.threshold {objective.threshold} "
                "there is nothing to tell apart. Give a threshold between the rewards."
            )
