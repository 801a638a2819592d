"""Checks of the second part: gradients of the objectives, and of what estimates them.

Key to the axes: B prompts, N responses per prompt, K bins.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import expit, log_softmax

from experiments.exercises.checks.softmax import BINS, as_log_probs, by_numpy, normals
from experiments.exercises.checks.verdict import PerCase, ask, compare, parts_of
from objectives import (
    DPO,
    IPO,
    KL_ESTIMATORS,
    PPO,
    Responses,
    Reuse,
    batch_mean,
    group_mean,
    group_zscore,
)
from objectives import leave_one_out as library_leave_one_out

PerSample = Float[Array, " N"]
UNCLIPPED = 1e6
"""Of a ratio, so far away that nothing is clipped."""


@jax.jit
def pair_slopes(objective: Any, w: PerSample, lost: PerSample) -> Float[Array, "B N"]:
    """Derivatives of the library's loss of each pair in the two log-ratios."""
    log_ratio = jnp.stack([w, lost], axis=-1)[..., None]
    zeros = jnp.zeros_like(log_ratio)
    reward = jnp.broadcast_to(jnp.asarray([[1.0, 0.0]]), zeros.shape[:2])
    responses = Responses(jnp.ones(zeros.shape, bool), reward, zeros, zeros)

    def total(log_ratio: Float[Array, "B N 1"]) -> Float[Array, ""]:
        terms = objective(log_ratio, responses)
        return jnp.sum(terms.value * terms.weight)

    return jax.grad(total)(log_ratio)[..., 0]


