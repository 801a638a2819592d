"""On-policy data and a negative gradient on text, in one grid.

Caption: gold reward under Min Length, whose peak is far from the reference. Columns: learning from
a fixed data set, and from the policy's own answers. Rows: objectives that only pull good answers
up, and those that push others down as well (policy gradients need the policy's own answers). Right:
the mean gain over the run on all three tasks, hollow offline and filled on-policy. Every method is
shown at its own learning rate.

Claim: as in the bandit, the two axes are separate, and each helps where the peak or the data are
far.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

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
ABOVE: dict[str, Any] = {
    "textcoords": "offset points",
    "fontsize": 11,
    "color": style.INK,
}

SLIDES = (
    Slide(
        "On Min Length on-policy data lift best-of-N and IPO; DPO is as good offline",
        ((0, 1), (4, 5)),
    ),
    Slide(
        "On-policy data help most where the peak or the data are far",
        ((2, 3, 6),),
        names=("Far peak", "Near peak", "Far data"),
    ),
)


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
        "is the reference, 1 a policy that always does what the task asks. Each method at its own "
        f"of {len(settings['learning_rates'])} learning rates.\nLeft: Min Length. Bands and bars: "
        f"95% intervals over n = {settings['seeds']} seeds.",
        f"Each method at its own learning rate; 95% intervals over n = {settings['seeds']} seeds",
    )
    return figure


def column_of(result: Result, method: str, source: str) -> int | None:
    """Where a method stands in the arrays; None where there is none."""
    cells = list(zip(result.settings["methods"], result.settings["sources"], strict=True))
    return cells.index((method, source)) if (method, source) in cells else None


def curves(ax: Axes, result: Result, source: str, methods: tuple[str, ...]) -> None:
    """Gain against gradient steps under Min Length."""
    step, ends = result.arrays["step"], []
    row = result.settings["tasks"].index(SHOWN)
    for method in methods:
        column = column_of(result, method, source)
        if column is not None:
            objective = result.settings["objectives"][column]
            values = result.arrays["gain"][row, column, result.arrays["best"][row, column]]
            x, y = style.curve(ax, step, values, objective)
            ends.append((x, y, method, style.COLOURS[objective]))
    ax.set(xlim=(0, step[-1]), ylim=(-0.05, 1.03), yticks=[0, 0.5, 1])
    style.label_ends(ax, ends, gap=0.085)


def summary(ax: Axes, result: Result, task: str) -> None:
    """Mean gain over the run of every method on a task, tuned, offline and on-policy."""
    methods = (*PULLS, *PUSHES)
    lowest = 0.0
    for row, method in enumerate(methods):
        points = []
        for source in SOURCES:
            column = column_of(result, method, source)
            if column is None:
                continue
            objective = result.settings["objectives"][column]
            score = result.arrays["tuned"][result.settings["tasks"].index(task), column]
            points.append(float(score.mean()))
            lowest = min(lowest, points[-1])
            if row == 0 and task == SHOWN:
                side = "right" if source == "dataset" else "left"
                ax.annotate(NAMES[source], (points[-1], row), (0, 9), ha=side, **ABOVE)
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
