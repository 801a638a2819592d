"""What stale data cost: the same gradient steps, fed by a policy refreshed less and less often.

Caption: above, expected reward on R1, whose peak is far from the reference, when B / M gradient
steps are taken between refreshes of the sampling policy: one (darkest), five, twenty-five (palest).
Marks stand half-way. Below, the reward that staleness takes away, on average over the run and
paired by seed, on R1 and on R2, whose peak is near.

Claim: data must be fresh where the peak is far, and not equally for every objective.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

TITLES = {"BestOfN": "Best-of-N", "REINFORCE": "REINFORCE", "IPO": "IPO"}
PEAKS = {"R1": "far peak", "R2": "near peak"}
PALEST = 0.5

SLIDES = (
    Slide("Where the peak is far, stale data slow best-of-N and REINFORCE down", ((0, 1, 2),)),
    Slide("Where the peak is near, stale data cost best-of-N and REINFORCE less", ((3, 4, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/on_policy.py``: its first world."""
    settings = result.settings
    world, objectives = settings["worlds"][0], settings["objectives"]
    staleness, far = settings["staleness"], settings["problems"].index("R1")
    step, reward, cost = (result.arrays[f"{world}: {name}"] for name in ("step", "reward", "cost"))
    figure, axes = style.canvas(2, len(objectives), height=8.0, sharey="row")
    for column, objective in enumerate(objectives):
        above, below = axes[:, column]
        curves(above, step, reward[column, far], objective, staleness)
        style.panel_title(above, f"{TITLES[objective]}, far peak (R1)", TITLES[objective])
        costs(below, cost[column], objective, settings["problems"], staleness)
        style.panel_title(below, "What stale data cost", TITLES[objective])
    axes[0, 0].set_ylabel("expected reward")
    axes[1, 0].set_ylabel("reward lost, % of the gain")
    style.footnote(
        figure,
        f"B / M = gradient steps per refresh of the sampling policy; {settings['prompts per step']}"
        f" prompts x {settings['responses']} responses per step, each used once. Learning rate "
        f"{settings['learning_rates'][0]:g}.\nMeans and 95% intervals over n = "
        f"{settings['seeds']} seeds; below, of the difference to B / M = 1 with the same seed.",
        "B / M: gradient steps per refresh of the sampler; marks: half-way; 95% intervals, "
        f"n = {settings['seeds']} seeds",
    )
    return figure


def curves(
    ax: Axes, step: np.ndarray, reward: np.ndarray, objective: str, staleness: list[int]
) -> None:
    """Reward against gradient steps of one objective, [staleness, seeds, records]."""
    ends = []
    colours = style.shades(objective, len(staleness), PALEST)
    looks = zip(reward, staleness, colours, style.MARKS[: len(staleness)], strict=True)
    for values, ratio, colour, mark in looks:
        x, y = style.curve(ax, step, values, objective, color=colour)
        ends.append((x, y, f"B/M = {ratio}", colour))
        mean = values.mean(axis=0)
        half = (mean[0] + 1) / 2
        if mean.max() >= half:
            after = max(int((mean >= half).argmax()), 1)
            crossing = np.interp(half, mean[after - 1 : after + 1], step[after - 1 : after + 1])
            ax.plot(crossing, half, mark, color=colour, markersize=9, markeredgecolor="white")
    ax.set(xlim=(0, step[-1]), ylim=(0, 1.03), yticks=[0, 0.5, 1], xlabel="gradient steps")
    style.label_ends(ax, ends, gap=0.09)


def costs(
    ax: Axes, cost: np.ndarray, objective: str, problems: list[str], staleness: list[int]
) -> None:
    """Share of the gain lost against staleness, [problems, staleness, seeds]."""
    x, ends = np.arange(len(staleness)), []
    ax.axhline(0, color=style.REFERENCE, linewidth=1)
    colours = style.shades(objective, len(problems), PALEST)
    looks = zip(problems, colours, ("o", "s"), (-0.04, 0.04), strict=True)
    for values, (problem, colour, marker, aside) in zip(cost, looks, strict=True):
        mean, half = 100 * values.mean(axis=1), 100 * style.half_width(values, axis=1)
        ax.errorbar(
            x + aside,
            mean,
            half,
            color=colour,
            marker=marker,
            markersize=9,
            capsize=5,
            elinewidth=2,
        )
        ends.append((float(x[-1]) + 0.1, float(mean[-1]), f"{problem}\n{PEAKS[problem]}", colour))
    ax.set(xlim=(-0.25, x[-1] + 0.1), xlabel="B / M")
    ax.set_xticks(x, [str(ratio) for ratio in staleness])
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -4), max(high, 20))
    style.label_ends(ax, ends, gap=0.2)
