"""One run of the paper's Algorithm 1 on a bandit, with exact measurements along the way.

Collect responses, label them with the true reward, take gradient steps on them, collect again. All
of it is one ``lax.scan``, so a sweep over seeds, learning rates or any number inside an objective
is the same function mapped over an axis, compiled once (``bandit.sweep``).

Key to the axes: B prompts, N responses per prompt, T tokens, K bins, R records.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from bandit.policies import Params, Policy, Prompts, Tokens, draw, token_logp
from bandit.problems import Problem
from objectives import (
    ADVANTAGES,
    Recipe,
    Responses,
    RunningMean,
    entropy,
    forward_kl,
    group_zscore,
    kl_in_reward,
    reverse_kl,
    running_mean,
)
from objectives.hyperparameters import Number
from objectives.labels import best
from objectives.pytrees import pytree


@pytree
class Start:
    """Where a run begins: it depends on the seed and the reference, never on the recipe.

    Attributes:
        params: parameters of the policy that imitates the reference.
        prompts: the training prompts.
        held_out: the prompts that traces are measured on.
    """

    params: Params
    prompts: Prompts
    held_out: Prompts


@pytree
class Trace:
    """What a run looked like, measured every ``record_every`` gradient steps, the start included.

    For one-token policies every number is exact: a mean over the held-out prompts of a sum over all
    bins. For the 10-token policy sums over the next token are exact and the prefix before it is
    sampled from the policy, one per held-out prompt; divergences and entropy then add over
    positions.

    Attributes:
        step: gradient steps taken.
        samples: labelled responses drawn so far.
        probability: of every bin, averaged over prompts (and positions).
        reward: expected reward.
        reverse_kl: KL(policy || reference), nats per response.
        forward_kl: KL(reference || policy), nats per response.
        entropy: of the policy, nats per response.
        distance: total variation to pi* at ``beta_star``, averaged like ``probability``.
        chosen_log_ratio: log pi - log pi_ref of the best response of each group in hand, nats, both
            at the temperature of the collection.
        rejected_log_ratio: the same averaged over the others; NaN if a group has no others.
    """

    step: Int[Array, " R"]
    samples: Int[Array, " R"]
    probability: Float[Array, "R K"]
    reward: Float[Array, " R"]
    reverse_kl: Float[Array, " R"]
    forward_kl: Float[Array, " R"]
    entropy: Float[Array, " R"]
    distance: Float[Array, " R"]
    chosen_log_ratio: Float[Array, " R"]
    rejected_log_ratio: Float[Array, " R"]


@pytree
class Collected:
    """Responses in hand: with their prompts and tokens, ready for any number of gradient steps."""

    prompts: Prompts
    tokens: Tokens
    responses: Responses


def prepare(problem: Problem, policy: Policy, key: PRNGKeyArray, contexts: int) -> Start:
    """Draw prompts and fit the policy to the reference.

    Args:
        problem: only its reference is used, so all problems with one reference share a start.
        policy: what to fit.
        key: consumed.
        contexts: how many training prompts there are.
    """
    prompt_key, held_out_key, init_key = jax.random.split(key, 3)
    prompts = policy.prompts(prompt_key, contexts)
    held_out = policy.held_out(held_out_key, prompts)
    return Start(policy.init(init_key, problem, prompts), prompts, held_out)


def response_reward(problem: Problem, prompts: Prompts, tokens: Tokens) -> Float[Array, "B N"]:
    """The mean reward over a response's tokens, and over the prompt's where that earns too."""
    earned = jnp.sum(problem.reward[tokens], axis=-1)
    count = problem.tokens
    if problem.prompt_earns:
        earned, count = earned + problem.reward[prompts][:, None], count + 1
    return earned / count


def collect(
    recipe: Recipe,
    problem: Problem,
    policy: Policy,
    params: Params,
    start: Start,
    baseline: RunningMean,
    key: PRNGKeyArray,
) -> tuple[Collected, RunningMean]:
    """Steps 1 to 3 of Algorithm 1: choose prompts, draw responses, label them.

    Args:
        recipe: its ``collection`` says where responses come from, its ``advantage`` how they are
            compared.
        problem: gives the rewards.
        policy: gives the samples.
        params: the policy's parameters as they are.
        start: the training prompts, and the reference's parameters.
        baseline: state of the running-mean baseline; passed through by the others.
        key: consumed.
    """
    prompt_key, sample_key = jax.random.split(key)
    collection = recipe.collection
    pool = jax.tree.leaves(start.prompts)[0].shape[0]
    chosen = jnp.arange(collection.prompts) % pool
    if collection.prompts < pool:
        chosen = jax.random.permutation(prompt_key, pool)[: collection.prompts]
    prompts = jax.tree.map(lambda leaf: leaf[chosen], start.prompts)

    from_policy, temperature = collection.source == "policy", collection.temperature
    if from_policy or policy.reference_is_start:
        behaviour = params if from_policy else start.params
        tokens = policy.sample(behaviour, prompts, sample_key, collection.responses, temperature)
        old_logp = token_logp(policy, behaviour, prompts, tokens, temperature)
    else:
        shape = (collection.prompts, collection.responses, problem.tokens)
        logits = problem.ref_logp / temperature
        tokens = draw(sample_key, logits, math.prod(shape)).reshape(shape)
        old_logp = jax.nn.log_softmax(logits)[tokens]

    # The loss reads the policy at the temperature of sampling, hence the reference too: a policy
    # that has not moved is at 0 nats from it whatever the temperature.
    if policy.reference_is_start:
        ref_logp = token_logp(policy, start.params, prompts, tokens, temperature)
    else:
        ref_logp = jax.nn.log_softmax(problem.ref_logp / temperature)[tokens]
    mask = jnp.ones(tokens.shape, bool)
    reward = response_reward(problem, prompts, tokens)
    reward = kl_in_reward(reward, old_logp, ref_logp, mask, recipe.kl_in_reward)
    valid = jnp.ones(reward.shape, bool)
    advantage = None
    if recipe.advantage == "running_mean":
        advantage, baseline = running_mean(reward, valid, baseline)
    elif recipe.advantage is not None:
        advantage = advantages(recipe, reward, valid)
    if advantage is not None:
        advantage = advantage[..., None]
    responses = Responses(mask, reward, ref_logp, old_logp, advantage, valid)
    return Collected(prompts, tokens, responses), baseline


def advantages(
    recipe: Recipe, reward: Float[Array, "B N"], valid: Bool[Array, "B N"]
) -> Float[Array, "B N"]:
    """What the recipe's estimator, one that remembers nothing, makes of rewards."""
    if recipe.advantage == "group_zscore":
        return group_zscore(reward, valid, floor=recipe.std_floor)
    return ADVANTAGES[str(recipe.advantage)](reward, valid)


