"""What the paper left undone: each variant against what it would replace.

Caption: differences in the mean win rate after the first round, paired by seed, with 95%
intervals; an interval that crosses the line is no difference. Right, the seconds a round takes, by
what they are spent on.

Claim: which of the obvious improvements improve anything, and what they cost.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.intervals import difference
from experiments.results import Result
from figures import style
from figures.forms import Slide

COST_COLOURS = ("#56B4E9", "#0072B2", "#F0C75E", "#D55E00", "#9AA0A6")
COST_HATCHES = ("", "///", "xxx", "", "...")
BETTER, WORSE, NONE = "#1B7837", "#B2182B", "#5F6368"

SLIDES = (
    Slide(
        "None of the obvious improvements improves what five seeds could show",
        ((0,),),
        view=(("between", " − "),),
    ),
    Slide("Training takes most of a round, and an ensemble three times as much", ((1,),)),
)


def draw(result: Result, between: str = "\nminus ") -> Figure:
    """Draw the result of ``experiments/reviews/beyond.py``.

    Args:
        result: of that experiment.
        between: what stands between the names of a difference.
    """
    settings, arrays = result.settings, result.arrays
    rates = dict(zip(settings["variants"], arrays["win_rate"], strict=True))
    figure, axes = style.canvas(1, 2, height=7.6, width=15.5, gridspec_kw={"width_ratios": [3, 2]})
    left, right = axes[0]
    gaps(left, rates, settings["comparisons"], between)
    style.panel_title(left, "Difference in win rate")
    costs(right, settings["variants"], arrays["seconds"], settings["costs"])
    style.panel_title(right, "Where a round's seconds go", "Seconds in a round")
    style.footnote(
        figure,
        f"The protocol of reviews_acquisition: {settings['rounds']} rounds of "
        f"{settings['labels_per_round']} labels. Adapters of rank {settings['rank']}; pruned: "
        f"{settings['prune']:.0%} of the pairs; going on: {settings['share']:.0%} of the epochs; "
        f"the small judge has read\n{settings['small_judge']['texts']:,} reviews "
        f"({settings['small_judge']['accuracy'][0]:.1%} right), the large one "
        f"{settings['judge']['texts']:,} ({settings['judge']['accuracy'][0]:.1%}) and judges all "
        f"contests. n = {settings['seeds']} seeds.",
        f"Intervals: 95%, paired, n = {settings['seeds']} seeds",
    )
    return figure


def gaps(
    ax: Axes, rates: dict[str, np.ndarray], comparisons: list[list[str]], between: str
) -> None:
    """A difference in each row."""
    ax.axvline(0, color=style.INK, linewidth=1.4, linestyle=(0, (5, 2)), zorder=0)
    for row, (variant, instead) in enumerate(comparisons):
        gap = difference(*(rates[name][:, 1:].mean(axis=1) for name in (variant, instead)))
        colour = BETTER if gap.low > 0 else WORSE if gap.high < 0 else NONE
        ax.errorbar(
            gap.mean, row, xerr=gap.half_width, fmt="o", color=colour, markersize=9, capsize=4
        )
    ax.set(ylim=(len(comparisons) - 0.5, -0.5), xlabel="difference in mean win rate")
    names = [f"{variant}{between}{instead}" for variant, instead in comparisons]
    ax.set_yticks(np.arange(len(comparisons)), names, fontsize=12)


def costs(ax: Axes, variants: list[str], seconds: np.ndarray, kinds: list[str]) -> None:
    """A stacked bar for each variant."""
    left = np.zeros(len(variants))
    looks = zip(kinds, COST_COLOURS, COST_HATCHES, strict=True)
    for column, (kind, colour, hatch) in enumerate(looks):
        bar = {"facecolor": colour, "edgecolor": "white", "hatch": hatch, "linewidth": 0}
        ax.barh(np.arange(len(variants)), seconds[:, column], left=left, label=kind, **bar)
        left += seconds[:, column]
    ax.set(ylim=(len(variants) - 0.5, -0.5), xlabel="seconds in a round")
    ax.set_yticks(np.arange(len(variants)), variants, fontsize=12)
    ax.legend(fontsize=11, loc="upper right")
