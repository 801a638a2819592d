"""Acquisition functions: which candidates are worth a label.

A label on a pair the policy is already right about teaches nothing; a label on a prompt with only
one answer teaches little. Each function here gives a score per candidate, larger is more wanted,
and ``select`` picks.

Key to the axes: P candidates (prompts or pairs), n samples per prompt, M ensemble members,
F features.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from objectives.hyperparameters import Number

Scores = Float[Array, " P"]


def predictive_entropy(S: Float[Array, "P n"]) -> Scores:
    """H(x) = -(1/n) sum_i S(y_i | x): how undecided the policy is about a prompt, in nats.

    Args:
        S: log pi(y_i | x) of n samples *of that prompt* at temperature 1, summed over tokens.

    Source: Muldrew et al. 2024, arXiv:2402.08114.

    Differs: the authors' published code averages over a window that slides across prompts, so that
    neighbours share scores; here a prompt is scored by its own samples. The sum is not divided by
    length, as in the paper.
    """
    return -jnp.mean(S, axis=-1)


def implicit_reward(
    S: Float[Array, "..."], S_ref: Float[Array, "..."], beta: Number = 1.0
) -> Float[Array, "..."]:
    """Implicit reward h = beta (S - S_ref) of a DPO policy, up to a term of the prompt."""
    return beta * (S - S_ref)


def preference_certainty(h_a: Scores, h_b: Scores) -> Scores:
    """|h_a - h_b|: how sure the policy is which response of a pair is better.

    The largest are asked first: where the policy is sure and wrong, the label corrects most. At the
    start policy and reference agree and every certainty is 0, so ``select`` picks at random.

    Args:
        h_a: implicit reward of one response of each pair (see ``implicit_reward``).
        h_b: of the other.

    Source: Muldrew et al. 2024, arXiv:2402.08114; their 1 - 2|s(h_a - h_b) - 1/2| ranks the same.
    """
    return jnp.abs(h_a - h_b)


def uncertainty(certainty: Scores) -> Scores:
    """The ablation that asks about the least certain pairs, as classical active learning would."""
    return -certainty


def middle(certainty: Scores) -> Scores:
    """The ablation that asks about the pairs nearest the median certainty."""
    return -jnp.abs(certainty - jnp.median(certainty))


def tails(certainty: Scores) -> Scores:
    """The ablation that asks about the pairs farthest from the median certainty."""
    return jnp.abs(certainty - jnp.median(certainty))


def disagreement(h_a: Float[Array, "M P"], h_b: Float[Array, "M P"]) -> Scores:
    """Population variance over an ensemble of h_a - h_b: what more data would settle.

    Certainty mixes up two things, a policy that knows and a policy that merely extrapolates.
    Members that were trained apart agree where they know.

    Args:
        h_a: implicit reward of one response of each pair, for every member.
        h_b: of the other.
    """
    return jnp.var(h_a - h_b, axis=0)


def hybrid(entropy: Scores, certainty: Scores, pool: int) -> Scores:
    """Entropy keeps a pool of prompts, certainty picks from the pool.

    Args:
        entropy: predictive entropy of each candidate's prompt.
        certainty: preference certainty of each candidate.
        pool: how many prompts survive the first cut; ties at the border all survive.

    Returns:
        The certainty inside the pool, -inf outside.

    Raises:
        ValueError: if the pool is empty or larger than the number of candidates.

    Source: Muldrew et al. 2024, arXiv:2402.08114.
    """
    check_count("pool", pool, entropy.shape[0])
    border = jnp.sort(entropy)[-pool]
    return jnp.where(entropy >= border, certainty, -jnp.inf)


def check_count(name: str, k: int, candidates: int) -> None:
    """Raise unless 1 <= k <= candidates."""
    if not 1 <= k <= candidates:
        raise ValueError(f"{name} is {k}; it must be between 1 and the {candidates} candidates.")


def select(scores: Scores, k: int, key: PRNGKeyArray) -> Int[Array, " k"]:
    """The k candidates of highest score, ties broken at random.

    Args:
        scores: larger is more wanted.
        k: how many to pick.
        key: consumed; it decides among equals and nothing else.

    Returns:
        Indices, best first.

    Raises:
        ValueError: if k is not between 1 and the number of candidates.
    """
    check_count("k", k, scores.shape[0])
    lottery = jax.random.permutation(key, scores.shape[0])
    return jnp.lexsort((lottery, -scores))[:k]


def diverse(
    scores: Scores, features: Float[Array, "P F"], k: int, key: PRNGKeyArray
) -> Int[Array, " k"]:
    """Pick a batch whose members differ: greedy max-min distance, starting from the best score.

    The score decides the first pick and who may be picked at all; to weigh it more, shortlist the
    candidates with ``select`` and pass the shortlist.

    Args:
        scores: larger is more wanted; -inf is not picked while anything else is left.
        features: where each candidate lies; distances are Euclidean.
        k: how many to pick.
        key: consumed; breaks ties of the first pick.

    Returns:
        Indices, in the order picked.

    Raises:
        ValueError: if k is not between 1 and the number of candidates.

    Source: greedy k-centre, Gonzalez 1985; for active learning Sener and Savarese 2018,
    arXiv:1708.00489.
    """
    start = select(scores, k, key)[0]
    excluded = jnp.isneginf(scores)

    def distance_to(pick: Int[Array, ""]) -> Scores:
        return jnp.linalg.norm(features - features[pick][None, :], axis=-1)

    def step(carry, _):
        nearest, taken = carry
        gain = jnp.where(excluded, -1.0, nearest)
        pick = jnp.argmax(jnp.where(taken, -jnp.inf, gain))
        return (jnp.minimum(nearest, distance_to(pick)), taken.at[pick].set(True)), pick

    taken = jnp.zeros(scores.shape, bool).at[start].set(True)
    _, rest = jax.lax.scan(step, (distance_to(start), taken), length=k - 1)
    return jnp.concatenate([start[None], rest])
