"""Checks of the first part: what a softmax does to bins, and where divergences move them.

Key to the axes: K bins.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import log_softmax

from bandit.exact import expected_velocity
from bandit.problems import Problem
from bandit.theory import bin_velocity, logarithmic_mean, theorem_6_5_holds
from experiments.exercises.checks.verdict import PerCase, Rejected, ask, compare, parts_of
from objectives import (
    SFT,
    BestOfN,
    Collection,
    Recipe,
    optimal_policy,
    reverse_kl,
)

Logits = Float[Array, " K"]

BINS = (3, 8)
"""K of the cases."""
OFFLINE = Collection(source="reference")


def normals(seed: int, bins: int, count: int) -> list[Logits]:
    """Random arrays, the same at every call."""
    drawn = np.random.default_rng(seed).normal(size=(count, bins))
    return [jnp.asarray(row, jnp.float32) for row in drawn]


def as_log_probs(logits: Logits) -> Logits:
    """The log-probabilities of logits, in numpy: nothing to compile."""
    return jnp.asarray(log_softmax(np.asarray(logits)))


def by_numpy(
    wrong: Callable[..., np.ndarray], cases: Sequence[tuple[Any, ...]]
) -> Callable[[], list[np.ndarray]]:
    """A mistake on every case, when it is asked for; in numpy for the same reason."""
    return lambda: [wrong(*(np.asarray(part) for part in case)) for case in cases]


def reverse_kl_of_logits(z: Logits, target_logp: Logits) -> Float[Array, ""]:
    """KL(p || q) of p = softmax(z)."""
    return reverse_kl(jax.nn.log_softmax(z), target_logp)


reverse_kl_gradient = jax.jit(jax.grad(reverse_kl_of_logits))
"""Its gradient in z, by automatic differentiation."""


def velocity_of_a_bin(answer: Callable[..., Any]) -> str:
    """Exercise 1: dp/dt of every bin, from the velocities of the logits.

    Source: Tajwar et al. 2024, arXiv:2404.14367, section 6.
    """
    cases = [(as_log_probs(z), v) for z, v in (normals(1, bins, 2) for bins in BINS)]

    def made(wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(lambda logp, v: wrong(np.exp(logp), v), cases)

    compare(
        "dp/dt",
        [ask(answer, *case) for case in cases],
        [jax.jit(bin_velocity)(*case) for case in cases],
        {
            "you forgot to subtract the mean velocity. If every logit moves at the same speed, "
            "no bin moves at all.": made(lambda p, v: p * v),
            "this is the velocity of log p; the bin itself moves at p times that.": made(
                lambda p, v: v - np.sum(p * v)
            ),
            "the mean to subtract is the policy's own, sum p v, not the plain average over "
            "bins.": made(lambda p, v: p * (v - np.mean(v))),
            "this is the diagonal of the Jacobian only. A bin also moves because the logits of the "
            "others do.": made(lambda p, v: p * (1 - p) * v),
            "these are the velocities of the logits; the question is about probabilities.": made(
                lambda p, v: v
            ),
        },
    )
    return "The velocities of the bins, and they add up to zero: mass is moved, not made."


def gradient_of_reverse_kl(answer: Callable[..., Any]) -> str:
    """Exercise 2: d/dz KL(p || q), held against automatic differentiation."""
    cases = [(z, as_log_probs(t)) for z, t in (normals(2, bins, 2) for bins in BINS)]

    def made(wrong: Callable[..., np.ndarray]) -> PerCase:
        def of_case(z: np.ndarray, target_logp: np.ndarray) -> np.ndarray:
            logp = log_softmax(z)
            return wrong(np.exp(logp), logp - target_logp, np.exp(target_logp))

        return by_numpy(of_case, cases)

    given = [ask(answer, *case) for case in cases]
    backward = "this is minus the gradient: the velocity of the logits under gradient descent."
    right = [reverse_kl_gradient(*case) for case in cases]
    compare(
        "d/dz KL(p || q)",
        given,
        right,
        {
            "this is the gradient of the forward KL, KL(q || p).": made(lambda p, x, q: p - q),
            "this is minus the gradient of the forward KL, KL(q || p).": made(
                lambda p, x, q: q - p
            ),
            backward: [-g for g in right],
            "you forgot to subtract the mean of log p - log q: a softmax gradient sums to "
            "zero.": made(lambda p, x, q: p * x),
            "the 1 of d(p log p)/dp is still there. It drops out, because the probabilities "
            "always add up to 1.": made(lambda p, x, q: p * (x + 1)),
            "this is the gradient with respect to the probabilities; there is still the softmax "
            "to go through.": made(lambda p, x, q: x + 1),
            "the factor p is missing: a logit is felt only as far as its bin has mass.": made(
                lambda p, x, q: x - np.sum(p * x)
            ),
            "the mean has to be taken under the policy p, not under the target q.": made(
                lambda p, x, q: p * (x - np.sum(q * x))
            ),
        },
    )
    return "Automatic differentiation agrees: p (log p - log q - KL)."


def cover_or_seek(answer: Callable[..., Any]) -> str:
    """Exercise 3: which of two divergences parts two bins faster.

    Source: Theorem 6.5 of Tajwar et al. 2024, arXiv:2404.14367.
    """
    drawn = np.random.default_rng(3).dirichlet(np.ones(3), size=2000).astype(np.float32)
    p, q_1, q_2 = drawn[:, 0], drawn[:, 1:].max(axis=1), drawn[:, 1:].min(axis=1)
    # On the border the answer is rounding.
    border = np.asarray(jax.jit(logarithmic_mean)(*map(jnp.asarray, (q_1, q_2))))
    clear = np.abs(p / border - 1) > 1e-3
    p, q_1, q_2 = p[clear], q_1[clear], q_2[clear]
    case = tuple(jnp.asarray(x) for x in (p, q_1, q_2))
    given = ask(answer, *case)
    right = np.asarray(jax.jit(theorem_6_5_holds)(*case))
    try:
        compare(
            "The condition",
            [given],
            [right],
            {
                "reverse KL is not always faster. The theorem as it is quoted leaves out that p "
                "has to be large enough.": [np.ones_like(p)],
                "forward KL is not always faster: try p = 0.9.": [np.zeros_like(p)],
                "this is the other way round: it says when forward KL is faster.": [~right],
                "the border is a mean of q_1 and q_2, but not the arithmetic one.": [
                    p > (q_1 + q_2) / 2
                ],
                "the border is a mean of q_1 and q_2, but not the geometric one.": [
                    p > np.sqrt(q_1 * q_2)
                ],
                "p need not exceed both q_1 and q_2; that is more than what is needed.": [p > q_1],
                "p has to exceed more than the smaller of the two.": [p > q_2],
            },
        )
    except Rejected as rejected:
        if "not right" not in str(rejected):
            raise
        wrong = float(np.mean(np.asarray(given, bool) != right))
        raise Rejected(f"The condition is wrong in {wrong:.1%} of {len(p)} cases.") from rejected
    return (
        f"Right in all {len(p)} cases: reverse KL commits among bins that the policy likes more "
        "than the logarithmic mean of the target's two."
    )


def what_imitation_imitates(answer: Callable[..., Any]) -> str:
    """Exercise 4: the target of SFT, of RWR and of best-of-two on the reference's responses.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 4, for pi*.
    """
    beta = 0.7
    cases = [(as_log_probs(z), r, beta) for z, r in (normals(4, bins, 2) for bins in BINS)]
    names = ("SFT", "RWR", "best of two")
    given = [parts_of(ask(answer, *case), names) for case in cases]
    sft, rwr, best = ([parts[i] for parts in given] for i in range(3))

    def stays(objective: Any) -> list[Logits]:
        # Imitation moves the logits at q - p, whatever p is: add p and q is left.
        found = []
        for ref_logp, reward, _ in cases:
            recipe, problem = Recipe(objective, OFFLINE), Problem(ref_logp, reward)
            velocity = jax.jit(expected_velocity)(recipe, problem, jnp.zeros(len(reward)))
            found.append(np.log(1 / len(reward) + np.asarray(velocity)))
        return found

    def made(wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(wrong, cases)

    def below(ref_logp: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """F(y): the reference's mass on responses that are no better."""
        return np.where(reward[None] <= reward[:, None], np.exp(ref_logp)[None], 0).sum(axis=-1)

    probabilities = "these are probabilities; give their logarithms."
    pi_star = [np.asarray(jax.jit(optimal_policy)(*case)) for case in cases]
    right = stays(SFT())
    compare(
        "SFT",
        sft,
        right,
        {
            probabilities: [np.exp(logp) for logp in right],
            "maximum likelihood does not look at the reward.": pi_star,
        },
    )
    compare(
        "RWR",
        rwr,
        pi_star,
        {
            probabilities: [np.exp(logp) for logp in pi_star],
            "you forgot the reference: responses are weighted, but it is still the reference that "
            "drew them.": made(lambda ref, r, beta: log_softmax(r / beta)),
            "beta divides the reward; a small beta is greedy.": made(
                lambda ref, r, beta: log_softmax(ref + r * beta)
            ),
            "these do not add up to 1: subtract log Z.": made(lambda ref, r, beta: ref + r / beta),
            "this is the target of SFT: the weights exp(r / beta) are missing.": made(
                lambda ref, r, beta: ref
            ),
        },
    )
    right = stays(BestOfN())
    compare(
        "best of two",
        best,
        right,
        {
            probabilities: [np.exp(logp) for logp in right],
            "this is F(y)^2, the probability that the best is no better than y; the probability "
            "that it is y is a difference of two of those.": made(
                lambda ref, r, beta: 2 * np.log(below(ref, r))
            ),
            "a pair of two equal responses counts once, not twice.": made(
                lambda ref, r, beta: np.log(2 * np.exp(ref) * below(ref, r))
            ),
            "the pairs of two equal responses are missing: there y wins too.": made(
                lambda ref, r, beta: np.log(
                    np.maximum(2 * np.exp(ref) * (below(ref, r) - np.exp(ref)), 1e-30)
                )
            ),
            "p^2 normalised is what two draws agree on; here the better one wins.": made(
                lambda ref, r, beta: log_softmax(2 * ref)
            ),
            "this is pi* again; best-of-two knows who is better, not by how much.": pi_star,
        },
    )
    return "All three are what the library's objectives come to rest at."
