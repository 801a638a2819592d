"""How acquisition functions look: one colour, line and mark each, in every figure about reviews."""

from typing import Any

from figures import style

COLOURS = {
    "random": style.INK,
    "entropy": "#8E6BBF",
    "certainty": "#D55E00",
    "hybrid": "#0072B2",
}
LINES: dict[str, Any] = {
    "random": (0, (5, 2)),
    "entropy": (0, (6, 1.5, 1.5, 1.5)),
    "hybrid": (0, (1, 1.2)),
}
MARKS = {"entropy": "s", "certainty": "o", "hybrid": "^"}
TITLES = {"hybrid": "entropy, then certainty"}
GREY = "#5F6368"


def look(name: str) -> dict[str, Any]:
    """Colour and line of a function."""
    return {"color": COLOURS.get(name, GREY), "linestyle": LINES.get(name, "-")}


def title(name: str) -> str:
    """What a function is called."""
    return TITLES.get(name, name)
