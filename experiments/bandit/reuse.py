"""How often may the same samples be used, and which axis says so?

Command: ``modeseek reproduce reuse``. Hardware and time: 22 s on one of two cores. Number to
expect: T = 2 adds 0.35 to the mean reward of T = 1 at equal samples, and 0.01 at equal gradient
steps. Feeds ``figures/reuse.py``.

Every round draws N = 10 responses for each of 10 contexts on R1 and takes T full-batch gradient
steps on them before the next round. Learning rate 0.001, contexts and N are those of the authors'
script for on-policy best-of-N; PPO (clip 0.2) and REINFORCE take their advantages per prompt, with
a floor of 0.05 under the standard deviation. T is data to the program, so all values share one
compilation.

A run with T = 20 has drawn a twentieth of the samples of a run with T = 1 after the same gradient
steps. So reuse is judged twice: at equal samples (the mean reward over the same rounds), and at
equal gradient steps (the mean reward over the run, and the reward at its end). ``--full`` is
longer, has more values of T, and adds the paper's 10-token world.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandit import PROBLEMS, ContextualMLP, Policy, Setting, TokenTransformer, sweep
from experiments.intervals import Interval, difference, interval
from experiments.merged import merged
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import PPO, REINFORCE, BestOfN, Collection, Recipe

LEARNING_RATE = 1e-3
ROUND = Collection(source="policy", prompts=10, responses=10)
METHODS = {
    "BestOfN": Recipe(BestOfN(), ROUND),
    "PPO": Recipe(PPO(), ROUND, advantage="group_zscore", std_floor=0.05),
    "REINFORCE": Recipe(REINFORCE(), ROUND, advantage="group_zscore", std_floor=0.05),
}
PER_ROUND = ROUND.prompts * ROUND.responses
LARGE = 20
"""From this T on reuse is called large; the paper's LLM experiments stop at 8."""
PAPER = "Tajwar et al. 2024, section 5.1.2"


class World(NamedTuple):
    """Where a comparison is made.

    Attributes:
        name: begins the names of its arrays.
        policy: what is trained.
        problem: on which reward.
        passes: the values of T.
        steps: gradient steps.
        record_every: gradient steps between records.
    """

    name: str
    policy: Policy
    problem: str
    passes: tuple[int, ...]
    steps: int
    record_every: int


ONE_TOKEN = World("one token", ContextualMLP(), "R1", (1, 2, 5, 20, 100), 400, 10)
LONG = ONE_TOKEN._replace(passes=(1, 2, 5, 10, 20, 50, 100), steps=2000)
TEN_TOKENS = World("10 tokens", TokenTransformer(), "R1-tokens", (1, 2, 5, 20), 400, 20)


class Curves(NamedTuple):
    """What one world measured.

    Attributes:
        passes: the values of T.
        step: gradient steps [R].
        reward: expected reward [objectives, T, seeds, R].
    """

    passes: tuple[int, ...]
    step: np.ndarray
    reward: np.ndarray


def run(size: Size) -> Result:
    """Train every method at every T."""
    quick = ONE_TOKEN._replace(passes=(1, 2, 20), steps=200)
    worlds = size.choose((quick,), (ONE_TOKEN,), (LONG, TEN_TOKENS))
    arrays, verdicts = {}, []
    for world in worlds:
        curves = trained(world, size.seeds)
        arrays |= {
            f"{world.name}: T": np.array(curves.passes),
            f"{world.name}: step": curves.step,
            f"{world.name}: reward": curves.reward,
        }
        verdicts += judge(curves, "" if world is worlds[0] else world.name)
    return Result(
        name="reuse",
        verdicts=verdicts,
        arrays=arrays,
        settings={
            "worlds": [world.name for world in worlds],
            "objectives": list(METHODS),
            "learning_rate": LEARNING_RATE,
            "prompts": ROUND.prompts,
            "responses": ROUND.responses,
            "problem": "R1",
            "seeds": size.seeds,
        },
    )


def trained(world: World, seeds: int) -> Curves:
    """Run one world: every objective and every T in one program."""
    runs = itertools.product(METHODS.values(), world.passes)
    recipes = merged([method.with_reuse(inner_steps=passes) for method, passes in runs])
    traces = sweep(
        [Setting(recipe, PROBLEMS[world.problem], LEARNING_RATE) for recipe in recipes],
        world.policy,
        seeds,
        world.steps,
        record_every=world.record_every,
    )
    reward = traces["reward"].reshape(len(METHODS), len(world.passes), seeds, -1)
    return Curves(world.passes, traces["step"][0, 0], reward)


def per_step(curves: Curves, objective: str, passes: int) -> np.ndarray:
    """Mean reward over all gradient steps, one number per seed."""
    return reward_of(curves, objective, passes).mean(axis=-1)


