"""Pictures of results: drawn where there is none yet, or exported from results that are there."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from experiments.catalogue import CATALOGUE, ROOT
from experiments.results import Result, Size, is_current

if TYPE_CHECKING:
    from figures.writing import Written

KEPT = ROOT / "experiments" / "results"
"""Results that are kept with the code."""
DRAWING = ("style", "forms", "sheets", "captions", "writing")
"""What all figures are drawn and written with."""


def draw(
    result: Result, folder: Path, files: tuple[Any, ...], form: str = "screen"
) -> list["Written"]:
    """Draw a result's figure in one form, and its animation where it has one."""
    import matplotlib

    matplotlib.use("Agg")
    from figures.forms import FORMS
    from figures.writing import export

    figure = importlib.import_module(f"figures.{result.name}")
    return list(export(figure, result, FORMS[form], folder, files))


def is_drawn(folder: Path, name: str, files: tuple[str, ...]) -> bool:
    """Whether a figure is there in every kind of file and no older than the code that draws it."""
    stills = [kind for kind in files if kind not in ("gif", "mp4")]
    pictures = [folder / f"{name}.{extension}" for extension in (*stills, "txt")]
    code = [ROOT / "figures" / f"{stem}.py" for stem in (name, *DRAWING)]
    if not all(picture.exists() for picture in pictures):
        return False
    changed = max(path.stat().st_mtime for path in code)
    return min(picture.stat().st_mtime for picture in pictures) >= changed


def playable(console: Console, files: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of files that can be written here; says what is missing for the others."""
    if "mp4" in files:
        from figures.writing import NO_FFMPEG, ffmpeg

        if ffmpeg() is None:
            console.print(escape(NO_FFMPEG))
            return tuple(dict.fromkeys("gif" if kind == "mp4" else kind for kind in files))
    return files


def there(name: str, size: Size, mark: str, out: Path) -> tuple[Path, str] | None:
    """Where a result of these settings is, and the commit that made it if that was other code.

    One that was made by just this code comes first, then the reader's own, then the one kept with
    the code.

    Args:
        name: of the experiment.
        size: the settings.
        mark: the fingerprint of a result of just this code.
        out: where the reader's own results are.
    """
    folders = [root / CATALOGUE[name].study for root in (out, KEPT)]
    for folder in folders:
        if is_current(folder, name, mark):
            return folder, ""
    for folder in folders:
        try:
            record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if record["size"] == asdict(size) and (folder / f"{name}.npz").exists():
            return folder, record["commit"]
    return None
