"""Do independently measured numbers of the paper's equations agree?

Command: ``modeseek reproduce calibration``, which is not among the default experiments. Hardware
and time: 13 minutes on one of two cores. Number to expect: the rewards listed in this file, such as
0.305 for offline best-of-N on R1 with 100 contexts. Feeds ``figures/calibration.py``.

The equations of the authors' bandit have been run in another program as well, with 5 seeds for
one-token responses and 2 to 4 for ten tokens. Its numbers stand below with their standard errors,
where they were kept. Here the same settings run with 10 seeds, and 3 for ten tokens. A number is
*met* if ours lies within two of their standard errors, or of ours where theirs is unknown. Theirs
and ours are both means of a few seeds, so a second question is whether they differ by more than
sampling explains: within two standard errors *of the difference*, where an unknown one is taken
from the spread of our seeds.

What differs: their reference is a histogram of 10,000 draws, another for each seed, and ours is its
exact limit; in the ten-token world they also drop out attention weights. Both score a token by the
logits of the position before it. REINFORCE here divides by no running standard deviation, to which
Adam is blind.

What misses, and why, as far as changed settings tell:

- Ten tokens, on-policy IPO on R1: 0.48 here, 0.918 there. A margin of 10 nats per *response* over a
  fixed reference holds the policy back. With the reference taken from the policy that drew the
  responses, or with a margin per token, it is 0.918 here as well; either would explain theirs.
- Ten tokens, PPO without a floor: collapses there and not here. They divide by std + 1e-12, and
  ``group_zscore`` by std + 1e-6; with 1e-12 one seed of four collapses here too.
- One token, offline AWR on R1, IPO on all pairs at 0.001, best-of-N with T = 20 after 100 steps: a
  seed finds the peak or it does not, so a mean of 5 is far from normal. Means of 5 of 40 seeds here
  reach their AWR and IPO numbers, and one early seed of five makes their 0.404.
- The others differ by a few hundredths at most, where the standard error is smaller still.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bandit import PROBLEMS, ContextualMLP, Policy, Setting, TokenTransformer, sweep
from experiments.merged import Passes, merged
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import DPO, IPO, PPO, REINFORCE, RWR, BestOfN, Collection, Recipe, Reuse

ROUNDING = 0.0005
"""Their numbers have three digits."""

OFFLINE_STEPS, RESPONSES = 200, 10
TOKEN_SEEDS = 3
LISTED = 4
"""How many misses a verdict spells out; the result's settings list them all."""


@dataclass(frozen=True)
class Number:
    """One of their numbers.

    Attributes:
        label: what was run.
        step: gradient steps before it was read.
        theirs: expected reward.
        error: its standard error, where it was kept.
        seeds: how many theirs is a mean of.
        at_least: whether it is a bound only.
    """

    label: str
    step: int
    theirs: float
    error: float | None = None
    seeds: int = 5
    at_least: bool = False


METHODS: dict[str, Any] = {
    "BoN": BestOfN(),
    "IPO": IPO(tau=0.05, threshold=0.2),
    "IPO all pairs": IPO(tau=0.05),
    "DPO": DPO(beta=0.1, threshold=0.2),
    **{f"AWR {beta:g}": RWR(beta=beta, max_weight=float("inf")) for beta in (0.05, 0.1, 0.3, 1, 3)},
}
"""Their AWR weights by exp(r / beta): it is RWR here."""

RATES = (0.001, 0.003, 0.01)
SCRIPTS = {"BoN": 0.01, "IPO": 0.003, "DPO": 0.003, "AWR 0.1": 0.01}

