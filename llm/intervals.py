"""How sure a number measured on a sample of prompts is: 95% intervals that count prompts.

Tokens of one response, and responses to one prompt, have much in common, so ten thousand tokens of
fifty prompts are fifty draws and not ten thousand. Every estimate here is a ratio of sums over
responses or pairs, and its interval comes from how much the sums of different prompts differ
(linearisation). A share near 0 or 1 has Wilson's interval, which never leaves [0, 1], with as many
draws as would be as uncertain if they were independent.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

Values = Float64[np.ndarray, " units"]
Prompts = Int64[np.ndarray, " units"]

Z = 1.959963984540054
"""The normal distribution's 97.5% point."""

FEWEST = 5
"""Prompts below which nothing can be said about how they differ."""


class Estimate(NamedTuple):
    """A number with what is known about it.

    Attributes:
        value: the estimate.
        low: lower end of its 95% interval; None with fewer than ``FEWEST`` prompts.
        high: upper end.
        units: what was counted: responses, pairs or tokens.
        prompts: how many prompts they come from.
    """

    value: float
    low: float | None
    high: float | None
    units: int
    prompts: int


def ratio(total: Values, weight: Values, prompt: Prompts) -> Estimate:
    """sum(total) / sum(weight), with a Student interval over prompts.

    Args:
        total: of each unit.
        weight: of each unit: 1 for a mean over units, its tokens for a mean over tokens.
        prompt: number of the prompt that a unit belongs to.

    Source: linearisation of a ratio of cluster totals, e.g. Cochran 1977, Sampling Techniques, 6.3.
    """
    totals, weights = by_prompt(total, prompt), by_prompt(weight, prompt)
    count = len(totals)
    value = float(total.sum() / weight.sum())
    units = round(float(weight.sum()))
    if count < FEWEST:
        return Estimate(value, None, None, units, count)
    half = student(count - 1) * math.sqrt(variance(totals, weights))
    return Estimate(value, value - half, value + half, units, count)


def share(right: Values, prompt: Prompts) -> Estimate:
    """The share of pairs that are right, with Wilson's interval.

    Args:
        right: 1 for a pair that is, 0 for one that is not, 1/2 for a tie.
        prompt: number of the prompt that a pair belongs to.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209; effective size as in Korn and Graubard 1998.
    """
    totals, weights = by_prompt(right, prompt), by_prompt(np.ones_like(right), prompt)
    count, pairs = len(totals), len(right)
    value = float(right.mean())
    if count < FEWEST:
        return Estimate(value, None, None, pairs, count)
    # Independent draws that are as uncertain; pairs of one prompt may agree, so it is at most one
    # for each pair, and at least one for each prompt where there is no difference to go by.
    spread = variance(totals, weights)
    draws = float(pairs if count == pairs else count)
    if count < pairs and spread > 0 and 0 < value < 1:
        draws = min(value * (1 - value) / spread, float(pairs))
    centre = (value + Z**2 / (2 * draws)) / (1 + Z**2 / draws)
    half = math.sqrt(value * (1 - value) / draws + Z**2 / (4 * draws**2)) / (1 + Z**2 / draws)
    return Estimate(value, Z * -half + centre, Z * half + centre, pairs, count)


def by_prompt(values: Values, prompt: Prompts) -> Float64[np.ndarray, " prompts"]:
    """Sums over the units of each prompt that occurs."""
    _, number = np.unique(prompt, return_inverse=True)
    return np.bincount(number, weights=values)


def variance(
    totals: Float64[np.ndarray, " prompts"], weights: Float64[np.ndarray, " prompts"]
) -> float:
    """Of the ratio of two sums over prompts."""
    count = len(totals)
    rest = totals - totals.sum() / weights.sum() * weights
    return float(count / (count - 1) * (rest**2).sum() / weights.sum() ** 2)


def student(freedom: int) -> float:
    """The 97.5% point of Student's distribution, to a few thousandths from 4 degrees on.

    Source: Abramowitz and Stegun 1964, 26.7.5.
    """
    z, n = Z, freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
