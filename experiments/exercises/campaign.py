"""A campaign of active preference learning whose acquisition function is yours.

The same as ``bandit.active`` on R1 with noisy labels, each round anew from the reference, as in
``experiments.bandit.acquisition``, except that a Python function scores the candidates: it is
called once per seed and round, sees plain arrays, and may use numpy.

Key to the axes: P candidate pairs, L labels bought so far, S seeds, R rounds.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from bandit import R1, Problem, seed_keys
from bandit.active import Campaign, Labelled, Start, first, labelled, learn, prepare
from bandit.policies import token_logp
from bandit.simulate import response_reward
from bandit.sweep import COMPILER_OPTIONS, in_chunks
from experiments.bandit.acquisition import CAMPAIGN, POLICY
from objectives import entropy, implicit_reward, select

ROUNDS, SEEDS = 6, 12
PLACE: Campaign = replace(CAMPAIGN, rounds=ROUNDS, restart=True, label_temperature=0.1)
"""How labels are bought and used: 16 of 256 candidates in each round."""
CHUNK = 4


@dataclass(frozen=True)
class Candidates:
    """What an acquisition function may know: everything but the reward.

    Attributes:
        bins: [P, 2] both responses of each pair.
        logp: [P, 2] their log-probabilities under the policy, nats.
        ref_logp: [P, 2] the same under the reference.
        implicit_reward: [P, 2] beta (logp - ref_logp), what the policy believes they are worth.
        entropy: [P] of the policy in the context of each pair, nats.
        won: [L] bins that won the labels bought so far.
        lost: [L] bins that lost them, in the same order.
    """

    bins: np.ndarray
    logp: np.ndarray
    ref_logp: np.ndarray
    implicit_reward: np.ndarray
    entropy: np.ndarray
    won: np.ndarray
    lost: np.ndarray


Score = Callable[[Candidates], Any]
"""An acquisition function: candidates to a score for each, larger is more wanted."""
Proposed = dict[str, Array]


def propose(problem: Problem, params: Any, start: Start, key: PRNGKeyArray) -> Proposed:
    """A pair of the policy's responses in each context, and what is known about them."""
    contexts = start.prompts
    tokens = POLICY.sample(params, contexts, key, 2, 1.0)
    logp = token_logp(POLICY, params, contexts, tokens)[..., 0]
    ref_logp = token_logp(POLICY, first(start.members), contexts, tokens)[..., 0]
    return {
        "tokens": tokens,
        "bins": tokens[..., 0],
        "logp": logp,
        "ref_logp": ref_logp,
        "implicit_reward": implicit_reward(logp, ref_logp, PLACE.objective.beta),
        "entropy": entropy(jax.nn.log_softmax(POLICY.forward(params, contexts))),
        "reward": response_reward(problem, contexts, tokens),
    }


def buy(
    problem: Problem,
    start: Start,
    proposed: Proposed,
    score: Float[Array, " P"],
    bought: Labelled,
    number: Array,
    key: PRNGKeyArray,
) -> tuple[Any, Labelled, Float[Array, ""]]:
    """Label the candidates of highest score and learn anew from all labels so far."""
    select_key, label_key, learn_key = jax.random.split(key, 3)
    differ = proposed["bins"][:, 0] != proposed["bins"][:, 1]
    picked = select(jnp.where(differ, score, -jnp.inf), PLACE.labels, select_key)
    label = labelled(PLACE, proposed["reward"][picked], label_key)
    fresh = Labelled(picked, proposed["tokens"][picked], label, differ[picked])
    at = number * PLACE.labels
    bought = jax.tree.map(
        lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, at, 0), bought, fresh
    )
    reference, known = first(start.members), at + PLACE.labels
    params = learn(PLACE, POLICY, reference, reference, start.prompts, bought, known, learn_key)
    p = jax.nn.softmax(POLICY.forward(params, start.held_out))
    return params, bought, jnp.mean(p @ problem.reward)


def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program that does one thing for every seed."""

    def over_seeds(inputs: Any) -> Any:
        return in_chunks(lambda one: function(*one), inputs, CHUNK)

    return jax.jit(over_seeds, compiler_options=COMPILER_OPTIONS)


@functools.cache
def programs() -> tuple[Callable[..., Any], ...]:
    """What every campaign runs: prepare, propose, buy."""
    return (
        mapped(lambda key: prepare(PLACE, R1, POLICY, key)),
        mapped(propose),
        mapped(buy),
    )


@functools.cache
def starts(seeds: int) -> Start:
    """Where the campaigns of every seed begin, whichever function chooses."""
    return programs()[0]((seed_keys(0, seeds),))


def campaign(score: Score, problem: Problem = R1, seeds: int = SEEDS) -> np.ndarray:
    """Buy labels where the scores are highest, and learn from them.

    Seed s has the same contexts, policy and first candidates whichever function chooses, so that
    two functions are compared in pairs.

    Args:
        score: the acquisition function. Pairs of equal responses are never bought, whatever it
            says, and ties are broken at random.
        problem: holds the reward, with R1's reference.
        seeds: how many.

    Returns:
        Expected reward on fresh contexts after each round, ``[S, R]``.

    Raises:
        ValueError: if the function does not give a number for each candidate.
    """
    _, proposing, buying = programs()
    start, total = starts(seeds), PLACE.rounds * PLACE.labels
    worlds = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (seeds, *leaf.shape)), problem)
    params = jax.vmap(first)(start.members)
    bought = jax.vmap(lambda _: nothing(total))(jnp.arange(seeds))
    keys = jax.vmap(lambda key: jax.random.split(key, 2 * PLACE.rounds))(seed_keys(1, seeds))
    rewards = []
    for number in range(PLACE.rounds):
        proposed = proposing((worlds, params, start, keys[:, 2 * number]))
        told = [told_of(seed, proposed, bought) for seed in range(seeds)]
        scores = jnp.asarray(np.stack([numbers(score(candidates)) for candidates in told]))
        numbered = jnp.full(seeds, number)
        params, bought, reward = buying(
            (worlds, start, proposed, scores, bought, numbered, keys[:, 2 * number + 1])
        )
        rewards.append(np.asarray(reward))
    return np.stack(rewards, axis=-1)


def nothing(total: int) -> Labelled:
    """No labels, and room for all."""
    return Labelled(
        jnp.zeros(total, jnp.int32),
        jnp.zeros((total, 2, 1), jnp.int32),
        jnp.zeros((total, 2)),
        jnp.zeros(total, bool),
    )


def told_of(seed: int, proposed: Proposed, bought: Labelled) -> Candidates:
    """What an acquisition function is told, of one seed."""
    known = np.asarray(bought.valid[seed])
    tokens = np.asarray(bought.tokens[seed])[known, :, 0]
    order = np.argsort(np.asarray(bought.reward[seed])[known], axis=-1)
    lost, won = np.take_along_axis(tokens, order, axis=-1).T
    names = ("bins", "logp", "ref_logp", "implicit_reward", "entropy")
    seen = {name: np.asarray(proposed[name][seed]) for name in names}
    return Candidates(**seen, won=won, lost=lost)


def numbers(scores: Any) -> np.ndarray:
    """Scores as an array.

    Raises:
        ValueError: unless there is one for each candidate.
    """
    array = np.asarray(scores, np.float32)
    if array.shape != (PLACE.prompts,):
        raise ValueError(
            f"the scores have shape {array.shape}; there should be one for each candidate, "
            f"({PLACE.prompts},)."
        )
    if np.any(np.isnan(array)):
        raise ValueError("some scores are not a number; -inf is how to refuse a candidate.")
    return array
