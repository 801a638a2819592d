"""Putting a drawing on another sheet: some of its panels, everything in it magnified alike."""

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter

from figures import style
from figures.forms import FORMS, LETTERS, Form, Page, Slide

SLIDE = (40 / 3, 7.5)
"""Inches of a slide that is 16 wide and 9 high, as presentation programs have them."""
TITLE = 28
"""Points of the sentence above a slide."""
TITLE_WIDTH = 56
"""Characters of it that a line holds."""
CONTRAST = 3.0
"""Type is at least this much darker than the sheet, as WCAG measures it."""


def put_on_slide(figure: Figure, slide: Slide) -> None:
    """Keep the panels of a slide, and say its idea above them."""
    form = FORMS["slides"]
    if slide.panels:
        take(figure, slide.panels)
    shown = panels(figure)
    titles = [style.title_of(panel[0]) for panel in shown]
    for title, name in zip(titles, slide.names, strict=False):
        title.set_label(name)
    for title in titles:
        title.set_text(title.get_label() if len(shown) > 1 else "")
    note = style.note_of(figure)
    note.set_text(note.get_label())
    name_rows_once(figure)
    resize(figure, form, *SLIDE)
    sentence = balanced(slide.sentence, TITLE_WIDTH)
    figure.suptitle(sentence, x=0.01, ha="left", fontsize=TITLE, fontweight="bold")
    settle(figure)


def put_in_paper(figure: Figure, page: Page) -> None:
    """Give every panel its letter; what it shows is in the caption."""
    form = FORMS["paper"]
    if page.panels:
        take(figure, page.panels)
    for letter, title in lettered(figure):
        title.set_text(f"{letter}  {title.get_label()}" if letter else "")
    note = style.note_of(figure)
    note.set_text("")
    note.set_in_layout(False)
    across, high = figure.get_size_inches()
    resize(figure, form, page.width, page.height or page.width * high / across)
    settle(figure)


def name_rows_once(figure: Figure) -> None:
    """Say beside all rows what is said beside each of them."""
    named = [panel[0] for panel in panels(figure) if panel[0].get_ylabel()]
    columns = {place_of(ax)[1].start for ax in named}
    if len(named) > 1 and columns == {0} and len({ax.get_ylabel() for ax in named}) == 1:
        figure.supylabel(named[0].get_ylabel(), fontsize=style.RC["axes.labelsize"])
        for ax in named:
            ax.set_ylabel("")


def settle(figure: Figure) -> None:
    """Break axis names that are longer than their axis, and place the names of curves."""
    figure.draw_without_rendering()
    for ax in (panel[0] for panel in panels(figure)):
        box = ax.get_window_extent()
        for label, room in ((ax.xaxis.label, box.width), (ax.yaxis.label, box.height)):
            extent = label.get_window_extent()
            taken = max(extent.width, extent.height)
            if label.get_text() and taken > room:
                held = int(len(label.get_text()) * room / taken)
                label.set_text(balanced(label.get_text(), max(held, 12)))
    style.spread_ends(figure)


def balanced(text: str, width: int) -> str:
    """A text in as few lines as a width allows, about equally long."""
    words = " ".join(text.split())
    least = max(map(len, words.split()))
    tried = (
        textwrap.wrap(words, columns, break_on_hyphens=False) for columns in range(least, width)
    )
    lines = textwrap.wrap(words, width, break_on_hyphens=False)
    return "\n".join(next((each for each in tried if len(each) == len(lines)), lines))


def lettered(figure: Figure) -> list[tuple[str, Text]]:
    """The titles of the panels that have a name, each with its letter; one alone needs none."""
    titles = [style.title_of(panel[0]) for panel in panels(figure)]
    named = [title for title in titles if title.get_label()]
    return list(zip(LETTERS if len(named) > 1 else [""], named, strict=False))


def panels(figure: Figure) -> list[list[Axes]]:
    """The axes of a figure in reading order; those that lie on one another are one panel."""
    found: dict[Any, list[Axes]] = {}
    for ax in figure.axes:
        if ax.get_visible() and (place := ax.get_subplotspec()) is not None:
            found.setdefault(place, []).append(ax)

    def order(panel: list[Axes]) -> tuple[int, int]:
        rows, columns = place_of(panel[0])
        return rows.start, columns.start

    return sorted(found.values(), key=order)


def place_of(ax: Axes) -> tuple[range, range]:
    """Rows and columns of the figure's grid that a panel stands in."""
    place: Any = ax.get_subplotspec()
    top = place.get_topmost_subplotspec()
    return top.rowspan, top.colspan


