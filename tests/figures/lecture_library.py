"""What the library says of the runs the lecture's page makes."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bandit import Problem, bump, simulate_exactly, squashed_cauchy
from bandit.simulate import Trace
from bandit.theory import forward_kl_velocity, reverse_kl_velocity
from figures.lecture.presets import IDEALS, PRESETS, Policy, World, recipe_of
from objectives import entropy, forward_kl, reverse_kl

STEPS, EVERY = 60, 20
MEASURES = [name for name in Trace.__annotations__ if name not in ("step", "samples")]
OTHERS = {
    # Where pairs reach the margin, rounding decides on which side of the kink they are.
    "a hinge": Policy(name="SLiC", number=3.0),
    "thumbs": Policy(name="KTO", number=0.1),
    "clipped, and stale": Policy(name="PPO", number=0.01, online=True, every=7),
    "online DPO, stale": Policy(name="DPO", number=0.3, online=True, every=5),
    "online weights": Policy(name="RWR", number=0.2, online=True),
}
"""Of every other objective one."""


def cases() -> dict[str, tuple[World, Policy]]:
    """Every policy of a claim that sees all pairs, and one of each objective besides."""
    shown = {
        f"{preset.id} {who}": (preset.world, getattr(preset, who))
        for preset in PRESETS
        for who in ("a", "b")
    }
    found = {name: case for name, case in shown.items() if not case[1].groups}
    descent = World(plain=True, rate=2.0)
    # SFT begins where it ends; Adam would make steps of what rounding leaves of its gradient.
    plain = {"descent": Policy(name="DPO", number=0.3), "imitation": Policy(name="SFT")}
    found |= {name: (descent, policy) for name, policy in plain.items()}
    return found | {name: (World(), policy) for name, policy in OTHERS.items()}


def problem_of(world: World) -> Problem:
    """The library's world of the page's."""
    return Problem(
        ref_logp=squashed_cauchy(100, world.location, world.scale),
        reward=bump(world.peak, world.width),
    )


RUN = jax.jit(simulate_exactly, static_argnames=("steps", "record_every", "optimizer"))
"""Compiled once for all recipes that differ in numbers alone."""


def trained(world: World, policy: Policy, steps: int, every: int) -> Trace:
    """The library's run of the page's."""
    return RUN(
        recipe_of(policy),
        problem_of(world),
        steps=steps,
        learning_rate=world.rate,
        record_every=every,
        beta_star=world.beta_star,
        optimizer=optax.sgd(world.rate) if world.plain else None,
    )


def towards_the_optimum(world: World, policy: Policy) -> list[dict[str, Any]]:
    """Adam along the velocity of a divergence, by the library's functions."""
    problem = problem_of(world)
    target, ref_logp = problem.optimum(world.beta_star), problem.ref_logp
    velocity = forward_kl_velocity if policy.name == "ForwardKL" else reverse_kl_velocity
    optimizer = optax.sgd(world.rate) if world.plain else optax.adam(world.rate)
    weight = jnp.exp(ref_logp[:, None] + ref_logp[None])
    first = problem.reward[:, None] >= problem.reward[None]

    def measured(logits: jax.Array) -> dict[str, jax.Array]:
        logp = jax.nn.log_softmax(logits)
        ratio = logp - ref_logp
        return {
            "probability": jnp.exp(logp),
            "reward": jnp.sum(jnp.exp(logp) * problem.reward),
            "reverse_kl": reverse_kl(logp, ref_logp),
            "forward_kl": forward_kl(logp, ref_logp),
            "entropy": entropy(logp),
            "distance": jnp.sum(jnp.abs(jnp.exp(logp) - jnp.exp(target))) / 2,
            "chosen_log_ratio": jnp.sum(weight * jnp.where(first, ratio[:, None], ratio[None])),
            "rejected_log_ratio": jnp.sum(weight * jnp.where(first, ratio[None], ratio[:, None])),
        }

    def step(carry: Any, _: None) -> Any:
        logits, state = carry
        push = velocity(jax.nn.log_softmax(logits), target)
        updates, state = optimizer.update(-push, state, logits)
        logits = optax.apply_updates(logits, updates)
        return (logits, state), measured(logits)

    carry = (ref_logp, optimizer.init(ref_logp))
    _, found = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS))(carry)
    later = [{k: v[n] for k, v in found.items()} for n in range(EVERY - 1, STEPS, EVERY)]
    return [measured(ref_logp), *later]


@cache
def expected(name: str) -> list[dict[str, Any]]:
    """What the library measures in a case, every so many steps; in float64."""
    world, policy = cases()[name]
    with jax.enable_x64(True):
        if policy.name in IDEALS:
            return towards_the_optimum(world, policy)
        trace = trained(world, policy, STEPS, EVERY)
        records = range(STEPS // EVERY + 1)
        return [{key: getattr(trace, key)[n] for key in MEASURES} for n in records]
