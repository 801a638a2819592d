"""On-policy data and a negative gradient on text, in one grid.

Caption: gold reward under Min Length, whose peak is far from the reference. Columns: learning from
a fixed data set, and from the policy's own answers. Rows: objectives that only pull good answers
up, and those that push others down as well (policy gradients need the policy's own answers). Right:
the mean gain over the run on all three tasks, hollow offline and filled on-policy.

Claim: as in the bandit, the two axes are separate, and each helps where the peak or the data are
far.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style

SHOWN = "min"
PULLS = ("best-of-N", "RWR")
PUSHES = ("DPO", "IPO", "REINFORCE", "PPO")
TITLES = {
    (0, 0): "Offline, pulling only",
    (0, 1): "On-policy, pulling only",
    (1, 0): "Offline, pushing too",
    (1, 1): "On-policy, pushing too",
}
TASKS = {"min": "Far peak (Min)", "mode": "Near peak (Mode)", "skew": "Far data (Skew)"}
NAMES = {"dataset": "offline", "policy": "on-policy"}
SOURCES = tuple(NAMES)
CENTRED: dict[str, Any] = {
    "textcoords": "offset points",
    "ha": "center",
    "fontsize": 11,
    "color": style.INK,
}


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/complementarity.py``."""
    settings = result.settings
    figure, axes = style.canvas(6, 3, height=9.2, width=13.5, width_ratios=(1, 1, 1.15))
    grid = axes[0, 0].get_gridspec()
    for ax in axes.ravel():
        ax.remove()
    for row, methods in enumerate((PULLS, PUSHES)):
        for column, source in enumerate(SOURCES):
            ax = figure.add_subplot(grid[3 * row : 3 * row + 3, column])
            curves(ax, result, source, methods)
            style.panel_title(ax, TITLES[row, column])
            ax.set_ylabel("gold reward, share of the gain" if column == 0 else "")
            ax.set_xlabel("gradient steps" if row == 1 else "")
    for row, task in enumerate(settings["tasks"]):
        summary(figure.add_subplot(grid[2 * row : 2 * row + 2, 2]), result, task)
    style.footnote(
        figure,
        f"Offline: {settings['prompts']} prompts x {settings['responses']} answers, ordered by "
        f"gold. On-policy: {settings['batch']} prompts x {settings['responses']} answers drawn "
        "anew at every step, rewarded by a proxy trained on the same data.\nAll judged by gold: 0 "
        "is the reference, 1 a policy that always does what the task asks. Left: Min Length. Bands "
        f"and bars: 95% intervals over n = {settings['seeds']} seeds.",
    )
    return figure


def found(result: Result, method: str, source: str, task: str) -> tuple[str, np.ndarray] | None:
    """Class of the objective and curves [seeds, records] of a method; None where there is none."""
    settings = result.settings
    row = settings["tasks"].index(task)
    cells = zip(settings["methods"], settings["sources"], settings["objectives"], strict=True)
    for column, (name, where, objective) in enumerate(cells):
        if (name, where) == (method, source):
            return objective, result.arrays["gain"][row, column]
    return None


def curves(ax: Axes, result: Result, source: str, methods: tuple[str, ...]) -> None:
    """Gain against gradient steps under Min Length."""
    step, ends = result.arrays["step"], []
    for method in methods:
        cell = found(result, method, source, SHOWN)
        if cell is not None:
            objective, values = cell
            x, y = style.curve(ax, step, values, objective)
            ends.append((x, y, method, style.COLOURS[objective]))
    ax.set(xlim=(0, step[-1]), ylim=(-0.05, 1.03), yticks=[0, 0.5, 1])
    style.label_ends(ax, ends, gap=0.085)


def summary(ax: Axes, result: Result, task: str) -> None:
    """Mean gain over the run of every method on a task, offline and on-policy."""
    methods = (*PULLS, *PUSHES)
    lowest = 0.0
    for row, method in enumerate(methods):
        points = []
        for source in SOURCES:
            cell = found(result, method, source, task)
            if cell is None:
                continue
            objective, values = cell
            score = values.mean(axis=-1)
            points.append(float(score.mean()))
            lowest = min(lowest, points[-1])
            if row == 0 and task == SHOWN:
                ax.annotate(NAMES[source], (points[-1], row), (0, 9), **CENTRED)
            ax.errorbar(
                points[-1],
                row,
                xerr=style.half_width(score),
                marker="o",
                markersize=8,
                markeredgewidth=2,
                capsize=3,
                color=style.COLOURS[objective],
                markerfacecolor="white" if source == "dataset" else style.COLOURS[objective],
                zorder=3,
            )
        ax.plot(points, [row] * len(points), color=style.REFERENCE, linewidth=1.5, zorder=1)
    last = task == result.settings["tasks"][-1]
    ax.axvline(0, color=style.REFERENCE, linewidth=1, zorder=0)
    ax.set_yticks(range(len(methods)), methods, fontsize=11)
    ax.set(xlim=(min(lowest - 0.05, -0.05), 1.02), xticks=[0, 0.5, 1])
    ax.set_ylim(len(methods) - 0.5, -0.9)
    ax.set_xlabel("mean gain over the run" if last else "")
    style.panel_title(ax, TASKS[task])
