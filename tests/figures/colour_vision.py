"""What a figure's series look like on a greyscale printer and to eyes that lack a kind of cone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

# Machado, Oliveira and Fernandes (2009), "A Physiologically-based Model for Simulation of Color
# Vision Deficiency", IEEE TVCG 15(6), table of matrices at severity 1.0; for linear RGB.
DEFICIENCIES = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
SHADES_APART = 9.0
"""CIE L* by which two greys are told apart, side by side in one panel."""
COLOURS_APART = 12.0
"""CIE76 distance in L*a*b* by which two colours are."""
WIDTHS_APART = 1.6
"""Ratio of the widths of two lines that are told apart by them."""


@dataclass(frozen=True)
class Series:
    """How one series of a panel is drawn.

    Attributes:
        kind: line, points or bars; different kinds are not mistaken for each other.
        colour: sRGB in [0, 1], as it appears on white.
        pattern: dashes, marks, filling or hatch: whatever a printer without colour keeps.
        width: of the line, in points; 0 where there is none.
        place: the word on the axis it stands at, where ticks are words.
    """

    kind: str
    colour: tuple[float, float, float]
    pattern: frozenset[Any]
    width: float = 0.0
    place: str = ""


def series_of(panel: list[Axes]) -> set[Series]:
    """The different looks among the lines, points and bars of a panel."""
    # Without axes there are no series: everything in such a picture stands under its name.
    return {each for ax in panel if ax.axison for each in (*lines_and_points(ax), *bars(ax))}


def lines_and_points(ax: Axes) -> Iterator[Series]:
    """Curves with the marks on them, and points that stand alone.

    Not the rules across a panel, nor the caps of error bars.
    """
    caps = ("_", "|", 0, 1, 2, 3)
    shown = [
        line
        for line in ax.lines
        if line.get_transform() == ax.transData
        and line.get_visible()
        and line.get_marker() not in caps
        and np.size(line.get_xdata())
    ]
    curves = [line for line in shown if is_curve(line)]
    marks = [line for line in shown if not is_curve(line) and mark(line)]
    for curve in curves:
        on_it = {mark(each) for each in marks if lies_on(ax, each, curve)}
        pattern = frozenset({dashes(curve), mark(curve), *on_it} - {None})
        colour = on_white(curve.get_color(), curve.get_alpha())
        yield Series("line", colour, pattern, curve.get_linewidth())
    for each in marks:
        if not any(lies_on(ax, each, curve) for curve in curves):
            colour = on_white(each.get_color(), each.get_alpha())
            place = word_at(ax, *(float(np.mean(v)) for v in each.get_data()))
            yield Series("points", colour, frozenset({mark(each)}), place=place)


def bars(ax: Axes) -> Iterator[Series]:
    """Bars that stand for something by their colour or hatch."""
    for bar in ax.patches:
        if isinstance(bar, Rectangle) and (bar.get_width() or bar.get_height()):
            hatch = str(bar.get_hatch() or "")
            white = bar.get_facecolor()[:3] == (1.0, 1.0, 1.0)
            colour = on_white(bar.get_edgecolor() if white else bar.get_facecolor(), None)
            place = word_at(ax, *bar.get_center())
            # Segments of one bar stand at one place.
            yield Series("bars", colour, frozenset({hatch}), place=place)


def is_curve(line: Line2D) -> bool:
    """Whether points are joined."""
    return line.get_linestyle() != "None" and np.size(line.get_xdata()) > 1


def mark(line: Line2D) -> tuple[str, bool] | None:
    """The shape of a line's marks, and whether they are hollow; None where there are none."""
    shape = str(line.get_marker())
    hollow = to_rgba(line.get_markerfacecolor())[:3] == (1.0, 1.0, 1.0)
    return None if shape in ("None", "") else (shape, hollow)


def lies_on(ax: Axes, points: Line2D, curve: Line2D) -> bool:
    """Whether points are marks on a curve of their own colour."""
    if to_rgba(points.get_color())[:3] != to_rgba(curve.get_color())[:3]:
        return False
    corners = ax.transData.transform(np.column_stack(curve.get_data()))
    start, step = corners[:-1, None], np.diff(corners, axis=0)[:, None]
    away = ax.transData.transform(np.column_stack(points.get_data())) - start
    along = (away * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-12)
    apart = np.linalg.norm(away - np.clip(along, 0, 1)[..., None] * step, axis=-1)
    return bool((apart.min(axis=0) < 2).all())


def word_at(ax: Axes, x: float, y: float) -> str:
    """The word on an axis whose ticks are words, at the tick nearest to a point."""
    for axis, value in ((ax.xaxis, x), (ax.yaxis, y)):
        words = [tick.get_text() for tick in axis.get_ticklabels()]
        places = np.atleast_1d(axis.get_majorticklocs())
        if len(words) == len(places) and any(any(map(str.isalpha, word)) for word in words):
            return words[int(np.argmin(np.abs(places - value)))]
    return ""


def dashes(line: Line2D) -> tuple[float, ...]:
    """The pattern of a line in units of its width; () for a solid one."""
    pattern: Any = line._unscaled_dash_pattern  # pyright: ignore[reportAttributeAccessIssue]
    return tuple(pattern[1] or ())


def on_white(colour: Any, alpha: float | None) -> tuple[float, float, float]:
    """An opaque colour for one that lets white shine through."""
    *rgb, opacity = to_rgba(colour, alpha)
    r, g, b = (round(1 - opacity * (1 - each), 4) for each in rgb)
    return r, g, b


def confusions(found: set[Series]) -> list[tuple[str, Series, Series]]:
    """Pairs of a panel's series that are mistaken for each other, and where."""
    confused = []
    for a, b in combinations(sorted(found, key=repr), 2):
        widths = sorted((a.width, b.width))
        thick = widths[0] > 0 and widths[1] / widths[0] >= WIDTHS_APART
        if (a.kind, a.pattern, a.place) != (b.kind, b.pattern, b.place) or thick:
            continue
        if abs(lab(a.colour)[0] - lab(b.colour)[0]) < SHADES_APART:
            confused.append(("greyscale", a, b))
        for name in DEFICIENCIES:
            apart = np.linalg.norm(lab(seen(a.colour, name)) - lab(seen(b.colour, name)))
            if apart < COLOURS_APART:
                confused.append((name, a, b))
    return confused


def seen(rgb: Any, deficiency: str) -> np.ndarray:
    """A colour as it appears with one kind of cone missing."""
    mixed = np.array(DEFICIENCIES[deficiency]) @ linear(np.asarray(rgb))
    clipped = np.clip(mixed, 0, 1)
    return np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)


def linear(rgb: np.ndarray) -> np.ndarray:
    """SRGB without its gamma."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: Any) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour, for daylight (D65)."""
    to_xyz = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    xyz = np.array(to_xyz) @ linear(np.asarray(rgb)) / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
