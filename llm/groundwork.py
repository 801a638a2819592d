"""What a run stands on: its plan or its shapes, its pure functions, its reference, its examiner.

Everything here is made once, between reading the weights and compiling the first program.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from rich.console import Console

from llm.data.examples import Group
from llm.data.order import InOrder, Order
from llm.data.packing import Batch
from llm.data.plan import Plan, make_plan
from llm.hosts import fetch, repeat
from llm.loading import Loaded
from llm.model import RewardModel, parameters
from llm.optimizer import optimizer, schedule
from llm.preparation import Prepared
from llm.progress import counted
from llm.reference import cached_reference
from llm.responses import Trial
from llm.sampler.draws import Rule
from llm.step import Put, shape
from llm.train import means
from llm.update import Fixed, Learner, Parameters


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


def rule_of(prepared: Prepared) -> Rule:
    """The distribution that is sampled, and so the one that is trained."""
    sampling = prepared.settings.sampling
    temperature = float(prepared.recipe.collection.temperature)
    return Rule(temperature, sampling.top_k, sampling.top_p) if prepared.is_online else Rule()


def policy_values(loaded: Loaded, trainable: Parameters) -> Parameters:
    """All parameters of the policy, by path."""
    return parameters(loaded.policy(loaded.frozen | trainable))
