"""What a training run did: what it learned, what it did to the data's responses, how far it went.

Caption: metrics of one or more runs by optimizer step. Thin and pale, each step; bold, their mean
over neighbouring steps; circles, the held-out groups. Solid is what is preferred and dotted what is
not, and for divergences solid is forward and dotted reverse.

Claim: a margin grows whether the preferred response rises or both fall; only the log-ratios tell.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from figures import style

SMOOTHED = 24
"""Points from which on a bold line stands for a mean over neighbours."""
REACH = 12
"""One in so many of all points is averaged over on either side."""


@dataclass(frozen=True)
class Curves:
    """A run as it is drawn.

    Attributes:
        name: to call it by.
        objective: name of the class; decides the colour.
        train: for each metric its steps and values, [2, S].
        held_out: the same for the held-out groups.
    """

    name: str
    objective: str
    train: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]

    @property
    def reach(self) -> int:
        """Neighbours on either side that a bold line's point is a mean over."""
        longest = max(len(values[0]) for values in self.train.values())
        return longest // REACH if longest >= SMOOTHED else 0


@dataclass(frozen=True)
class Panel:
    """One metric, or two that belong together.

    Attributes:
        title: the idea.
        axis: what is counted, in which unit.
        metrics: the solid one and, if there are two, the dotted one.
        words: what those two are called.
        level: a value to compare with, where there is one.
        logarithmic: whether powers of ten are equally far apart.
    """

    title: str
    axis: str
    metrics: tuple[str, ...]
    words: tuple[str, ...] = ()
    level: float | None = None
    logarithmic: bool = False


PAIR = ("preferred", "rejected")
PANELS = (
    Panel("Win rate", "share against the reference", ("win_rate",), (), 0.5),
    Panel("Surprise", "share of the labels bought", ("surprise",), (), 0.5),
    Panel("Loss", "the objective's loss", ("loss",)),
    Panel("Pairs in the right order", "share (chance: 0.5)", ("accuracy",), (), 0.5),
    Panel("Margin", "preferred minus rejected", ("margin",), (), 0.0),
    Panel(
        "Where the mass goes",
        "log-ratio to the reference, nats",
        ("chosen_log_ratio", "rejected_log_ratio"),
        PAIR,
        0.0,
    ),
    Panel(
        "Where the mass goes",
        "log-probability, nats",
        ("chosen_logp", "rejected_logp"),
        PAIR,
    ),
    Panel(
        "Reward of fresh responses", "in its own units", ("reward", "gold"), ("trained on", "gold")
    ),
    Panel("Reward", "model's score", ("chosen_reward", "rejected_reward"), PAIR, 0.0),
    Panel("Likelihood of the data", "log-probability, nats", ("logp",)),
    Panel("Gain in likelihood", "log-ratio to the reference, nats", ("log_ratio",), (), 0.0),
    Panel(
        "Distance from the reference",
        "exact KL, nats per token",
        ("forward_kl_per_token", "reverse_kl_per_token"),
        ("KL(ref || policy)", "KL(policy || ref)"),
        0.0,
    ),
    Panel(
        "Distance from the reference",
        "exact KL, nats per response",
        ("forward_kl", "reverse_kl"),
        ("KL(ref || policy)", "KL(policy || ref)"),
        0.0,
    ),
    Panel(
        "Staleness of the samples",
        "nats per token",
        ("off_policy_per_token",),
        (),
        0.0,
    ),
    Panel("Spread of the policy", "entropy, nats per token", ("entropy_per_token",)),
    Panel("Response length", "tokens", ("response_length",)),
    Panel("Gradient", "norm before clipping", ("gradient_norm",), logarithmic=True),
)


def draw(runs: Sequence[Curves]) -> Figure:
    """Draw the panels for which there is something to show.

    Args:
        runs: at least one, with at least one metric among those of ``PANELS``.
    """
    panels = [p for p in PANELS if any(p.metrics[0] in run.train for run in runs)]
    places = arranged(panels)
    rows, columns = (1 + max(place[axis] for place in places) for axis in (0, 1))
    figure, axes = style.canvas(rows, columns, height=3.7 * rows + 0.4, width=4.9 * columns + 1)
    for place in set(np.ndindex(rows, columns)) - set(places):
        axes[place].set_visible(False)
    looks = colours(runs)
    edge = [p for p, place in zip(panels, places, strict=True) if place[1] == columns - 1]
    unseen = {r.name for r in runs if not any(p.metrics[0] in r.train for p in edge)}
    for number, (panel, place) in enumerate(zip(panels, places, strict=True)):
        named = {run.name for run in runs} if place[1] == columns - 1 else set()
        fill(axes[place], panel, runs, looks, named | (set() if number else unseen))
        if (place[0] + 1, place[1]) not in places:
            axes[place].set_xlabel("optimizer step")
    style.footnote(figure, legend(runs))
    return figure


