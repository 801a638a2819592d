"""What stale data cost on text: the same gradient steps, the policy asked less and less often.

Caption: above, gold reward under Min Length, whose peak is far from the reference, when B / M
gradient steps are taken between one time the policy answers and the next: one (darkest), four,
sixteen (palest). Marks stand half-way, or at the end. Below, the gain that staleness takes away, on
average over the run and paired by seed: on Min Length, on Mode Length, whose peak is near, and on
Skew Length, whose data are far.

Claim: as in the bandit, data must be fresh where the peak is far, and not equally for every
objective.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

SHOWN = "min"
LABELS = {"min": "Min", "mode": "Mode", "skew": "Skew"}
MARKERS = ("o", "s", "^")
PALEST = 0.5

SLIDES = (
    Slide("On Min Length stale answers cost PPO most, and REINFORCE hardly", ((0, 1), (2, 3))),
    Slide("What staleness costs depends on the objective and on the task", ((4, 5), (6, 7))),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/on_policy.py``."""
    settings = result.settings
    step, gain, cost = (result.arrays[name] for name in ("step", "gain", "cost"))
    staleness, far = settings["staleness"], settings["tasks"].index(SHOWN)
    columns = list(zip(settings["methods"], settings["objectives"], strict=True))
    figure, axes = style.canvas(2, len(columns), height=8.0, width=15.5)
    for column, (title, objective) in enumerate(columns):
        above, below = axes[:, column]
        curves(above, step, gain[column, far], objective, staleness)
        style.panel_title(above, title)
        costs(below, cost[column], objective, settings["tasks"], staleness)
        style.panel_title(below, "What stale data cost" if column == 0 else "", title)
    axes[0, 0].set_ylabel("gold reward on Min Length,\nshare of the gain")
    axes[1, 0].set_ylabel("reward lost, % of the gain")
    style.footnote(
        figure,
        "0 is the reference, 1 a policy that always does what the task asks. B / M = gradient "
        f"steps per time the policy answers; {settings['prompts per step']} prompts x "
        f"{settings['responses']} answers per step, each used once.\nTrained on the proxy, judged "
        f"by gold. Learning rate {settings['learning_rate']:g}.\nMeans and 95% intervals over "
        f"n = {settings['seeds']} seeds; below, of the difference to B / M = 1 with the same "
        "seed; mind the scales.",
        "B / M: gradient steps per time the policy answers; 95% intervals, "
        f"n = {settings['seeds']} seeds",
    )
    return figure


def curves(
    ax: Axes, step: np.ndarray, gain: np.ndarray, objective: str, staleness: list[int]
) -> None:
    """Gain against gradient steps of one method, [staleness, seeds, records]."""
    ends = []
    colours = style.shades(objective, len(staleness), PALEST)
    looks = zip(gain, staleness, colours, style.MARKS[: len(staleness)], strict=True)
    for values, ratio, colour, mark in looks:
        x, y = style.curve(ax, step, values, objective, color=colour)
        ends.append((x, y, f"B/M = {ratio}", colour))
        mean = values.mean(axis=0)
        at = x, y
        if mean.max() >= 0.5:
            after = max(int((mean >= 0.5).argmax()), 1)
            crossing = np.interp(0.5, mean[after - 1 : after + 1], step[after - 1 : after + 1])
            at = float(crossing), 0.5
        ax.plot(*at, mark, color=colour, markersize=9, markeredgecolor="white")
    ax.set(xlim=(0, step[-1]), ylim=(-0.05, 1.03), yticks=[0, 0.5, 1], xlabel="gradient steps")
    style.label_ends(ax, ends, gap=0.09)


def costs(
    ax: Axes, cost: np.ndarray, objective: str, tasks: list[str], staleness: list[int]
) -> None:
    """Share of the gain lost against staleness, [tasks, staleness, seeds]."""
    x, ends = np.arange(len(staleness)), []
    ax.axhline(0, color=style.REFERENCE, linewidth=1)
    colours = style.shades(objective, len(tasks), PALEST)
    asides = np.linspace(-0.06, 0.06, len(tasks))
    for values, task, colour, marker, aside in zip(
        cost, tasks, colours, MARKERS, asides, strict=True
    ):
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
        ends.append((float(x[-1]) + 0.1, float(mean[-1]), LABELS[task], colour))
    ax.set(xlim=(-0.25, x[-1] + 0.1), xlabel="B / M")
    # Methods may differ by an order of magnitude; a small cost is shown no larger than 20%.
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -10), max(high, 20))
    ax.set_xticks(x, [str(ratio) for ratio in staleness])
    style.label_ends(ax, ends, gap=0.1)