def gradients_of_dpo_and_ipo(answer: Callable[..., Any]) -> str:
    """Exercise 5: derivatives of both losses in the log-ratios of a pair.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; Azar et al. 2023, arXiv:2310.12036,
    eq. 17.
    """
    cases = [(3 * w, 3 * lost, 0.3, 0.2) for w, lost in (normals(5, pairs, 2) for pairs in (1, 6))]
    names = ("DPO winner", "DPO loser", "IPO winner", "IPO loser")
    given = [parts_of(ask(answer, *case), names) for case in cases]

    dpo = [pair_slopes(DPO(beta=beta), w, lost) for w, lost, beta, _ in cases]
    ipo = [pair_slopes(IPO(tau=tau), w, lost) for w, lost, _, tau in cases]

    def of_dpo(sign: int, wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(lambda w, lost, beta, tau: sign * wrong(w - lost, beta), cases)

    def of_ipo(sign: int, wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(lambda w, lost, beta, tau: sign * wrong(w - lost, tau), cases)

    for part, sign in ((0, 1), (1, -1)):
        compare(
            names[part],
            [parts[part] for parts in given],
            [g[:, part] for g in dpo],
            {
                "beta is missing outside the sigmoid: the chain rule brings it out.": of_dpo(
                    sign, lambda d, beta: -expit(-beta * d)
                ),
                "the sigmoid's argument has the wrong sign. The weight is the probability that the "
                "policy gives to the wrong order, so a pair that is right already weighs "
                "little.": of_dpo(sign, lambda d, beta: -beta * expit(beta * d)),
                "the loss is -log s(beta d), and its derivative s(-beta d), not s(1 - s).": of_dpo(
                    sign,
                    lambda d, beta: -beta * expit(beta * d) * expit(-beta * d),
                ),
                "beta is missing inside the sigmoid.": of_dpo(
                    sign, lambda d, beta: -beta * expit(-d)
                ),
                "it is 0 in your answer, so nothing would push the loser down; the loss sees the "
                "difference, and both ends of it move.": of_dpo(sign, lambda d, beta: 0 * d),
            },
        )
    for part, sign in ((2, 1), (3, -1)):
        compare(
            names[part],
            [parts[part] for parts in given],
            [g[:, part - 2] for g in ipo],
            {
                "the factor 2 of the square is missing.": of_ipo(
                    sign, lambda d, tau: d - 1 / (2 * tau)
                ),
                "the gap that IPO asks for is 1 / (2 tau), not 1 / tau.": of_ipo(
                    sign, lambda d, tau: 2 * (d - 1 / tau)
                ),
                "the gap that IPO asks for is 1 / (2 tau), not tau / 2.": of_ipo(
                    sign, lambda d, tau: 2 * (d - tau / 2)
                ),
                "the loss squares d - 1 / (2 tau), not tau d - 1/2.": of_ipo(
                    sign, lambda d, tau: 2 * tau * (tau * d - 1 / 2)
                ),
                "it is 0 in your answer, so nothing would push the loser down; the loss sees the "
                "difference, and both ends of it move.": of_ipo(sign, lambda d, tau: 0 * d),
            },
        )
    return (
        "The two ends of a pair are pushed equally hard, apart: DPO's force fades but never ends, "
        "IPO's turns round at a gap of 1 / (2 tau)."
    )


@jax.jit
def penalty_gradients(logp: PerSample, ref_logp: PerSample) -> tuple[PerSample, ...]:
    """Expected gradient of each of the library's estimators as a loss, in its order."""
    # Samples come from p as it is: as for any loss, their distribution has no gradient.
    drawn = jnp.exp(logp)

    def loss(z: PerSample, estimator: Callable[..., Any]) -> Float[Array, ""]:
        return jnp.sum(drawn * estimator(jax.nn.log_softmax(z) - ref_logp))

    return tuple(jax.grad(loss)(logp, estimator) for estimator in KL_ESTIMATORS.values())


def kl_estimators(answer: Callable[..., Any]) -> str:
    """Exercise 6: expected gradients of k1, k2 and k3 as losses, every action enumerated.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    names = tuple(KL_ESTIMATORS)
    cases = [tuple(as_log_probs(z) for z in normals(6, bins, 2)) for bins in BINS]
    given = [parts_of(ask(answer, *case), names) for case in cases]

    def made(wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(
            lambda logp, ref_logp: wrong(np.exp(logp), logp - ref_logp, np.exp(ref_logp)), cases
        )

    zero = made(lambda p, x, q: 0 * p)
    reverse = made(lambda p, x, q: p * (x - np.sum(p * x)))
    forward = made(lambda p, x, q: p - q)
    mistakes = {
        "k1": {
            "this is the gradient of the reverse KL. You differentiated the distribution that the "
            "samples come from as well, and a loss does not.": reverse,
            "the mean of grad log p under p is not p: expand it, and every bin cancels.": made(
                lambda p, x, q: p
            ),
            "this is the gradient of the forward KL; look at k1 again.": forward,
        },
        "k2": {
            "it is not zero: that is k1. The derivative of x^2 / 2 is x grad log p, and x differs "
            "from bin to bin.": zero,
            "this is the gradient of the forward KL; that belongs to another of the "
            "three.": forward,
            "grad log p(y) is e_y - p, not e_y: you forgot to subtract the mean.": made(
                lambda p, x, q: p * x
            ),
        },
        "k3": {
            "this is the gradient of the reverse KL. k3 estimates its value, without bias, but its "
            "gradient is another.": reverse,
            "this is minus the gradient. Each bin is lowered where p exceeds the reference.": made(
                lambda p, x, q: q - p
            ),
            "it is not zero: the part of k3 that is k1 vanishes, exp(-x) does not.": zero,
        },
    }
    right = [penalty_gradients(*case) for case in cases]
    for part, name in enumerate(names):
        compare(
            name,
            [parts[part] for parts in given],
            [gradients[part] for gradients in right],
            mistakes[name],
        )
    return "k1 pulls nowhere, k2 is the reverse KL, and k3 is the forward KL, whatever its name."


def leave_one_out(advantage: Callable[..., Any], kept: Callable[..., Any]) -> str:
    """Exercise 7: the baseline that leaves a response out, and what the other one costs.

    Source: Ahmadian et al. 2024, arXiv:2402.14740.
    """
    drawn = np.random.default_rng(7)
    rewards = [drawn.normal(1, 2, shape).astype(np.float32) for shape in ((1, 2), (4, 3))]

    def made(estimator: Callable[..., Any]) -> PerCase:
        return lambda: [estimated(estimator, reward) for reward in rewards]

    compare(
        "advantage",
        [ask(advantage, jnp.asarray(reward)) for reward in rewards],
        made(library_leave_one_out),
        {
            "the mean is of the whole group, the response itself included, so a response is partly "
            "compared with itself.": made(group_mean),
            "this is GRPO's z-score: its baseline holds the response itself, and dividing by the "
            "spread changes the gradient too.": made(group_zscore),
            "the mean is over the batch; each prompt has a baseline of its own.": made(batch_mean),
            "the others' rewards are added up, not averaged.": [
                2 * reward - np.sum(reward, axis=-1, keepdims=True) for reward in rewards
            ],
            "the rewards are as they were: unbiased as well, but nothing has been "
            "subtracted.": rewards,
        },
    )
    sizes = (2, 3)
    compare(
        "kept",
        [ask(kept, size) for size in sizes],
        [share_kept(size) for size in sizes],
        {
            "it is not 1. The response's own reward is in its baseline, with weight 1/N, and takes "
            "its share with it.": [1 for _ in sizes],
            "this is the factor that mends it; the question is what is left.": [
                n / (n - 1) for n in sizes
            ],
            "this is what is lost, not what is kept.": [1 / n for n in sizes],
        },
    )
    return "Unbiased; and the group's own mean keeps (N - 1) / N of the gradient."


def estimated(estimator: Callable[..., Any], reward: np.ndarray) -> np.ndarray:
    """What an estimator of the library makes of complete groups."""
    exists = jnp.ones(reward.shape, bool)
    return np.asarray(jax.jit(estimator)(jnp.asarray(reward, jnp.float32), exists))


def share_kept(responses: int, bins: int = 3) -> float:
    """Share of the expected policy gradient that the group's own mean leaves, by enumeration."""
    z, reward = (np.asarray(row) for row in normals(8, bins, 2))
    logp = log_softmax(z)
    groups = np.asarray(list(itertools.product(range(bins), repeat=responses)))
    weight = np.exp(logp[groups].sum(axis=-1))
    score = np.eye(bins)[groups] - np.exp(logp)

    def gradient(estimator: Callable[..., Any]) -> np.ndarray:
        advantage = estimated(estimator, reward[groups])
        return np.einsum("g,gn,gnk->k", weight, advantage, score) / responses

    whole, left = gradient(library_leave_one_out), gradient(group_mean)
    return float(whole @ left / (whole @ whole))


def stale_data(age: Callable[..., Any], weight: Callable[..., Any]) -> str:
    """Exercise 8: how old the data of a step are, and what makes them as good as fresh ones.

    Source: Tajwar et al. 2024, arXiv:2404.14367, Algorithm 1.
    """
    schedules = [
        (step, T, m) for step in range(0, 24, 5) for T, m in ((1, 1), (3, 1), (1, 4), (2, 5))
    ]

    def made(wrong: Callable[..., float]) -> PerCase:
        return lambda: [wrong(*schedule) for schedule in schedules]

    compare(
        "age",
        [ask(age, *schedule) for schedule in schedules],
        made(lambda step, T, m: step % Reuse(inner_steps=T, minibatches=m).steps),
        {
            "one pass over a collection is B/M gradient steps, not one.": made(
                lambda step, T, m: step % T
            ),
            "a collection is used for T passes, not for one.": made(lambda step, T, m: step % m),
            "this is the number of the collection; its age is the steps since it was drawn.": made(
                lambda step, T, m: step // (T * m)
            ),
            "this counts every step since the beginning as if nothing had been drawn again.": made(
                lambda step, T, m: step
            ),
            "T passes of B/M steps are a product, not a sum.": made(
                lambda step, T, m: step % (T + m)
            ),
            "data are of age 0 on the step right after they were drawn.": made(
                lambda step, T, m: step % (T * m) + 1
            ),
        },
    )
    cases = [tuple(as_log_probs(z) for z in normals(9, bins, 2)) for bins in BINS]

    def of_weights(wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(wrong, cases)

    compare(
        "weight",
        [ask(weight, *case) for case in cases],
        [unclipped_weight(logp, old_logp) for logp, old_logp in cases],
        {
            "upside down: a response that the policy likes more than the one that drew it has to "
            "count for more.": of_weights(lambda logp, old: np.exp(old - logp)),
            "this is the logarithm of the weight.": of_weights(lambda logp, old: logp - old),
            "without a weight the gradient is that of imitating the old policy's "
            "responses.": of_weights(lambda logp, old: np.ones_like(logp)),
            "this is the weight to first order, right while the policies are near.": of_weights(
                lambda logp, old: 1 + logp - old
            ),
            "the samples are drawn by the old policy already: what is missing is p / p_old, not "
            "p.": of_weights(lambda logp, old: np.exp(logp)),
        },
    )
    return "With that weight old data give the fresh gradient in expectation, if not its variance."


def unclipped_weight(logp: PerSample, old_logp: PerSample) -> PerSample:
    """How hard PPO pulls at a sample of advantage 1 if nothing is clipped: the library's weight."""
    one = jnp.ones_like(logp)
    return -surrogate_slope(logp, old_logp, one, UNCLIPPED, UNCLIPPED)


@jax.jit
def surrogate_slope(
    logp: PerSample, old_logp: PerSample, advantage: PerSample, low: float, high: float
) -> PerSample:
    """d/d logp of PPO's loss per sample, from the library's objective."""

    def total(logp: PerSample) -> Float[Array, ""]:
        return jnp.sum(surrogate(logp, old_logp, advantage, low, high))

    return jax.grad(total)(logp)


@jax.jit
def surrogate(
    logp: PerSample, old_logp: PerSample, advantage: PerSample, low: float, high: float
) -> PerSample:
    """PPO's loss per sample, from the library's objective: N responses of one token."""
    shape = (len(logp), 1, 1)
    mask, old = jnp.ones(shape, bool), old_logp.reshape(shape)
    responses = Responses(mask, jnp.zeros(shape[:2]), old, old, advantage.reshape(shape))
    return PPO(clip_low=low, clip_high=high)(logp.reshape(shape), responses).value.reshape(-1)


def clipped_surrogate(loss: Callable[..., Any], silent: Callable[..., Any]) -> str:
    """Exercise 9: PPO's loss per sample, and which samples it does not learn from.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    low, high = 0.2, 0.3
    cases = []
    for count in (6, 40):
        drawn = np.random.default_rng(count)
        ratio = drawn.permutation(np.linspace(0.4, 1.9, count))
        advantage = drawn.uniform(0.3, 2, count) * drawn.choice([-1, 1], count)
        cases.append((*(jnp.asarray(x, jnp.float32) for x in (ratio, advantage)), low, high))

    def made(wrong: Callable[..., np.ndarray]) -> PerCase:
        return by_numpy(wrong, cases)

    def clip(ratio: np.ndarray, low: float, high: float) -> np.ndarray:
        return np.clip(ratio, 1 - low, 1 + high)

    def outside(ratio: np.ndarray, low: float, high: float) -> np.ndarray:
        return (ratio < 1 - low) | (ratio > 1 + high)

    compare(
        "loss",
        [ask(loss, *case) for case in cases],
        [surrogate(jnp.log(r), 0 * r, A, lo, hi) for r, A, lo, hi in cases],
        {
            "this is what PPO maximises; a loss is minus that.": made(
                lambda r, A, lo, hi: np.minimum(A * r, A * clip(r, lo, hi))
            ),
            "the two losses have to be joined by max, the worse of them; min is for the objective "
            "that is maximised.": made(
                lambda r, A, lo, hi: np.minimum(-A * r, -A * clip(r, lo, hi))
            ),
            "the ratio is always clipped. Then a sample that has gone the wrong way is not called "
            "back either; that is what the max is for.": made(
                lambda r, A, lo, hi: -A * clip(r, lo, hi)
            ),
            "nothing is clipped here.": made(lambda r, A, lo, hi: -A * r),
            "the lower border is 1 - low.": made(
                lambda r, A, lo, hi: np.maximum(-A * r, -A * np.clip(r, lo, 1 + hi))
            ),
        },
    )
    slopes = [surrogate_slope(jnp.log(r), 0 * r, A, lo, hi) for r, A, lo, hi in cases]
    right = [np.asarray(slope) == 0 for slope in slopes]
    compare(
        "silent",
        [ask(silent, *case) for case in cases],
        right,
        {
            "these are all ratios outside the borders. Those that lie on the wrong side for their "
            "advantage still learn: only moving further out is refused.": made(
                lambda r, A, lo, hi: outside(r, lo, hi)
            ),
            "the other way round: these are the samples that do learn.": [~s for s in right],
            "the signs are crossed: a good sample is silent once it has become likely "
            "enough.": made(
                lambda r, A, lo, hi: ((A > 0) & (r < 1 - lo)) | ((A < 0) & (r > 1 + hi))
            ),
            "samples pushed down are clipped as well, below 1 - low.": made(
                lambda r, A, lo, hi: (A > 0) & (r > 1 + hi)
            ),
            "some samples do fall silent.": [np.zeros(len(s)) for s in right],
        },
    )
    return "Good samples fall silent above 1 + high, bad ones below 1 - low, and no others."
