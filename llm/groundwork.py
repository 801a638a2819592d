"""What a run stands on: its plan or its shapes, its pure functions, its reference, its examiner.

Everything here is made once, between reading the weights and compiling the first program.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from rich.console import Console

from llm.collection import Collector, Judges, Trial, Writer
from llm.data.declared import Bounds, declare_shapes, examples_of
from llm.data.examples import Group
from llm.data.order import InOrder, Order
from llm.data.packing import Batch, Shape
from llm.data.plan import Plan, make_plan
from llm.hosts import fetch, repeat
from llm.journal import Journal
from llm.loading import Loaded
from llm.model import RewardModel, parameters
from llm.online import Fresh
from llm.optimizer import optimizer, schedule
from llm.preparation import Prepared, offline_prompts
from llm.progress import Bar, counted
from llm.reference import cached_reference
from llm.rescoring import Rescorer
from llm.rewards import only_compares
from llm.sampler import Sampling, stop_tokens
from llm.sampler.draws import Rule
from llm.sampler.engine import LocalEngine
from llm.sampler.sizes import at_once, bucket
from llm.state import flatten, is_free
from llm.step import Put, shape
from llm.train import means
from llm.update import Behind, Fixed, Learner, Parameters


def steps_of(prepared: Prepared) -> int:
    """Optimizer steps of a run."""
    settings, reuse = prepared.settings, prepared.recipe.reuse
    if settings.steps is not None:
        return settings.steps
    if not prepared.is_online:
        order = Order(len(prepared.groups), settings.batch, settings.seed)
        return order.steps(settings.epochs)
    prompts = prepared.recipe.collection.prompts
    return Order(len(prepared.groups), prompts, settings.seed).steps(settings.epochs) * reuse.steps


def plan_of(prepared: Prepared, loaded: Loaded, steps: int) -> Plan:
    """Which groups every step of data that exist sees, and in which shapes."""
    settings = prepared.settings
    order = Order(len(prepared.groups), settings.batch, settings.seed)
    return make_plan(
        prepared.groups,
        order,
        settings.packing,
        steps=steps,
        shards=loaded.shards,
        width=prepared.architecture.width,
        mine=loaded.mine,
    )


def one_pass(
    prepared: Prepared,
    loaded: Loaded,
    groups: Sequence[Group],
    mine: frozenset[int] | None = None,
) -> Plan:
    """All groups once and in order, in batches of one shape.

    Args:
        prepared: the run.
        loaded: its model.
        groups: the data set.
        mine: shards of a batch that this host fills in; all of them if None.
    """
    order = InOrder(len(groups), prepared.settings.batch)
    return make_plan(
        groups,
        order,
        replace(prepared.settings.packing, shapes=1),
        steps=order.steps,
        shards=loaded.shards,
        width=prepared.architecture.width,
        mine=mine,
    )


def learner_of(prepared: Prepared, loaded: Loaded, steps: int) -> Learner:
    """The pure functions of this run's steps."""
    settings = prepared.settings
    rate = schedule(settings.optimizer, prepared.learning_rate, steps)
    return Learner(
        module=loaded.module,
        transformation=optimizer(settings.optimizer, rate),
        rate=rate,
        log_every=settings.log.every,
        base=prepared.reference == "model" and loaded.lora is not None,
        mesh=loaded.mesh,
        rule=rule_of(prepared),
        critic=settings.critic if prepared.has_critic else None,
    )


def reference_parameters(prepared: Prepared, loaded: Loaded) -> Parameters | None:
    """The frozen copy to compare with in every step, where there is to be one.

    The state trains copies of its own, so the values that were read stay what they are.
    """
    return loaded.values if prepared.reference == "model" and loaded.lora is None else None


def example_of(plan: Plan) -> Batch:
    """A batch of the first of a plan's shapes."""
    return (plan.examples(cut=False) + plan.examples(cut=True))[0]


def with_reference(
    prepared: Prepared,
    loaded: Loaded,
    learner: Learner,
    fixed: Fixed,
    plan: Plan,
    console: Console,
) -> tuple[Plan, Plan | None]:
    """Give the batches what the reference says of them, if that is said once and for all.

    Returns:
        The plan of the run, and one pass over the held-out groups.
    """
    held = prepared.held_out
    aside = one_pass(prepared, loaded, held, loaded.mine) if held else None
    if prepared.reference != "cache" or isinstance(loaded.module, RewardModel):
        return plan, aside
    compiled: dict[Any, Any] = {}
    given = loaded.trainable, fixed

    def score(batch: Batch) -> np.ndarray:
        placed = loaded.put(batch)
        if shape(batch) not in compiled:
            scores = jax.jit(lambda *given: learner.look(*given).logp)
            compiled[shape(batch)] = scores.lower(*given, placed).compile()
        return fetch(compiled[shape(batch)](*given, placed))

    everything = [*prepared.groups, *held]
    passed = one_pass(prepared, loaded, everything)
    found = (batch for step in range(passed.steps) for batch in passed.micro_batches(step))
    total = round(passed.steps * passed.micro_batches_per_step)
    key = f"{prepared.reference_key}-{loaded.policy(loaded.values).dtype}"
    batches = counted(console, "reference", found, total)
    numbers = cached_reference(everything, key, batches, score)
    cut = len(prepared.groups)
    if aside is not None:
        aside = aside.with_known(ref_logp=numbers[cut:])
    return plan.with_known(ref_logp=numbers[:cut]), aside


def evaluator(
    learner: Learner,
    trainable: Parameters,
    fixed: Fixed,
    objective: Any,
    held_out: Plan | None,
    put: Put,
    trial: Trial | None,
) -> Callable[[Parameters], dict[str, float]]:
    """A function that measures the held-out groups under parameters like those given.

    Labelled ones are scored as they stand; where there is a reward, prompts are answered afresh.
    """

    def answered(trainable: Parameters) -> dict[str, float]:
        if trial is None:
            return {}
        with jax.transfer_guard("allow"):
            return trial(trainable)

    if held_out is None:
        return answered
    objective = repeat(objective, learner.mesh)  # once, because a step forbids it
    given = trainable, fixed, put(example_of(held_out)), objective
    measure = jax.jit(learner.measure).lower(*given).compile()

    def evaluate(trainable: Parameters) -> dict[str, float]:
        found = [
            fetch(measure(trainable, fixed, put(batch), objective))
            for step in range(held_out.steps)
            for batch in held_out.micro_batches(step)
        ]
        numbers = means(jax.tree.map(lambda *parts: sum(parts), *found))
        return numbers | answered(trainable)

    return evaluate


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


def rule_of(prepared: Prepared) -> Rule:
    """The distribution that is sampled, and so the one that is trained."""
    sampling = prepared.settings.sampling
    temperature = float(prepared.recipe.collection.temperature)
    return Rule(temperature, sampling.top_k, sampling.top_p) if prepared.is_online else Rule()


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


def policy_values(loaded: Loaded, trainable: Parameters) -> Parameters:
    """All parameters of the policy, by path."""
    return parameters(loaded.policy(loaded.frozen | trainable))


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
