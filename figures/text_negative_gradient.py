"""Offline learning on text with and without a negative gradient.

Caption: gold reward while learning from a fixed data set: objectives that push the other
answers down (DPO, IPO: solid) against imitation of the best answer or of weighted ones (dashed), on
Min, Mode and Skew Length. Below, where there are several, the reward at the end at each learning
rate.

Claim: a negative gradient leaves the region of the data where the peak lies outside it, and is not
needed where the peak is near.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style

TITLES = {
    "min": "Min Length, far peak",
    "mode": "Mode Length, near peak",
    "skew": "Skew Length, far data",
}


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/negative_gradient.py``."""
    settings = result.settings
    learning_rates = settings["learning_rates"]
    middle = len(learning_rates) // 2
    rows = 1 + (len(learning_rates) > 1)
    figure, axes = style.canvas(
        rows, len(settings["tasks"]), height=0.5 + 4.25 * rows, width=14.0, sharey=True
    )
    for column, task in enumerate(settings["tasks"]):
        gain = result.arrays["gain"][column]
        curves(axes[0, column], result, gain[:, middle])
        style.panel_title(axes[0, column], TITLES[task])
        if rows > 1:
            rates(axes[1, column], result, gain[..., -1])
            style.panel_title(axes[1, column], "At each learning rate" if column == 0 else "")
            axes[1, 0].set_ylabel("gold reward at the end")
    axes[0, 0].set_ylabel("gold reward, share of the gain")
    style.footnote(
        figure,
        f"Learning rate {learning_rates[middle]:g}. {settings['prompts']} prompts x "
        f"{settings['responses']} answers, ordered by gold; {settings['batch']} prompts in a "
        "step.\n0 is the "
        "reference, 1 a policy that always does what the task asks. Bands: 95% intervals over "
        f"n = {settings['seeds']} seeds.",
    )
    return figure


def limits(result: Result) -> dict[str, object]:
    """From the worst mean to the best there is."""
    low = float(result.arrays["gain"].mean(axis=-2).min())
    return {"ylim": (max(min(low, 0) - 0.05, -1.05), 1.03), "yticks": [0, 0.5, 1]}


def curves(ax: Axes, result: Result, gain: np.ndarray) -> None:
    """Gain against gradient steps, [methods, seeds, records]."""
    step, ends = result.arrays["step"], []
    settings = result.settings
    looks = zip(settings["methods"], settings["objectives"], gain, strict=True)
    for name, objective, values in looks:
        x, y = style.curve(ax, step, values, objective)
        ends.append((x, y, name, style.COLOURS[objective]))
    ax.set(xlim=(0, step[-1]), xlabel="gradient steps", **limits(result))
    style.label_ends(ax, ends, gap=0.075)


def rates(ax: Axes, result: Result, final: np.ndarray) -> None:
    """Gain at the end at each learning rate, [methods, learning rates, seeds]."""
    settings, ends = result.settings, []
    x = np.array(settings["learning_rates"])
    looks = zip(settings["methods"], settings["objectives"], final, strict=True)
    for name, objective, values in looks:
        end = style.curve(ax, x, values.T, objective, marker="o")
        ends.append((*end, name, style.COLOURS[objective]))
    ax.set(xscale="log", xlim=(x[0] / 1.15, x[-1] * 1.15), xlabel="learning rate")
    ax.set(**limits(result))
    ax.set_xticks(x, [f"{rate:g}" for rate in x])
    ax.minorticks_off()
    style.label_ends(ax, ends, gap=0.075)
