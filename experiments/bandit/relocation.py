"""Where does each direction of the KL move probability mass, and in what order?

Command: ``modeseek reproduce relocation``. Hardware and time: 3 s on one of two cores, most of it
compilation, and as much again to draw the animation. Number to expect: a hundred steps towards two
equal peaks, forward KL has 0.38 of its mass at the far one and reverse KL 0.01. Feeds
``figures/relocation.py``, stills and animation.

The policy starts as the paper's reference and descends KL(q || p) or KL(p || q) in its logits,
exactly and at one learning rate, 1: a step is a unit of time of the gradient flow, half the rate
takes twice the steps. The target is two-peaked: half pi* of R2, near the reference's mode, and half
pi* of R1, where the reference is thin, both at the beta of 0.1 at which they earn 0.94. "A few
steps" are 100, one per cent of the run. Each seed repeats this with two peaks at random places at
least 30 bins apart; the mass at a peak is that within 10 bins of it.

With one logit per bin both directions arrive in the end, so there is a second policy with two
parameters, a discretised Gaussian, which cannot. It takes Adam at 0.02, because a bin of mean and a
unit of log-width have no common scale. Its starts, three per seed, have random means and random
widths of 5 to 30 bins; the fit that is drawn is the best of them by the divergence it descends.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bandit import R1, bump, squashed_cauchy
from bandit.theory import bin_velocity, forward_kl_velocity, reverse_kl_velocity
from experiments.intervals import difference, interval
from experiments.results import Result, Size, Verdict
from objectives import forward_kl, optimal_policy, reverse_kl

LEARNING_RATE = 1.0
STEPS = 10_000
FEW = 100
STILLS = (10, FEW, STEPS)
BETA = 0.1
NEAR, FAR = 20, 70
REGION = 10
APART = 30
FRAMES, LAST_FRAME = 40, 2000
DIRECTIONS = {"forward": forward_kl, "reverse": reverse_kl}
BUMP_LEARNING_RATE, BUMP_STEPS, BUMP_STARTS = 0.02, 6000, 3
PAPER = "Tajwar et al. 2024, section 6"


def run(size: Size) -> Result:
    """Descend both divergences from the reference, and fit the policy that can only be one bump."""
    frames = frame_steps()
    steps = np.unique(np.concatenate([np.arange(401), STILLS, frames, frames + 1]))
    peaks = random_peaks(size.seeds)
    with jax.enable_x64(True):
        reference = squashed_cauchy()
        main = two_peaks(reference, NEAR, FAR)
        thin = optimal_policy(reference, jnp.asarray(R1.reward, reference.dtype), BETA)
        targets = jnp.stack([main, thin, *(two_peaks(reference, a, b) for a, b in peaks)])
        paths = np.asarray(descend(reference, targets, jnp.asarray(steps)))
        at = np.searchsorted(steps, frames)
        predicted = predicted_velocities(paths[:, 0, at], main)
        starts = random_bumps(size.seeds)
        bumps = np.asarray(fit_bumps(main, jnp.asarray(starts)))

    p = np.exp(paths)  # [directions, targets, records, bins]
    measured = (p[:, 0, at + 1] - p[:, 0, at]) / LEARNING_RATE
    few = int(np.searchsorted(steps, FEW))
    scattered = p[:, 2:, few]
    verdicts = [
        subset(scattered, peaks, np.exp(np.asarray(reference))),
        outside(scattered, peaks),
        thin_peak(steps, mass_at(p[:, 1], FAR)),
        same_end(p[:, 0, -1], np.exp(np.asarray(main))),
        one_bump(bumps, starts),
    ]
    arrays = {
        "start": p[0, 0, 0],
        "target": np.exp(np.asarray(main)),
        "stills": p[:, 0, np.searchsorted(steps, STILLS)],
        "frame_steps": frames,
        "frames": p[:, 0, at],
        "measured": measured,
        "predicted": predicted,
        "bumps": bump_shape(np.stack([fits[np.argmin(fits[:, 2])] for fits in bumps])),
    }
    worst = np.abs(measured - predicted).max() / np.abs(predicted).max()
    settings = {
        "learning_rate": LEARNING_RATE,
        "stills": list(STILLS),
        "peaks": [NEAR, FAR],
        "region": REGION,
        "beta": BETA,
        "seeds": size.seeds,
        "worst velocity error": float(worst),
    }
    return Result(name="relocation", verdicts=verdicts, arrays=arrays, settings=settings)


def frame_steps() -> np.ndarray:
    """Steps evenly spaced in log time, the start included: much happens early, little late."""
    spaced = np.unique(np.geomspace(1, LAST_FRAME, 4 * FRAMES).round().astype(int))
    kept = np.linspace(0, spaced.size - 1, FRAMES - 1).round().astype(int)
    return np.concatenate([[0], spaced[kept]])


def random_peaks(seeds: int) -> np.ndarray:
    """Two peaks for each seed, at least ``APART`` bins from each other: [S, 2]."""
    peaks = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        first = second = 0
        while abs(first - second) < APART:
            first, second = rng.integers(10, 90, size=2)
        peaks.append((int(first), int(second)))
    return np.array(peaks)


def two_peaks(reference: Float[Array, " K"], first: int, second: int) -> Float[Array, " K"]:
    """Log q: equal parts of pi* for a bump of reward at each of two bins."""
    one, other = (
        optimal_policy(reference, bump(peak, 10).astype(reference.dtype), BETA)
        for peak in (first, second)
    )
    return jnp.logaddexp(one, other) - jnp.log(2.0)


@jax.jit
def descend(
    start: Float[Array, " K"], targets: Float[Array, "G K"], records: Int[Array, " R"]
) -> Float[Array, "D G R K"]:
    """Gradient descent on each divergence of ``objectives`` in the logits.

    Args:
        start: log p at step 0.
        targets: log q of every run.
        records: the steps, ascending from 0, at which log p is kept.
    """

    def path(divergence: Any, target: Any) -> Any:
        def loss(logits: Any) -> Any:
            return divergence(jax.nn.log_softmax(logits), target)

        def step(_: Any, logits: Any) -> Any:
            return logits - LEARNING_RATE * jax.grad(loss)(logits)

        def until(logits: Any, count: Any) -> tuple[Any, Any]:
            logits = jax.lax.fori_loop(0, count, step, logits)
            return logits, jax.nn.log_softmax(logits)

        return jax.lax.scan(until, start, jnp.diff(records, prepend=0))[1]

    both = [jax.vmap(partial(path, divergence))(targets) for divergence in DIRECTIONS.values()]
    return jnp.stack(both)


def predicted_velocities(paths: np.ndarray, target: Float[Array, " K"]) -> np.ndarray:
    """What theory says each bin's probability does per unit of time, at every record: [D, R, K]."""
    logp = jnp.asarray(paths)
    target = jnp.broadcast_to(target, logp.shape[1:])
    rules = (forward_kl_velocity, reverse_kl_velocity)
    both = [bin_velocity(x, rule(x, target)) for x, rule in zip(logp, rules, strict=True)]
    return np.asarray(jnp.stack(both))


