"""What an online run stands on besides: its shapes, who writes and who judges, and its source.

Everything here is made once, before the first collection; offline runs make a trial alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llm.collection import Collector
from llm.data.declared import Bounds, declare_shapes, examples_of
from llm.data.order import Order
from llm.data.packing import Batch, Shape
from llm.groundwork import policy_values, rule_of, steps_of
from llm.journal import Journal
from llm.loading import Loaded
from llm.model import RewardModel
from llm.online import Fresh
from llm.preparation import Prepared
from llm.progress import Bar
from llm.rescoring import Rescorer
from llm.responses import Judges, Trial, Writer
from llm.rewards import only_compares
from llm.sampler import Sampling, stop_tokens
from llm.sampler.engine import LocalEngine
from llm.sampler.sizes import at_once, bucket
from llm.settings import offline_prompts
from llm.state import flatten, is_free
from llm.update import Behind, Fixed, Learner, Parameters


def bounds_of(prepared: Prepared) -> Bounds:
    """What no group of an online run exceeds."""
    prompts = [len(group.prompt) for group in prepared.groups]
    given = prepared.groups if prepared.settings.offline else []
    return Bounds(
        prompt=max(prompts),
        shortest=min(prompts),
        responses=max(
            [prepared.recipe.collection.responses, *(len(group.responses) for group in given)]
        ),
        tokens=max(
            [
                prepared.settings.sampling.max_new_tokens,
                *(len(response) for group in given for response in group.responses),
            ]
        ),
        groups=prepared.settings.batch,
    )


def shapes_of(prepared: Prepared, loaded: Loaded) -> tuple[Shape, ...]:
    """All batch shapes of an online run."""
    return declare_shapes(bounds_of(prepared), prepared.settings.packing, loaded.shards)


def known_of(prepared: Prepared) -> tuple[str, ...]:
    """What the batches of an online run say of every token."""
    names = ["old_logp"]
    if prepared.reference != "none":
        names.append("ref_logp")
    if prepared.has_critic:
        return (*names, "old_value", "advantage", "returns")
    return (*names, "advantage") if prepared.recipe.advantage is not None else tuple(names)


def fresh_examples(prepared: Prepared, loaded: Loaded, shapes: Sequence[Shape]) -> list[Batch]:
    """An empty batch of each shape of an online run."""
    return examples_of(shapes, loaded.shards, known_of(prepared))


def side_by_side(prepared: Prepared) -> int:
    """Responses that are written at a time; held-out prompts share the programs of collections."""
    rows, collection = prepared.settings.sampling.rows, prepared.recipe.collection
    if not prepared.is_online:
        return rows
    fresh = collection.prompts - offline_prompts(prepared.settings, prepared.recipe)
    together = at_once(rows, collection.responses)
    return min(bucket(fresh, 1), together) * collection.responses


def writer_of(prepared: Prepared, loaded: Loaded, responses: int, seed: int) -> Writer:
    """Whoever writes so many responses to each prompt."""
    settings, rule = prepared.settings.sampling, rule_of(prepared)
    sampling = Sampling(
        responses=responses,
        max_new_tokens=settings.max_new_tokens,
        temperature=rule.temperature,
        top_k=rule.top_k,
        top_p=rule.top_p,
        seed=seed,
        stop=stop_tokens(prepared.model, prepared.tokenizer.eos_token_id),
        stop_strings=settings.stop_strings,
    )

    def engine(values: Parameters) -> LocalEngine:
        return LocalEngine(
            loaded.policy(values),
            rows=side_by_side(prepared),
            decode=lambda ids: prepared.tokenizer.decode(ids, skip_special_tokens=True),
            gather=settings.gather,
        )

    wants_reference = prepared.recipe.collection.source == "reference"
    return Writer(
        policy=engine(loaded.values),
        reference=engine(loaded.values) if wants_reference else None,
        tokenizer=prepared.tokenizer,
        sampling=sampling,
    )


def judges_of(prepared: Prepared) -> Judges:
    """Whoever says what a response is worth."""
    assert prepared.reward is not None
    return Judges(prepared.reward, prepared.gold, prepared.settings.missing_eos)


def rescorer_of(
    learner: Learner,
    loaded: Loaded,
    reference: Parameters | None,
    shapes: Sequence[Shape],
    prepared: Prepared,
    groups: int,
) -> Rescorer:
    """The trainer's own opinion of responses, at most so many groups at a time."""
    return Rescorer(
        learner,
        Fixed(loaded.frozen, reference),
        shapes,
        prepared.settings.packing,
        groups=groups,
        shards=loaded.shards,
        width=prepared.architecture.width,
        put=loaded.put,
    )


