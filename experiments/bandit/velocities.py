"""How fast does each rule move each bin, and is the paper's theory about it true of softmax logits?

Command: ``modeseek reproduce velocities``. Hardware and time: 3 s on one of two cores. Number to
expect: among random policies and targets reverse KL parts two equal bins faster than forward KL in
58% of the cases, and in exactly those where their probability is above the logarithmic mean
of their targets. Feeds ``figures/velocities.py``.

Every measured number is one step of gradient descent on a function of ``objectives``, every
predicted one a function of ``bandit.theory``. Random policies and targets are uniform on the
simplex (Dirichlet 1) over 4 bins, as in the paper's toy figure, and over 100, as in its bandit. For
Lemma 6.2 policies over 10 responses are drawn from flat to peaked (Dirichlet 0.1 to 10).

The toy figure gives a start, a target and the bars after "few steps", but neither step size nor
parametrisation. Here both directions descend in logits over learning rates of 0.005 to 20 and up to
100 steps, and the best match is reported. The bars were read off an image, to about 0.01.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bandit import R1, R2, squashed_cauchy
from bandit.sweep import COMPILER_OPTIONS
from bandit.theory import (
    bin_velocity,
    forward_kl_velocity,
    lemma_6_2,
    logarithmic_mean,
    reverse_kl_velocity,
    theorem_6_5_holds,
)
from experiments.intervals import interval
from experiments.results import Result, Size, Verdict
from objectives import forward_kl, optimal_policy, reverse_kl

CASES, SHOWN = 1000, 300
SIZES = (4, 100)
STEP_SIZES = (1.0, 0.1, 0.01)
BETA = 0.1
RATES = np.geomspace(0.005, 20, 400)
TOY_STEPS = 100
TOY = {
    "start": (0.3, 0.3, 0.1, 0.3),
    "target": (0.2, 0.1, 0.6, 0.1),
    "forward": (0.33, 0.225, 0.22, 0.225),
    "reverse": (0.25, 0.20, 0.35, 0.20),
}
READING = 0.01
PAPER = "Tajwar et al. 2024"


def run(size: Size) -> Result:
    """Compare steps that were taken with what theory says of them."""
    cases = size.choose(CASES // 5, CASES, CASES)
    with jax.enable_x64(True):
        reference = squashed_cauchy()
        halves = [
            optimal_policy(reference, world.reward.astype(reference.dtype), BETA)
            for world in (R1, R2)
        ]
        target = jnp.logaddexp(*halves) - jnp.log(2.0)
        policies = np.log(random_policies(size.seeds, reference.size))
        moved = agreement(policies, target)
        parted = [on_host(part(*random_pairs(size.seeds, cases, bins))) for bins in SIZES]
        pushed = on_host(push(np.log(random_groups(size.seeds, cases))))
        toy = np.asarray(toy_paths(*(np.log(TOY[name]) for name in ("start", "target"))))
        logit = logit_velocities(reference, target)
        step = descend(reference, target, 1.0)

    drawn = {
        name: np.concatenate([one[name].reshape(-1)[:SHOWN] for one in parted])
        for name in ("predicted", "measured")
    }
    verdicts = [
        lie_on_top(*moved),
        theorem_exact(parted),
        theorem_unconditional(parted),
        lemma_margin(pushed),
        lemma_chosen(pushed),
        toy_figure(toy),
    ]
    matches = best_matches(toy)
    settings = {
        "seeds": size.seeds,
        "cases": cases,
        "bins": list(SIZES),
        "share by bins": {
            str(bins): float(one["faster"].mean()) for bins, one in zip(SIZES, parted, strict=True)
        },
        "toy": {name: list(bars) for name, bars in TOY.items()},
        "toy learning rate and steps": {
            name: [float(RATES[rate]), steps] for name, (rate, steps) in matches.items()
        },
    }
    arrays = {
        "target": np.exp(np.asarray(target)),
        "predicted velocity": np.asarray(logit),
        "measured velocity": np.asarray(step - reference[None]),
        "predicted ratio": drawn["predicted"],
        "measured ratio": drawn["measured"],
        "toy forward": toy[(0, *matches["forward"])],
        "toy reverse": toy[(1, *matches["reverse"])],
    }
    return Result(name="velocities", verdicts=verdicts, arrays=arrays, settings=settings)


@jax.jit
def descend(
    logits: Float[Array, "*batch K"], target: Float[Array, "*batch K"], learning_rate: Any
) -> Float[Array, "D *batch K"]:
    """One step of gradient descent in the logits, by forward and by reverse KL.

    Args:
        logits: of the policy.
        target: log q.
        learning_rate: a number, or one per batch.
    """

    def loss(z: Any, divergence: Any) -> Any:
        return jnp.sum(divergence(jax.nn.log_softmax(z), jnp.broadcast_to(target, z.shape)))

    gradients = jnp.stack([jax.grad(loss)(logits, d) for d in (forward_kl, reverse_kl)])
    return logits[None] - jnp.broadcast_to(learning_rate, logits.shape)[None] * gradients


def random_policies(seeds: int, bins: int) -> np.ndarray:
    """A policy per seed, uniform on the simplex: [S, K]."""
    return np.stack([np.random.default_rng(seed).dirichlet(np.ones(bins)) for seed in range(seeds)])


def random_pairs(seeds: int, cases: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Policies with p_1 = p_2 and targets with q_1 > q_2: [S, C, K] each."""
    both = []
    for seed in range(seeds):
        rng = np.random.default_rng((seed, bins))
        p, q = rng.dirichlet(np.ones(bins), (2, cases))
        p[:, :2] = p[:, :2].mean(axis=1, keepdims=True)
        q[:, :2] = -np.sort(-q[:, :2], axis=1)
        both.append((p, q))
    return np.stack([p for p, _ in both]), np.stack([q for _, q in both])


