"""The forms a figure takes: on the screen, on slides, in a paper.

A figure is drawn once, with the sizes it has on the screen. Every other form is that same drawing
on another sheet, its type, lines and marks magnified alike: a slide takes some of its panels and
says their idea in a sentence above them; a paper takes all of them in the width of its text, with a
letter for each panel and everything else in the caption. The caption is the figure's docstring,
what its panels are called, and the note under them that says what is shown, with n.
"""

from dataclasses import dataclass
from typing import Any, Literal

Name = Literal["screen", "slides", "paper"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a drawing made for the screen is put on another sheet.

    Attributes:
        name: what it is asked for by.
        zoom: of type, lines and marks against the screen.
        least: points of the smallest type.
        most: points of the largest type inside the figure.
    """

    name: Name
    zoom: float = 1.0
    least: float = 0.0
    most: float = 1e3

    def type(self, points: float) -> float:
        """The size of type that is so many points on the screen."""
        return min(max(points * self.zoom, self.least), self.most)


FORMS = {
    form.name: form
    for form in (
        Form(name="screen"),
        Form(name="slides", zoom=1.5, least=18, most=24),
        Form(name="paper", zoom=0.5, least=6, most=8),
    )
}

LETTERS = "abcdefghijkl"
TEXT, COLUMN = 7.0, 3.4
"""Inches of a paper's text, and of one of its two columns."""


@dataclass(frozen=True)
class Slide:
    """One idea of a figure, for a room.

    Attributes:
        sentence: the idea.
        panels: which panels show it, row by row, each by its place in the figure's reading order;
            all of them as they are if none is named.
        names: what the panels are called here, where that differs.
        view: what ``draw`` is told besides the result.
    """

    sentence: str
    panels: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()
    view: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Page:
    """How a figure stands in a paper.

    Attributes:
        width: inches.
        height: inches; as the width asks for if None.
        panels: row by row as for a slide; all of them as they are if none is named.
        view: what ``draw`` is told besides the result.
    """

    width: float = TEXT
    height: float | None = None
    panels: tuple[tuple[int, ...], ...] = ()
    view: tuple[tuple[str, Any], ...] = ()