def random_bumps(seeds: int) -> np.ndarray:
    """Means and widths to start from, in bins: [S, 2]."""
    rngs = [np.random.default_rng(seed) for seed in range(seeds)]
    return np.concatenate([rng.uniform((0, 5), (99, 30), (BUMP_STARTS, 2)) for rng in rngs])


@jax.jit
def fit_bumps(target: Float[Array, " K"], starts: Float[Array, "S 2"]) -> Float[Array, "D S 3"]:
    """Fit a discretised Gaussian by each divergence: mean and width in bins, nats to the target."""
    bins = jnp.arange(target.size, dtype=target.dtype)
    optimizer = optax.adam(BUMP_LEARNING_RATE)

    def fitted(divergence: Any, start: Any) -> Any:
        def loss(params: Any) -> Any:
            mean, log_width = 10 * params[0], params[1]
            logits = -(((bins - mean) / jnp.exp(log_width)) ** 2) / 2
            return divergence(jax.nn.log_softmax(logits), target)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.stack([start[0] / 10, jnp.log(start[1])])
        carry = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, carry, length=BUMP_STEPS)
        return jnp.stack([10 * params[0], jnp.exp(params[1]), loss(params)])

    both = [jax.vmap(partial(fitted, divergence))(starts) for divergence in DIRECTIONS.values()]
    return jnp.stack(both)


def bump_shape(params: np.ndarray, bins: int = 100) -> np.ndarray:
    """Probabilities of discretised Gaussians from (mean, width)."""
    mean, width = params[..., 0:1], params[..., 1:2]
    weight = np.exp(-(((np.arange(bins) - mean) / width) ** 2) / 2)
    return weight / weight.sum(axis=-1, keepdims=True)


def mass_at(p: np.ndarray, peak: int) -> np.ndarray:
    """Probability within ``REGION`` bins of a peak."""
    return p[..., np.abs(np.arange(p.shape[-1]) - peak) <= REGION].sum(axis=-1)


