"""One file of everything: markup, style, engine, claims and controls.

Nothing is fetched when it is opened, so it works from a memory stick in a room without a network.
"""

import json
from pathlib import Path

from figures.lecture.presets import as_json

HERE = Path(__file__).parent
PARTS = {
    "/*STYLE*/": "page.css",
    "/*ENGINE*/": "engine.js",
    "/*SETTINGS*/": "settings.js",
    "/*PICTURES*/": "pictures.js",
    "/*PAGE*/": "page.js",
}
"""What stands in the markup for the contents of which file."""

CLAIMS = "/*PRESETS*/null"


def page() -> str:
    """The whole page as HTML."""
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for place, file in PARTS.items():
        text = text.replace(place, (HERE / file).read_text(encoding="utf-8").rstrip())
    return text.replace(CLAIMS, json.dumps(as_json(), ensure_ascii=False))


def write(path: Path) -> None:
    """Write the page.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(), encoding="utf-8")