WITH_ERRORS: dict[tuple[str, str], Mapping[int, tuple[float, float]]] = {
    ("R1", "BoN"): {5: (0.391, 0.038), 10: (0.431, 0.082), 100: (0.305, 0.012)},
    ("R1", "IPO"): {5: (0.486, 0.055), 10: (0.576, 0.058), 100: (0.707, 0.018)},
    ("R1", "DPO"): {5: (0.663, 0.086), 10: (0.729, 0.106), 100: (0.785, 0.063)},
    ("R1", "AWR 0.1"): {5: (0.754, 0.158), 10: (0.931, 0.031), 100: (0.712, 0.141)},
    ("R2", "BoN"): {5: (0.952, 0.018), 10: (0.946, 0.015), 100: (0.935, 0.002)},
    ("R2", "IPO"): {5: (0.816, 0.093), 10: (0.944, 0.014), 100: (0.951, 0.002)},
    ("R2", "DPO"): {5: (0.968, 0.009), 10: (0.995, 0.002), 100: (0.992, 0.001)},
    ("R2", "AWR 0.1"): {5: (0.814, 0.019), 10: (0.846, 0.030), 100: (0.922, 0.010)},
}
"""Offline, at the learning rates of ``SCRIPTS``: mean and standard error by number of contexts."""

MATCHED: dict[tuple[str, str, int], Sequence[float | None]] = {
    ("R1", "BoN", 10): (0.343, None, None),
    ("R1", "BoN", 100): (0.289, 0.304, None),
    ("R1", "IPO", 10): (0.384, None, 0.582),
    ("R1", "IPO", 100): (0.591, None, 0.712),
    ("R1", "IPO all pairs", 10): (0.176, 0.548, 0.559),
    ("R1", "IPO all pairs", 100): (0.188, 0.528, None),
    ("R1", "AWR 0.1", 10): (0.878, 0.928, None),
    ("R1", "AWR 0.1", 100): (0.875, 0.948, None),
    ("R2", "BoN", 10): (0.937, 0.939, None),
    ("R2", "BoN", 100): (0.942, 0.938, None),
    ("R2", "IPO", 10): (0.947, None, 0.947),
    ("R2", "IPO", 100): (0.946, None, 0.953),
    ("R2", "IPO all pairs", 10): (0.969, 0.977, 0.987),
    ("R2", "IPO all pairs", 100): (0.982, 0.985, 0.981),
    ("R2", "AWR 0.1", 10): (0.920, 0.883, None),
    ("R2", "AWR 0.1", 100): (0.937, 0.925, None),
}
"""Offline at each of ``RATES``, those that are not in ``WITH_ERRORS``; ``KNOWN`` has one error."""

KNOWN = {("R1", "BoN", 10): (0.355, 0.034)}
"""At learning rate 0.003."""

TEMPERATURES: dict[tuple[str, int], Mapping[str, float]] = {
    ("R1", 10): {"AWR 0.05": 0.945, "AWR 0.3": 0.320, "AWR 1": 0.037, "AWR 3": 0.028},
    ("R1", 100): {"AWR 0.05": 0.948, "AWR 0.3": 0.264, "AWR 1": 0.043, "AWR 3": 0.043},
    ("R2", 10): {"AWR 0.05": 0.927, "AWR 0.3": 0.729, "AWR 1": 0.496, "AWR 3": 0.458},
    ("R2", 100): {"AWR 0.05": 0.952, "AWR 0.3": 0.741, "AWR 1": 0.509, "AWR 3": 0.415},
}
"""Offline at learning rate 0.01."""

Key = tuple[Any, ...]
"""What a group calls one of its runs."""


@dataclass(frozen=True)
class Group:
    """Runs of one structure with the numbers to compare them with.

    Attributes:
        name: what is written of it.
        settings: one per run.
        numbers: of each run.
        policy: what is trained.
        steps: gradient steps.
        record_every: gradient steps between records.
        contexts: training prompts.
    """

    name: str
    settings: Sequence[Setting]
    numbers: Sequence[Sequence[Number]]
    policy: Policy
    steps: int
    record_every: int
    contexts: int


