"""Whose probability falls when a contrastive loss falls, on text.

Caption: log pi - log pi_ref of preferred and of rejected answers while DPO learns offline from 8,
64 and 512 prompts under Min Length (top). Below, the ends against the number of prompts on all
three tasks: the preferred answers (left), the margin of the pairs that are trained on (middle), and
the margin of pairs to held-out questions (right).

Claim: the loss sees only the margin. Preferred answers can become less likely while it grows; what
few prompts teach about themselves they do not teach about other questions.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

SHOWN = "min"
LABELS = {"min": "Min", "mode": "Mode", "skew": "Skew"}
LOOKS = {
    "min": {"linestyle": "-", "marker": "o"},
    "mode": {"linestyle": (0, (5, 2)), "marker": "s", "alpha": 0.75},
    "skew": {"linestyle": (0, (1, 1.2)), "marker": "^", "alpha": 0.6},
}
LINES = {
    "chosen": ("preferred", {"linestyle": "-"}),
    "rejected": ("rejected", {"linestyle": (0, (5, 2)), "alpha": 0.75}),
}

SLIDES = (
    Slide(
        "On text DPO makes preferred answers less likely too, rejected ones more so", ((0, 1, 2),)
    ),
    Slide("Preferred answers fall on every task, however many prompts there are", ((3,),)),
    Slide("What few prompts teach about themselves hardly carries over to others", ((4, 5),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/llm/mechanism.py``."""
    settings, arrays = result.settings, result.arrays
    prompts = settings["prompts"]
    figure, axes = style.canvas(2, 3, height=8.6)
    lows = [arrays[f"trained: {name}"].mean(axis=2).min() for name in LINES]
    highs = [arrays[f"trained: {name}"].mean(axis=2).max() for name in LINES]
    for column, count in enumerate(prompts):
        over_time(axes[0, column], result, column)
        axes[0, column].set_ylim(1.1 * min(lows) - 1, 1.1 * max(*highs, 0) + 1)
        style.panel_title(axes[0, column], f"{count} prompts")
    label_lines(axes[0, -1], result, len(prompts) - 1)
    margin = arrays["trained: chosen"] - arrays["trained: rejected"]
    apart = arrays["held out: chosen"] - arrays["held out: rejected"]
    bottom = [arrays["trained: chosen"], margin, apart]
    reach = [(float(values[..., -1].min()), float(values[..., -1].max())) for values in bottom]
    shared = (min(reach[1][0], reach[2][0], 0), max(reach[1][1], reach[2][1]))
    for ax, values, (low, high) in zip(axes[1], bottom, (reach[0], shared, shared), strict=True):
        pad = 0.08 * (max(high, 0) - min(low, 0))
        ax.set_ylim(min(low, 0) - pad, max(high, 0) + pad)
        against_prompts(ax, result, values)
    axes[0, 0].set_ylabel(r"log $\pi\,/\,\pi_\mathrm{ref}$, nats")
    axes[1, 0].set_ylabel(r"log $\pi\,/\,\pi_\mathrm{ref}$, nats")
    axes[1, 1].set_ylabel("nats")
    style.panel_title(axes[1, 0], "Preferred answers")
    style.panel_title(axes[1, 1], "Margin, trained on")
    style.panel_title(axes[1, 2], "Margin, held out")
    style.footnote(
        figure,
        f"{settings['method']}, learning rate {settings['learning_rate']:g}, "
        f"{settings['responses']} answers per prompt, {settings['batch']} prompts in a step; top: "
        f"Min Length.\nBands: 95% intervals over n = {settings['seeds']} seeds. Grey: the "
        "reference.",
        f"{settings['method']}, offline; bands: 95% intervals over n = {settings['seeds']} seeds",
    )
    return figure


def over_time(ax: Axes, result: Result, column: int) -> None:
    """Log-ratios under Min Length against gradient steps, with one number of prompts."""
    task = result.settings["tasks"].index(SHOWN)
    step = result.arrays["trained: step"]
    ax.axhline(0, color=style.REFERENCE, linewidth=1.4, zorder=0)
    for name, (_, look) in LINES.items():
        values = result.arrays[f"trained: {name}"][task, column]
        style.curve(ax, step, values, result.settings["objective"], **look)
    ax.set(xlim=(0, step[-1]), xlabel="gradient steps")


def label_lines(ax: Axes, result: Result, column: int) -> None:
    """Name the lines of a panel of ``over_time`` at their ends."""
    task = result.settings["tasks"].index(SHOWN)
    step = result.arrays["trained: step"]
    colour = style.COLOURS[result.settings["objective"]]
    ends = [
        (
            float(step[-1]),
            float(result.arrays[f"trained: {name}"][task, column, :, -1].mean()),
            label,
            colour,
        )
        for name, (label, _) in LINES.items()
    ]
    style.label_ends(ax, ends)


def against_prompts(ax: Axes, result: Result, values: np.ndarray) -> None:
    """A measure's end against the number of prompts, one line per task."""
    settings, ends = result.settings, []
    x = np.array(settings["prompts"])
    colour = style.COLOURS[settings["objective"]]
    ax.axhline(0, color=style.REFERENCE, linewidth=1.4, zorder=0)
    for row, task in enumerate(settings["tasks"]):
        final = values[row, ..., -1].T
        end = style.curve(ax, x, final, settings["objective"], **LOOKS[task])
        ends.append((*end, LABELS[task], colour))
    ax.set(xscale="log", xlim=(x[0] / 1.2, x[-1] * 1.2), xlabel="prompts")
    ax.set_xticks(x, [str(count) for count in x])
    ax.minorticks_off()
    style.label_ends(ax, ends)
