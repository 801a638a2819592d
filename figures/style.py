"""One look for every figure: sizes, one colour and one line per objective, labels at the curves.

A colour means the same objective in every figure. The family shows in the line as well, so that a
figure survives a greyscale printer: supervised objectives are dashed, contrastive ones solid,
policy gradients dash-dotted; what shares a line differs in lightness or in its marks. Sizes are
those of the screen; ``figures/forms.py`` says how a figure becomes a slide or a part of a paper.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from experiments.intervals import half_width
from experiments.results import atomically

COLOURS: dict[str, str] = {
    "SFT": "#8C8C8C",
    "PrefFT": "#6BAED6",
    "BestOfN": "#0072B2",
    "RWR": "#56B4E9",
    "AWR": "#08306B",
    "UnlikelihoodBestOfN": "#8E44AD",
    "DPO": "#D55E00",
    "IPO": "#B2182B",
    "SLiC": "#E69F00",
    "SimPO": "#CC79A7",
    "CPO": "#A6611A",
    "ORPO": "#F4A582",
    "KTO": "#7F2704",
    "REINFORCE": "#009E73",
    "PPO": "#006D2C",
    "GSPO": "#41AB5D",
}
"""One colour per objective class, in every figure."""

REFERENCE = "#9AA0A6"
REWARD = "#F0C75E"
OPTIMUM = "#202124"
INK = "#202124"
FORWARD = "#0072B2"
REVERSE = "#B2182B"
"""The reference policy, the reward, pi*, text; forward (covering) and reverse (seeking) KL."""

OUTCOMES = {"held": "#1B7837", "held under this condition": "#B8860B", "did not hold": "#B2182B"}

MARKS = ("o", "s", "^", "D", "v", "P")
"""For series that share a colour's family and a line: no printer takes a shape away."""

FAMILY_LINES = {
    "supervised": (0, (5, 2)),
    "contrastive": "-",
    "policy_gradient": (0, (6, 1.5, 1.5, 1.5)),
}

RC: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.size": 15,
    "axes.titlesize": 17,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5F6368",
    "axes.linewidth": 1.1,
    "axes.grid": False,
    "xtick.labelsize": 13,
    "ytick.labelsize": 13,
    "text.color": INK,
    "axes.labelcolor": INK,
    "lines.linewidth": 2.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "modeseek",
    "svg.fonttype": "path",
}


def canvas(
    rows: int = 1, columns: int = 1, height: float = 5.6, width: float = 12.0, **kw: Any
) -> tuple[Figure, Any]:
    """A figure in the house style with a grid of axes, always as a 2-D array.

    Args:
        rows: of axes.
        columns: of axes.
        height: inches.
        width: inches.
        kw: for ``plt.subplots``.
    """
    # For the whole process: titles, labels and twin axes take their look when they are made.
    matplotlib.rcParams.update(RC)
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **kw)


def line_of(objective: str) -> Any:
    """The line style of an objective's family."""
    supervised = ("SFT", "PrefFT", "BestOfN", "RWR", "AWR")
    gradients = ("REINFORCE", "PPO", "GSPO")
    if objective in supervised:
        return FAMILY_LINES["supervised"]
    return FAMILY_LINES["policy_gradient" if objective in gradients else "contrastive"]


def curve(
    ax: Axes, x: np.ndarray, values: np.ndarray, objective: str, **line: Any
) -> tuple[float, float]:
    """Draw a mean over seeds with its 95% band in the objective's colour.

    Args:
        ax: where.
        x: [R].
        values: [S, R], one row per seed.
        objective: name of the class; decides colour and line.
        line: overrides, such as ``alpha`` or ``color``.

    Returns:
        The last point, for a label.
    """
    look = {"color": COLOURS.get(objective, INK), "linestyle": line_of(objective)} | line
    mean, half = values.mean(axis=0), half_width(values)
    ax.fill_between(x, mean - half, mean + half, color=look["color"], alpha=0.18, linewidth=0)
    ax.plot(x, mean, **look)
    return float(x[-1]), float(mean[-1])


def marked(number: int) -> dict[str, Any]:
    """Marks of a shape of their own on a curve, now and then, for ``curve``.

    Args:
        number: of the curve among those of its panel; the marks of two do not coincide.
    """
    every = (0.03 + 0.035 * number, 0.21)
    return {"marker": MARKS[number % len(MARKS)], "markevery": every, "markersize": 7}


def shades(objective: str, count: int, lightest: float = 0.62) -> list[str]:
    """An objective's colour, then paler and paler: for one objective at several settings.

    Args:
        objective: name of the class.
        count: how many shades.
        lightest: share of white in the last.
    """
    colour = np.array(to_rgb(COLOURS.get(objective, INK)))
    white = np.linspace(0, lightest, count)[:, None]
    return [to_hex(shade) for shade in (1 - white) * colour + white]