def offline(contexts: int) -> Group:
    """One-token responses from a fixed data set: every offline number with that many contexts."""
    runs: dict[tuple[str, str, float], Number] = {}

    def expect(problem: str, method: str, rate: float, theirs: float, error: float | None) -> None:
        label = f"{method} on {problem}, {contexts} contexts, learning rate {rate:g}"
        runs[problem, method, rate] = Number(label, OFFLINE_STEPS, theirs, error)

    for (problem, method), by_contexts in WITH_ERRORS.items():
        expect(problem, method, SCRIPTS[method], *by_contexts[contexts])
    for (problem, method, count), means in MATCHED.items():
        for rate, theirs in zip(RATES, means, strict=True):
            if count == contexts and theirs is not None:
                expect(problem, method, rate, theirs, None)
    for (problem, method, count), (theirs, error) in KNOWN.items():
        if count == contexts:
            expect(problem, method, 0.003, theirs, error)
    for (problem, count), means in TEMPERATURES.items():
        for method, theirs in means.items():
            if count == contexts:
                expect(problem, method, 0.01, theirs, None)
    collection = Collection(source="dataset", prompts=contexts, responses=RESPONSES)
    recipes = merged([Recipe(METHODS[method], collection) for _, method, _ in runs])
    settings = [
        Setting(recipe, PROBLEMS[problem], rate)
        for recipe, (problem, _, rate) in zip(recipes, runs, strict=True)
    ]
    numbers = [[number] for number in runs.values()]
    name = f"1 token, offline, {contexts} contexts"
    return Group(name, settings, numbers, ContextualMLP(), OFFLINE_STEPS, OFFLINE_STEPS, contexts)


ONLINE = Collection(source="policy", prompts=10, responses=RESPONSES)


def read(label: str, *values: tuple[float, ...], seeds: int = 5, at_least: bool = False) -> list:
    """Numbers of one run from (step, value) or (step, value, error)."""
    return [
        Number(f"{label}, {step:g} steps", int(step), *rest, seeds=seeds, at_least=at_least)
        for step, *rest in values
    ]


def best_of_n_online() -> Group:
    """One-token best-of-N at each number of passes T over the same samples."""
    runs = {
        ("R1", 1): read("T=1", (100, 0.210)),
        ("R1", 2): read("T=2", (100, 0.215), (200, 0.693)),
        ("R1", 5): read("T=5", (100, 0.215), (500, 0.995)),
        ("R1", 10): read("T=10", (100, 0.204), (200, 0.542), (1000, 0.999)),
        ("R1", 15): read("T=15", (150, 0.31), (300, 0.93), (1500, 0.999)),
        ("R1", 20): read("T=20", (100, 0.404), (200, 0.700), (2000, 0.998)),
        ("R2", 15): read("T=15", (75, 1.0)),
    }
    recipes = merged([Recipe(BestOfN(), ONLINE, Reuse(inner_steps=T)) for _, T in runs])
    return one_token("best-of-N", runs, recipes, 0.001, steps=2000, record_every=25)


def ipo_online() -> Group:
    """One-token IPO with 15 passes."""
    runs = {
        ("R1", 15): read("T=15", (75, 0.85), (1500, 0.872, 0.126)),
        ("R2", 15): read("T=15", (30, 1.0)),
    }
    recipes = [Recipe(IPO(tau=0.05), ONLINE, Reuse(inner_steps=15)) for _ in runs]
    return one_token("IPO", runs, recipes, 0.01, steps=1500, record_every=15)


def reinforce_online() -> Group:
    """One-token REINFORCE."""
    runs = {
        ("R1", 1): read("T=1", (100, 0.235)),
        ("R1", 5): read("T=5", (500, 0.992)),
        ("R1", 20): read("T=20", (2000, 0.996)),
        ("R2", 1): read("T=1", (100, 0.994), at_least=True),
        ("R2", 5): read("T=5", (500, 0.994), at_least=True),
        ("R2", 20): read("T=20", (2000, 0.994), at_least=True),
    }
    recipe = Recipe(REINFORCE(), ONLINE, advantage="running_mean")
    recipes = [replace(recipe, reuse=Passes(inner_steps=T)) for _, T in runs]
    return one_token("REINFORCE", runs, recipes, 0.001, steps=2000, record_every=100)


