"""Which labels are worth asking for, and why?

Caption: top, expected reward against labels bought when DPO starts anew from the reference in each
round and labels are noisy, as people's are; left the peak is far (R1), right it is near (R2).
Bottom left, the mean reward over the rounds in all eight places, each minus random choice; an
interval that crosses the line is no difference. Bottom right, what certainty and uncertainty buy,
against random choice in the same place: certainty finds pairs with more at stake, but the policy
ranks those right already; uncertainty finds pairs that it ranks wrong, with little at stake. The
choice that knows the reward maximises the product of the two.

Claim: there is much to gain from asking well, and neither certainty nor its opposite finds it.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.intervals import Interval, difference
from experiments.results import Result
from figures import style
from figures.forms import Slide

GREY = "#80868B"
COLOURS = {
    "random": style.INK,
    "certainty": style.COLOURS["DPO"],
    "uncertainty": GREY,
    "regret": "#B8860B",
}
LINES = {
    "random": (0, (5, 2)),
    "certainty": "-",
    "uncertainty": (0, (1, 1.2)),
    "regret": (0, (6, 1.5, 1.5, 1.5)),
}
MARKS = {"certainty": "o", "uncertainty": "s", "regret": "D"}
NAMES = {"regret": "knows reward"}
SHOWN = {"R1, anew, noisy": "R1, far: much to gain", "R2, anew, noisy": "R2, near: little to gain"}

SLIDES = (
    Slide("There is much to gain from asking well, and certainty does not find it", ((0, 1),)),
    Slide("Nowhere does certainty gain over chance; knowing the reward does, on R1", ((2,),)),
    Slide("Certainty asks what the policy knows, uncertainty where little is at stake", ((3,),)),
)


def draw(result: Result) -> Figure:
    """Draw the result of ``experiments/bandit/acquisition.py``."""
    figure, axes = style.canvas(2, 2, height=10.4, gridspec_kw={"height_ratios": [1, 1.2]})
    for ax, (place, title) in zip(axes[0], SHOWN.items(), strict=True):
        curves(ax, result, place)
        style.panel_title(ax, title, place.partition(",")[0])
    axes[0, 0].set_ylabel("expected reward")
    gains(axes[1, 0], result)
    purchases(axes[1, 1], result)
    settings = result.settings
    style.footnote(
        figure,
        f"{settings['labels_per_round']} of {settings['candidates']} candidate pairs labelled in "
        f"each of {settings['rounds']} rounds. Top: anew from the reference in each round, noisy "
        f"labels (Bradley-Terry, temperature {settings['label_temperatures']['noisy']:g}).\n"
        f"Bands and bars: 95% intervals over n = {settings['seeds']} seeds, of differences paired "
        "by seed. Bottom right: one point a place, filled on R1, open on R2.",
        f"Bands and bars: 95% intervals over n = {settings['seeds']} seeds, paired with chance",
    )
    return figure


def of(result: Result, array: str, place: str, name: str) -> np.ndarray:
    """One array in one place with one acquisition function, seeds first."""
    places, functions = result.settings["places"], result.settings["functions"]
    return result.arrays[array][places.index(place), functions.index(name)]


def minus_chance(result: Result, array: str, place: str, name: str) -> Interval:
    """A function's difference from random choice, over the seeds in which both bought labels."""
    mine, chance = of(result, array, place, name), of(result, array, place, "random")
    both = np.isfinite(mine) & np.isfinite(chance)
    return difference(mine[both], chance[both])


def curves(ax: Axes, result: Result, place: str) -> None:
    """Expected reward against labels."""
    labels, ends = result.arrays["labels"], []
    for name, colour in COLOURS.items():
        line = {"color": colour, "linestyle": LINES[name]}
        values = of(result, "reward", place, name)
        end = style.curve(ax, labels, values, "DPO", **line)
        ends.append((*end, NAMES.get(name, name), colour))
    ax.set(xlim=(0, labels[-1]), ylim=(0, 1.03), yticks=[0, 0.5, 1], xlabel="labels bought")
    ax.locator_params(axis="x", nbins=5)
    style.label_ends(ax, ends, gap=0.09)


def gains(ax: Axes, result: Result) -> None:
    """Each function's gap to random choice in every place."""
    places = result.settings["places"]
    ax.axvline(0, color=style.INK, linewidth=1.6, linestyle=(0, (5, 2)), zorder=0)
    for shift, name in zip((-0.22, 0, 0.22), list(COLOURS)[1:], strict=True):
        for row, place in enumerate(places):
            gain = minus_chance(result, "area", place, name)
            point(ax, gain.mean, row + shift, name, xerr=gain.half_width)
    ax.set(ylim=(len(places) - 0.5, -0.5), xlabel="mean reward, minus chance's")
    ax.set_yticks(np.arange(len(places)), places)
    for row, name in enumerate(list(COLOURS)[1:]):
        place = {"transform": ax.transAxes, "ha": "right", "fontsize": 13, "fontweight": "bold"}
        ax.text(0.99, 0.2 - 0.08 * row, NAMES.get(name, name), color=COLOURS[name], **place)
    style.panel_title(ax, "Certainty gains nothing over chance", "Gain over chance")


def purchases(ax: Axes, result: Result) -> None:
    """What certainty and uncertainty buy, against random choice in the same place."""
    for line in (ax.axvline, ax.axhline):
        line(0, color=style.INK, linewidth=1.6, linestyle=(0, (5, 2)), zorder=0)
    for name in ("certainty", "uncertainty"):
        for place in result.settings["places"]:
            stake = minus_chance(result, "stake", place, name)
            wrong = minus_chance(result, "wrongness", place, name)
            error = {"xerr": stake.half_width, "yerr": wrong.half_width}
            point(ax, stake.mean, wrong.mean, name, hollow=place.startswith("R2"), **error)
    corner: dict[str, Any] = {"transform": ax.transAxes, "fontsize": 13, "fontweight": "bold"}
    wrong, right = (
        "uncertainty:\nwrong, but\nlittle at stake",
        "certainty:\nmore at stake,\nbut known",
    )
    ax.text(0.99, 0.99, wrong, color=COLOURS["uncertainty"], ha="right", va="top", **corner)
    ax.text(0.01, 0.01, right, color=COLOURS["certainty"], ha="left", va="bottom", **corner)
    ax.set(xlabel="reward at stake in a pair, minus chance's")
    ax.set_ylabel("policy's wrongness on it, minus chance's")
    ax.locator_params(nbins=5)
    style.panel_title(ax, "Why: it asks what it knows", "What is bought")


def point(ax: Axes, x: float, y: float, name: str, hollow: bool = False, **error: Any) -> None:
    """A mean with its intervals in the colour of its function."""
    colour = COLOURS[name]
    face = "white" if hollow else colour
    look: dict[str, Any] = {"color": colour, "markerfacecolor": face, "markersize": 8}
    ax.errorbar(x, y, fmt=MARKS[name], elinewidth=1.5, **look, **error)
