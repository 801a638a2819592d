"""How much reward does each method buy per nat of KL on text, and how much of it is real?

Command: ``modeseek reproduce text_frontier``. Hardware and time: 5 minutes on two cores, and what
``text_complementarity`` takes where it has not run. Feeds ``figures/text_frontier.py``.

The paths are those of ``complementarity``: gold reward against KL(pi || pi_ref), in nats per
answer, measured on the policy's own answers to held-out questions. A method's *share* is the gain
it has when it first gets to some KL, read at the levels of ``LEVELS`` and averaged.

On-policy methods climb a proxy. Two further proxies are weaker: they have learned from the answers
to 32 prompts, not 512. What the proxy says of a policy and what gold says of it are both put in
standard deviations of answers of the reference, from the reference's mean. They part where the
policy has found what the proxy overrates: over-optimisation. It is judged by the gap between the
two at the end of a run, and by how far gold has fallen from its best.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.intervals import Interval, difference, interval
from experiments.llm.complementarity import FRESH, GRADIENTS, NAMES
from experiments.llm.methods import METHODS
from experiments.llm.runs import ALL, Run, Unit, gain, proxy_of, seeds_of, stacked, units_of
from experiments.llm.study import Study, study_of
from experiments.llm.tasks import TASKS, facts_of
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

LEVELS = (1.0, 2.0, 4.0)
CLIMBERS = ("online DPO", "PPO")
WEAK = 32
LABELLED = (WEAK, ALL)
SEEKING = ("online DPO", "online IPO", *GRADIENTS)
COVERING = ("online best-of-N", "online RWR")
OURS = "this project"


def path(task: str, method: str) -> Run:
    """A run of the frontier, with the first seed."""
    return Run(task=task, method=method, seed=0)


def climb(task: str, method: str, labelled: int) -> Run:
    """A run on a proxy that has seen so many prompts, with the first seed."""
    return Run(task=task, method=method, seed=0, labelled=labelled)


def runs() -> list[Run]:
    """Every run the experiment reads, with the first seed."""
    paths = [path(task, method) for task in TASKS for method in NAMES]
    return paths + [climb(t, m, n) for t in TASKS for m in CLIMBERS for n in LABELLED if n != ALL]


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), runs(), size.seeds)


def run(size: Size) -> Result:
    """Read every path, and both rewards of every climb."""
    study = study_of(size)
    arrays: dict[str, np.ndarray] = {}
    for task in TASKS:
        reads = [path(task, method) for method in NAMES]
        arrays[f"{task}: gain"] = np.array([gain(study, one, size.seeds) for one in reads])
        arrays[f"{task}: kl"] = np.array(
            [stacked(study, seeds_of(one, size.seeds), "eval", "reverse_kl") for one in reads]
        )
        climbs = [[climb(task, m, n) for n in LABELLED] for m in CLIMBERS]
        for name, of in (("gold", gold_scores), ("proxy", proxy_scores)):
            arrays[f"{task}: {name}"] = np.array(
                [[of(study, one, size.seeds) for one in row] for row in climbs]
            )
        arrays[f"{task}: climb kl"] = np.array(
            [
                [stacked(study, seeds_of(one, size.seeds), "eval", "reverse_kl") for one in row]
                for row in climbs
            ]
        )
        arrays[f"{task}: accuracy"] = np.array(
            [
                [proxy_of(study, one).accuracy for one in seeds_of(climbs[0][i], size.seeds)]
                for i in range(len(LABELLED))
            ]
        )
    return Result(
        name="text_frontier",
        verdicts=judge(arrays),
        arrays=arrays,
        settings=settings_of(study, size),
    )


def settings_of(study: Study, size: Size) -> dict[str, Any]:
    """What was run."""
    return {
        "tasks": list(TASKS),
        "methods": [METHODS[name].title for name in NAMES],
        "objectives": [METHODS[name].objective for name in NAMES],
        "sources": ["policy" if METHODS[name].online else "dataset" for name in NAMES],
        "climbers": [METHODS[name].title for name in CLIMBERS],
        "climbing objectives": [METHODS[name].objective for name in CLIMBERS],
        "labelled": [count or study.data_prompts for count in LABELLED],
        "levels": list(LEVELS),
        "steps": study.steps,
        "seeds": size.seeds,
    }


def gold_scores(study: Study, one: Run, seeds: int) -> np.ndarray:
    """Gold reward [seeds, records] in standard deviations from the reference's mean."""
    facts = facts_of(study)
    gold = stacked(study, seeds_of(one, seeds), "eval", "gold")
    return (gold - facts.gold[one.task]) / facts.spread[one.task]


def proxy_scores(study: Study, one: Run, seeds: int) -> np.ndarray:
    """What each seed's proxy says [seeds, records], in its standard deviations from its mean."""
    same = seeds_of(one, seeds)
    said = stacked(study, same, "eval", "reward")
    judges = [proxy_of(study, each) for each in same]
    mean = np.array([judge.mean for judge in judges])[:, None]
    return (said - mean) / np.array([judge.spread for judge in judges])[:, None]