def one_token(
    method: str,
    runs: Mapping[tuple[str, int], list[Number]],
    recipes: Sequence[Recipe],
    learning_rate: float,
    *,
    steps: int,
    record_every: int,
) -> Group:
    """A group of on-policy runs with 10 contexts."""
    settings = [
        Setting(recipe, PROBLEMS[problem], learning_rate)
        for recipe, (problem, _) in zip(recipes, runs, strict=True)
    ]
    numbers = [
        [replace(number, label=f"{method} on {problem}, {number.label}") for number in expected]
        for (problem, _), expected in runs.items()
    ]
    name = f"1 token, online {method}"
    return Group(name, settings, numbers, ContextualMLP(), steps, record_every, 10)


TRANSFORMER = TokenTransformer(evaluation_prompts=500)


def tokens_offline() -> Group:
    """Ten tokens from a fixed data set of 10 prompts."""
    runs: dict[tuple[str, float], tuple[float, ...]] = {
        ("BoN", 0.0001): (0.098, 0.011),
        ("BoN", 0.001): (0.129,),
        ("BoN", 0.01): (0.130,),
        ("IPO", 0.0001): (0.211,),
        ("IPO", 0.0003): (0.382, 0.016),
        ("IPO", 0.001): (0.462,),
        ("IPO", 0.01): (0.707, 0.057),
    }
    collection = Collection(source="dataset", prompts=10, responses=RESPONSES)
    methods = {"BoN": BestOfN(), "IPO": IPO(tau=0.05)}
    recipes = merged([Recipe(methods[method], collection) for method, _ in runs])
    settings = [
        Setting(recipe, PROBLEMS["R1-tokens"], rate)
        for recipe, (_, rate) in zip(recipes, runs, strict=True)
    ]
    numbers = [
        read(f"{method} on R1, learning rate {rate:g}", (100, *value), seeds=3)
        for (method, rate), value in runs.items()
    ]
    return Group("10 tokens, offline", settings, numbers, TRANSFORMER, 100, 100, 10)


def tokens_reuse(passes: int) -> Group:
    """Ten tokens, on policy, with T passes over the same samples."""
    of: dict[int, Callable[[], dict[tuple[str, str], list[Number]]]] = {
        1: lambda: {
            ("BoN", "R1"): read("T=1", (40, 0.542), seeds=2),
            ("BoN", "R2"): read("T=1", (40, 0.724), seeds=2),
            ("PPO", "R1"): read("T=1", (40, 0.610), seeds=2),
        },
        2: lambda: {
            ("BoN", "R1"): read("T=2", (40, 0.531), (80, 0.832), seeds=2),
            ("BoN", "R2"): read("T=2", (80, 0.884), seeds=2),
        },
        5: lambda: {
            ("BoN", "R1"): read("T=5", (100, 0.881), (200, 0.9173, 0.0013), seeds=3),
            ("BoN", "R2"): read("T=5", (200, 0.917), seeds=2),
            ("IPO", "R1"): read("T=5", (200, 0.918), seeds=2),
            ("IPO", "R2"): read("T=5", (200, 0.918), seeds=2),
            ("PPO", "R1"): read("T=5", (100, 0.88), (200, 0.5235, 0.1828), seeds=4),
            ("PPO with a floor", "R1"): read("T=5", (200, 0.9153, 0.0013), seeds=4),
            ("PPO", "R2"): read("T=5", (200, 0.918), seeds=2),
        },
        20: lambda: {
            ("BoN", "R1"): read("T=20", (40, 0.247), (100, 0.773), (800, 0.914), seeds=2),
            ("BoN", "R2"): read("T=20", (800, 0.918), seeds=2),
        },
    }
    runs = of[passes]()
    reuse = Reuse(inner_steps=passes)
    ppo = Recipe(PPO(), ONLINE, reuse, advantage="group_zscore")
    methods = {
        "BoN": Recipe(BestOfN(), ONLINE, reuse),
        "IPO": Recipe(IPO(tau=0.05), ONLINE, reuse),
        "PPO": ppo,
        "PPO with a floor": replace(ppo, std_floor=0.05),
    }
    recipes = merged([methods[method] for method, _ in runs])
    return ten_tokens(f"T={passes}", runs, recipes, [0.001] * len(runs), 40 * passes, 20, 10)


