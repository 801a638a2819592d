"""The reference, the three tasks, and what proxies make of them.

Caption: above, how long the reference's answers are (grey), and the answers of Skew Length's data
set, which are cut short. Below, for each task, the gold reward by length (yellow) and what the
trained proxies say of the reference's own answers of that length (red, one band over seeds), both
in standard deviations of the reference's answers.

Claim: Min Length's peak is where the reference is thin and Mode Length's where it is thick; a proxy
is right where its data are, and Skew Length's knows hardly any whole answer.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

TITLES = {"min": "Min Length", "mode": "Mode Length", "skew": "Skew Length"}

SLIDES = (
    Slide(
        "Min Length's peak is where the reference is thin, Mode Length's where it is thick",
        ((0, 1, 2),),
    ),
    Slide("A proxy is right where its data are", ((3, 4, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/environment.py``."""
    settings = result.settings
    figure, axes = style.canvas(2, 3, height=8.6, sharex=True)
    for column, task in enumerate(settings["tasks"]):
        lengths(axes[0, column], result, task)
        style.panel_title(axes[0, column], TITLES[task])
        rewards(axes[1, column], result, task)
        right = result.arrays[f"{task}: accuracy"].mean()
        style.panel_title(axes[1, column], f"Proxy right on {right:.0%}", TITLES[task])
        axes[1, column].set_xlabel("length of an answer, tokens")
    axes[0, 0].set_ylabel("share of answers")
    axes[1, 0].set_ylabel("reward, sd of the reference's")
    style.footnote(
        figure,
        f"A reference of {settings['parameters']:,} parameters; its mean length is "
        f"{settings['mean']:.1f} tokens, its most probable {settings['mode']}. Skew "
        f"Length's answers are cut\nafter an exponentially distributed number of tokens, mean "
        f"{settings['skew mean']:g}. Yellow: gold. Red: Bradley-Terry models of "
        f"{settings['prompts']} prompts x {settings['responses']} answers,\nn = "
        f"{settings['seeds']} seeds; titles say how many pairs of the reference's answers they "
        "order as gold does.",
        f"Grey: the reference; yellow: gold; red: proxies, n = {settings['seeds']} seeds",
    )
    return figure


def lengths(ax: Axes, result: Result, task: str) -> None:
    """How long answers are, and where the peak is."""
    edges = result.arrays["edges"]
    width = edges[1] - edges[0]
    look = {"align": "edge", "linewidth": 0, "width": width}
    ax.bar(edges, result.arrays["reference"], color=style.REFERENCE, alpha=0.55, **look)
    if task == "skew":
        ax.step(
            np.append(edges, edges[-1] + width),
            np.append(result.arrays["skew data"], 0),
            where="post",
            color=style.INK,
            linewidth=2,
        )
        at = int(result.arrays["skew data"].argmax())
        ax.annotate(
            "the data",
            (edges[at] + width, result.arrays["skew data"][at]),
            (12, -20),
            textcoords="offset points",
            fontsize=13,
        )
    peak = result.settings["mode"] if task == "mode" else 0
    ax.axvline(peak, color=style.REWARD, linewidth=4, zorder=0)
    top = 1.1 * max(result.arrays["reference"].max(), result.arrays["skew data"].max())
    ax.set(xlim=(-2, edges[-1] + width), ylim=(0, top))
    ax.annotate(
        "peak", (peak, top), (6, -14), textcoords="offset points", color="#A67C00", fontsize=13
    )


def rewards(ax: Axes, result: Result, task: str) -> None:
    """Gold and proxy by length."""
    edges, settings = result.arrays["edges"], result.settings
    middle = edges + (edges[1] - edges[0]) / 2
    gold = (result.arrays[f"{task}: gold"] - settings["gold"][task]) / settings["spread"][task]
    ax.axhline(0, color=style.REFERENCE, linewidth=1, zorder=0)
    ax.plot(middle, gold, color=style.REWARD, linewidth=5, zorder=1)
    said = result.arrays[f"{task}: proxy"]
    known = np.isfinite(said).all(axis=0)
    style.curve(ax, middle[known], said[:, known], "", color=style.REVERSE, linestyle="-")
    ax.set_ylim(-2.6, 2.6)
