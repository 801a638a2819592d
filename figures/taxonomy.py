"""What every method does to four responses: which it pulls up, which it pushes down.

Caption: Table 1 of the paper as a picture, measured. Each little group is one recipe acting on four
responses to the same prompt, best on the left, worst on the right; an arrow is the force on that
response's log-probability. Left: from a fixed data set; right: from the policy's own samples.
Above: methods that only pull; below: methods that push as well. T is how often a batch of its own
samples is used, where more than once. Supervised methods differ in whom they imitate; contrastive
ones and policy gradients mirror pulls with pushes.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.results import Result
from figures import style
from figures.forms import Slide

COLUMNS = 5
GAP = 0.5
REACH = 0.35
SPREAD = 0.17
NAMES = {
    "best_of_n": "Best-of-N",
    "dr_grpo": "Dr. GRPO",
    "pref_ft": "Pref-FT",
    "simpo": "SimPO",
    "slic": "SLiC",
    "unlikelihood_best_of_n": "Unlikelihood",
}
"""How methods are written where it is not in capitals."""

SLIDES = (
    Slide(
        "From a fixed data set: imitation only pulls, contrastive losses push as well",
        view=(("sides", (False,)),),
    ),
    Slide(
        "On its own samples: policy gradients push too, because a baseline is subtracted",
        view=(("sides", (True,)),),
    ),
)


def draw(result: Result, sides: tuple[bool, ...] = (False, True)) -> Figure:
    """Draw the forces of ``experiments/bandit/taxonomy.py``.

    Args:
        result: of that experiment.
        sides: which columns: False, from a fixed data set; True, from the policy's own samples.
    """
    recipes, forces = result.settings["recipes"], result.arrays["forces"]
    cells = {
        (on_policy, pushes): [
            (recipe, force)
            for recipe, force in zip(recipes, forces, strict=True)
            if recipe["on_policy"] == on_policy and recipe["pushes"] == pushes
        ]
        for on_policy in (False, True)
        for pushes in (False, True)
    }
    heights = {
        pushes: max(-(-len(cells[side, pushes]) // COLUMNS) for side in (False, True))
        for pushes in (False, True)
    }
    rows = sum(heights.values())
    figure, axes = style.canvas(1, 1, height=1.2 + 2.2 * rows)
    ax = axes[0, 0]
    width = COLUMNS + GAP
    ax.set(xlim=(-0.4, len(sides) * width - GAP + 0.1), ylim=(-rows, 0.3))
    ax.axis("off")
    for left, on_policy in zip((0, width), sides, strict=False):
        words = "from the policy's own samples" if on_policy else "from a fixed data set"
        ax.text(left + COLUMNS / 2, 0.1, words, ha="center", fontsize=17, fontweight="bold")
        for pushes in (False, True):
            top = heights[False] if pushes else 0
            tint = style.REVERSE if pushes else style.FORWARD
            corner = (left - 0.1, -top - heights[pushes] + 0.03)
            size = (COLUMNS + 0.2, heights[pushes] - 0.06)
            ax.add_patch(Rectangle(corner, *size, facecolor=tint, alpha=0.07, linewidth=0))
            for place, (recipe, force) in enumerate(cells[on_policy, pushes]):
                row, column = divmod(place, COLUMNS)
                below = 0.56 if pushes else 0.68  # nothing hangs below where nothing pushes
                group(ax, left + column + 0.5, -top - row - below, recipe, force)
    for pushes, words in ((False, "pulls"), (True, "pulls and pushes")):
        top = heights[False] if pushes else 0
        middle = -top - heights[pushes] / 2
        ax.text(
            -0.25, middle, words, rotation=90, ha="center", va="center", fontsize=17, weight="bold"
        )
    free = COLUMNS - len(cells[True, False]) % COLUMNS
    if free < COLUMNS and True in sides:
        key(ax, len(sides) * width - GAP - free / 2, -0.5)
    style.footnote(
        figure,
        "Exact force on each response's log-probability at the reference; rewards evenly spaced. "
        "Length: square root of force / largest force.\nT: passes over a batch, if several.",
        "Exact force on each response's log-probability, best to worst",
    )
    return figure


def group(ax: Axes, x: float, y: float, recipe: dict, force: np.ndarray) -> None:
    """One recipe's forces on four responses."""
    method = recipe["name"].removeprefix("online_")
    name = NAMES[method] if method in NAMES else method.upper()
    if recipe["reuse"] > 1:
        name += f", T = {recipe['reuse']}"
    colour = style.COLOURS[recipe["objective"]]
    share = np.sign(force) * np.sqrt(np.abs(force) / np.abs(force).max())
    places = x + SPREAD * (np.arange(force.size) - (force.size - 1) / 2)
    ax.plot(places[[0, -1]] + [-0.1, 0.1], [y, y], color="#9AA0A6", linewidth=1, zorder=1)
    for place, length in zip(places, REACH * share, strict=True):
        arrow(ax, place, y, length, colour)
    ax.text(x, y + REACH + 0.045, name, ha="center", fontsize=12, color=colour, weight="bold")


def arrow(ax: Axes, x: float, y: float, length: float, colour: str) -> None:
    """A force, or a dot where there is none."""
    if abs(length) < 0.02:
        ax.plot(x, y, "o", color=colour, markersize=4)
        return
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 3, "mutation_scale": 13}
    look |= {"shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(x, y + length), xytext=(x, y), arrowprops=look)


def key(ax: Axes, x: float, y: float) -> None:
    """How to read a group."""
    words = "four responses,\nbest to worst:\n↑ pulled up\n↓ pushed down"
    ax.text(x, y, words, ha="center", va="center", fontsize=13, linespacing=1.25)
