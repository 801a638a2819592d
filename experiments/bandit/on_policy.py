"""What does stale data cost, and whom?

Command: ``modeseek reproduce on_policy``. Hardware and time: 30 s on one of two cores. Number to
expect: on R1, data of a policy refreshed every 25 steps cost best-of-N 14% of its gain and IPO 1%.
Feeds ``figures/on_policy.py``.

Every gradient step uses M = 10 prompts with N = 10 responses, each once (T = 1). What varies is how
many prompts B are answered before the policy is refreshed: with B / M = 1 every step learns from
the policy as it is, with B / M = 25 the last step of a round learns from a policy 24 steps old.
Prompts come from a pool of 250 contexts, so at B / M = 25 a round is the whole pool.

The learning rate is 0.003, the middle one of the authors' scripts, with which 150 steps suffice.
REINFORCE takes its advantages per prompt, with a floor of 0.05 under the standard deviation; IPO's
target gap is the scripts' 10 nats (tau = 0.05). ``--full`` adds the rate of the authors' on-policy
best-of-N, 0.001, with 300 steps, and the paper's 10-token world.

The cost of staleness is the reward it takes away, on average over the run, as a share of all there
was to gain: from the start to 1 (in the 10-token world to 0.918, the best possible). The slow-down
is the ratio of the steps needed to get half-way.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bandit import PROBLEMS, ContextualMLP, Policy, Setting, TokenTransformer, sweep
from experiments.intervals import Interval, difference, interval
from experiments.merged import merged
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import IPO, REINFORCE, BestOfN, Collection, Recipe, Reuse

STALENESS = (1, 5, 25)
PROMPTS = 10
RESPONSES = 10
WORTH = 0.01
"""A cost of less than 1% of what there was to gain counts as none, however sure it is."""
POOL = PROMPTS * STALENESS[-1]
RECORD_EVERY = 5
METHODS = {
    "BestOfN": Recipe(BestOfN()),
    "REINFORCE": Recipe(REINFORCE(), advantage="group_zscore", std_floor=0.05),
    "IPO": Recipe(IPO(tau=0.05)),
}
TITLES = {"BestOfN": "Best-of-N", "REINFORCE": "REINFORCE", "IPO": "IPO"}
REWARDS = ("R1", "R2")
PAPER = "Tajwar et al. 2024, section 5.1.1"
OURS = "this project"


class World(NamedTuple):
    """Where a comparison is made.

    Attributes:
        name: begins the names of its arrays.
        policy: what is trained.
        suffix: of its problems' names.
        best: the largest expected reward a policy can have, by problem.
        learning_rate: Adam's.
        steps: gradient steps.
    """

    name: str
    policy: Policy
    suffix: str
    best: float
    learning_rate: float
    steps: int


TOKENS_BEST = 0.918
"""9 of 10 tokens earn 1 and the prompt, which is uniform, earns 0.18 on average."""

ONE_TOKEN = World("one token", ContextualMLP(), "", 1.0, 3e-3, 150)
SLOWER = World("one token, learning rate 0.001", ContextualMLP(), "", 1.0, 1e-3, 300)
TEN_TOKENS = World("10 tokens", TokenTransformer(), "-tokens", TOKENS_BEST, 1e-3, 300)

Rewards = np.ndarray
"""Expected reward ``[objectives, problems, staleness, seeds, records]``."""


def run(size: Size) -> Result:
    """Train every method at every staleness on both problems."""
    quick = ONE_TOKEN._replace(steps=100)
    worlds = size.choose((quick,), (ONE_TOKEN,), (ONE_TOKEN, SLOWER, TEN_TOKENS))
    arrays, verdicts = {}, []
    for world in worlds:
        reward = trained(world, size.seeds)
        step = np.arange(0, world.steps + 1, RECORD_EVERY)
        arrays |= {
            f"{world.name}: step": step,
            f"{world.name}: reward": reward,
            f"{world.name}: cost": cost(reward, world.best),
        }
        verdicts += judge(reward, step, world.best, "" if world is worlds[0] else world.name)
    return Result(
        name="on_policy",
        verdicts=verdicts,
        arrays=arrays,
        settings={
            "worlds": [world.name for world in worlds],
            "learning_rates": [world.learning_rate for world in worlds],
            "objectives": list(METHODS),
            "problems": list(REWARDS),
            "staleness": list(STALENESS),
            "prompts per step": PROMPTS,
            "responses": RESPONSES,
            "pool": POOL,
            "seeds": size.seeds,
        },
    )


def trained(world: World, seeds: int) -> Rewards:
    """Run one world; one program per staleness."""
    problems = [PROBLEMS[name + world.suffix] for name in REWARDS]
    by_staleness = []
    for staleness in STALENESS:
        collection = Collection(source="policy", prompts=PROMPTS * staleness, responses=RESPONSES)
        recipes = merged(
            [
                Recipe(
                    method.objective,
                    collection,
                    Reuse(minibatches=staleness),
                    method.advantage,
                    method.std_floor,
                )
                for method in METHODS.values()
            ]
        )
        traces = sweep(
            [
                Setting(recipe, problem, world.learning_rate)
                for recipe, problem in itertools.product(recipes, problems)
            ],
            world.policy,
            seeds,
            world.steps,
            record_every=RECORD_EVERY,
            contexts=POOL,
            keep=("reward",),
        )
        by_staleness.append(traces["reward"].reshape(len(recipes), len(problems), seeds, -1))
    return np.stack(by_staleness, axis=2)


def cost(reward: Rewards, best: float) -> np.ndarray:
    """What each staleness takes away against the freshest, as a share of all there was to gain.

    Args:
        reward: [objectives, problems, staleness, seeds, records].
        best: the largest expected reward there is.

    Returns:
        [objectives, problems, staleness, seeds].
    """
    mean, start = reward.mean(axis=-1), reward[..., 0]
    return (mean[:, :, :1] - mean) / (best - start)


def halfway(reward: np.ndarray, step: np.ndarray, best: float) -> np.ndarray:
    """Gradient steps until half of what there is to gain is gained, interpolated between records.

    Args:
        reward: [..., records].
        step: [records].
        best: the largest expected reward there is.

    Returns:
        [...]; the last step where half-way was never reached.
    """
    level = (reward[..., :1] + best) / 2
    above = reward >= level
    reached = above.any(axis=-1)
    after = np.where(reached, above.argmax(axis=-1), 1)
    before = np.maximum(after - 1, 0)
    low = np.take_along_axis(reward, before[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(reward, after[..., None], axis=-1)[..., 0]
    share = np.clip((level[..., 0] - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.where(reached, step[before] + share * (step[after] - step[before]), step[-1])


def judge(reward: Rewards, step: np.ndarray, best: float, where: str) -> list[Verdict]:
    """Every verdict of one world, from its rewards alone."""
    suffix = f" ({where})" if where else ""
    lost = cost(reward, best)
    slower = halfway(reward, step, best)
    slower = slower[:, :, -1] / slower[:, :, 0]
    verdicts = [
        stale_costs(name, lost[index], slower[index], suffix) for index, name in enumerate(METHODS)
    ]
    return [*verdicts, milder_where_aligned(lost, suffix), reinforce_tolerates(lost, suffix)]


def stale_costs(name: str, lost: np.ndarray, slower: np.ndarray, suffix: str) -> Verdict:
    """Held on a problem if the stalest data cost reward, and no staleness surely gains any.

    Args:
        name: of the method.
        lost: [problems, staleness, seeds].
        slower: slow-down at the greatest staleness, [problems, seeds].
        suffix: names the world.
    """
    holds, evidence = {}, []
    for problem, costs, ratio in zip(REWARDS, lost, slower, strict=True):
        between = [interval(c) for c in costs[1:]]
        stalest = between[-1]
        lost_any = stalest.low > 0 and stalest.mean > WORTH
        holds[problem] = lost_any and all(c.high > -WORTH for c in between)
        shares = ", ".join(
            f"{share(c)} at B/M = {k}" for k, c in zip(STALENESS[1:], between, strict=True)
        )
        evidence.append(f"{problem} costs {shares}, {interval(ratio)} times the steps to half-way")
    return judged(
        f"{TITLES[name]} loses reward when its data are stale{suffix}",
        source=PAPER,
        evidence="; ".join(evidence),
        holds=holds,
        subject="on",
    )


def milder_where_aligned(lost: np.ndarray, suffix: str) -> Verdict:
    """Held where the stalest data cost more on R1 than on R2, by objective."""
    gaps = by_name(lost[:, 0, -1] - lost[:, 1, -1])
    return judged(
        f"Stale data cost less where the peak is aligned with the reference (R2){suffix}",
        source=PAPER,
        evidence="cost on R1 - cost on R2 at B/M = 25: "
        + ", ".join(f"{name} {share(gap, sign=True)}" for name, gap in gaps.items()),
        holds={name: gap.low > 0 for name, gap in gaps.items()},
        subject="for",
    )


def reinforce_tolerates(lost: np.ndarray, suffix: str) -> Verdict:
    """Held where the stalest data cost best-of-N more than REINFORCE, by problem."""
    names = list(METHODS)
    by_objective = lost[:, :, -1]
    pairs = zip(
        REWARDS,
        by_objective[names.index("BestOfN")],
        by_objective[names.index("REINFORCE")],
        strict=True,
    )
    gaps = {problem: difference(best_of_n, reinforce) for problem, best_of_n, reinforce in pairs}
    return judged(
        f"REINFORCE bears stale data better than best-of-N{suffix}",
        source=OURS,
        evidence="cost for BestOfN - cost for REINFORCE at B/M = 25: "
        + ", ".join(f"{problem} {share(gap, sign=True)}" for problem, gap in gaps.items()),
        holds={problem: gap.low > 0 for problem, gap in gaps.items()},
        subject="on",
    )


def by_name(values: np.ndarray) -> Mapping[str, Interval]:
    """Intervals by the name of the method."""
    return {name: interval(value) for name, value in zip(METHODS, values, strict=True)}


def share(value: Interval, sign: bool = False) -> str:
    """As a percentage."""
    mean = f"{100 * value.mean:+.1f}" if sign else f"{100 * value.mean:.1f}"
    return f"{mean} ± {100 * value.half_width:.1f}%"
