"""Algorithm 1 with nothing drawn: every group of two responses, as often as it would come.

``bandit.simulate`` draws groups and learns from those it got. Here all K x K groups of two are
there, each weighing what its probability is, so a step follows the gradient that sampling only
estimates: the limit of infinitely many prompts of one context. What is left is the objective
itself. Two runs of it agree to the last digits in any language, which is what the lecture's page is
held against.

Key to the axes: K bins, G = K * K groups of N = 2 responses, T = 1 token, R records.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bandit.policies import Tabular
from bandit.problems import Problem
from bandit.simulate import (
    Collected,
    Start,
    Trace,
    advantages,
    check_learning_rate,
    check_run,
    measure,
)
from objectives import KTO, Recipe, Responses, kl_in_reward
from objectives.hyperparameters import Number
from objectives.labels import best
from objectives.pytrees import pytree

GROUP = 2
"""Responses of a group: as many as it takes to compare."""

Logits = Float[Array, " K"]


@pytree
class Everything:
    """All groups of two, and how often each comes.

    Attributes:
        bins: of both responses.
        responses: their rewards, what policy and reference thought of them, their advantages.
        weight: probability of the group; adds up to 1.
    """

    bins: Int[Array, "G N"]
    responses: Responses
    weight: Float[Array, " G"]


def enumerate_groups(recipe: Recipe, problem: Problem, behaviour: Logits) -> Everything:
    """Steps 1 to 3 of Algorithm 1 in expectation: draw two responses, label them.

    Args:
        recipe: its ``collection`` says at which temperature, its ``advantage`` how they compare.
        problem: gives the rewards and the reference.
        behaviour: logits of whoever writes, at temperature 1.

    Raises:
        ValueError: for responses of several tokens.
    """
    if problem.tokens != 1:
        raise ValueError(
            f"problem.tokens is {problem.tokens}: only responses of one token can be enumerated."
        )
    K, temperature = problem.bins, recipe.collection.temperature
    bins = jnp.stack(jnp.meshgrid(jnp.arange(K), jnp.arange(K), indexing="ij"), -1)
    bins = bins.reshape(K * K, GROUP)
    behaviour_logp = jax.nn.log_softmax(behaviour / temperature)
    old_logp = behaviour_logp[bins][..., None]
    ref_logp = jax.nn.log_softmax(problem.ref_logp / temperature)[bins][..., None]
    mask, valid = jnp.ones(old_logp.shape, bool), jnp.ones(bins.shape, bool)
    reward = kl_in_reward(problem.reward[bins], old_logp, ref_logp, mask, recipe.kl_in_reward)
    weight = jnp.exp(jnp.sum(old_logp[..., 0], axis=-1))
    advantage = None
    if recipe.advantage in ("batch_mean", "running_mean"):
        advantage = reward - jnp.sum(weight[:, None] * reward) / GROUP
    elif recipe.advantage is not None:
        advantage = advantages(recipe, reward, valid)
    if advantage is not None:
        advantage = advantage[..., None]
    responses = Responses(mask, reward, ref_logp, old_logp, advantage, valid)
    return Everything(bins, responses, weight)


def expected_loss(recipe: Recipe, logits: Logits, everything: Everything) -> Float[Array, ""]:
    """The objective's mean over all groups, each as often as it comes.

    Args:
        recipe: gives the objective and the temperature of sampling.
        logits: of the policy.
        everything: from ``enumerate_groups``.
    """
    logp = jax.nn.log_softmax(logits / recipe.collection.temperature)
    return mean_loss(recipe.objective, logp, everything)


def mean_loss(objective: Any, logp: Logits, everything: Everything) -> Float[Array, ""]:
    """The same, of log-probabilities that are free: a push on one bin moves no other.

    Args:
        objective: of the recipe that the groups were enumerated for.
        logp: of every bin.
        everything: from ``enumerate_groups``.
    """
    logp = logp[everything.bins][..., None]
    terms = with_reference_point(objective, logp, everything)(logp, everything.responses)
    counted = terms.weight * jnp.expand_dims(everything.weight, tuple(range(1, terms.weight.ndim)))
    total = jnp.sum(jnp.where(counted > 0, terms.value, 0) * counted)
    return total / jnp.maximum(jnp.sum(counted), jnp.finfo(counted.dtype).tiny)


def with_reference_point(
    objective: Any, logp: Float[Array, "G N T"], everything: Everything
) -> Any:
    """KTO with its mean over the batch, which knows nothing of weights, taken with them."""
    if not isinstance(objective, KTO) or objective.reference_point is not None:
        return objective
    ratio = logp - everything.responses.ref_logp
    mean = jnp.sum(everything.weight[:, None] * ratio[..., 0]) / GROUP
    point = jax.lax.stop_gradient(objective.beta * jnp.maximum(0, mean))
    return replace(objective, reference_point=point)


def expected_velocity(
    recipe: Recipe, problem: Problem, logits: Logits, behaviour: Logits | None = None
) -> Logits:
    """Minus the gradient of the expected loss: where an objective pushes every logit.

    Args:
        recipe: objective and collection.
        problem: reference and reward.
        logits: of the policy.
        behaviour: of whoever wrote the responses; by ``recipe.collection`` the policy or the
            reference when None.

    Returns:
        Velocity of every logit under unit learning rate; adds up to 0.
    """
    if behaviour is None:
        behaviour = logits if recipe.on_policy else problem.ref_logp
    everything = enumerate_groups(recipe, problem, behaviour)
    return -jax.grad(lambda z: expected_loss(recipe, z, everything))(logits)


def simulate_exactly(
    recipe: Recipe,
    problem: Problem,
    steps: int,
    *,
    learning_rate: Number = 0.01,
    record_every: int = 1,
    beta_star: Number = 0.1,
    optimizer: optax.GradientTransformation | None = None,
) -> Trace:
    """Train a table of logits with a recipe, every step along its expected gradient.

    Groups are of two, and there are infinitely many, so of ``recipe.collection`` only source and
    temperature count, and of ``recipe.reuse`` the steps between two collections.

    Args:
        recipe: objective, collection and reuse.
        problem: reference and reward; of one-token responses.
        steps: gradient steps in all.
        learning_rate: Adam's.
        record_every: gradient steps between records; must divide ``steps``.
        beta_star: which pi* the trace measures its distance to, reward per nat.
        optimizer: what follows the gradients; Adam with ``learning_rate`` when None.

    Returns:
        ``steps / record_every + 1`` records; ``samples`` is 0, nothing is drawn.

    Raises:
        ValueError: before anything is computed, for steps, records or a learning rate that make no
            sense, and for responses of several tokens.

    Differs: a running mean of rewards is that of the collection at hand, which is exact already.
    """
    check_run(steps, record_every, None, beta_star)
    check_learning_rate(learning_rate)
    optimizer = optax.adam(learning_rate) if optimizer is None else optimizer
    policy, prompt = Tabular(), jnp.zeros(1, jnp.int32)
    start = Start(problem.ref_logp[None], prompt, prompt)

    def step(carry: Any, taken: Int[Array, ""]) -> tuple[Any, None]:
        logits, state, behaviour = carry
        if recipe.on_policy:
            behaviour = jnp.where(taken % recipe.reuse.steps == 0, logits, behaviour)
        velocity = expected_velocity(recipe, problem, logits, behaviour)
        updates, state = optimizer.update(-velocity, state, logits)
        return (optax.apply_updates(logits, updates), state, behaviour), None

    def record(carry: Any) -> dict[str, Float[Array, "..."]]:
        logits, _, behaviour = carry
        groups = enumerate_groups(recipe, problem, behaviour)
        collected = Collected(
            jnp.zeros(groups.bins.shape[0], jnp.int32), groups.bins[..., None], groups.responses
        )
        seen = measure(
            problem,
            policy,
            logits[None],
            start,
            collected,
            beta_star,
            jax.random.key(0),  # of prefixes, which one-token responses have none of
            recipe.collection.temperature,
        )
        return seen | log_ratios(recipe, logits, groups)

    def block(carry: Any, taken: Int[Array, " S"]) -> tuple[Any, Any]:
        carry, _ = jax.lax.scan(step, carry, taken)
        return carry, record(carry)

    carry = (problem.ref_logp, optimizer.init(problem.ref_logp), problem.ref_logp)
    taken = jnp.arange(steps).reshape(-1, record_every)
    _, later = jax.lax.scan(block, carry, taken)
    recorded = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), record(carry), later)
    done = jnp.arange(0, steps + 1, record_every)
    return Trace(step=done, samples=jnp.zeros_like(done), **recorded)


def log_ratios(recipe: Recipe, logits: Logits, groups: Everything) -> dict[str, Float[Array, ""]]:
    """Mean log pi - log pi_ref of the better and of the worse response of a group, nats."""
    logp = jax.nn.log_softmax(logits / recipe.collection.temperature)[groups.bins]
    ratio = logp - groups.responses.ref_logp[..., 0]
    chosen = best(groups.responses.reward, groups.responses.exists)
    weight = groups.weight[:, None]
    return {
        "chosen_log_ratio": jnp.sum(weight * ratio, where=chosen),
        "rejected_log_ratio": jnp.sum(weight * ratio, where=~chosen),
    }