def share_at(kl: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """The gain when a path first gets to each level of KL, averaged over the levels it gets to.

    Args:
        kl: nats per answer [seeds, records].
        gains: at the same evaluations.

    Returns:
        [seeds]; NaN where a path gets to no level.
    """
    found = np.full((len(kl), len(LEVELS)), np.nan)
    for seed, (x, y) in enumerate(zip(kl, gains, strict=True)):
        reach = np.maximum.accumulate(x)
        for column, level in enumerate(LEVELS):
            after = int((reach >= level).argmax())
            if after > 0:
                low, high = x[after - 1], x[after]
                weight = (level - low) / max(high - low, 1e-12)
                found[seed, column] = y[after - 1] + weight * (y[after] - y[after - 1])
    reached = np.isfinite(found)
    total = np.where(reached, found, 0).sum(axis=1)
    return np.where(reached.any(axis=1), total / np.maximum(reached.sum(axis=1), 1), np.nan)


def judge(arrays: Mapping[str, np.ndarray]) -> list[Verdict]:
    """Every verdict."""
    return [seeking_earns_more(arrays), offline_stops(arrays), *over_optimised(arrays)]


def seeking_earns_more(arrays: Mapping[str, np.ndarray]) -> Verdict:
    """Held on a task if mode-seeking methods gain more at equal KL than mass-covering ones."""
    holds, evidence = {}, []
    for task in TASKS:
        pairs = zip(NAMES, arrays[f"{task}: kl"], arrays[f"{task}: gain"], strict=True)
        shares = {name: share_at(kl, gains) for name, kl, gains in pairs}
        seeking = np.nanmean([shares[name] for name in SEEKING], axis=0)
        covering = np.nanmean([shares[name] for name in COVERING], axis=0)
        gap = difference(seeking, covering)
        holds[TASKS[task]] = gap.low > 0
        evidence.append(f"{TASKS[task]} {signed(gap)}")
    return judged(
        "On text, at equal KL mode-seeking objectives earn more than mass-covering ones",
        source=OURS,
        evidence=f"mean gain on reaching {', '.join(f'{x:g}' for x in LEVELS)} nats, "
        "seeking - covering: " + "; ".join(evidence),
        holds=holds,
        subject="on",
    )


def offline_stops(arrays: Mapping[str, np.ndarray]) -> Verdict:
    """Held for a method on a task if offline it ends below itself on-policy at no less KL."""
    holds, evidence = {}, []
    for task in TASKS:
        rows = dict(zip(NAMES, arrays[f"{task}: gain"][..., -1], strict=True))
        for name, fresh in FRESH.items():
            gap = difference(rows[fresh], rows[name])
            holds[f"{METHODS[name].title} on {TASKS[task]}"] = gap.low > 0
            evidence.append(f"{METHODS[name].title} on {TASKS[task]} {signed(gap)}")
    return judged(
        "On text, learning from a fixed data set ends lower on the frontier than on-policy",
        source=OURS,
        evidence="gain at the end, on-policy - offline: " + ", ".join(evidence),
        holds=holds,
        subject="for",
    )


def over_optimised(arrays: Mapping[str, np.ndarray]) -> list[Verdict]:
    """Whether proxies promise more than gold keeps, weak ones more so, and whether gold falls."""
    apart: dict[str, Interval] = {}
    wider: dict[str, Interval] = {}
    fallen: dict[str, Interval] = {}
    for task in TASKS:
        gold, said = arrays[f"{task}: gold"], arrays[f"{task}: proxy"]
        gap = said[..., -1] - gold[..., -1]
        for row, name in enumerate(CLIMBERS):
            place = f"{METHODS[name].title} on {TASKS[task]}"
            apart[place] = interval(gap[row, 0])
            wider[place] = difference(gap[row, 0], gap[row, 1])
            fallen[place] = interval(gold[row, 0].max(axis=-1) - gold[row, 0, :, -1])
    unit = "standard deviations of answers of the reference"
    return [
        judged(
            "A weak proxy promises more than gold keeps",
            source=OURS,
            evidence=f"proxy - gold at the end, {unit}: {listed(apart)}",
            holds={place: gap.low > 0 for place, gap in apart.items()},
            subject="for",
        ),
        judged(
            "... and the more so, the fewer labels it has seen",
            source=OURS,
            evidence=f"weak - strong proxy's promise beyond gold, {unit}: {listed(wider)}",
            holds={place: gap.low > 0 for place, gap in wider.items()},
            subject="for",
        ),
        judged(
            "Optimised long enough, a weak proxy costs gold reward that had been reached",
            source=OURS,
            evidence=f"gold at its best - at the end, {unit}: {listed(fallen)}; to count, its "
            "interval must lie above 0.1",
            holds={place: gap.low > 0.1 for place, gap in fallen.items()},
            subject="for",
        ),
    ]


def listed(values: Mapping[str, Interval]) -> str:
    """Signed intervals with their places."""
    return ", ".join(f"{place} {signed(value)}" for place, value in values.items())


def signed(value: Interval) -> str:
    """As in ``+0.07 ± 0.02``."""
    return f"{value.mean:+.2f} ± {value.half_width:.2f}"
