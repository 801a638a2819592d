"""Which labels are worth asking for?

Caption: expected reward on R1 against labels bought, when DPO learns on the pairs that an
acquisition function chooses (top: exact labels left, Bradley-Terry labels right). Random choice is
black, preference certainty orange, all others grey. Below, the mean reward over the rounds, each
minus random choice paired by seed; an interval that crosses the line is no difference.

Claim: certainty, which helps language models, is no gain over chance on this bandit.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.intervals import difference
from experiments.results import Result
from figures import style

GREY = "#BDC1C6"
COLOUR = style.COLOURS["DPO"]
HIGHLIGHTS = {"random": style.INK, "certainty": COLOUR}
TITLES = {"exact": "Exact labels", "noisy": "Noisy labels"}


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/acquisition.py``."""
    figure, axes = style.canvas(2, 2, height=9.6, sharey="row")
    for column, kind in enumerate(result.settings["kinds"]):
        curves(axes[0, column], result, column)
        style.panel_title(axes[0, column], TITLES[kind])
        gaps(axes[1, column], result, column)
    axes[0, 0].set_ylabel("expected reward")
    style.panel_title(axes[1, 0], "Mean over the rounds, against random choice")
    settings = result.settings
    style.footnote(
        figure,
        f"R1. {settings['labels_per_round']} of {settings['candidates']} candidate pairs labelled "
        f"in each of {settings['rounds']} rounds. Bands and bars: 95% intervals over "
        f"n = {settings['seeds']} seeds.\nNoisy labels: Bradley-Terry at temperature "
        f"{settings['label_temperatures'][1]:g}.",
    )
    return figure


def curves(ax: Axes, result: Result, column: int) -> None:
    """Reward against labels: two functions in the foreground, the rest behind them."""
    labels, names = result.arrays["labels"], result.settings["acquisitions"]
    rewards = dict(zip(names, result.arrays["reward"][:, column], strict=True))
    for name, values in rewards.items():
        if name not in HIGHLIGHTS:
            ax.plot(labels, values.mean(axis=0), color=GREY, linewidth=1.6)
    ends = []
    for name, colour in HIGHLIGHTS.items():
        line = {"color": colour, "linestyle": (0, (5, 2)) if name == "random" else "-"}
        ends.append((*style.curve(ax, labels, rewards[name], "DPO", **line), name, colour))
    ax.set(xlim=(0, labels[-1]), ylim=(0, 1.03), yticks=[0, 0.5, 1], xlabel="labels bought")
    style.label_ends(ax, ends)


def gaps(ax: Axes, result: Result, column: int) -> None:
    """Each function's gap to random choice, with its paired interval."""
    names = result.settings["acquisitions"]
    areas = dict(zip(names, result.arrays["reward"][:, column, :, 1:].mean(-1), strict=True))
    ax.axvline(0, color=style.INK, linewidth=1.6, linestyle=(0, (5, 2)), zorder=0)
    others = [name for name in names if name != "random"]
    for row, name in enumerate(others):
        gap = difference(areas[name], areas["random"])
        colour = HIGHLIGHTS.get(name, "#5F6368")
        ax.errorbar(
            gap.mean, row, xerr=gap.half_width, fmt="o", color=colour, markersize=9, capsize=4
        )
    ax.set(ylim=(len(others) - 0.5, -0.5), xlim=(-0.42, 0.42), xlabel="difference in reward")
    ax.set_yticks(np.arange(len(others)), others)
    ax.set_xticks([-0.4, -0.2, 0, 0.2, 0.4], ["-0.4", "-0.2", "0", "+0.2", "+0.4"])
