"""One start, one target, two rules: forward KL covers every mode, reverse KL seeks one.

Caption: a policy over 100 bins (grey) is moved towards a target with two equal peaks (outline) by
exact gradient descent on its logits. Forward KL, which imitation descends, feeds both peaks alike.
Reverse KL, which on-policy RL descends, puts nearly everything on the peak where the policy already
was, and finds the other one much later. With one logit per bin both arrive; a policy that can only
be one bump (the best fit of several starts) never does, and shows what each would rather give up.
Numbers are the mass within 10 bins of a peak. The animation adds how fast every bin moves: the line
is the formula of ``bandit/theory.py``, the dots are the step that was really taken.
"""

from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Page, Slide

ROWS = (
    ("Forward KL, as in imitation, covers every mode", style.FORWARD),
    ("Reverse KL, as in on-policy RL, seeks one mode first", style.REVERSE),
)
TOP = 0.225
START = "#7C8187"
BARE = (("headings", False), ("arrows", False))
MOTION = "Forward KL feeds both peaks at once; reverse KL feeds the one where it already is"
PAGE = Page(view=(("headings", False),))

SLIDES = (
    Slide("A start that is thick at one peak and thin at the other", ((0,),), view=BARE),
    Slide("Forward KL, which imitation descends, feeds both peaks alike", ((1, 2, 3),), view=BARE),
    Slide(
        "Reverse KL, which on-policy RL descends, takes the near peak, and the other much later",
        ((5, 6, 7),),
        view=BARE,
    ),
    Slide(
        "Forward KL covers every mode; reverse KL seeks one first",
        ((1, 2, 3), (5, 6, 7)),
        view=BARE,
    ),
    Slide(
        "A policy that can only be one bump shows what each would rather give up",
        ((4, 8),),
        names=("Forward KL", "Reverse KL"),
        view=BARE,
    ),
)


def draw(result: Result, headings: bool = True, arrows: bool = True) -> Figure:
    """Draw the stills of ``experiments/bandit/relocation.py``.

    Args:
        result: of that experiment.
        headings: whether the idea of each row stands above it.
        arrows: whether the start points to the rows.
    """
    figure, axes = style.canvas(2, 5, height=5.8, width_ratios=(1.2, 1, 1, 1, 1))
    grid = axes[0, 0].get_gridspec()
    for ax in axes[:, 0]:
        ax.remove()
    start = figure.add_subplot(grid[:, 0].subgridspec(3, 1, height_ratios=(1, 1.9, 1))[1])
    panel(start, result, result.arrays["start"], START, "")
    start.set_ylim(0, 0.125)
    start.text(45, 0.105, "start and target", ha="center", fontsize=14)
    for (idea, colour), row, stills, bump in zip(
        ROWS, axes, result.arrays["stills"], result.arrays["bumps"], strict=True
    ):
        for ax, step, p in zip(row[1:], result.settings["stills"], stills, strict=False):
            panel(ax, result, p, colour, f"{step:,} steps")
        panel(row[4], result, bump, colour, "if only one bump")
        # A title as wide as the row would count as a part of its first panel; this one does not.
        name = row[1].set_title(" ", fontsize=20, **({} if headings else {"color": colour}))
        name.set_label(idea.split(",")[0])
        if headings:
            heading = {"transform": row[1].transAxes, "fontsize": 19, "fontweight": "bold"}
            row[1].text(0, 1.05, idea, color=colour, **heading).set_in_layout(False)
    for row, (_, colour), side in zip(axes, ROWS, (1, -1) if arrows else (), strict=False):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 3, "mutation_scale": 22}
        arrow |= {"connectionstyle": f"arc3,rad={-0.3 * side}"}
        start.annotate(
            "",
            xy=(-0.06, 0.5),
            xycoords=row[1].transAxes,
            xytext=(0.45, 1.04 if side > 0 else -0.22),
            textcoords=start.transAxes,
            arrowprops=arrow,
        ).set_in_layout(False)
    style.footnote(
        figure,
        f"Policy (bars) and target (outline) over {result.arrays['target'].size} bins; exact "
        f"gradient descent on the logits, learning rate {result.settings['learning_rate']:g}. "
        f"Per cent: mass within {result.settings['region']} bins of a peak.",
        "Bars: policy; outline: target; exact. Per cent: mass within "
        f"{result.settings['region']} bins of a peak",
    )
    return figure