def measure(
    problem: Problem,
    policy: Policy,
    params: Params,
    start: Start,
    collected: Collected,
    beta_star: Number,
    key: PRNGKeyArray,
    temperature: Number = 1.0,
) -> dict[str, Float[Array, "..."]]:
    """Everything a ``Trace`` records about one policy, except the counts.

    Args:
        problem: reward and reference.
        policy: how to read the parameters.
        params: the policy to measure.
        start: the held-out prompts.
        collected: the responses in hand, for the log-ratios of winners and losers.
        beta_star: which pi* to measure the distance to, in units of reward per nat.
        key: consumed by prefix sampling; one-token policies are exact and use none.
        temperature: at which the responses in hand were drawn.
    """
    prompts = start.held_out
    count = jax.tree.leaves(prompts)[0].shape[0]
    if problem.tokens == 1:
        tokens = jnp.zeros((count, 1, 1), jnp.int32)
    else:
        tokens = policy.sample(params, prompts, key, 1, 1.0)
    logp = jax.nn.log_softmax(policy.logits(params, prompts, tokens))[:, 0]
    if policy.reference_is_start:
        ref_logp = jax.nn.log_softmax(policy.logits(start.params, prompts, tokens))[:, 0]
    else:
        ref_logp = jnp.broadcast_to(problem.ref_logp, logp.shape)
    p = jnp.exp(logp)
    earned = jnp.sum(jnp.sum(p * problem.reward[None, None], axis=-1), axis=-1)
    if problem.prompt_earns:
        earned = (earned + problem.reward[prompts]) / (problem.tokens + 1)
    else:
        earned = earned / problem.tokens
    probability = jnp.mean(p, axis=(0, 1))
    target = jnp.exp(problem.optimum(beta_star))

    batch = collected.responses
    ratio = token_logp(policy, params, collected.prompts, collected.tokens, temperature)
    ratio = jnp.sum(ratio - batch.ref_logp, axis=-1)
    chosen = best(batch.reward, batch.exists)
    return {
        "probability": probability,
        "reward": jnp.mean(earned),
        "reverse_kl": jnp.mean(jnp.sum(reverse_kl(logp, ref_logp), axis=-1)),
        "forward_kl": jnp.mean(jnp.sum(forward_kl(logp, ref_logp), axis=-1)),
        "entropy": jnp.mean(jnp.sum(entropy(logp), axis=-1)),
        "distance": jnp.mean(jnp.sum(jnp.abs(p - target[None, None]), axis=-1)) / 2,
        "chosen_log_ratio": jnp.mean(ratio, where=chosen),
        "rejected_log_ratio": jnp.mean(ratio, where=batch.exists & ~chosen),
    }


