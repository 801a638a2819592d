"""What does a KL penalty made of samples pull towards, when it is used as a loss?

Command: ``modeseek reproduce kl_estimators``. Hardware and time: 3 s on one of two cores, most of
it compilation. Number to expect: the expected gradients of k1, k2 and k3 are zero, that of the
reverse KL and that of the forward KL, to rounding. Feeds ``figures/kl_estimators.py``.

All three estimate KL(pi || pi_ref) from samples of pi. What a loss does is decided by its gradient,
so the penalty of ``REINFORCE`` is differentiated at every bin and averaged under pi: no sampling,
no error but rounding. The policies are random, one per seed.

Then each penalty, with no reward, moves a policy that starts beside one of the two peaks of a
reference: by exact steps, and by steps on 100 samples for each seed. The learning rate is 1, as in
the experiment on relocation, and 200 steps settle k2 on its peak. Last, started at the reference
itself, where nothing is left to do, it shows what noise alone does.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bandit.policies import draw
from bandit.sweep import COMPILER_OPTIONS
from experiments.intervals import difference, interval
from experiments.results import Result, Size, Verdict
from objectives import (
    KL_ESTIMATORS,
    REINFORCE,
    KLPenalty,
    Responses,
    forward_kl,
    reverse_kl,
)

BINS = 100
PEAKS, START = (25, 70), 35
FLOOR = 0.05
LEARNING_RATE, STEPS, SAMPLES = 1.0, 200, 100
REGION = 10
EXACT = 1e-12
PULLS = {"k1": "zero", "k2": "that of the reverse KL", "k3": "that of the forward KL"}


def run(size: Size) -> Result:
    """Differentiate each penalty exactly, then let it act."""
    policies = np.stack(
        [np.random.default_rng(seed).dirichlet(np.ones(BINS)) for seed in range(size.seeds)]
    )
    with jax.enable_x64(True):
        ref_logp = bump_and_floor(PEAKS, 5)
        start = bump_and_floor((START,), 8)
        at = jnp.concatenate([start[None], jnp.log(jnp.asarray(policies))])
        expected, exact = (np.asarray(x) for x in all_gradients(at, ref_logp))
        keys = jax.random.split(jax.random.key(0), size.seeds)
        ends, sampled, wandered = (np.asarray(x) for x in act(start, ref_logp, keys))

    wanted = np.concatenate([np.zeros_like(exact[:1]), exact])
    errors = np.abs(expected - wanted)[:, 1:].max(axis=(1, 2))
    p = np.exp(np.asarray(start))
    verdicts = [
        is_gradient(name, float(error), size.seeds)
        for name, error in zip(KL_ESTIMATORS, errors, strict=True)
    ]
    verdicts.append(pulls_apart(masses(p), masses(ends), masses(sampled)))
    verdicts.append(only_noise(dict(zip(KL_ESTIMATORS, wandered, strict=True))))
    arrays = {
        "reference": np.exp(np.asarray(ref_logp)),
        "start": p,
        "ends": ends,
        "sampled ends": sampled.mean(axis=1),
        "gradients": expected[:, 0],
        "wanted": wanted[:, 0],
    }
    settings = {
        "learning_rate": LEARNING_RATE,
        "steps": STEPS,
        "samples": SAMPLES,
        "peaks": list(PEAKS),
        "region": REGION,
        "seeds": size.seeds,
    }
    return Result(name="kl_estimators", verdicts=verdicts, arrays=arrays, settings=settings)


def bump_and_floor(centres: tuple[int, ...], width: float) -> Float[Array, " K"]:
    """Log-probabilities of equal bumps over a thin floor, so that no bin is out of reach."""
    bins = np.arange(BINS)
    bumps = [np.exp(-(((bins - centre) / width) ** 2) / 2) for centre in centres]
    shares = np.mean([bump / bump.sum() for bump in bumps], axis=0)
    return jnp.asarray(np.log((1 - FLOOR) * shares + FLOOR / BINS))


def gradients(
    logits: Float[Array, "3 B K"],
    ref_logp: Float[Array, " K"],
    actions: Int[Array, "3 B N"],
    weight: Float[Array, "3 B N"],
) -> Float[Array, "3 B K"]:
    """The gradient of the loss of REINFORCE with each penalty and no reward, on given actions.

    Args:
        logits: of B policies for each estimator; what is differentiated.
        ref_logp: of the reference.
        actions: bins.
        weight: how much each action counts.
    """

    def loss(logits: Any) -> Any:
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), actions, axis=-1)[..., None]
        zeros = jnp.zeros(logp.shape[1:])
        total = 0.0
        for index, name in enumerate(("k1", "k2", "k3")):
            responses = Responses(
                mask=jnp.ones(zeros.shape, bool),
                reward=zeros[..., 0],
                ref_logp=ref_logp[actions[index]][..., None],
                old_logp=logp[index],
                advantage=zeros,
            )
            terms = REINFORCE(kl=KLPenalty(1.0, name))(logp[index], responses)
            total += jnp.sum(weight[index] * terms.value)
        return total

    return jax.grad(loss)(logits)


def expected_gradients(
    logits: Float[Array, "3 B K"], ref_logp: Float[Array, " K"]
) -> Float[Array, "3 B K"]:
    """The same averaged over every action each policy can draw."""
    every = jnp.broadcast_to(jnp.arange(BINS), logits.shape)
    return gradients(logits, ref_logp, every, jax.nn.softmax(logits))


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def all_gradients(policies: Float[Array, "S K"], ref_logp: Float[Array, " K"]) -> tuple[Any, Any]:
    """Expected gradients of the three penalties, and those of reverse and forward KL.

    Returns:
        [3, S, K] and [2, S, K].
    """

    def distance(logits: Any, divergence: Any) -> Any:
        return jnp.sum(divergence(jax.nn.log_softmax(logits), target))

    target = jnp.broadcast_to(ref_logp, policies.shape)
    expected = expected_gradients(jnp.stack([policies] * 3), ref_logp)
    exact = [jax.grad(distance)(policies, divergence) for divergence in (reverse_kl, forward_kl)]
    return expected, jnp.stack(exact)


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def act(
    start: Float[Array, " K"], ref_logp: Float[Array, " K"], keys: PRNGKeyArray
) -> tuple[Any, Any, Any]:
    """What each penalty makes of a policy, with no reward.

    Args:
        start: log-probabilities to start from.
        ref_logp: of the reference.
        keys: [S] one per seed; consumed.

    Returns:
        Probabilities after exact steps from the start, [3, K]; after sampled steps from the start,
        [3, S, K]; and nats from the reference after sampled steps from the reference, [3, S].
    """
    seeds = keys.size

    def step(logits: tuple[Any, Any], step_keys: PRNGKeyArray) -> tuple[Any, None]:
        exact, sampled = logits
        both = sampled.reshape(3, 2, seeds, BINS)  # from the start, from the reference
        drawn = jax.vmap(partial(draw, count=SAMPLES), (0, 2), 2)(step_keys, both)
        drawn = drawn.reshape(3, 2 * seeds, SAMPLES)
        noisy = gradients(sampled, ref_logp, drawn, jnp.full(drawn.shape, 1 / SAMPLES))
        expected = expected_gradients(exact, ref_logp)
        return (exact - LEARNING_RATE * expected, sampled - LEARNING_RATE * noisy), None

    begin = jnp.repeat(jnp.stack([start, ref_logp]), seeds, axis=0)
    logits = (jnp.stack([start[None]] * 3), jnp.stack([begin] * 3))
    step_keys = jax.vmap(lambda key: jax.random.split(key, STEPS), out_axes=1)(keys)
    (exact, sampled), _ = jax.lax.scan(step, logits, step_keys)
    ends = jax.nn.log_softmax(sampled)
    wandered = reverse_kl(ends, jnp.broadcast_to(ref_logp, ends.shape))[:, seeds:]
    return jax.nn.softmax(exact[:, 0]), jnp.exp(ends[:, :seeds]), wandered


def masses(p: np.ndarray) -> np.ndarray:
    """Probability within ``REGION`` bins of each peak: [..., 2]."""
    bins = np.arange(p.shape[-1])
    return np.stack([p[..., np.abs(bins - c) <= REGION].sum(axis=-1) for c in PEAKS], axis=-1)


def is_gradient(name: str, error: float, policies: int) -> Verdict:
    """Held if the expected gradient is the one named in ``PULLS``, to rounding."""
    return Verdict(
        claim=f"In expectation the gradient of a {name} penalty is {PULLS[name]}",
        source="objectives/divergences.py; Schulman 2020",
        outcome="held" if error < EXACT else "did not hold",
        evidence=f"largest error in any logit {error:.0e}, over {policies} random policies of "
        f"{BINS} bins, every action enumerated",
    )


def pulls_apart(start: np.ndarray, exact: np.ndarray, sampled: np.ndarray) -> Verdict:
    """Held if k1 leaves both peaks alone, k2 feeds the near one only, and k3 the far one too.

    Args:
        start: [2] mass at the near and the far peak.
        exact: [3, 2] the same after exact steps.
        sampled: [3, S, 2] after sampled steps.
    """
    far = difference(sampled[2, :, 1], sampled[1, :, 1])
    near = difference(sampled[1, :, 0], sampled[2, :, 0])
    still = np.abs(exact[0] - start).max() < EXACT
    held = still and far.low > 0 and near.low > 0
    words = ", ".join(
        f"{name} {interval(mass[:, 0])} and {interval(mass[:, 1])}"
        for name, mass in zip(KL_ESTIMATORS, sampled, strict=True)
    )
    return Verdict(
        claim="A k2 penalty seeks the near mode of the reference, k3 covers both, k1 does neither",
        source="this project",
        outcome="held" if held else "did not hold",
        evidence=f"mass at the near and the far peak after {STEPS} sampled steps: {words}; at the "
        f"start {start[0]:.2f} and {start[1]:.2f}",
    )


def only_noise(wandered: dict[str, np.ndarray]) -> Verdict:
    """Held if k1 significantly leaves the reference, and the others do not move at all."""
    drift = interval(wandered["k1"])
    others = max(float(np.abs(wandered[name]).max()) for name in ("k2", "k3"))
    held = drift.low > 0 and others < EXACT
    return Verdict(
        claim="A k1 penalty only adds noise: it drives a policy off the very reference it should "
        "hold it to",
        source="this project",
        outcome="held" if held else "did not hold",
        evidence=f"KL to the reference after {STEPS} sampled steps that started there: k1 "
        f"{drift.mean:.3f} ± {drift.half_width:.3f} nats, k2 and k3 at most {others:.0e}",
    )
