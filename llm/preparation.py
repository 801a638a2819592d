"""Everything that can be refused, refused before anything slow begins.

The model's config is read without its weights, the tokenizer is loaded, every row of the data is
tokenized and checked against the model and the recipe. What comes out is ready to be trained on,
and a record that says exactly what the run is, so that its continuation can be held to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm.cache import cache_folder
from llm.checkpoints.folders import open_weights, read_architecture, read_config
from llm.data.examples import DataSettings, Group
from llm.data.holdout import hold_out
from llm.data.rendering import tokenize
from llm.embedded import docstrings, language
from llm.embedded.pretrain import CORPORA, DOCSTRINGS, HARBOUR
from llm.hosts import from_first, in_turn
from llm.inputs import model_folder, read_data, read_tokenizer
from llm.journal import check_loggers
from llm.lock import check_unused
from llm.model.architecture import Architecture
from llm.reference import data_fingerprint, model_fingerprint
from llm.rewards import Reward, RewardContext, asks_person, identity, only_compares, read_reward
from llm.settings import (
    NEEDS_REFERENCE,
    ONLINE_RECIPES,
    REWARD_MODEL,
    WITH_CRITIC,
    Training,
    as_record,
    learning_rate,
    reference_kind,
)
from llm.state import check_folder
from objectives import KTO, PPO, REINFORCE
from objectives.recipes import Recipe

NEEDS_PAIRS = ("DPO", "IPO", "SLiC", "SimPO", "CPO", "ORPO", "PrefFT", "UnlikelihoodBestOfN")
"""Objectives that compare the responses of one prompt."""

COMPARES = ("group_mean", "group_zscore", "leave_one_out")
"""Estimators that do."""

METHOD = ("collection", "reuse", "advantage", "std_floor", "kl_in_reward")
"""What of a recipe, besides its objective, an online run is."""


@dataclass(frozen=True)
class Prepared:
    """Inputs of a run, read and checked.

    Attributes:
        name: of the recipe.
        recipe: the method.
        settings: what was asked for.
        model: folder of the model.
        config: its config.json.
        architecture: what the config says.
        tokenizer: of the model.
        groups: to train on.
        held_out: never trained on.
        out: folder of the run.
        record: what the run is, as plain JSON.
        reward: what fresh responses are worth; None where none are judged.
        gold: a reward that is only measured; None where there is none.
    """

    name: str
    recipe: Recipe
    settings: Training
    model: Path
    config: Mapping[str, Any]
    architecture: Architecture
    tokenizer: Any
    groups: list[Group]
    held_out: list[Group]
    out: Path
    record: dict[str, Any]
    reward: Reward | None = None
    gold: Reward | None = None

    @property
    def is_online(self) -> bool:
        """Whether responses are written while the run goes on."""
        return is_online(self.recipe)

    @property
    def has_critic(self) -> bool:
        """Whether advantages are a critic's."""
        return self.name in WITH_CRITIC

    @property
    def data(self) -> str:
        """Where the data come from."""
        return self.settings.data or HARBOUR

    @property
    def preference(self) -> str:
        """What the built-in data are preferred for."""
        default = docstrings if self.data == DOCSTRINGS else language
        return self.settings.preference or default.DEFAULT_PREFERENCE

    @property
    def learning_rate(self) -> float:
        """At its peak."""
        return learning_rate(self.settings, self.name, self.recipe)

    @property
    def reference(self) -> str:
        """Where the reference's log-probabilities come from: cache, model or none."""
        return reference_kind(self.settings, self.name, self.recipe)

    @property
    def reference_key(self) -> str:
        """What the reference's log-probabilities depend on."""
        prints = self.record["fingerprints"]
        return "-".join((prints["model"], prints["data"], prints["held_out"]))

    @property
    def is_reward_model(self) -> bool:
        """Whether responses are scored instead of modelled."""
        return self.name == REWARD_MODEL