def simulate(
    recipe: Recipe,
    problem: Problem,
    policy: Policy,
    key: PRNGKeyArray,
    steps: int,
    *,
    learning_rate: Number = 0.01,
    record_every: int = 1,
    contexts: int | None = None,
    beta_star: Number = 0.1,
    start: Start | None = None,
) -> Trace:
    """Train a policy with a recipe and watch it.

    Pure and traceable: ``jit`` it, ``vmap`` it over keys, learning rates, problems, or the numbers
    inside the recipe.

    Args:
        recipe: objective, collection and reuse.
        problem: reference and reward.
        policy: what is trained.
        key: consumed; everything random comes from it.
        steps: gradient steps in all. A recipe collects anew every ``recipe.reuse.steps`` of them,
            or
            once if it learns from a data set.
        learning_rate: Adam's.
        record_every: gradient steps between records; must divide ``steps``.
        contexts: number of distinct training prompts; ``recipe.collection.prompts`` when None.
        beta_star: which pi* the trace measures its distance to, reward per nat.
        start: where to begin, to share one fit among runs; prepared from the key when None.

    Returns:
        ``steps / record_every + 1`` records.

    Raises:
        ValueError: before anything is computed, for steps, records, contexts or a learning rate
            that
            make no sense.

    Source: Tajwar et al. 2024, arXiv:2404.14367, Algorithm 1.
    """
    check_run(steps, record_every, contexts, beta_star)
    check_learning_rate(learning_rate)
    contexts = recipe.collection.prompts if contexts is None else contexts
    start_key, run_key, measure_key = jax.random.split(key, 3)
    if start is None:
        start = prepare(problem, policy, start_key, contexts)
    optimizer = optax.adam(learning_rate)
    reuse, per_batch = recipe.reuse, recipe.collection.prompts // recipe.reuse.minibatches
    offline, temperature = recipe.collection.source == "dataset", recipe.collection.temperature

    def gather(params: Params, baseline: RunningMean, key: PRNGKeyArray) -> Any:
        return collect(recipe, problem, policy, params, start, baseline, key)

    def loss(params: Params, batch: Collected, key: PRNGKeyArray) -> Float[Array, ""]:
        logp = token_logp(policy, params, batch.prompts, batch.tokens, temperature, key)
        return recipe.objective(logp, batch.responses).mean()

    def train(params: Params, state: Any, batch: Collected, key: PRNGKeyArray) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, batch, key), state, params)
        return optax.apply_updates(params, updates), state

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        params, state, collected, baseline, order = carry
        taken, (collect_key, order_key, dropout_key) = now
        fresh = taken == -record_every
        if not offline:
            fresh |= (taken > 0) & (taken % reuse.steps == 0)
        collected, baseline = jax.lax.cond(
            fresh, gather, lambda *_: (collected, baseline), params, baseline, collect_key
        )
        batch = collected
        if reuse.minibatches > 1:
            part = taken % reuse.minibatches
            shuffled = jax.random.permutation(order_key, recipe.collection.prompts)
            order = jnp.where(part == 0, shuffled, order)
            rows = jax.lax.dynamic_slice_in_dim(order, part * per_batch, per_batch)
            batch = jax.tree.map(lambda leaf: leaf[rows], collected)
        params, state = jax.lax.cond(
            taken >= 0, train, lambda p, s, *_: (p, s), params, state, batch, dropout_key
        )
        return (params, state, collected, baseline, order), None

    def block(carry: Any, now: Any) -> tuple[Any, Any]:
        steps_and_keys, key = now
        carry, _ = jax.lax.scan(step, carry, steps_and_keys)
        params, _, collected, _, _ = carry
        seen = measure(problem, policy, params, start, collected, beta_star, key, temperature)
        return carry, seen

    # The first block takes no gradient step, it only collects: so collecting, training and
    # measuring each stand once in the compiled program, which halves the time to compile it.
    blocks = steps // record_every + 1
    taken = jnp.arange(-record_every, steps).reshape(blocks, record_every)
    step_keys = jax.random.split(run_key, (3, blocks, record_every))
    measure_keys = jax.random.split(measure_key, blocks)
    nothing = RunningMean(jnp.zeros(()), jnp.zeros(()))
    empty = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gather, start.params, nothing, run_key)[0],
    )
    order = jnp.arange(recipe.collection.prompts)
    carry = (start.params, optimizer.init(start.params), empty, nothing, order)
    _, recorded = jax.lax.scan(block, carry, ((taken, tuple(step_keys)), measure_keys))
    done = jnp.arange(blocks) * record_every
    collections = jnp.ones_like(done) if offline else jnp.maximum(done - 1, 0) // reuse.steps + 1
    labelled = recipe.collection.prompts * recipe.collection.responses
    return Trace(step=done, samples=collections * labelled, **recorded)


def check_run(steps: int, record_every: int, contexts: int | None, beta_star: Number) -> None:
    """Raise unless these describe a run; a traced ``beta_star`` is not looked at."""
    if steps < 1 or record_every < 1 or steps % record_every:
        raise ValueError(
            f"steps={steps} and record_every={record_every}: both must be at least 1, and "
            "record_every must divide steps."
        )
    if contexts is not None and contexts < 1:
        raise ValueError(f"contexts is {contexts}; it must be at least 1.")
    if not isinstance(beta_star, Tracer) and not beta_star > 0:
        raise ValueError(f"beta_star is {beta_star}; it must be above 0.")


def check_learning_rate(learning_rate: Number) -> None:
    """Raise unless every concrete learning rate is positive and finite."""
    if isinstance(learning_rate, Tracer):
        return
    if not np.all(np.isfinite(learning_rate)) or not np.all(np.asarray(learning_rate) > 0):
        raise ValueError(f"learning_rate is {learning_rate}; it must be finite and above 0.")