def panel(ax: Axes, result: Result, p: np.ndarray, colour: str, words: str) -> None:
    """One policy over the outline of the target, with its mass at each peak."""
    target = result.arrays["target"]
    bins = np.arange(target.size)
    ax.fill_between(bins, target, color=style.REWARD, alpha=0.35, linewidth=0)
    ax.bar(bins, p, width=1.0, color=colour)
    ax.plot(bins, target, color=style.OPTIMUM, linewidth=1.3)
    ax.set(xlim=(-2, 101), ylim=(0, TOP), yticks=[], xticks=result.settings["peaks"])
    ax.set_xticklabels([f"bin {peak}" for peak in result.settings["peaks"]])
    ax.spines["left"].set_visible(False)
    ax.text(0.5, 1.0, words, transform=ax.transAxes, ha="center", va="top", fontsize=14)
    for peak in result.settings["peaks"]:
        region = np.abs(bins - peak) <= result.settings["region"]
        tallest = np.maximum(p, target)[np.abs(bins - peak) <= 5].max()
        mass = f"{p[region].sum():.0%}"
        if colour != START:
            ax.text(
                peak,
                min(tallest + 0.006, 0.85 * TOP),
                mass,
                ha="center",
                fontsize=14,
                color=colour,
                fontweight="bold",
            )


def animate(result: Result) -> FuncAnimation:
    """Draw the same runs as they happen, and under each how fast every bin moves."""
    figure, axes = style.canvas(2, 2, height=6.6, height_ratios=(1.6, 1))
    arrays, steps = result.arrays, result.arrays["frame_steps"]
    bins = np.arange(arrays["target"].size)
    fastest = np.abs(arrays["predicted"]).max(axis=-1, keepdims=True)
    predicted, measured = arrays["predicted"] / fastest, arrays["measured"] / fastest
    drawn = []
    names = (("Forward", style.FORWARD), ("Reverse", style.REVERSE))
    for column, (name, colour) in enumerate(names):
        above, below = axes[:, column]
        above.fill_between(bins, arrays["target"], color=style.REWARD, alpha=0.35, linewidth=0)
        edges = np.arange(bins.size + 1) - 0.5
        policy = above.stairs(arrays["frames"][column, 0], edges, fill=True, color=colour)
        above.plot(bins, arrays["target"], color=style.OPTIMUM, linewidth=1.3)
        above.set(xlim=(-2, 101), ylim=(0, TOP), yticks=[0, 0.1, 0.2], ylabel="probability")
        above.set(xticks=result.settings["peaks"], xticklabels=[])
        heading = above.set_title(f"{name} KL", loc="left", color=colour, fontsize=19)
        heading.set_label(f"{name} KL")
        clock = above.text(0.97, 0.97, "", transform=above.transAxes, ha="right", va="top")
        (line,) = below.plot(bins, predicted[column, 0], color=style.INK, linewidth=1.4)
        (dots,) = below.plot(bins, measured[column, 0], "o", color=colour, markersize=4, alpha=0.7)
        below.set(xlim=(-2, 101), ylim=(-1.6, 1.1), yticks=[0], yticklabels=["0"])
        below.set(xticks=result.settings["peaks"], xlabel="bin", ylabel="velocity")
        speed = below.text(49, -1.5, "", ha="center", va="bottom", fontsize=14)
        drawn.append((policy, clock, line, dots, speed))
    key = axes[1, 0].set_title("line: theory, dots: measured", loc="left", fontsize=14)
    key.set_label("line: theory, dots: measured")

    def show(frame: int) -> list[Any]:
        for column, (policy, clock, line, dots, speed) in enumerate(drawn):
            policy.set_data(arrays["frames"][column, frame])
            clock.set_text(f"step {steps[frame]:,}")
            line.set_ydata(predicted[column, frame])
            dots.set_ydata(measured[column, frame])
            speed.set_text(f"fastest bin: {fastest[column, frame, 0]:.1e} per step")
        return []

    # The last frame stays for a while before the loop starts over.
    order = [*range(len(steps)), *[len(steps) - 1] * 5]
    return FuncAnimation(figure, show, frames=order, blit=False)
