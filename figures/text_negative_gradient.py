"""Offline learning on text with and without a negative gradient.

Caption: gold reward while learning from a fixed data set: objectives that push the other
answers down (DPO, IPO: solid) against imitation of the best answer or of weighted ones (dashed), on
Min, Mode and Skew Length, each at its own learning rate. Below, the reward at the end at every
rate.

Claim: a negative gradient leaves the region of the data where the peak lies outside it, and is not
needed where the peak is near.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

TITLES = {
    "min": "Min Length, far peak",
    "mode": "Mode Length, near peak",
    "skew": "Skew Length, far data",
}
NAMES = {task: title.partition(",")[0] for task, title in TITLES.items()}

SLIDES = (
    Slide("Offline on text a push helps on Min Length, and not on Skew Length", ((0, 1, 2),)),
    Slide("At larger learning rates pushing can break a policy; imitation did not", ((3, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/negative_gradient.py``."""
    settings = result.settings
    tasks = settings["tasks"]
    figure, axes = style.canvas(2, len(tasks), height=9.0, width=14.0, sharey="row")
    for column, task in enumerate(tasks):
        gain = result.arrays["gain"][column]
        best = result.arrays["best"][column]
        curves(axes[0, column], result, gain[np.arange(len(best)), best])
        style.panel_title(axes[0, column], TITLES[task], NAMES[task])
        rates(axes[1, column], result, gain[..., -1])
        words = "At each learning rate" if column == 0 else ""
        style.panel_title(axes[1, column], words, NAMES[task])
    axes[1, 0].set_ylabel("gold reward at the end")
    axes[0, 0].set_ylabel("gold reward, share of the gain")
    style.footnote(
        figure,
        f"Above: each method at the learning rate at which it ends highest. {settings['prompts']} "
        f"prompts x {settings['responses']} answers, ordered by gold; {settings['batch']} prompts "
        "in a step.\n0 is the reference, 1 a policy that always does what the task asks. Bands: "
        f"95% intervals over n = {settings['seeds']} seeds. Below: a mark for each seed, hollow\n"
        "for one that ends lower still, and a line through their median.",
        f"Offline; 95% bands, or a mark a seed and the median; n = {settings['seeds']} seeds",
    )
    return figure


LOWEST = -1.05
"""Of what is shown: a policy that has gone as far wrong as there is to gain."""


def curves(ax: Axes, result: Result, gain: np.ndarray) -> None:
    """Gain against gradient steps, [methods, seeds, records]."""
    step, ends = result.arrays["step"], []
    settings = result.settings
    looks = zip(settings["methods"], settings["objectives"], gain, strict=True)
    for name, objective, values in looks:
        x, y = style.curve(ax, step, values, objective)
        ends.append((x, y, name, style.COLOURS[objective]))
    ax.set(xlim=(0, step[-1]), xlabel="gradient steps", ylim=(-0.05, 1.03), yticks=[0, 0.5, 1])
    style.label_ends(ax, ends, gap=0.075)


def rates(ax: Axes, result: Result, final: np.ndarray) -> None:
    """Gain at the end at each learning rate, [methods, learning rates, seeds].

    Seeds are shown one by one: some of a method's policies break where others arrive, and a mean
    with a band would say neither.
    """
    settings, ends = result.settings, []
    rate = np.array(settings["learning_rates"])
    beside = 1 + 0.05 * (np.arange(len(final)) - (len(final) - 1) / 2)
    names = zip(settings["methods"], settings["objectives"], strict=True)
    looks = zip(names, final, beside, style.MARKS[: len(final)], strict=True)
    for (name, objective), values, shift, mark in looks:
        colour, middle = style.COLOURS[objective], np.median(values, axis=1)
        shown = np.clip(middle, LOWEST, None)
        ax.plot(rate * shift, shown, color=colour, linestyle=style.line_of(objective))
        for x, seeds in zip(rate * shift, values, strict=True):
            inside = seeds >= LOWEST
            marks = {"color": colour, "linestyle": "", "alpha": 0.6, "marker": mark}
            ax.plot([x] * inside.sum(), seeds[inside], markersize=5, **marks)
            below = [LOWEST + 0.04] * (~inside).sum()
            ax.plot([x] * len(below), below, markerfacecolor="white", **marks)
        ends.append((rate[-1] * shift, shown[-1], name, colour))
    ax.set(xscale="log", xlim=(rate[0] / 1.2, rate[-1] * 1.2), xlabel="learning rate")
    ax.set(ylim=(LOWEST, 1.03), yticks=[-1, 0, 1])
    ax.set_xticks(rate, [f"{value:g}" for value in rate])
    ax.minorticks_off()
    style.label_ends(ax, ends, gap=0.075)