def arranged(panels: Sequence[Panel]) -> list[tuple[int, int]]:
    """Row and column of each panel: pairs in the last column, where there is room for words."""
    pairs = sum(len(panel.metrics) > 1 for panel in panels)
    single = len(panels) - pairs
    rows = max(1 + (len(panels) > 3) + (len(panels) > 8), pairs)
    columns = -(-single // rows) + (pairs > 0)
    placed: list[tuple[int, int]] = []
    counts = [0, 0]
    for panel in panels:
        pair = len(panel.metrics) > 1
        number = counts[pair]
        counts[pair] += 1
        wide = columns - (pairs > 0)
        placed.append((number, columns - 1) if pair else divmod(number, wide))
    return placed


def colours(runs: Sequence[Curves]) -> list[str]:
    """The objective's colour for each run; paler for further runs of the same objective."""
    chosen = []
    for number, run in enumerate(runs):
        before = sum(other.objective == run.objective for other in runs[:number])
        many = sum(other.objective == run.objective for other in runs)
        chosen.append(style.shades(run.objective, many)[before])
    return chosen


def fill(
    ax: Axes, panel: Panel, runs: Sequence[Curves], looks: Sequence[str], named: Set[str]
) -> None:
    """Draw one panel, and write the names of some runs at their ends."""
    style.panel_title(ax, panel.title)
    ax.set_ylabel(panel.axis)
    if panel.level is not None:
        ax.axhline(panel.level, color=style.REFERENCE, linewidth=1.2, zorder=0)
    ends, last = [], 0.0
    for run, colour in zip(runs, looks, strict=True):
        for number, metric in enumerate(panel.metrics):
            if metric not in run.train:
                continue
            line = ":" if number else style.line_of(run.objective)
            few = run.train[metric].shape[1] < SMOOTHED
            x, y = curve(ax, run.train[metric], 0 if few else run.reach, colour, line)
            last = max(last, x)
            if metric in run.held_out:
                held(ax, run.held_out[metric], colour)
            if len(runs) == 1:
                ends += [(x, y, word, colour) for word in panel.words[number : number + 1]]
            elif number == 0 and run.name in named:
                ends.append((x, y, run.name, colour))
    ax.set_xlim(0, last)
    # Losses of different objectives have different units, and may differ by orders of magnitude.
    mixed = panel.metrics == ("loss",) and len({run.objective for run in runs}) > 1
    if panel.logarithmic or (mixed and ax.dataLim.ymin > 0):
        powers(ax)
    ax.set_ylim(*ax.get_ylim())
    if panel.words and len(runs) > 1:
        key(ax, f"solid: {panel.words[0]}\ndotted: {panel.words[1]}")
    style.label_ends(ax, ends, gap=0.09)


def powers(ax: Axes) -> None:
    """A logarithmic axis with plain numbers at its ticks."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def key(ax: Axes, text: str) -> None:
    """Write into the corner that has least in it; the axis' limits must be final."""
    inside = ax.transAxes.inverted()
    points = np.concatenate(
        [line.get_transform().transform(line.get_xydata()) for line in ax.lines]
    )
    x, y = inside.transform(points).T

    def filled(corner: tuple[float, float]) -> int:
        return int(((abs(x - corner[0]) < 0.55) & (abs(y - corner[1]) < 0.22)).sum())

    right, top = min(((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)), key=filled)
    ax.text(
        0.97 if right else 0.03,
        0.97 if top else 0.03,
        text,
        transform=ax.transAxes,
        fontsize=12,
        ha="right" if right else "left",
        va="top" if top else "bottom",
    )


def curve(
    ax: Axes, values: np.ndarray, reach: int, colour: str, line: object
) -> tuple[float, float]:
    """One metric of one run: pale as it is, bold as its moving mean.

    Returns:
        The last point of the bold line.
    """
    steps, numbers = values
    if reach:
        ax.plot(steps, numbers, color=colour, linewidth=1, alpha=0.3, zorder=2)
        numbers = smooth(numbers, reach)
    ax.plot(steps, numbers, color=colour, linestyle=line, zorder=3)  # pyright: ignore[reportArgumentType]
    return float(steps[-1]), float(numbers[-1])


def held(ax: Axes, values: np.ndarray, colour: str) -> None:
    """The held-out groups, as circles."""
    ax.plot(
        *values,
        "o",
        color=colour,
        markerfacecolor="white",
        markeredgewidth=2,
        markersize=7.5,
        zorder=5,
        clip_on=False,
    )


def smooth(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over ``reach`` neighbours on either side, as far as there are so many.

    At the start, where curves are steep, a window is as short to the right as it is to the left, so
    that the first value stays what it is.
    """
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    left = np.minimum(index, reach)
    right = np.minimum(left, len(values) - 1 - index)
    return (total[index + right + 1] - total[index - left]) / (left + right + 1)


def legend(runs: Sequence[Curves]) -> str:
    """What lines and circles mean, where there are any."""
    said = [runs[0].name] if len(runs) == 1 else []
    reaches = sorted({2 * run.reach + 1 for run in runs if run.reach})
    if reaches:
        said.append(f"pale: each step; bold: mean over {' or '.join(map(str, reaches))} steps")
    if any(run.held_out for run in runs):
        said.append("circles: held-out groups")
    return "; ".join(said)