def tokens_staleness(prompts: int) -> Group:
    """Ten tokens, samples of B prompts used once, 10 prompts per gradient step."""
    stale = prompts // 10
    last = (300, 0.917, 0.0005)
    of: dict[int, dict[tuple[str, str, float], list[tuple[float, ...]]]] = {
        10: {
            ("BoN", "R1", 0.001): [(50, 0.640), (150, 0.914), last],
            ("BoN", "R2", 0.001): [(50, 0.788), last],
            ("BoN", "R1", 0.0003): [(50, 0.277), (150, 0.679)],
            ("REINFORCE", "R1", 0.0003): [(50, 0.330), (300, 0.900)],
            ("REINFORCE", "R1", 0.001): [(50, 0.695), (150, 0.915)],
        },
        50: {
            ("BoN", "R1", 0.001): [(50, 0.612), (100, 0.875), last],
            ("BoN", "R2", 0.001): [(50, 0.759), last],
        },
        250: {
            ("BoN", "R1", 0.001): [(50, 0.214), (125, 0.746), (150, 0.830), last],
            ("BoN", "R2", 0.001): [(50, 0.655), (125, 0.878), last],
            ("BoN", "R1", 0.0003): [(50, 0.163), (150, 0.585)],
            ("REINFORCE", "R1", 0.0003): [(50, 0.319), (300, 0.902)],
            ("REINFORCE", "R1", 0.001): [(50, 0.644), (150, 0.912)],
        },
    }
    runs = {
        (method, problem, rate): read(f"B={prompts}, learning rate {rate:g}", *values, seeds=2)
        for (method, problem, rate), values in of[prompts].items()
    }
    collection = replace(ONLINE, prompts=prompts)
    methods = {
        "BoN": Recipe(BestOfN(), collection, Reuse(minibatches=stale)),
        "REINFORCE": Recipe(
            REINFORCE(), collection, Reuse(minibatches=stale), advantage="group_zscore"
        ),
    }
    recipes = merged([methods[method] for method, _, _ in runs])
    rates = [rate for _, _, rate in runs]
    return ten_tokens(f"B={prompts}", runs, recipes, rates, 300, 25, prompts)


def ten_tokens(
    name: str,
    runs: Mapping[Any, list[Number]],
    recipes: Sequence[Recipe],
    rates: Sequence[float],
    steps: int,
    record_every: int,
    contexts: int,
) -> Group:
    """A group of on-policy runs; a run's key begins with its method and its problem."""
    settings = [
        Setting(recipe, PROBLEMS[f"{key[1]}-tokens"], rate)
        for recipe, key, rate in zip(recipes, runs, rates, strict=True)
    ]
    numbers = [
        [replace(number, label=f"{key[0]} on {key[1]}, {number.label}") for number in expected]
        for key, expected in runs.items()
    ]
    return Group(
        f"10 tokens, online, {name}", settings, numbers, TRANSFORMER, steps, record_every, contexts
    )


ONE_TOKEN: tuple[Callable[[], Group], ...] = (
    lambda: offline(5),
    lambda: offline(10),
    lambda: offline(100),
    best_of_n_online,
    ipo_online,
    reinforce_online,
)
TEN_TOKENS: tuple[Callable[[], Group], ...] = (
    tokens_offline,
    *((lambda T=T: tokens_reuse(T)) for T in (1, 2, 5, 20)),
    *((lambda B=B: tokens_staleness(B)) for B in (10, 50, 250)),
)


