"""Checks of the third part: settings that have to show something, over seeds that nobody chose.

An answer is a setting. The check runs the library on seeds 0, 1, 2, ... and accepts a difference
that lies beyond its 95% interval.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bandit import R1, Problem, Setting, Tabular, bump, sweep
from experiments.bandit.negative_gradient import tuned
from experiments.exercises.checks.verdict import Rejected, ask, parts_of
from experiments.intervals import Interval, difference, interval
from experiments.merged import merged
from objectives import DPO, IPO, BestOfN, Collection, Recipe

MOST_PROMPTS, MOST_RESPONSES = 200, 10
STEPS = 200


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A count of a setting.

    Raises:
        Rejected: if it is no whole number between the two.
    """
    if not isinstance(value, int | np.integer) or not least <= value <= most:
        raise Rejected(f"{name} is {value!r}; take a whole number from {least} to {most}.")
    return int(value)


def log_ratios(prompts: int, rows: int) -> tuple[Interval, Interval]:
    """Log-ratio of winners and of losers after IPO on pairs of the reference, over 16 seeds.

    Args:
        prompts: how many pairs, each of another prompt.
        rows: how many rows of logits the table has; prompts take turns in sharing them.

    Returns:
        Mean over the pairs, nats, with its interval.
    """
    recipe = Recipe(IPO(tau=0.05), Collection(source="dataset", prompts=prompts, responses=2))
    keep = ("chosen_log_ratio", "rejected_log_ratio")
    traces = sweep(
        [Setting(recipe, R1, 0.1)],
        Tabular(),
        16,
        STEPS,
        record_every=STEPS,
        contexts=rows,
        keep=keep,
    )
    winner, loser = (interval(traces[name][0, :, -1]) for name in keep)
    return winner, loser


def likelihood_displacement(answer: Callable[..., Any]) -> str:
    """Exercise 10: prompts and rows with which winners fall as well as losers.

    Source: Tajwar et al. 2024, arXiv:2404.14367, section 5.2.2.
    """
    prompts, rows = parts_of(ask(answer), ("prompts", "rows"))
    prompts = whole("prompts", prompts, 2, MOST_PROMPTS)
    rows = whole("rows", rows, 1, prompts)
    winner, loser = log_ratios(prompts, rows)
    said = f"Winners end at {winner} nats, losers at {loser}"
    if winner.high < 0:
        return f"{said}. Both fall, and the losers further: the loss is content."
    if rows == prompts:
        raise Rejected(
            f"{said}. Every prompt has a row of its own here, so pairs cannot collide, however "
            "many there are: what counts is prompts per row."
        )
    if winner.low > 0:
        raise Rejected(f"{said}: winners rise. Let more pairs pull at each row.")
    raise Rejected(
        f"{said}: some winners fall, but their mean is not below zero beyond its interval."
    )


def push_and_pull(
    peak: float, width: float, prompts: int, responses: int
) -> tuple[Interval, Interval]:
    """What DPO ends above best-of-N on the same data, and what best-of-N gains, over 64 seeds.

    Each learns at the learning rate, of three, that is best for it over the other seeds.

    Args:
        peak: bin of the largest reward.
        width: of the reward, bins.
        prompts: groups in the data, all of one context.
        responses: of each group, drawn from the reference.

    Returns:
        Of expected reward, with their intervals.
    """
    collection = Collection(source="dataset", prompts=prompts, responses=responses)
    pull, push = merged([Recipe(o, collection) for o in (BestOfN(), DPO(beta=0.1))])
    problem = Problem(R1.ref_logp, bump(peak, width))
    rates = (0.01, 0.03, 0.1)
    settings = [Setting(recipe, problem, rate) for recipe in (pull, push) for rate in rates]
    traces = sweep(settings, Tabular(), 64, STEPS, record_every=STEPS, contexts=1)
    start, end = np.moveaxis(traces["reward"].reshape(2, len(rates), 64, 2), -1, 0)
    imitated, contrasted = tuned(end[0]), tuned(end[1])
    return difference(contrasted, imitated), difference(imitated, start[0, 0])


def where_pushing_hurts(answer: Callable[..., Any]) -> str:
    """Exercise 11: a world and data on which DPO ends below best-of-N.

    Source: Tajwar et al. 2024, arXiv:2404.14367, section 5.2 and Lemma 6.2.
    """
    peak, width, prompts, responses = parts_of(
        ask(answer), ("peak", "width", "prompts", "responses")
    )
    if not 0 <= peak < R1.bins or not 1 <= width <= R1.bins:
        raise Rejected(
            f"peak is {peak} and width {width}; take a peak from 0 to {R1.bins - 1} and a width "
            f"from 1 to {R1.bins}."
        )
    prompts = whole("prompts", prompts, 1, MOST_PROMPTS)
    responses = whole("responses", responses, 2, MOST_RESPONSES)
    lead, gain = push_and_pull(float(peak), float(width), prompts, responses)
    said = f"DPO ends {lead.mean:+.2f} ± {lead.half_width:.2f} from best-of-N"
    if gain.low <= 0:
        raise Rejected(
            f"{said}, but best-of-N itself learns nothing here: it gains {gain}. Find a world "
            "where imitation works."
        )
    if lead.high < 0:
        return f"{said}, which gains {gain}: here pushing down hurts."
    if lead.low > 0:
        raise Rejected(
            f"{said}: pushing helps here. How many pairs compare the good bins with each other?"
        )
    raise Rejected(f"{said}: no difference beyond the interval over 64 seeds.")
