"""What k1, k2 and k3 do as penalties: nothing, seek a mode, cover all of them.

Caption: above, a policy that starts beside one peak (dashed) of a reference with two (grey) and
follows each penalty with no reward. k1 leaves it where it is, k2 takes it to the near peak, k3 to
both. Below, why: minus the expected gradient of each penalty at the start (dots) lies on zero, on
that of the reverse KL and on that of the forward KL (lines).
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

PANELS = (
    ("k1 pulls nowhere", "zero", "#6B4E9B"),
    ("k2 seeks a mode", "reverse KL", style.REVERSE),
    ("k3 covers them all", "forward KL", style.FORWARD),
)

SLIDES = (
    Slide("As a penalty k1 pulls nowhere, k2 seeks a mode, k3 covers them all", ((0, 1, 2),)),
    Slide(
        "In expectation k1's gradient is zero, k2's that of the reverse KL, k3's of the forward KL",
        ((3, 4, 5),),
    ),
)


def draw(result: Result) -> Figure:
    """Draw the penalties of ``experiments/bandit/kl_estimators.py``."""
    figure, axes = style.canvas(2, 3, height=7.2, height_ratios=(1.35, 1), sharey="row")
    arrays, settings = result.arrays, result.settings
    top = 1.18 * max(arrays["ends"].max(), arrays["start"].max())
    steepest = 1.2 * np.abs(arrays["wanted"]).max()
    for column, (title, kl, colour) in enumerate(PANELS):
        moved(axes[0, column], result, column, colour, top)
        style.panel_title(axes[0, column], title)
        pull(axes[1, column], result, column, colour, steepest)
        style.panel_title(axes[1, column], "", f"{title.split()[0]}, pull")
        axes[1, column].text(99, -0.93 * steepest, f"line: {kl}", ha="right", fontsize=13)
    axes[0, 0].set(ylabel="probability", yticks=[0, 0.04, 0.08])
    axes[1, 0].set(ylabel="pull on the logit")
    style.footnote(
        figure,
        f"Bars: after {settings['steps']} exact steps at learning rate "
        f"{settings['learning_rate']:g}. Black dots: the same with {settings['samples']} samples "
        f"per step, mean of n = {settings['seeds']} seeds.",
        f"Exact; black dots: {settings['samples']} samples per step, n = {settings['seeds']} seeds",
    )
    return figure


def moved(ax: Axes, result: Result, column: int, colour: str, top: float) -> None:
    """Where a penalty has taken the policy."""
    arrays, bins = result.arrays, np.arange(result.arrays["reference"].size)
    ax.fill_between(bins, arrays["reference"], color=style.REFERENCE, alpha=0.45, linewidth=0)
    ax.bar(bins, arrays["ends"][column], width=1.0, color=colour, alpha=0.85)
    ax.plot(bins, arrays["start"], color=style.INK, linewidth=1.5, linestyle=(0, (3, 2)))
    ax.plot(bins[::3], arrays["sampled ends"][column][::3], ".", color=style.INK, markersize=5)
    ax.set(xlim=(-1, 100), ylim=(0, top), xticks=result.settings["peaks"])
    ax.tick_params(labelbottom=False)
    if column == 0:
        ax.text(73, 0.041, "reference", ha="center", color="#5F6368", fontweight="bold")
        ax.text(46, 0.047, "start", fontweight="bold")


def pull(ax: Axes, result: Result, column: int, colour: str, steepest: float) -> None:
    """Minus the expected gradient of the penalty, over the exact one it should be."""
    bins = np.arange(result.arrays["reference"].size)
    ax.axhline(0, color=style.REFERENCE, linewidth=1)
    ax.plot(bins, -result.arrays["wanted"][column], color=style.INK, linewidth=1.6)
    ax.plot(bins[::2], -result.arrays["gradients"][column][::2], "o", color=colour, markersize=4.5)
    ax.set(xlim=(-1, 100), ylim=(-steepest, steepest), xlabel="bin", yticks=[0])
    ax.set(xticks=result.settings["peaks"])