HELD_OUT_SEED = 2**31
"""Added to a run's seed where held-out prompts are answered."""

RIVAL_SEED = 2**30
"""The same where the model that a run began from answers them."""


def trial_of(
    prepared: Prepared, loaded: Loaded, learner: Learner, reference: Parameters | None
) -> Trial | None:
    """Held-out prompts to be answered at every look; None where nobody could judge the answers."""
    if prepared.reward is None or not prepared.held_out or isinstance(loaded.module, RewardModel):
        return None
    room = prepared.architecture.max_positions - prepared.settings.sampling.max_new_tokens
    prompts = {
        group.prompt.tobytes(): replace(group, responses=(), rewards=np.zeros(0, np.float32))
        for group in prepared.held_out
        if 0 < len(group.prompt) <= room
    }
    chosen = list(prompts.values())[: prepared.settings.evaluate_prompts]
    if not chosen:
        return None
    lengths = [len(group.prompt) for group in chosen]
    bounds = Bounds(
        prompt=max(lengths),
        shortest=min(lengths),
        responses=1,
        tokens=prepared.settings.sampling.max_new_tokens,
        groups=len(chosen),
    )
    shapes = declare_shapes(bounds, replace(prepared.settings.packing, shapes=2), loaded.shards)
    seed = prepared.settings.seed ^ HELD_OUT_SEED
    judges = [judge for judge in (prepared.reward, prepared.gold) if judge is not None]
    return Trial(
        groups=chosen,
        writer=writer_of(prepared, loaded, 1, seed),
        rival=writer_of(prepared, loaded, 1, seed ^ RIVAL_SEED)
        if any(map(only_compares, judges))
        else None,
        judges=replace(judges_of(prepared), missing_eos=0.0),
        rescorer=rescorer_of(learner, loaded, reference, shapes, prepared, len(chosen)),
        values=lambda trainable: policy_values(loaded, trainable),
    )


def identity_of(record: Mapping[str, Any]) -> str:
    """What a run has in common with its continuation and with nothing else."""
    flat = {key: value for key, value in flatten(dict(record)).items() if not is_free(key)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


def fresh_of(
    prepared: Prepared,
    loaded: Loaded,
    learner: Learner,
    reference: Parameters | None,
    shapes: tuple[Shape, ...],
    *,
    journal: Journal,
    bar: Bar,
    begin: int,
    behind: Behind | None,
) -> Fresh:
    """The source of an online run's batches; ``behind`` is what a checkpoint has of it."""
    settings, recipe = prepared.settings, prepared.recipe
    order = Order(len(prepared.groups), recipe.collection.prompts, settings.seed)
    collector = Collector(
        recipe=recipe,
        settings=settings,
        groups=prepared.groups,
        writer=writer_of(prepared, loaded, recipe.collection.responses, settings.seed),
        judges=judges_of(prepared),
        rescorer=rescorer_of(learner, loaded, reference, shapes, prepared, settings.batch),
        values=lambda trainable: policy_values(loaded, trainable),
        critic=settings.critic if prepared.has_critic else None,
        folder=prepared.out,
        visit=order.batch,
        run=identity_of(prepared.record),
    )
    return Fresh(
        collector,
        shapes,
        loaded.shards,
        prepared.architecture.width,
        loaded.put,
        journal,
        bar,
        begin,
        str(loaded.policy(loaded.values).dtype),
        loaded.mine,
        steps_of(prepared),
        behind,
    )
