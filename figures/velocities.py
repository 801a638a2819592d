"""Why one direction covers and the other seeks: how fast each logit moves, and who parts faster.

Caption: the velocity of every logit at the start of ``figures/relocation.py``. Forward KL moves a
bin by what it lacks, however thin the policy is there; reverse KL in proportion to what it has, so
the far peak hardly stirs. Lines are formulas of ``bandit/theory.py``, dots a step that was taken.
Below, Theorem 6.5 on random policies: of two equally likely bins reverse KL parts them faster
exactly where their probability exceeds the logarithmic mean of their targets. Last, the bars of the
paper's toy figure and the nearest that gradient descent on logits comes to them.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

SLIDES = (
    Slide(
        "Forward KL moves a bin by what it lacks, reverse KL in proportion to what it has", ((0,),)
    ),
    Slide(
        "Reverse KL parts two equal bins faster exactly where p exceeds the logarithmic mean of "
        "their targets",
        ((1,),),
    ),
    Slide("The bars of the paper's toy are not quite those of gradient descent", ((2,),)),
)


def draw(result: Result) -> Figure:
    """Draw the theory and its check, of ``experiments/bandit/velocities.py``."""
    figure, axes = style.canvas(2, 2, height=9.0, height_ratios=(1, 1.15))
    grid = axes[0, 0].get_gridspec()
    for ax in axes[0]:
        ax.remove()
    velocity(figure.add_subplot(grid[0, :]), result)
    theorem(axes[1, 0], result)
    toy(axes[1, 1], result)
    cases, sizes = result.settings["cases"], result.settings["bins"]
    style.footnote(
        figure,
        f"Below left: random policies and targets over {sizes[0]} and {sizes[1]} bins; the "
        f"verdicts use {cases:,} of each size from each of n = {result.settings['seeds']} seeds.",
        "Lines by formula, dots by steps that were taken",
    )
    return figure


def velocity(ax: Axes, result: Result) -> None:
    """Velocity of every logit at the start, by formula and by a step that was taken."""
    predicted, measured = result.arrays["predicted velocity"], result.arrays["measured velocity"]
    bins = np.arange(predicted.shape[1])
    ax.axhline(0, color=style.REFERENCE, linewidth=1)
    looks = ((style.FORWARD, "o"), (style.REVERSE, "s"))
    for (colour, marker), line, dots in zip(looks, predicted, measured, strict=True):
        ax.plot(bins, line, color=colour, linewidth=1.8)
        ax.plot(bins, dots, marker, color=colour, markersize=4)
    near, far = 20, 70
    ax.annotate(
        "forward KL:\nwhat the bin lacks",
        (far, predicted[0, far]),
        xytext=(-34, -20),
        textcoords="offset points",
        ha="right",
        va="center",
        color=style.FORWARD,
        fontweight="bold",
    )
    ax.annotate(
        "reverse KL: in proportion to what it has",
        (near + 2, predicted[1, near]),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        color=style.REVERSE,
        fontweight="bold",
    )
    ax.set(xlim=(-1, 100), xlabel="bin", ylabel="nats per step")
    style.panel_title(
        ax, "How fast each logit moves: lines by formula, dots by a step taken", "Velocity"
    )


def theorem(ax: Axes, result: Result) -> None:
    """Reverse against forward speed of random cases, over what the theorem's condition compares."""
    predicted, measured = result.arrays["predicted ratio"], result.arrays["measured ratio"]
    low, high = 0.01, 100.0
    ax.fill_between([1, high], 1, high, color=style.REVERSE, alpha=0.13, linewidth=0)
    ax.fill_between([low, 1], low, 1, color=style.FORWARD, alpha=0.13, linewidth=0)
    ax.plot(predicted, measured, "o", color=style.INK, markersize=3.5, alpha=0.5, linewidth=0)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ticks, labels = [0.1, 1, 10], ["0.1", "1", "10"]
    ax.set(xticks=ticks, yticks=ticks, xticklabels=labels, yticklabels=labels)
    ax.minorticks_off()
    ax.set(xlabel="p / logarithmic mean of q₁, q₂", ylabel="reverse / forward speed")
    ax.text(1.2, 70, "reverse parts faster", color=style.REVERSE, va="top", fontweight="bold")
    ax.text(0.85, 0.013, "forward parts faster", color=style.FORWARD, ha="right", fontweight="bold")
    style.panel_title(ax, "Theorem 6.5: two equal bins", "Theorem 6.5")


def toy(ax: Axes, result: Result) -> None:
    """The paper's toy bars beside the nearest that were reached."""
    bars = result.settings["toy"]
    groups = (
        ("start", bars["start"], style.REFERENCE, ""),
        ("target", bars["target"], style.REWARD, ""),
        ("forward,\npaper", bars["forward"], style.FORWARD, "//"),
        ("forward,\nreached", result.arrays["toy forward"], style.FORWARD, ""),
        ("reverse,\npaper", bars["reverse"], style.REVERSE, "//"),
        ("reverse,\nreached", result.arrays["toy reverse"], style.REVERSE, ""),
    )
    for place, (_, values, colour, hatch) in enumerate(groups):
        x = place + 0.19 * (np.arange(len(values)) - 1.5)
        face = "white" if hatch else colour
        ax.bar(x, values, width=0.17, facecolor=face, edgecolor=colour, hatch=hatch)
    ax.set(xticks=range(len(groups)), ylabel="probability", ylim=(0, 0.65))
    ax.set_xticklabels([name for name, *_ in groups], fontsize=12)
    for centre, colour, name in (
        (2.5, style.FORWARD, "forward KL"),
        (4.5, style.REVERSE, "reverse KL"),
    ):
        ax.text(centre, 0.42, name, ha="center", color=colour, fontweight="bold")
    style.panel_title(ax, "The paper's toy, and what we reach", "The paper's toy")