def masses(p: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Probability at both peaks of every seed: [D, S, 2] from [D, S, K]."""
    both = [[mass_at(p[:, s], peak) for peak in pair] for s, pair in enumerate(peaks)]
    return np.moveaxis(np.array(both), -1, 0)


def subset(p: np.ndarray, peaks: np.ndarray, start: np.ndarray) -> Verdict:
    """Held if reverse KL has significantly less at its lesser peak than forward KL at its own."""
    forward, reverse = masses(p, peaks)
    gap = difference(forward.min(axis=1), reverse.min(axis=1))
    before = masses(np.broadcast_to(start, (1, len(peaks), start.size)), peaks)[0]
    thicker = np.mean(reverse.argmax(axis=1) == before.argmax(axis=1))
    return Verdict(
        claim="A few steps of reverse KL put mass on a subset of the target's modes, of forward KL "
        "on all",
        source=f"{PAPER}, Theorem 6.5",
        outcome="held" if gap.low > 0 else "did not hold",
        evidence=f"mass at the lesser of two equal peaks after {FEW} steps (target 0.50): forward "
        f"{interval(forward.min(axis=1))}, reverse {interval(reverse.min(axis=1))}; reverse chose "
        f"the one where the start was thicker in {100 * thicker:.0f}% of {len(peaks)} seeds",
    )


def outside(p: np.ndarray, peaks: np.ndarray) -> Verdict:
    """Held if forward KL leaves significantly more mass outside both regions than reverse KL."""
    forward, reverse = 1 - masses(p, peaks).sum(axis=-1)
    gap = difference(forward, reverse)
    return Verdict(
        claim="A few steps of forward KL leave mass where the target has none, and reverse KL "
        "removes it",
        source=f"{PAPER}, mass-covering and mode-seeking",
        outcome="held" if gap.low > 0 else "did not hold",
        evidence=f"mass outside both peaks after {FEW} steps: forward {interval(forward)}, reverse "
        f"{interval(reverse)}, paired difference {gap}, n = {len(peaks)}",
    )


def thin_peak(steps: np.ndarray, mass: np.ndarray) -> Verdict:
    """Held if forward KL is first to a tenth of the mass at a thin peak, reverse KL to 9/10."""

    def first(direction: int, share: float) -> float:
        reached = np.flatnonzero(mass[direction] >= share)
        return float(steps[reached[0]]) if reached.size else np.inf

    times = {share: (first(0, share), first(1, share)) for share in (0.1, 0.9)}
    held = times[0.1][0] < times[0.1][1] and times[0.9][1] < times[0.9][0]
    words = "; ".join(
        f"{share:.0%} of the mass there at step {f:,.0f} (forward) and {r:,.0f} (reverse)"
        for share, (f, r) in times.items()
    )
    return Verdict(
        claim="Towards R1's optimum forward KL is the first to find the thin peak, reverse KL the "
        "first to finish",
        source="this project",
        outcome="held" if held else "did not hold",
        evidence=words,
    )


def same_end(p: np.ndarray, target: np.ndarray) -> Verdict:
    """Held if both directions end within a total variation of 0.01 of the target."""
    forward, reverse = np.abs(p - target).sum(axis=-1) / 2
    return Verdict(
        claim="With one logit per bin both directions reach the target in the end",
        source=f"{PAPER}, Theorem 6.5",
        outcome="held" if max(forward, reverse) < 0.01 else "did not hold",
        evidence=f"total variation to the target after {STEPS:,} steps: forward {forward:.4f}, "
        f"reverse {reverse:.4f}",
    )


def one_bump(bumps: np.ndarray, starts: np.ndarray) -> Verdict:
    """Held if every forward fit has both peaks under it and every reverse fit is on the nearer one.

    It holds under a condition if that is so of the best fit of each, and every reverse fit that is
    on one peak is on the nearer: the rest have stopped at another optimum.

    Args:
        bumps: [D, S, 3] mean, width and nats to the target.
        starts: [S, 2] mean and width.
    """
    forward, reverse = bumps
    middle, half = (NEAR + FAR) / 2, (FAR - NEAR) / 2
    covers = np.abs(forward[:, 0] - middle) + half < 2 * forward[:, 1]
    near, far = (mass_at(bump_shape(reverse), peak) for peak in (NEAR, FAR))
    seeks = np.maximum(near, far) > 0.9
    nearer = (far > near) == (starts[:, 0] > middle)
    best = bool(covers[forward[:, 2].argmin()] and seeks[reverse[:, 2].argmin()])
    condition = ""
    if covers.all() and (seeks & nearer).all():
        outcome = "held"
    elif best and nearer[seeks].all():
        outcome, condition = "held under this condition", "the best fit of several random starts"
    else:
        outcome = "did not hold"
    worst, least = reverse[:, 2].max(), reverse[:, 2].min()
    return Verdict(
        claim="A policy that can only be one bump covers both modes under forward KL and takes the "
        "nearer one under reverse KL",
        source=f"{PAPER}, mass-covering and mode-seeking",
        outcome=outcome,
        condition=condition,
        evidence=f"of {len(starts)} random starts forward KL ends over both in {covers.sum()}, "
        f"reverse KL on one in {seeks.sum()}, the nearer in {(seeks & nearer).sum()}; the best is "
        f"{least:.2f} nats from the target, the worst, a wide one, {worst:.2f}",
    )
