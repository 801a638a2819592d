"""Everything that can be refused, refused before anything slow begins.

The model's config is read without its weights, the tokenizer is loaded, every row of the data is
tokenized and checked against the model and the recipe. What comes out is ready to be trained on,
and a record that says exactly what the run is, so that its continuation can be held to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

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
from llm.refusals import (
    NEEDS_PAIRS,
    check_ahead,
    check_judges,
    check_online,
    check_people,
    check_prompts,
    check_recipe,
    check_settings,
)
from llm.rewards import Reward, RewardContext, identity, read_reward
from llm.settings import (
    ONLINE_RECIPES,
    REWARD_MODEL,
    WITH_CRITIC,
    Training,
    as_record,
    is_online,
    learning_rate,
    reference_kind,
)
from llm.state import check_folder
from objectives.recipes import Recipe

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
