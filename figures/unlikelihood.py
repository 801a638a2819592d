"""Is an explicit push enough?

Caption: best-of-N (dashed blue) with an explicit term that pushes the other responses down
(purple), against IPO (red), offline. On R1 (top left) the push changes little and IPO leaves it
behind; on R2 (top right) all do well. Bottom left: pushing harder is no clear gain, and a strong
push on the sum destroys the policy. Bottom right: pushes on log-probabilities have no floor, so the
losers keep falling, while IPO's stop where its margin is reached.

Claim: a contrastive loss is not best-of-N plus a push; its push knows when to stop.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.intervals import half_width
from experiments.results import Result
from figures import style
from figures.forms import Slide

PULL, CONTRAST = "best of N", "IPO"
PURPLE = style.COLOURS["UnlikelihoodBestOfN"]
LOOKS = {
    "mean": {"linestyle": "-", "marker": "o"},
    "worst": {"linestyle": (0, (5, 2)), "marker": "s"},
    "sum": {"linestyle": (0, (1, 1.2)), "marker": "^"},
    "complement": {"linestyle": (0, (6, 1.5, 1.5, 1.5)), "marker": "D"},
}

SLIDES = (
    Slide("Where the peak is far, an explicit push adds little to best-of-N", ((0,),)),
    Slide("Where the peak is near, no push is needed", ((1,),)),
    Slide("Pushing harder is no clear gain, and a strong push on the sum destroys", ((2,),)),
    Slide("A push without a floor never ends; IPO's stops at its margin", ((3,),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/unlikelihood.py``."""
    figure, axes = style.canvas(2, 2, height=9.2)
    settings = result.settings
    middle = settings["middle"]
    over_time(axes[0, 0], result, "R1: reward", "R1, far: the push adds little")
    over_time(axes[0, 1], result, "R2: reward", "R2, near: none is needed")
    strengths(axes[1, 0], result)
    losers(axes[1, 1], result)
    style.footnote(
        figure,
        f"Strength of the push {middle:g} except bottom left; learning rate "
        f"{settings['learning_rate']:g}; {settings['prompts']} contexts x {settings['responses']} "
        f"responses, sampled once.\nMeans over n = {settings['seeds']} seeds; bands and bars: 95% "
        "intervals; bottom right: medians.",
        f"Purple: best-of-N with a push, by what it is against; n = {settings['seeds']} seeds",
    )
    return figure


def values_of(result: Result, array: str, method: str) -> np.ndarray:
    """A measure of one method, ``[seeds, records]``."""
    problem = array.partition(":")[0]
    return result.arrays[array][result.settings["methods"][problem].index(method)]


def lines(result: Result) -> list[tuple[str, str, str, dict]]:
    """Method, objective class, label and look of every line at the middle strength."""
    return [
        (PULL, "BestOfN", "best-of-N", {}),
        (CONTRAST, "IPO", "IPO", {}),
        *(
            (f"{against} {result.settings['middle']:g}", "UnlikelihoodBestOfN", against, look)
            for against, look in LOOKS.items()
        ),
    ]


def over_time(ax: Axes, result: Result, array: str, title: str) -> None:
    """Expected reward against gradient steps; four bands more would pile up."""
    step = result.arrays["step"]
    ends = []
    for method, objective, name, look in lines(result):
        values, colour = values_of(result, array, method), style.COLOURS[objective]
        if look:
            ax.plot(step, values.mean(axis=0), color=colour, markersize=7, **look)
        else:
            style.curve(ax, step, values, objective)
        ends.append((float(step[-1]), float(values[:, -1].mean()), name, colour))
    ax.set(xlim=(0, step[-1]), ylim=(0, 1.03), yticks=[0, 0.5, 1])
    ax.set(xlabel="gradient steps", ylabel="expected reward")
    style.label_ends(ax, ends)
    style.panel_title(ax, title, array.partition(":")[0])


def strengths(ax: Axes, result: Result) -> None:
    """Final reward on R1 against the strength of the push."""
    x = np.array(result.settings["strengths"])
    ends = []
    wide = np.array([x[0] / 1.3, x[-1] * 1.3])
    for method, objective, name, look in lines(result):
        if look:
            continue
        flat = np.repeat(values_of(result, "R1: reward", method)[:, -1:], 2, axis=1)
        ends.append((*style.curve(ax, wide, flat, objective), name, style.COLOURS[objective]))
    for k, (against, look) in enumerate(LOOKS.items()):
        final = np.stack(
            [values_of(result, "R1: reward", f"{against} {s:g}")[:, -1] for s in x], axis=1
        )
        mean = final.mean(axis=0)
        beside = x * 1.06 ** (k - 1.5)
        bars = {"color": PURPLE, "capsize": 3, "elinewidth": 1.4, "markersize": 8}
        ax.errorbar(beside, mean, half_width(final), **bars, **look)
        ends.append((float(wide[-1]), float(mean[-1]), against, PURPLE))
    ax.set(xscale="log", xlim=wide, ylim=(-0.02, 1.03), yticks=[0, 0.5, 1])
    ax.set_xticks(x, [f"{s:g}" for s in x])
    ax.minorticks_off()
    ax.set(xlabel="strength of the push", ylabel="final reward on R1")
    style.label_ends(ax, ends)
    style.panel_title(ax, "Pushing harder: no clear gain", "R1, by strength")


def losers(ax: Axes, result: Result) -> None:
    """How far below the reference the losers are, on a log scale."""
    step = result.arrays["step"][1:]
    ends = []
    for method, objective, name, look in lines(result):
        fall = -np.median(values_of(result, "R1: rejected", method)[:, 1:], axis=0)
        colour = style.COLOURS[objective]
        ax.plot(step, fall, color=colour, **({"linestyle": style.line_of(objective)} | look))
        ends.append((float(step[-1]), float(fall[-1]), name, colour))
    ax.set(yscale="log", xlim=(0, step[-1]), ylim=(300, 0.3), xlabel="gradient steps")
    ax.set_yticks([1, 10, 100], ["-1", "-10", "-100"])
    ax.minorticks_off()
    ax.set_ylabel(r"losers' log $\pi\,/\,\pi_\mathrm{ref}$, nats")
    style.label_ends(ax, ends)
    style.panel_title(ax, "A push without a floor never ends", "R1, losers")