def random_groups(seeds: int, cases: int) -> np.ndarray:
    """Policies over 10 responses, from flat to peaked: [S, C, 10]."""
    policies = []
    for seed in range(seeds):
        rng = np.random.default_rng((seed, 10))
        weights = rng.gamma(10.0 ** rng.uniform(-1, 1, (cases, 1)), size=(cases, 10)) + 1e-9
        policies.append(weights / weights.sum(axis=1, keepdims=True))
    return np.stack(policies)


def on_host(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same arrays for numpy."""
    return {name: np.asarray(value) for name, value in arrays.items()}


def logit_velocities(logp: Float[Array, "*batch K"], target: Float[Array, "*batch K"]) -> Any:
    """What theory says of every logit, by forward and by reverse KL: [D, ..., K]."""
    target = jnp.broadcast_to(target, logp.shape)
    return jnp.stack([rule(logp, target) for rule in (forward_kl_velocity, reverse_kl_velocity)])


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def errors_of_theory(policies: Float[Array, "S K"], target: Float[Array, " K"]) -> tuple[Any, Any]:
    """Worst difference between measured and predicted velocities, at every step size.

    Returns:
        Of the probabilities, [step sizes, S], as a share of the fastest bin; of the logits, [step
        sizes].
    """
    logit = logit_velocities(policies, target)
    predicted = bin_velocity(jnp.broadcast_to(policies, logit.shape), logit)
    fastest = jnp.max(jnp.abs(predicted), axis=-1)

    def errors(step_size: Any) -> tuple[Any, Any]:
        after = descend(policies, target, step_size)
        velocity = (jax.nn.softmax(after) - jnp.exp(policies)[None]) / step_size
        worst = jnp.max(jnp.abs(velocity - predicted), axis=-1) / fastest
        return jnp.max(worst, axis=0), jnp.max(
            jnp.abs((after - policies[None]) / step_size - logit)
        )

    return jax.lax.map(errors, jnp.asarray(STEP_SIZES))


def agreement(policies: np.ndarray, target: Float[Array, " K"]) -> tuple[np.ndarray, float]:
    """The errors of the bins, and the largest of any logit."""
    worst, exact = errors_of_theory(jnp.asarray(policies), target)
    return np.asarray(worst), float(exact.max())


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def part(p: Float[Array, "S C K"], q: Float[Array, "S C K"]) -> dict[str, Any]:
    """How much faster reverse KL parts bins 1 and 2 than forward KL, measured and predicted."""
    moved = descend(jnp.log(p), jnp.log(q), 1.0) - jnp.log(p)[None]
    forward, reverse = moved[..., 0] - moved[..., 1]
    return {
        "measured": reverse / forward,
        "predicted": p[..., 0] / logarithmic_mean(q[..., 0], q[..., 1]),
        "faster": reverse > forward,
        "condition": theorem_6_5_holds(p[..., 0], q[..., 0], q[..., 1]),
    }


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def push(logp: Float[Array, "S C K"]) -> dict[str, Any]:
    """What c2 = 1 changes about one small step that pulls a winner with c1 = 1."""
    winner, loser, step_size = 0, 1, 1e-5

    def log_probability(z: Any, response: int) -> Any:
        return jnp.sum(jax.nn.log_softmax(z)[..., response])

    pull, push = (jax.grad(log_probability)(logp, response) for response in (winner, loser))
    pulled = jax.nn.log_softmax(logp + step_size * pull)
    both = jax.nn.log_softmax(logp + step_size * (pull - push))
    gained = (both - pulled) / step_size
    effect = lemma_6_2(logp, winner, loser)
    return {
        "margin": gained[..., winner] - gained[..., loser],
        "chosen": gained[..., winner],
        "predicted": effect.chosen,
        "condition": effect.gradients_oppose,
    }


@partial(jax.jit, compiler_options=COMPILER_OPTIONS)
def toy_paths(start: Float[Array, " K"], target: Float[Array, " K"]) -> Float[Array, "D G R K"]:
    """Policies of the toy figure by direction, learning rate, and step."""
    rates = jnp.asarray(RATES)[None, :, None]

    def step(logits: Any, _: None) -> tuple[Any, Any]:
        after = descend(logits, target, rates)
        return jnp.stack([after[0, 0], after[1, 1]]), jax.nn.softmax(logits)

    logits = jnp.broadcast_to(start, (2, RATES.size, start.size))
    return jnp.moveaxis(jax.lax.scan(step, logits, length=TOY_STEPS + 1)[1], 0, 2)


def best_matches(toy: np.ndarray) -> dict[str, tuple[int, int]]:
    """Where the bars come nearest to the figure's, as (learning rate, steps): apart and shared."""
    errors = toy_errors(toy)
    nearest = {name: errors[d].argmin() for d, name in enumerate(("forward", "reverse"))}
    nearest["shared"] = errors.max(axis=0).argmin()
    return {name: divmod(int(at), errors.shape[2]) for name, at in nearest.items()}


def toy_errors(toy: np.ndarray) -> np.ndarray:
    """Largest difference between any bar and the figure's: [direction, learning rate, step]."""
    bars = np.array([TOY["forward"], TOY["reverse"]])[:, None, None]
    return np.abs(toy - bars).max(axis=-1)


def lie_on_top(worst: np.ndarray, exact: float) -> Verdict:
    """Held if logits move exactly as predicted, and bins do so to first order in the step size."""
    orders = np.log10(worst[:-1] / worst[1:])
    held = exact < 1e-12 and worst[-1].max() < 0.01 and orders.min() > 0.9
    by_step = zip(STEP_SIZES, worst.max(axis=1), strict=True)
    shown = ", ".join(f"{error:.1e} at {step:g}" for step, error in by_step)
    return Verdict(
        claim="Theory's velocities are those of gradient descent: of logits exactly, of bins for "
        "small steps",
        source="bandit/theory.py",
        outcome="held" if held else "did not hold",
        evidence=f"largest error of a logit {exact:.0e}; of a bin, as a share of the fastest bin: "
        f"{shown} (learning rate), n = {worst.shape[1]} random policies",
    )


def theorem_exact(parted: list[dict[str, np.ndarray]]) -> Verdict:
    """Holds under the condition if no case disagrees with it; without it if reverse always wins."""
    faster = np.concatenate([one["faster"].reshape(-1) for one in parted])
    condition = np.concatenate([one["condition"].reshape(-1) for one in parted])
    against = int((faster != condition).sum())
    needed = "" if faster.all() else "p exceeds the logarithmic mean of q₁ and q₂"
    outcome = "held under this condition" if needed else "held"
    return Verdict(
        claim="Of two bins the policy likes equally, reverse KL prefers the target's favourite "
        "faster than forward KL",
        source=f"{PAPER}, Theorem 6.5, with the exact condition",
        outcome="did not hold" if against else outcome,
        condition="" if against else needed,
        evidence=f"{against} of {faster.size:,} random cases disagree with the condition; it is "
        f"met in {condition.mean():.0%}",
    )


def theorem_unconditional(parted: list[dict[str, np.ndarray]]) -> Verdict:
    """Held only if reverse KL is faster in every random case."""
    share = interval(np.mean([one["faster"].mean(axis=1) for one in parted], axis=0))
    always = all(one["faster"].all() for one in parted)
    least = min(float(one["measured"].min()) for one in parted)
    return Verdict(
        claim="Reverse KL does so whatever policy and target are",
        source=f"{PAPER}, Theorem 6.5, read without a condition",
        outcome="held" if always else "did not hold",
        evidence=f"faster in a share of {share} of random cases; where it is slowest it moves at "
        f"{least:.0e} of the speed of forward KL",
    )


def lemma_margin(pushed: dict[str, np.ndarray]) -> Verdict:
    """Held if pushing the loser widens the margin in every random case."""
    margin = pushed["margin"]
    return Verdict(
        claim="A negative gradient widens the gap between winner and loser",
        source=f"{PAPER}, Lemma 6.2",
        outcome="held" if (margin > 0).all() else "did not hold",
        evidence=f"in {(margin > 0).sum():,} of {margin.size:,} random policies; the smallest gain "
        f"is {margin.min():.3f} nats per unit of step size",
    )


def lemma_chosen(pushed: dict[str, np.ndarray]) -> Verdict:
    """Holds under the lemma's condition if that tells in every case whether the winner gains.

    A case whose gain is below what a finite step can resolve is left out.
    """
    clear = np.abs(pushed["predicted"]) > 1e-4
    gains, condition = pushed["chosen"][clear] > 0, pushed["condition"][clear]
    against = int((gains != condition).sum())
    share = interval((pushed["chosen"] > 0).mean(axis=1))
    if against:
        outcome, needed = "did not hold", ""
    elif gains.all():
        outcome, needed = "held", ""
    else:
        outcome, needed = "held under this condition", "|p|² < p_w + p_l: the gradients oppose"
    return Verdict(
        claim="A negative gradient also raises the winner",
        source=f"{PAPER}, Lemma 6.2",
        outcome=outcome,
        condition=needed,
        evidence=f"it does in a share of {share} of random policies; {against} of {clear.sum():,} "
        "disagree with the condition",
    )


def toy_figure(toy: np.ndarray) -> Verdict:
    """Held if one learning rate and number of steps give all bars; conditional if two do."""
    errors, matches = toy_errors(toy), best_matches(toy)
    forward, reverse = errors.min(axis=(1, 2))
    shared = errors.max(axis=0).min()
    if shared <= READING:
        outcome, condition = "held", ""
    elif max(forward, reverse) <= READING:
        outcome = "held under this condition"
        condition = "each direction has its own learning rate and number of steps"
    else:
        outcome, condition = "did not hold", ""
    at = {name: f"{RATES[rate]:.3g}, {steps} steps" for name, (rate, steps) in matches.items()}
    return Verdict(
        claim="The bars of the paper's toy figure are those of gradient descent on logits",
        source=f"{PAPER}, toy figure of section 6",
        outcome=outcome,
        condition=condition,
        evidence=f"nearest bars, largest error: forward {forward:.3f} (learning rate "
        f"{at['forward']}), reverse {reverse:.4f} ({at['reverse']}), both at one setting "
        f"{shared:.2f}",
    )
