"""Whose probability falls when a contrastive loss falls.

Caption: log pi - log pi_ref while IPO learns offline on R1 from 5, 15 and 50 prompts in one network
(top). With few prompts each group's best response rises and the others fall. With many, the best
falls as well, below the reference; the loss sees only the margin, which stays. Below, the ends
against the number of prompts, also for pairs without a threshold and for R2: the best response
falls (left), the margin does not (middle), and on R1 the mass ends up on responses that the
prompt's own group does not hold (right).

Claim: a negative gradient widens the margin; whether the winner gains depends on how many prompts
share the capacity, and on where the peak is.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results import Result
from figures import style
from figures.forms import Slide

LOOKS = {
    "R1": {"linestyle": "-", "marker": "o"},
    "R1, all pairs": {"linestyle": (0, (5, 2)), "marker": "s", "alpha": 0.75},
    "R2": {"linestyle": (0, (1, 1.2)), "marker": "^", "alpha": 0.6},
}
LINES = {
    "chosen": ("best of group", {"linestyle": "-"}),
    "rejected": ("others", {"linestyle": (0, (5, 2)), "alpha": 0.75}),
    "pair_winner": ("pair winners", {"linestyle": (0, (1, 1.2)), "alpha": 0.6}),
}
COLOUR = style.COLOURS["IPO"]

SLIDES = (
    Slide("The more prompts share a network, the lower each group's best response", ((0, 1, 2),)),
    Slide("The best response falls, and the margin that the loss sees stays", ((3, 4),)),
    Slide("On R1 the mass ends up on responses that the prompt's group does not hold", ((5,),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/mechanism.py``."""
    prompts = result.settings["prompts"]
    shown = sorted({0, len(prompts) // 2, len(prompts) - 1})
    figure, axes = style.canvas(2, 3, height=8.6)
    for ax, column in zip(axes[0], shown, strict=False):
        over_time(ax, result, column)
        style.panel_title(ax, f"{prompts[column]} prompts")
    axes[0, 0].set_ylabel(r"log $\pi\,/\,\pi_\mathrm{ref}$, nats")
    label_lines(axes[0, len(shown) - 1], result, shown[-1])
    for ax in axes[0, len(shown) :]:
        ax.set_axis_off()
    arrays = result.arrays
    against_prompts(axes[1, 0], result, arrays["chosen"], (-2.2, 4.2))
    against_prompts(axes[1, 1], result, arrays["chosen"] - arrays["rejected"], (0, 12))
    against_prompts(axes[1, 2], result, arrays["unseen"], (0.5, 1.02))
    axes[1, 0].axhline(0, color=style.REFERENCE, linewidth=1.4, zorder=0)
    axes[1, 2].axhline(
        arrays["unseen"][..., 0].mean(), color=style.REFERENCE, linewidth=1.4, zorder=0
    )
    axes[1, 0].set_ylabel(r"log $\pi\,/\,\pi_\mathrm{ref}$, nats")
    axes[1, 1].set_ylabel("nats")
    axes[1, 2].set_ylabel("probability")
    style.panel_title(axes[1, 0], "The best falls ...", "Best of group")
    style.panel_title(axes[1, 1], "... the margin stays", "Margin")
    style.panel_title(axes[1, 2], "Mass outside the group")
    settings = result.settings
    style.footnote(
        figure,
        f"IPO, learning rate {settings['learning_rate']:g}, {settings['responses']} responses per "
        f"prompt, sampled once; top: R1. Bands: 95% intervals over n = {settings['seeds']} seeds.\n"
        'Grey: the reference. Pairs need a difference in reward, unless "all pairs".',
        f"IPO, offline; grey: the reference; bands: 95% intervals, n = {settings['seeds']} seeds",
    )
    return figure


def over_time(ax: Axes, result: Result, column: int) -> None:
    """Log-ratios on R1 against gradient steps, with one number of prompts."""
    step, case = result.arrays["step"], result.settings["cases"].index("R1")
    ax.axhline(0, color=style.REFERENCE, linewidth=1.4, zorder=0)
    for name, (_, look) in LINES.items():
        style.curve(ax, step, result.arrays[name][case, column], "IPO", **look)
    ax.set(xlim=(0, step[-1]), ylim=(-8, 5.5), yticks=[-5, 0, 5], xlabel="gradient steps")


def label_lines(ax: Axes, result: Result, column: int) -> None:
    """Name the lines of a panel of ``over_time`` at their ends."""
    step, case = result.arrays["step"], result.settings["cases"].index("R1")
    ends = [
        (float(step[-1]), float(result.arrays[name][case, column, :, -1].mean()), label, COLOUR)
        for name, (label, _) in LINES.items()
    ]
    style.label_ends(ax, ends)


def against_prompts(
    ax: Axes, result: Result, values: np.ndarray, limits: tuple[float, float]
) -> None:
    """A measure's end against the number of prompts, one line per case."""
    x = np.array(result.settings["prompts"])
    ends = []
    for case, look in LOOKS.items():
        final = values[result.settings["cases"].index(case), ..., -1].T
        ends.append((*style.curve(ax, x, final, "IPO", **look), case, COLOUR))
    ax.set(xscale="log", xlim=(x[0] / 1.2, x[-1] * 1.2), ylim=limits, xlabel="prompts")
    ax.set_xticks(x, [str(count) for count in x])
    ax.minorticks_off()
    style.label_ends(ax, [(x, y, "all pairs" if "," in n else n, c) for x, y, n, c in ends])