@dataclass(frozen=True)
class Row:
    """A number of theirs beside ours.

    Attributes:
        group: the name of its group.
        number: theirs.
        ours: our mean.
        error: our standard error.
        seeds: how many ours is a mean of.
    """

    group: str
    number: Number
    ours: float
    error: float
    seeds: int

    @property
    def gap(self) -> float:
        """Ours minus theirs; 0 where theirs is a bound that ours respects."""
        gap = self.ours - self.number.theirs
        return max(0.0, -gap) * -1 if self.number.at_least else gap

    @property
    def met(self) -> bool:
        """Within two of their standard errors, or of ours where theirs is unknown."""
        error = self.error if self.number.error is None else self.number.error
        return abs(self.gap) <= 2 * error + ROUNDING

    @property
    def explained(self) -> bool:
        """Within two standard errors of the difference of two means."""
        theirs = self.number.error
        if theirs is None:
            theirs = self.error * (self.seeds / self.number.seeds) ** 0.5
        return abs(self.gap) <= 2 * float(np.hypot(self.error, theirs)) + ROUNDING

    def __str__(self) -> str:
        """The row in words."""
        stated = "" if self.number.error is None else f" ± {self.number.error:.3f}"
        return (
            f"{self.group}: {self.number.label}: ours {self.ours:.3f} ± {self.error:.3f}, "
            f"theirs {self.number.theirs:.3f}{stated}"
        )


def run(size: Size) -> Result:
    """Run every group and compare."""
    token_seeds = size.choose(0, TOKEN_SEEDS, 10)
    groups = [(make(), size.seeds) for make in size.choose(ONE_TOKEN[:2], ONE_TOKEN, ONE_TOKEN)]
    if token_seeds:
        groups += [(make(), token_seeds) for make in TEN_TOKENS]
    rows = [row for group, seeds in groups for row in compare(group, seeds)]
    arrays = {
        "theirs": np.array([row.number.theirs for row in rows]),
        "their_error": np.array([row.number.error or np.nan for row in rows], float),
        "ours": np.array([row.ours for row in rows]),
        "our_error": np.array([row.error for row in rows]),
        "met": np.array([row.met for row in rows]),
        "explained": np.array([row.explained for row in rows]),
    }
    settings = {
        "groups": [row.group for row in rows],
        "labels": [row.number.label for row in rows],
        "their_seeds": [row.number.seeds for row in rows],
        "missed": [str(row) for row in rows if not row.met],
        "unexplained": [str(row) for row in rows if not row.explained],
        "seeds": size.seeds,
        "token_seeds": token_seeds,
    }
    return Result(name="calibration", verdicts=judge(rows), arrays=arrays, settings=settings)


def compare(group: Group, seeds: int) -> list[Row]:
    """Run a group, and set ours beside theirs."""
    reward = sweep(
        group.settings,
        group.policy,
        seeds,
        group.steps,
        record_every=group.record_every,
        contexts=group.contexts,
    )["reward"]
    rows = []
    for expected, values in zip(group.numbers, reward, strict=True):
        for number in expected:
            at = values[:, number.step // group.record_every].astype(float)
            error = float(np.std(at, ddof=1) / seeds**0.5)
            rows.append(Row(group.name, number, float(at.mean()), error, seeds))
    return rows


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Held where every number of a group is met, and where every difference is explained."""
    groups = list(dict.fromkeys(row.group for row in rows))

    def everywhere(right: Callable[[Row], bool]) -> dict[str, bool]:
        return {g: all(right(row) for row in rows if row.group == g) for g in groups}

    def worst(wrong: list[Row]) -> str:
        far = sorted(wrong, key=lambda row: -abs(row.gap))[:LISTED]
        return f"; farthest: {'; '.join(map(str, far))}" if far else ""

    missed = [row for row in rows if not row.met]
    odd = [row for row in rows if not row.explained]
    return [
        judged(
            "Every independently measured number is met within two standard errors",
            source="this project",
            evidence=f"{len(rows) - len(missed)} of {len(rows)}{worst(missed)}",
            holds=everywhere(lambda row: row.met),
            subject="the group is",
        ),
        judged(
            "Every difference is what the sampling of a few seeds explains",
            source="this project",
            evidence=f"{len(rows) - len(odd)} of {len(rows)} within two standard errors of the "
            f"difference; chance would leave about {0.05 * len(rows):.0f} outside{worst(odd)}",
            holds=everywhere(lambda row: row.explained),
            subject="the group is",
        ),
    ]