ENDS: WeakKeyDictionary[Axes, list[tuple[float, Annotation]]] = WeakKeyDictionary()
"""The names at the ends of curves, and where each would stand if it stood alone, in [0, 1]."""


def label_ends(
    ax: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 0.065, **text: Any
) -> None:
    """Write each curve's name at its right end, moved up or down just enough not to overlap.

    Args:
        ax: its limits must be final; room is made on the right by the layout.
        ends: (x, y, text, colour) of each curve's last point.
        gap: least vertical distance between labels, as a share of the axis' height.
        text: overrides for ``ax.annotate``.
    """
    low, high = ax.get_ylim()

    def to_share(y: float) -> float:
        if ax.get_yscale() == "log":
            return float(np.log(y / low) / np.log(high / low))
        return (y - low) / (high - low)

    order = sorted(range(len(ends)), key=lambda i: to_share(ends[i][1]))
    wanted = [to_share(ends[i][1]) for i in order]
    right = max((end[0] for end in ends), default=0.0)
    names = []
    for share, i in zip(placed(wanted, gap), order, strict=True):
        _, _, name, colour = ends[i]
        label = ax.annotate(
            name,
            xy=(right, share),
            xycoords=("data", "axes fraction"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            annotation_clip=False,
            **({"color": colour, "fontsize": 13, "fontweight": "bold"} | text),
        )
        names.append(label)
    ENDS[ax] = list(zip(wanted, names, strict=True))


def spread_ends(figure: Figure) -> None:
    """Place the names at the ends of curves again, for the size that figure and type have.

    Args:
        figure: laid out once, so that the heights of its axes are known.
    """
    for ax in figure.axes:
        wanted, names = zip(*ENDS.get(ax, []), strict=True) if ENDS.get(ax) else ((), ())
        if names:
            lines = max(name.get_text().count("\n") for name in names) + 1
            size = max(float(name.get_fontsize()) for name in names) * figure.dpi / 72
            gap = 1.25 * size * lines / ax.get_window_extent().height
            for share, name in zip(placed(wanted, gap), names, strict=True):
                name.xy = (name.xy[0], share)


def placed(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Where names stand that would like to stand at ``wanted`` (ascending), below the top."""
    room_above = gap * np.arange(len(wanted))[::-1]
    return np.minimum(spread_apart(np.array(wanted), gap), 0.98 - room_above)


def spread_apart(wanted: np.ndarray, gap: float) -> np.ndarray:
    """The positions in [0, 1] nearest to the wanted ones (ascending), in slots of size ``gap``."""

    def inside(centre: float, count: int) -> float:
        half = gap * count / 2
        return min(max(centre, half), 1 - half) if half < 0.5 else 0.5

    groups: list[tuple[float, int]] = []
    for position in wanted:
        groups.append((inside(float(position), 1), 1))
        while len(groups) > 1:
            (a, n), (b, m) = groups[-2], groups[-1]
            if b - a >= gap * (n + m) / 2:
                break
            groups[-2:] = [(inside((a * n + b * m) / (n + m), n + m), n + m)]
    return np.array(
        [centre + gap * (k - (count - 1) / 2) for centre, count in groups for k in range(count)]
    )


def panel_title(ax: Axes, text: str, name: str | None = None) -> None:
    """The idea of a panel, above it on the left.

    Args:
        ax: where.
        text: the idea.
        name: what the panel shows, for where the idea is said otherwise; the idea if None.
    """
    title = ax.set_title(text, loc="left", fontsize=RC["axes.titlesize"], fontweight="bold")
    title.set_label(text if name is None else name)


def title_of(ax: Axes) -> Text:
    """The title of a panel; its label is the panel's name."""
    return ax._left_title  # pyright: ignore[reportAttributeAccessIssue]


def footnote(figure: Figure, text: str, brief: str = "") -> None:
    """What is shown, with n: one small line under the panels.

    Args:
        figure: which.
        text: all of it.
        brief: what a room has to know, wherever the panels stand.
    """
    note = figure.supxlabel(text, fontsize=11, color="#5F6368", x=0.01, ha="left")
    note.set_label(brief)


def note_of(figure: Figure) -> Text:
    """The footnote of a figure; its label is the brief one."""
    return getattr(figure, "_supxlabel", None) or figure.supxlabel("")


def write(
    figure: Figure, folder: Path, name: str, formats: Sequence[str] = ("svg", "png")
) -> list[Path]:
    """Save a figure in every format, with reproducible bytes.

    Args:
        figure: what to save; it is closed afterwards.
        folder: created if it is missing.
        name: the file's stem.
        formats: ``"svg"``, ``"png"``, ``"pdf"``.
    """
    nothing = {
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Software": None},
    }
    paths = [folder / f"{name}.{extension}" for extension in formats]
    with matplotlib.rc_context(RC):
        for path in paths:
            metadata = nothing[path.suffix[1:]]
            atomically(path, lambda temporary, m=metadata: figure.savefig(temporary, metadata=m))
    plt.close(figure)
    return paths