def take(figure: Figure, rows: tuple[tuple[int, ...], ...]) -> None:
    """Keep some panels of a figure, in rows of their own."""
    every = panels(figure)
    wanted = {number for row in rows for number in row}
    labels = {number: axis_labels(every, number) for number in wanted}
    for number, panel in enumerate(every):
        for ax in panel if number not in wanted else ():
            ax.remove()
    columns = max(len(row) for row in rows)
    grid = GridSpec(len(rows), columns, figure)
    for i, row in enumerate(rows):
        for j, number in enumerate(row):
            last = columns if j == len(row) - 1 else j + 1
            for ax in every[number]:
                ax.set_subplotspec(grid[i, j:last])
            below, beside = labels[number]
            ax = every[number][0]
            if j == 0 and beside is not None and not spelt(ax.yaxis):
                ax.set_ylabel(beside.get_ylabel())
                ax.tick_params(labelleft=True)
            under = i == len(rows) - 1 or len(rows[i + 1]) <= j
            if under and below is not None and not spelt(ax.xaxis):
                ax.set_xlabel(below.get_xlabel())
                ax.tick_params(labelbottom=True)


def spelt(axis: Axis) -> bool:
    """Whether the ticks of an axis are words of its own, and need no name beside them."""
    return isinstance(axis.get_major_formatter(), FuncFormatter) and not axis.label.get_text()


def axis_labels(every: list[list[Axes]], number: int) -> tuple[Axes | None, Axes | None]:
    """The panels whose horizontal and vertical axis a panel shares a label with.

    A grid names an axis once, in its last row or first column; a panel alone has to name its own.
    """
    places = [(panel[0], *place_of(panel[0])) for panel in every]
    _, rows, columns = places[number]
    below = [ax for ax, r, c in places if c == columns and r.start >= rows.start]
    beside = [ax for ax, r, c in places if r == rows and c.start <= columns.start]
    named_below = next((ax for ax in below if ax.get_xlabel()), None)
    named_beside = next((ax for ax in reversed(beside) if ax.get_ylabel()), None)
    return named_below, named_beside


def resize(figure: Figure, form: Form, width: float, height: float) -> None:
    """Put a drawing on a sheet of another size, with everything in it magnified."""
    zoom = form.zoom
    figure.set_size_inches(width, height)
    artist: Any
    for artist in within(figure):
        if isinstance(artist, Text):
            artist.set_fontsize(form.type(float(artist.get_fontsize())))
            artist.set_color(legible(artist.get_color()))
        if isinstance(artist, Annotation):
            if artist.anncoords == "offset points":
                artist.xyann = (zoom * artist.xyann[0], zoom * artist.xyann[1])
            if artist.arrow_patch is not None:
                magnify_arrow(artist.arrow_patch, zoom)
        elif isinstance(artist, Line2D):
            artist.set_linewidth(zoom * artist.get_linewidth())
            artist.set_markersize(zoom * artist.get_markersize())
            artist.set_markeredgewidth(zoom * artist.get_markeredgewidth())
        elif isinstance(artist, Collection):
            artist.set_linewidth((zoom * np.asarray(artist.get_linewidth())).tolist())
        elif isinstance(artist, Patch):
            artist.set_linewidth(zoom * artist.get_linewidth())
    for ax in figure.axes:
        magnify_axis(ax.xaxis, form, style.RC["xtick.labelsize"])
        magnify_axis(ax.yaxis, form, style.RC["ytick.labelsize"])
        if (legend := ax.get_legend()) is not None:
            magnify_legend(ax, legend)
    layout: Any = figure.get_layout_engine()
    if layout is not None:
        pads = layout.get()
        layout.set(w_pad=max(1, zoom) * pads["w_pad"], h_pad=max(1, zoom) * pads["h_pad"])


def within(artist: Artist) -> Iterator[Artist]:
    """An artist and all it is made of, but for the axes' ticks."""
    yield artist
    for child in artist.get_children():
        if not isinstance(child, Axis):
            yield from within(child)


def magnify_arrow(arrow: FancyArrowPatch, zoom: float) -> None:
    """An arrow that belongs to a text."""
    arrow.set_mutation_scale(zoom * arrow.get_mutation_scale())
    arrow.set_linewidth(zoom * arrow.get_linewidth())


def magnify_axis(axis: Any, form: Form, points: float) -> None:
    """Ticks, those not made yet included, and the axis' name."""
    zoom = form.zoom
    axis.set_tick_params(
        labelsize=form.type(points),
        length=zoom * 3.5,
        width=zoom * 0.8,
        pad=zoom * 3.5,
    )
    axis.labelpad *= zoom
    axis.label.set_fontsize(form.type(axis.label.get_fontsize()))
    axis.get_offset_text().set_fontsize(form.type(points))


def magnify_legend(ax: Axes, legend: Legend) -> None:
    """Spaces and samples of a legend take their size from its type when it is made."""
    texts, handles = legend.get_texts(), [each for each in legend.legend_handles if each]
    place: Any = legend._loc  # pyright: ignore[reportAttributeAccessIssue]
    names = [text.get_text() for text in texts]
    ax.legend(handles, names, loc=place, fontsize=texts[0].get_fontsize())


def legible(colour: Any) -> Any:
    """A colour, darkened as far as type needs on white."""
    rgb = np.array(to_rgb(colour))

    def contrast(share: float) -> float:
        linear = np.where((c := share * rgb) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return 1.05 / (float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)

    share = next((s for s in np.linspace(1, 0, 51) if contrast(s) >= CONTRAST), 0.0)
    return colour if share == 1 else to_hex(tuple(share * rgb))