def per_sample(curves: Curves, objective: str, passes: int, rounds: int) -> np.ndarray:
    """Mean reward over the first rounds, read when each round's T passes are done, per seed."""
    return at_rounds(curves, objective, passes, rounds).mean(axis=-1)


def at_rounds(curves: Curves, objective: str, passes: int, rounds: int) -> np.ndarray:
    """Reward after each of the first rounds [seeds, rounds], interpolated between records."""
    steps = passes * np.arange(1, rounds + 1)
    reward = reward_of(curves, objective, passes)
    return np.stack([np.interp(steps, curves.step, one) for one in reward])


def reward_of(curves: Curves, objective: str, passes: int) -> np.ndarray:
    """Expected reward [seeds, R] of one curve."""
    return curves.reward[list(METHODS).index(objective), curves.passes.index(passes)]


def rounds_of_all(curves: Curves, passes: Iterable[int]) -> int:
    """How many rounds the runs of every one of these T have finished."""
    return int(curves.step[-1] // max(passes))


def judge(curves: Curves, where: str) -> list[Verdict]:
    """Every verdict of one world."""
    suffix = f" ({where})" if where else ""
    large = [passes for passes in curves.passes if passes >= LARGE]
    return [
        twice_helps(curves, suffix),
        large_hurts(curves, large, suffix),
        ppo_tolerates(curves, large, suffix),
    ]


def twice_helps(curves: Curves, suffix: str) -> Verdict:
    """Held for an objective if T = 2 beats T = 1 at equal samples."""
    rounds = rounds_of_all(curves, (1, 2))
    gains = {
        name: difference(per_sample(curves, name, 2, rounds), per_sample(curves, name, 1, rounds))
        for name in METHODS
    }
    steps = {
        name: difference(per_step(curves, name, 2), per_step(curves, name, 1)) for name in METHODS
    }
    return judged(
        f"Using samples twice beats using them once, at equal samples{suffix}",
        source=PAPER,
        evidence=f"mean reward over {rounds * PER_ROUND} samples, T = 2 - T = 1: {listed(gains)}; "
        f"over equal gradient steps: {listed(steps)}",
        holds={name: gain.low > 0 for name, gain in gains.items()},
        subject="for",
    )


def large_hurts(curves: Curves, large: Sequence[int], suffix: str) -> Verdict:
    """Held on an axis if a large T is behind: per step T = 1, per sample some smaller T."""
    holds, evidence = {}, []
    for passes in large:
        step = difference(per_step(curves, "BestOfN", passes), per_step(curves, "BestOfN", 1))
        final = difference(
            reward_of(curves, "BestOfN", passes)[:, -1], reward_of(curves, "BestOfN", 1)[:, -1]
        )
        rounds = rounds_of_all(curves, (passes,))
        smaller = [t for t in curves.passes if t < passes]
        samples = {
            t: difference(
                per_sample(curves, "BestOfN", passes, rounds),
                per_sample(curves, "BestOfN", t, rounds),
            )
            for t in smaller
        }
        rival = min(samples, key=lambda t: samples[t].mean)
        holds[f"T = {passes} per gradient step"] = step.high < 0
        holds[f"T = {passes} in the reward at the end"] = final.high < 0
        holds[f"T = {passes} per sample"] = samples[rival].high < 0
        evidence.append(
            f"T = {passes}: mean over steps {signed(step)} and at the end {signed(final)} against "
            f"T = 1; over {rounds * PER_ROUND} samples {signed(samples[rival])} against T = {rival}"
        )
    return judged(
        f"Best-of-N suffers when samples are used very often{suffix}",
        source=PAPER,
        evidence="; ".join(evidence),
        holds=holds,
        subject="at",
    )


def ppo_tolerates(curves: Curves, large: Sequence[int], suffix: str) -> Verdict:
    """Held at a T if going there from T = 1 costs best-of-N more per step than it costs PPO."""
    holds, evidence = {}, []
    for passes in large:
        change = {
            name: per_step(curves, name, passes) - per_step(curves, name, 1)
            for name in ("PPO", "BestOfN")
        }
        gap = difference(change["PPO"], change["BestOfN"])
        holds[f"T = {passes}"] = gap.low > 0
        evidence.append(
            f"T = {passes} instead of 1 changes PPO by {signed(interval(change['PPO']))} and "
            f"best-of-N by {signed(interval(change['BestOfN']))}: PPO ahead by {signed(gap)}"
        )
    return judged(
        f"PPO tolerates reuse better than best-of-N{suffix}",
        source=PAPER,
        evidence="mean reward over equal gradient steps; " + "; ".join(evidence),
        holds=holds,
        subject="at",
    )


def listed(values: Mapping[str, Interval]) -> str:
    """Signed intervals with their names."""
    return ", ".join(f"{name} {signed(value)}" for name, value in values.items())


def signed(value: Interval) -> str:
    """As in ``+0.07 ± 0.02``."""
    return f"{value.mean:+.3f} ± {value.half_width:.3f}"
