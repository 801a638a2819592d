"""What to print beside a figure, from its docstring, its panels and its footnote.

There is no second copy of a caption: in whatever form a figure is written, its text is made from
the same three.
"""

import inspect
import textwrap
from types import ModuleType

from matplotlib.figure import Figure
from matplotlib.text import Text

from figures import style
from figures.forms import Slide
from figures.sheets import lettered, panels


def caption_of(module: ModuleType, figure: Figure) -> str:
    """A figure's headline, caption, the names of its panels, and what is shown with n."""
    said = sections(module)
    every = lettered(figure)
    titles = [f"({letter}) {words(title, every)}" for letter, title in every if letter]
    names = f"{'; '.join(titles)}." if titles else ""
    note = style.note_of(figure).get_text()
    return written(said["headline"], said["caption"], names, note)


def words(title: Text, every: list[tuple[str, Text]]) -> str:
    """What a panel shows: its title on the screen, and its name where that does not tell."""
    text, name = title.get_text().strip(), str(title.get_label())
    alike = sum(other.get_text().strip() == text for _, other in every) > 1
    return f"{text}: {name}" if text and alike else text or name


def caption_of_slide(module: ModuleType, figure: Figure, slide: Slide, where: str) -> str:
    """A slide's sentence and panels, and the caption of the figure it is from."""
    every = lettered(figure)
    titles = [words(style.title_of(panel[0]), every) for panel in panels(figure)]
    shown = [titles[number] for row in slide.panels for number in row if titles[number]]
    names = slide.names or shown
    parts = [slide.sentence, f"{where}." if where else "", f"{'; '.join(names)}." if names else ""]
    whole = caption_of(module, figure)
    return written(*parts) + "\nThe figure as a whole:\n\n" + whole


def sections(module: ModuleType) -> dict[str, str]:
    """The first line of a figure's docstring, and its caption."""
    blocks = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    found = {"headline": " ".join(blocks[0].split()), "caption": ""}
    for block in blocks[1:]:
        if block.startswith("Caption: "):
            words = " ".join(block.removeprefix("Caption: ").replace("``", "").split())
            found["caption"] = words[:1].upper() + words[1:]
    return found


def written(*paragraphs: str) -> str:
    """Paragraphs as a text file has them."""
    return "\n".join(
        textwrap.fill(" ".join(paragraph.split()), 100) + "\n"
        for paragraph in paragraphs
        if paragraph
    )
