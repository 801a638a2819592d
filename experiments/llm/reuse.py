"""How often may the same answers be used on text, and which axis says so?

Command: ``modeseek reproduce text_reuse``. Hardware and time: 8 minutes on two cores. Feeds
``figures/text_reuse.py``.

Every round the policy answers M = 8 prompts N = 4 times under Min Length, and T gradient steps are
taken on these answers before the next round. All runs take the same number of steps, so a run with
T = 8 has drawn an eighth of the answers of one with T = 1: reuse is judged at equal samples (the
mean gain over the same rounds) and at equal gradient steps (the mean gain over the run).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.intervals import Interval, difference, interval
from experiments.llm.methods import LEARNING_RATE, METHODS
from experiments.llm.runs import Run, Unit, gain, steps_of, units_of
from experiments.llm.study import study_of
from experiments.llm.tasks import MIN
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict

PASSES = (1, 2, 4, 8)
NAMES = ("online best-of-N", "online RWR", "PPO")
BEST, PROXIMAL = NAMES[0], NAMES[-1]
LARGE = 8
PAPER = "Tajwar et al. 2024, section 5.1.2"


class Curves(NamedTuple):
    """What was measured.

    Attributes:
        step: gradient steps [R].
        gain: share of what there is to gain [methods, T, seeds, R].
        per_round: answers drawn in a round.
    """

    step: np.ndarray
    gain: np.ndarray
    per_round: int


def cell(method: str, passes: int) -> Run:
    """A run of the comparison, with the first seed."""
    return Run(task=MIN, method=method, seed=0, passes=passes)


def runs() -> list[Run]:
    """Every run the experiment reads, with the first seed."""
    return [cell(method, passes) for method in NAMES for passes in PASSES]


def units(size: Size) -> list[Unit]:
    """What has to be computed before the experiment can be read."""
    return units_of(study_of(size), runs(), size.seeds)


def run(size: Size) -> Result:
    """Compare every method at every T."""
    study = study_of(size)
    gains = [[gain(study, cell(m, passes), size.seeds) for passes in PASSES] for m in NAMES]
    step = steps_of(study, cell(NAMES[0], 1))
    curves = Curves(step, np.array(gains), study.batch * study.responses)
    return Result(
        name="text_reuse",
        verdicts=judge(curves),
        arrays={"T": np.array(PASSES), "step": curves.step, "gain": curves.gain},
        settings={
            "methods": [METHODS[name].title for name in NAMES],
            "objectives": [METHODS[name].objective for name in NAMES],
            "learning_rate": LEARNING_RATE,
            "task": MIN,
            "prompts": study.batch,
            "responses": study.responses,
            "seeds": size.seeds,
        },
    )


def judge(curves: Curves) -> list[Verdict]:
    """Every verdict."""
    return [twice_helps(curves), large_hurts(curves), ppo_tolerates(curves)]


def over_steps(curves: Curves, method: str, passes: int) -> np.ndarray:
    """Mean gain over all gradient steps, one number per seed."""
    return of(curves, method, passes).mean(axis=-1)


def over_samples(curves: Curves, method: str, passes: int, rounds: int) -> np.ndarray:
    """Mean gain over the first rounds, read when each round's T steps are done, per seed."""
    steps = passes * np.arange(1, rounds + 1)
    gains = of(curves, method, passes)
    return np.stack([np.interp(steps, curves.step, each) for each in gains]).mean(axis=-1)


def of(curves: Curves, method: str, passes: int) -> np.ndarray:
    """The gain [seeds, R] of one curve."""
    return curves.gain[NAMES.index(method), PASSES.index(passes)]


def twice_helps(curves: Curves) -> Verdict:
    """Held for a method if T = 2 beats T = 1 at equal samples."""
    rounds = int(curves.step[-1] // 2)
    samples = {
        method: difference(
            over_samples(curves, method, 2, rounds), over_samples(curves, method, 1, rounds)
        )
        for method in NAMES
    }
    steps = {
        method: difference(over_steps(curves, method, 2), over_steps(curves, method, 1))
        for method in NAMES
    }
    return judged(
        "On text, using answers twice beats using them once, at equal samples",
        source=PAPER,
        evidence=f"mean gain over {rounds * curves.per_round} answers, T = 2 - T = 1: "
        f"{listed(samples)}; over equal gradient steps: {listed(steps)}",
        holds={METHODS[method].title: gap.low > 0 for method, gap in samples.items()},
        subject="for",
    )


def large_hurts(curves: Curves) -> Verdict:
    """Held on an axis if T = 8 is behind: per step T = 1, per sample some smaller T."""
    steps = difference(over_steps(curves, BEST, LARGE), over_steps(curves, BEST, 1))
    end = difference(of(curves, BEST, LARGE)[:, -1], of(curves, BEST, 1)[:, -1])
    rounds = int(curves.step[-1] // LARGE)
    samples = {
        passes: difference(
            over_samples(curves, BEST, LARGE, rounds), over_samples(curves, BEST, passes, rounds)
        )
        for passes in PASSES
        if passes < LARGE
    }
    rival = min(samples, key=lambda passes: samples[passes].mean)
    return judged(
        "On text, best-of-N suffers when answers are used very often",
        source=PAPER,
        evidence=f"T = {LARGE}: mean over steps {signed(steps)} and at the end {signed(end)} "
        f"against T = 1; over {rounds * curves.per_round} answers {signed(samples[rival])} against "
        f"T = {rival}",
        holds={
            f"T = {LARGE} per gradient step": steps.high < 0,
            f"T = {LARGE} in the reward at the end": end.high < 0,
            f"T = {LARGE} per sample": samples[rival].high < 0,
        },
        subject="at",
    )


def ppo_tolerates(curves: Curves) -> Verdict:
    """Held at a T if going there from T = 1 costs best-of-N more per step than it costs PPO."""
    holds, evidence = {}, []
    for passes in PASSES[1:]:
        change = {
            name: over_steps(curves, name, passes) - over_steps(curves, name, 1)
            for name in (PROXIMAL, BEST)
        }
        gap = difference(change[PROXIMAL], change[BEST])
        holds[f"T = {passes}"] = gap.low > 0
        evidence.append(
            f"T = {passes} instead of 1 changes PPO by {signed(interval(change[PROXIMAL]))} and "
            f"best-of-N by {signed(interval(change[BEST]))}: PPO ahead by {signed(gap)}"
        )
    return judged(
        "On text, PPO tolerates reuse better than best-of-N",
        source=PAPER,
        evidence="mean gain over equal gradient steps; " + "; ".join(evidence),
        holds=holds,
        subject="at",
    )


def listed(values: Mapping[str, Interval]) -> str:
    """Signed intervals with their methods."""
    return ", ".join(f"{METHODS[name].title} {signed(value)}" for name, value in values.items())


def signed(value: Interval) -> str:
    """As in ``+0.07 ± 0.02``."""
    return f"{value.mean:+.2f} ± {value.half_width:.2f}"
