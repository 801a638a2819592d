"""One campaign of active preference learning: the unit that is computed once, kept, and shared.

The protocol is the paper's for IMDB: a model that has read reviews goes on from their first words,
a judge says which of two continuations is the more positive, DPO learns from the labels so far,
from the reference anew in every round, and the policy is compared with the reference. What the
paper has of the Hub and of GPT-4 is made here from the reviews themselves: a smaller model and a
classifier. A model of another size needs another learning rate, so of a few the one is taken at
which the win rates of *random* choice, with a seed of its own, are nearest to the authors' with
random choice: what choosing gains is then compared where there is as much to gain.

Source: Muldrew et al. 2024, arXiv:2402.08114; settings of the authors' published code.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from experiments.llm.runs import Columns, Unit, columns
from experiments.llm.study import ROOT, code_digest, keep, kept
from experiments.results import Size
from experiments.reviews import authors
from experiments.reviews.world import (
    REPORT,
    Reviews,
    judge,
    prompts_file,
    reference,
    reviews_of,
)
from llm.cache import cache_folder
from llm.data.examples import DataSettings

START = Path("experiments", "reviews", "campaigns.py")
SHORTEST, LONGEST = 16, 24
"""Tokens of a continuation."""

TUNING_SEED = 1000
"""Of the campaigns that the learning rate is chosen by; no seed of the study."""

ONLINE_RECORDS = 20
"""Contests of an online campaign."""

WORLD_SECONDS, ONLINE_FACTOR = 300.0, 3.0
"""What the model and the judges take, and an online campaign in units of another: for the estimate
of the time left."""

ROW, SHARE = 192, 3
"""Positions of a row, and pairs that mostly share one."""

LORA_FACTOR = 10.0
"""Adapters learn at so many times the rate."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The size of the study.

    Attributes:
        reviews: the world.
        labels: acquired in a round.
        rounds: of acquiring and learning.
        epochs: over all labels, in each round.
        batch: pairs in a gradient step.
        pairs: written for each that is chosen by its score.
        prompts: whose entropy is estimated for each that is kept.
        samples: of each, for that.
        phases: of the online variant, each of fresh labels and one gradient step.
        phase: labels of a phase.
        online_pairs: written there for each that is chosen.
        contest: held-out prompts.
        rows: responses written side by side.
        learning_rates: that random choice is tried at.
        seconds: a campaign is expected to take.
    """

    reviews: Reviews
    labels: int = 128
    rounds: int = 6
    epochs: float = 50.0
    batch: int = 64
    pairs: int = 32
    prompts: int = 8
    samples: int = 8
    phases: int = 200
    phase: int = 64
    online_pairs: int = 8
    contest: int = 1024
    rows: int = 4096
    learning_rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4)
    seconds: float = 40.0


def budget_of(size: Size) -> Budget:
    """The study at a size: to see that it works, for two cores, and the paper's for a GPU."""
    quick = Budget(
        reviews=reviews_of(size),
        labels=16,
        rounds=3,
        epochs=2.0,
        batch=16,
        pairs=4,
        prompts=2,
        samples=4,
        phases=4,
        phase=16,
        online_pairs=2,
        contest=64,
        rows=256,
        learning_rates=(3e-4, 1e-3),
        seconds=15.0,
    )
    default = Budget(
        reviews=reviews_of(size),
        labels=32,
        epochs=10.0,
        batch=16,
        pairs=16,
        prompts=2,
        samples=4,
        phases=100,
        phase=16,
        contest=512,
        rows=512,
        learning_rates=(3e-5, 1e-4, 3e-4),
        seconds=70.0,
    )
    return size.choose(quick, default, Budget(reviews=reviews_of(size)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a campaign but the size of the study.

    Attributes:
        acquisition: a name in ``llm.active.ACQUISITIONS``.
        seed: of prompts' order, samples, order of the labels and adapters.
        rank: of adapters; 0 trains all weights.
        restart: whether each round learns from the reference anew.
        prune: share of the pairs that are never asked about.
        small_judge: whether the labels are given by the judge that has read little.
        online: fresh labels and one gradient step in each of many rounds.
        epochs: times the study's.
        learning_rate: the study's when None.
    """

    acquisition: str
    seed: int = 0
    rank: int = 0
    restart: bool = True
    prune: float = 0.0
    small_judge: bool = False
    online: bool = False
    epochs: float = 1.0
    learning_rate: float | None = None

    @property
    def name(self) -> str:
        """What tells it from the others of the study."""
        usual = Plan(acquisition=self.acquisition, seed=self.seed)
        differs = {
            name: value for name, value in asdict(self).items() if value != getattr(usual, name)
        }
        changes = "".join(f", {name} {value:g}" for name, value in differs.items())
        return f"{self.acquisition}, seed {self.seed}{changes}"


@cache
def folder(budget: Budget) -> Path:
    """Where everything of a study of this size and this code is kept."""
    return cache_folder() / "study" / "campaigns" / digest(budget)


@cache
def digest(budget: Budget) -> str:
    """What tells one study from another."""
    found = hashlib.sha256(json.dumps(asdict(budget), sort_keys=True).encode())
    found.update(code_digest(ROOT, START).encode())
    return found.hexdigest()[:16]


def path_of(budget: Budget, plan: Plan) -> Path:
    """Where a campaign's numbers are kept."""
    return folder(budget) / "runs" / f"{hashlib.sha256(plan.name.encode()).hexdigest()[:20]}.json"


def measured(budget: Budget, plan: Plan) -> Mapping[str, Columns]:
    """Columns of a campaign by kind of line; it is run if they are not there yet."""
    path = path_of(budget, plan)
    found = kept(path)
    if found is None:
        found = {"plan": asdict(plan), "curves": run(budget, plan)}
        keep(path, found)
    return found["curves"]


def run(budget: Budget, plan: Plan) -> dict[str, Columns]:
    """Carry a campaign out in a folder of its own and read what it wrote down."""
    from rich.console import Console

    from llm.active import active
    from llm.journal import METRICS, read_lines

    out = folder(budget) / "running" / path_of(budget, plan).stem
    active(plan.acquisition, settings_of(budget, plan, out), Console(quiet=True))
    lines = read_lines(out / METRICS)
    timed = [{**line, **line["clock"]} if line["kind"] == "round" else line for line in lines]
    shutil.rmtree(out)
    return columns(timed)


def settings_of(budget: Budget, plan: Plan, out: Path) -> Any:
    """What ``modeseek active`` is told."""
    from llm.active import Active, ContestSettings, PoolSettings
    from llm.data.plan import PackingSettings
    from llm.settings import (
        AdapterSettings,
        LogSettings,
        OptimizerSettings,
        SamplingSettings,
        SaveSettings,
    )
    from objectives import DPO

    rate = learning_rate(budget) if plan.learning_rate is None else plan.learning_rate
    labeller = judge(budget.reviews, small=plan.small_judge).folder
    batch = budget.phase if plan.online else budget.batch
    rows = -(-batch // SHARE) + 1
    return Active(
        model=str(reference(budget.reviews)),
        data=str(prompts_file(budget.reviews)),
        out=out,
        reward=f"classifier-whole:{labeller}",
        gold=f"classifier-whole:{judge(budget.reviews).folder}",
        rounds=budget.phases if plan.online else budget.rounds,
        labels=budget.phase if plan.online else budget.labels,
        epochs=1.0 if plan.online else plan.epochs * budget.epochs,
        batch=batch,
        restart=plan.restart and not plan.online,
        learn="newest" if plan.online else "all",
        seed=plan.seed,
        dtype="float32",  # certainties are differences of sums, on a GPU too
        objective=DPO(beta=0.2),
        pool=PoolSettings(
            pairs=budget.online_pairs if plan.online else budget.pairs,
            prompts=budget.prompts,
            samples=budget.samples,
            shortest=SHORTEST,
            prune=plan.prune,
        ),
        contest=ContestSettings(
            prompts=budget.contest, every=every_of(budget) if plan.online else 1
        ),
        adapters=AdapterSettings(rank=plan.rank),
        optimizer=OptimizerSettings(
            learning_rate=rate * (LORA_FACTOR if plan.rank else 1.0),
            schedule="constant",
            warmup=0.0,
            clip_norm=float("inf"),
        ),
        reading=DataSettings(eval_source=str(prompts_file(budget.reviews, held_out=True))),
        packing=PackingSettings(row_length=ROW, max_tokens=rows * ROW, shapes=1),
        sampling=SamplingSettings(max_new_tokens=LONGEST, rows=budget.rows),
        log=LogSettings(every=10**6),
        save=SaveSettings(every=10**6, keep=1),
    )


def every_of(budget: Budget) -> int:
    """Phases of an online campaign between two contests."""
    return max(budget.phases // ONLINE_RECORDS, 1)


def records(budget: Budget) -> np.ndarray:
    """Phases after which an online campaign was measured."""
    every = every_of(budget)
    due = np.arange(every, budget.phases + 1, every)
    return due if due[-1] == budget.phases else np.append(due, budget.phases)


def tuning_plans(budget: Budget) -> list[Plan]:
    """The campaigns that the learning rate is chosen by."""
    return [
        Plan(acquisition="random", seed=TUNING_SEED, learning_rate=rate)
        for rate in budget.learning_rates
    ]


def learning_rate(budget: Budget) -> float:
    """At which random choice comes nearest to the authors' random choice, after every round."""
    rounds = np.arange(1, budget.rounds + 1)
    theirs = np.interp(rounds, authors.ROUNDS, [mean for mean, _ in authors.WIN_RATES["random"]])
    apart = [np.abs(win_rates(budget, plan) - theirs).mean() for plan in tuning_plans(budget)]
    return budget.learning_rates[int(np.argmin(apart))]


def win_rates(budget: Budget, plan: Plan) -> Float64[np.ndarray, " records"]:
    """Win rate against the reference after each round that was followed by a contest."""
    found = measured(budget, plan)["eval"]
    rates = zip(found["step"], found["win_rate"], strict=True)
    return np.array([rate for step, rate in rates if step > 0])


def units_of(budget: Budget, plans: Iterable[Plan], seeds: int) -> list[Unit]:
    """What has to be computed for some campaigns with every seed, each unit once.

    Args:
        budget: the size of everything.
        plans: with the first seed.
        seeds: how many.
    """
    units = [Unit("reviews", WORLD_SECONDS, (), world_of(budget), partial(make_world, budget))]
    for plan in tuning_plans(budget):
        make = partial(measured, budget, plan)
        units.append(Unit(plan.name, budget.seconds, ("reviews",), path_of(budget, plan), make))
    after = ("reviews", *(plan.name for plan in tuning_plans(budget)))
    for one in (one for plan in plans for one in seeds_of(plan, seeds)):
        make = partial(measured, budget, one)
        seconds = budget.seconds * (ONLINE_FACTOR if one.online else 1.0)
        units.append(Unit(one.name, seconds, after, path_of(budget, one), make))
    return units


def make_world(budget: Budget) -> dict[str, Any]:
    """The model, the prompts and both judges, and what there is to say of them."""
    model = reference(budget.reviews)
    for held_out in (False, True):
        prompts_file(budget.reviews, held_out)
    facts: dict[str, Any] = {"model": kept(model / REPORT)}
    for name in ("judge", "small_judge"):
        one = judge(budget.reviews, small=name == "small_judge")
        facts[name] = {
            "texts": one.texts,
            "accuracy": list(one.accuracy[:3]),
            "short_accuracy": list(one.short_accuracy[:3]),
        }
    keep(world_of(budget), facts)
    return facts


def world_of(budget: Budget) -> Path:
    """The file that says the world is there, and what it is like."""
    return folder(budget) / "world.json"


def facts_of(budget: Budget) -> dict[str, Any]:
    """What there is to say of the world."""
    return kept(world_of(budget)) or make_world(budget)


def seeds_of(plan: Plan, seeds: int) -> list[Plan]:
    """A campaign with every seed."""
    return [replace(plan, seed=seed) for seed in range(seeds)]


def stacked(budget: Budget, plan: Plan, seeds: int) -> Float64[np.ndarray, "seeds records"]:
    """Win rates of a campaign, a row for each seed."""
    return np.stack([win_rates(budget, one) for one in seeds_of(plan, seeds)])


def of_rounds(
    budget: Budget, plan: Plan, seeds: int, name: str
) -> Float64[np.ndarray, "seeds rounds"]:
    """A number of every round, a row for each seed."""
    runs = [measured(budget, one)["round"][name] for one in seeds_of(plan, seeds)]
    return np.array(runs, np.float64)


def place(size: Size) -> Path:
    """Where everything of a study of this size and this code is kept."""
    return folder(budget_of(size))


def mark(size: Size) -> str:
    """What tells a study from one of another size or code."""
    return digest(budget_of(size))