def prepare(
    name: str,
    recipe: Recipe,
    settings: Training,
    say: Callable[[str], None],
    *,
    people: bool = False,
    responses: bool = False,
) -> Prepared:
    """Read and check what a run needs, all but the weights.

    Args:
        name: of the recipe.
        recipe: the method.
        settings: what was asked for.
        say: told what is worth knowing, a sentence at a time.
        people: whether there is a way to ask a person.
        responses: whether those of the data set are wanted though the policy writes its own.

    Raises:
        ValueError: names what does not fit, where it stands and what to do.
        OSError: if something cannot be read, or fetched.
    """
    out = settings.out or Path("runs") / name
    from_first(lambda: check_place(out, settings))
    if settings.ahead:
        check_ahead(name, recipe, jax.device_count(), say)
    if name in ONLINE_RECIPES or is_online(recipe):
        # The paper's B and M: the steps of one pass over a collection share it evenly.
        recipe = recipe.with_collection(prompts=settings.batch * recipe.reuse.minibatches)
        check_online(name, recipe, settings)
    # Rewards and data first: reading them is quick, and the embedded model may have to be made.
    context = RewardContext(lambda: tokenizer, cache_folder() / "rewards", say)
    specs = reward_specs(recipe, settings)
    reward, gold = (
        None if spec is None else read_reward(spec, settings.rewards, context) for spec in specs
    )
    if is_online(recipe):
        check_judges(recipe, reward, gold)
        check_people(None if people else reward, gold)
    examples, aside = read_data(name, settings, say)
    folder = in_turn(lambda: model_folder(settings, say))
    config, architecture = read_config(folder), read_architecture(folder)
    open_weights(folder)  # a folder without any that are safe to open is refused here
    if settings.adapters.rank == 0 and settings.reference == "model":
        say("a frozen copy of the model is kept in memory beside the one that trains")
    tokenizer = read_tokenizer(folder)
    reading = settings.reading
    limits: dict[str, Any] = {
        "context": architecture.max_positions,
        "vocab_size": architecture.vocab_size,
    }
    if is_online(recipe):
        reading = with_room(reading, settings, architecture.max_positions)
        limits["prompts_only"] = not (settings.offline or responses)
    else:
        limits["pairs"] = type(recipe.objective).__name__ in NEEDS_PAIRS
    groups = tokenize(examples, tokenizer, reading, **limits, say=say)
    if aside is not None:
        held_out = tokenize(aside, tokenizer, reading, **limits)
    else:
        groups, held_out = hold_out(groups, reading.eval_share, settings.seed)
    if is_online(recipe):
        check_prompts(groups)
    else:
        check_recipe(recipe, groups)
    check_settings(name, recipe, settings, len(groups))
    prints = {
        "model": model_fingerprint(folder),
        "data": data_fingerprint(groups),
        "held_out": data_fingerprint(held_out),
    }
    record = {
        "recipe": name,
        "objective": as_record(recipe.objective),
        "settings": as_record(settings),
        "fingerprints": prints,
    }
    if is_online(recipe):
        method = as_record(recipe)
        record |= {name: method[name] for name in METHOD}
        record["judges"] = {k: v for spec in specs if spec for k, v in identity(spec).items()}
    return Prepared(
        name=name,
        recipe=recipe,
        settings=settings,
        model=folder,
        config=config,
        architecture=architecture,
        tokenizer=tokenizer,
        groups=groups,
        held_out=held_out,
        out=out,
        record=record,
        reward=reward,
        gold=gold,
    )


def check_place(out: Path, settings: Training) -> None:
    """Raise ValueError or OSError if a run cannot be written to a folder, or logged, as asked."""
    check_folder(out)
    check_unused(out)
    check_loggers(settings.log)


def is_online(recipe: Recipe) -> bool:
    """Whether responses are written while a run goes on."""
    return recipe.collection.source != "dataset"


def reward_specs(recipe: Recipe, settings: Training) -> tuple[str | None, str | None]:
    """What responses are judged by, and what else is measured of them.

    Raises:
        ValueError: if a recipe that needs a reward has none.
    """
    reward = settings.reward
    if reward is None and is_online(recipe):
        if settings.data is not None and settings.data not in CORPORA:
            raise ValueError(
                "--reward is missing: what the policy writes has to be judged by something. Give "
                "one, for example min-length, model:FOLDER or python:MODULE:FUNCTION."
            )
        corpus = docstrings if settings.data == DOCSTRINGS else language
        reward = settings.preference or corpus.DEFAULT_PREFERENCE
    return reward or settings.gold, settings.gold


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


def with_room(reading: DataSettings, settings: Training, context: int) -> DataSettings:
    """How to read prompts that leave room for a response.

    Raises:
        ValueError: if there is no room.
    """
    room = (reading.max_length or context) - settings.sampling.max_new_tokens
    if room < 1:
        raise ValueError(
            f"--sampling.max-new-tokens is {settings.sampling.max_new_tokens}, and the model's "
            f"context, or --reading.max-length, is {reading.max_length or context}: no prompt fits "
            "before such a response. Lower the first."
        )
    return replace(reading, max_prompt_length=min(reading.max_prompt_length or room, room))


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


def offline_prompts(settings: Training, recipe: Recipe) -> int:
    """Prompts of a collection whose responses are those of the data set."""
    return round(settings.offline * recipe.collection.prompts)


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
