"""Ours against numbers that were measured independently from the same equations.

Caption: expected reward of the same setting in another program (across) and here (up), with two
standard errors of each where they are known. On the diagonal both agree. Filled dots are within two
standard errors; rings are outside, and red diamonds are what sampling does not explain.

Claim: the bandit computes what the paper's equations say.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import COLUMN, Page, Slide

MET, MISSED, ODD = "#3C4043", "#5F6368", style.OUTCOMES["did not hold"]
WORLDS = {"1 token": "One token", "10 tokens": "Ten tokens"}

SLIDES = (Slide("Most independently measured numbers of the paper's equations agree with ours"),)

PAGE = Page(COLUMN, 6.2, ((0,), (1,)))


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/calibration.py``."""
    figure, axes = style.canvas(1, 2, height=7.2)
    for ax, (world, title) in zip(axes[0], WORLDS.items(), strict=True):
        rows = np.array([group.startswith(world + ",") for group in result.settings["groups"]])
        panel(ax, result, rows)
        met = int(np.sum(result.arrays["met"][rows]))
        style.panel_title(ax, f"{title}: {met} of {int(rows.sum())} agree")
    settings = result.settings
    style.footnote(
        figure,
        f"Bars: two standard errors. Seeds: ours {settings['seeds']} (one token) and "
        f"{settings['token_seeds']} (ten tokens), theirs 2 to 5.\n"
        "Filled: within two of their standard errors, or of ours where theirs is unknown. "
        "Diamonds: more than the sampling of both explains.",
        "Bars: two standard errors. Filled: within two; diamonds: more than sampling explains",
    )
    return figure


def panel(ax: Axes, result: Result, rows: np.ndarray) -> None:
    """One world's numbers around the diagonal."""
    ax.plot([0, 1], [0, 1], color=style.REFERENCE, linewidth=1.6, zorder=0)
    arrays = {name: values[rows] for name, values in result.arrays.items()}
    met, explained = arrays["met"].astype(bool), arrays["explained"].astype(bool)
    for where, colour, face, mark in (
        (met & explained, MET, MET, "o"),
        (~met & explained, MISSED, "white", "o"),
        (~explained, ODD, "white", "D"),
    ):
        ax.errorbar(
            arrays["theirs"][where],
            arrays["ours"][where],
            xerr=2 * np.nan_to_num(arrays["their_error"][where]),
            yerr=2 * arrays["our_error"][where],
            fmt=mark,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=2,
            markersize=8,
            elinewidth=1.2,
        )
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.set(xlabel="reward in the other program", ylabel="reward here", aspect="equal")
