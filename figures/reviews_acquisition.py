"""Which labels are worth asking for, on IMDB: ours beside the authors'.

Caption: win rate against the reference when DPO has learned from the pairs that an acquisition
function chose, ours (left) and the authors' with GPT-2 large and GPT-4 (right). Below, what
choosing gains over random choice: ours with 95% intervals paired by seed, theirs hollow; and the
mean gain of every function after the first round, the ablations included. An interval that crosses
the line is no difference.

Claim: whether asking about the surest pairs pays.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.intervals import difference
from experiments.results import Result
from figures import acquisitions, style
from figures.forms import Slide

CHOOSING = ("entropy", "certainty", "hybrid")
NUDGE = 0.16
"""Rounds by which error bars of one round stand apart."""

SLIDES = (
    Slide("Certainty gains nothing over random choice here; for the authors it did", ((0, 1),)),
    Slide("Round by round most gains are smaller than their intervals", ((2,),)),
    Slide("No choice of pairs is surely better than random choice", ((3,),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/reviews/acquisition.py``."""
    settings, arrays = result.settings, result.arrays
    rates = dict(zip(settings["functions"], arrays["win_rate"], strict=True))
    figure, axes = style.canvas(2, 2, height=10.4, width=13.5)
    curves(axes[0, 0], arrays["labels"], {name: rates[name] for name in acquisitions.COLOURS})
    style.panel_title(axes[0, 0], "Win rate against labels", "Ours")
    authors(axes[0, 1], result)
    style.panel_title(axes[0, 1], "The authors: GPT-2 large, GPT-4", "The authors")
    low = min(ax.get_ylim()[0] for ax in axes[0])
    for ax in axes[0]:
        ax.set(ylim=(low, 1.0), xlabel="labels")
    mean = {name: float(rates[name][:, -1].mean()) for name in acquisitions.COLOURS}
    name_ends(axes[0, 0], arrays["labels"], mean)
    theirs = zip(settings["authors_functions"], arrays["authors_mean"], strict=True)
    name_ends(axes[0, 1], arrays["authors_labels"], {name: each[-1] for name, each in theirs})
    gains(axes[1, 0], result, rates)
    style.panel_title(axes[1, 0], "Gain over random choice (hollow: the authors)", "Gain by round")
    every(axes[1, 1], rates)
    style.panel_title(axes[1, 1], "Mean gain after the first round", "Mean gain")
    axes[0, 0].set_ylabel("win rate against the reference")
    model, judge = settings["model"], settings["judge"]
    style.footnote(
        figure,
        f"Ours: {model['parameters'] / 1e6:.1f}M parameters that have read IMDB; labels and "
        f"contests by a linear classifier ({judge['accuracy'][0]:.1%} right on test reviews); "
        f"{settings['rounds']} rounds of {settings['labels_per_round']} labels,\n"
        f"{settings['epochs']:g} epochs from the reference each; {settings['pairs']} pairs for "
        f"each that certainty picks, {settings['prompts']} prompts for each that entropy keeps. "
        f"Bands and bars: 95% intervals over n = {settings['seeds']} seeds,\ndifferences paired "
        "by seed. The authors': 128 labels a round, 50 epochs; 9 seeds (entropy 6), "
        "± 1.96 standard errors. Hybrid: entropy, then certainty.",
        f"95% intervals, n = {settings['seeds']} seeds; hollow: the authors; hybrid: entropy, "
        "then certainty",
    )
    return figure


def curves(ax: Axes, labels: np.ndarray, rates: dict[str, np.ndarray]) -> None:
    """Win rates of ours."""
    for name, values in rates.items():
        style.curve(ax, labels, values, "DPO", **acquisitions.look(name))
    ax.set_xticks(labels)


def name_ends(ax: Axes, x: np.ndarray, last: dict[str, float]) -> None:
    """The functions' names at the ends of their curves; the axes' limits must be final."""
    ends = [(float(x[-1]), y, name, acquisitions.COLOURS[name]) for name, y in last.items()]
    style.label_ends(ax, ends)


def authors(ax: Axes, result: Result) -> None:
    """Win rates of theirs."""
    arrays, settings = result.arrays, result.settings
    for name, mean, error in zip(
        settings["authors_functions"], arrays["authors_mean"], arrays["authors_error"], strict=True
    ):
        look = acquisitions.look(name)
        ax.errorbar(
            arrays["authors_labels"], mean, yerr=1.96 * error, marker="o", capsize=3, **look
        )
    ax.set_xticks(arrays["authors_labels"])


def gains(ax: Axes, result: Result, rates: dict[str, np.ndarray]) -> None:
    """What choosing gains over random choice after each round, ours and theirs."""
    arrays = result.arrays
    theirs = dict(zip(result.settings["authors_functions"], arrays["authors_mean"], strict=True))
    rounds, many, ends = np.arange(1, len(arrays["labels"]) + 1), len(CHOOSING), []
    ax.axhline(0, color=style.INK, linewidth=1.4, linestyle=(0, (5, 2)), zorder=0)
    for place, name in enumerate(CHOOSING):
        colour, aside = acquisitions.COLOURS[name], NUDGE * (place - (many - 1) / 2)
        gaps = [difference(rates[name][:, at], rates["random"][:, at]) for at in rounds - 1]
        ax.errorbar(
            rounds + aside,
            [gap.mean for gap in gaps],
            yerr=[gap.half_width for gap in gaps],
            fmt=acquisitions.MARKS[name],
            color=colour,
            capsize=4,
        )
        hollow(ax, arrays["authors_rounds"] + aside, theirs[name] - theirs["random"], name)
        ends.append((float(rounds[-1]) + 0.3, float(gaps[-1].mean), name, colour))
    ax.set(xlabel="round", ylabel="difference in win rate", xticks=rounds)
    ax.set_ylim(*ax.get_ylim())
    style.label_ends(ax, ends)


def hollow(ax: Axes, x: np.ndarray, y: np.ndarray, name: str) -> None:
    """What was measured by somebody else."""
    look: dict[str, Any] = {"color": acquisitions.COLOURS[name], "markerfacecolor": "white"}
    ax.plot(x, y, acquisitions.MARKS[name], markersize=9, markeredgewidth=2, zorder=5, **look)


def every(ax: Axes, rates: dict[str, np.ndarray]) -> None:
    """The mean gain of each function, with its paired interval."""
    others = [name for name in rates if name != "random"]
    base = rates["random"][:, 1:].mean(axis=1)
    ax.axvline(0, color=style.INK, linewidth=1.4, linestyle=(0, (5, 2)), zorder=0)
    for row, name in enumerate(others):
        gap = difference(rates[name][:, 1:].mean(axis=1), base)
        colour = acquisitions.look(name)["color"]
        ax.errorbar(
            gap.mean, row, xerr=gap.half_width, fmt="o", color=colour, markersize=9, capsize=4
        )
    ax.set(ylim=(len(others) - 0.5, -0.5), xlabel="difference in win rate")
    ax.set_yticks(np.arange(len(others)), [acquisitions.title(name) for name in others])
