"""On-policy data and a negative gradient, in one grid.

Caption: expected reward on R1, whose peak is far from the reference. Columns: learning from a fixed
data set, and from the policy's own samples. Rows: objectives that only pull good responses up, and
those that push bad ones down as well (policy gradients need the policy's own samples). Right: the
mean reward over the run on both problems, hollow offline and filled on-policy. Every method has its
best learning rate, DPO and IPO their better choice of pairs.

Claim: where the peak is far, on-policy data lift every method off the level its data set holds it
at; offline the push beats best-of-N, and on-policy it is not what decides.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

PULLS = ("best-of-N", "RWR")
PUSHES = ("DPO", "IPO", "REINFORCE", "PPO", "GRPO")
TITLES = {
    (0, 0): "Offline, pulling only",
    (0, 1): "On-policy, pulling only",
    (1, 0): "Offline, pushing too",
    (1, 1): "On-policy, pushing too",
}
NAMES = {"dataset": "offline", "policy": "on-policy"}
SOURCES = tuple(NAMES)
ABOVE: dict[str, Any] = {
    "textcoords": "offset points",
    "fontsize": 12,
    "color": style.INK,
}

SLIDES = (
    Slide(
        "Where the peak is far, on-policy data lift every method off the level its data hold it at",
        ((0, 1), (3, 4)),
    ),
    Slide("On-policy data matter where the peak is far, and little where it is near", ((2, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/complementarity.py``."""
    settings = result.settings
    figure, axes = style.canvas(2, 3, height=8.0, width_ratios=(1, 1, 1.15))
    for row, methods in enumerate((PULLS, PUSHES)):
        for column, source in enumerate(SOURCES):
            ax = axes[row, column]
            curves(ax, result, source, methods)
            style.panel_title(ax, TITLES[row, column])
            ax.set_ylabel("expected reward on R1" if column == 0 else "")
            ax.set_xlabel("gradient steps" if row == 1 else "")
    summary(axes[0, 2], result, "R1", "Far peak (R1)")
    summary(axes[1, 2], result, "R2", "Near peak (R2)")
    style.footnote(
        figure,
        f"{settings['contexts']} contexts x {settings['responses']} responses; on-policy they are "
        "drawn anew at every step (PPO: every second). Each method at the best of learning rates "
        f"{', '.join(f'{rate:g}' for rate in settings['learning_rates'])}.\nBands and bars: 95% "
        f"intervals over n = {settings['seeds']} seeds. DPO and IPO: the better of all pairs and "
        f"of those that differ by {settings['threshold']:g} in reward.",
        f"Each method at its best learning rate; 95% intervals over n = {settings['seeds']} seeds",
    )
    return figure


def best(result: Result, method: str, source: str, problem: str) -> tuple[str, np.ndarray] | None:
    """Class of the objective and curves [seeds, records] of the run with the best mean reward."""
    variants = (method, f"{method}, threshold")
    found = [
        (one["objective"], curves)
        for one, curves in zip(result.settings["runs"], result.arrays["reward"], strict=True)
        if one["method"] in variants
        and (one["source"], one["problem"]) == (source, problem)
        and one["beta"] == result.settings["standard"][one["method"]]
    ]
    return max(found, key=lambda pair: pair[1].mean()) if found else None


def curves(ax: Axes, result: Result, source: str, methods: tuple[str, ...]) -> None:
    """Reward against gradient steps on R1."""
    step, ends = result.arrays["step"], []
    for method in methods:
        found = best(result, method, source, "R1")
        if found is not None:
            objective, values = found
            x, y = style.curve(ax, step, values, objective, **look(method))
            ends.append((x, y, method, style.COLOURS[objective]))
    ax.set(xlim=(0, step[-1]), ylim=(0, 1.03), yticks=[0, 0.5, 1])
    style.label_ends(ax, ends, gap=0.085)


def look(method: str) -> dict[str, object]:
    """GRPO is PPO's class, drawn thinner."""
    return {"linewidth": 1.6} if method == "GRPO" else {}


def summary(ax: Axes, result: Result, problem: str, title: str) -> None:
    """Mean reward over the run of every method, offline and on-policy."""
    methods = (*PULLS, *PUSHES)
    for row, method in enumerate(methods):
        points = []
        for source in SOURCES:
            found = best(result, method, source, problem)
            if found is None:
                continue
            objective, values = found
            score = values.mean(axis=-1)
            points.append(float(score.mean()))
            if row == 0 and problem == "R1":
                side = "right" if source == "dataset" else "left"
                ax.annotate(NAMES[source], (points[-1], row), (0, 12), ha=side, **ABOVE)
            ax.errorbar(
                points[-1],
                row,
                xerr=style.half_width(score),
                marker="o",
                markersize=10,
                markeredgewidth=2.2,
                capsize=4,
                color=style.COLOURS[objective],
                markerfacecolor="white" if source == "dataset" else style.COLOURS[objective],
                zorder=3,
            )
        ax.plot(points, [row] * len(points), color=style.REFERENCE, linewidth=1.5, zorder=1)
    ax.set_yticks(range(len(methods)), methods)
    ax.set(xlim=(0, 1.02), xticks=[0, 0.5, 1], ylim=(len(methods) - 0.5, -0.8))
    ax.set_xlabel("mean reward over the run")
    style.panel_title(ax, title)
