"""Every figure in every form: fit to be shown, whoever sees it, and the same bytes each time."""

import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from rich.console import Console

from experiments.catalogue import CATALOGUE
from experiments.results import Result, load
from figures import sheets, style, writing
from figures.forms import FORMS, Slide
from figures.sheets import panels
from modeseek import pictures, reproduce
from tests.figures.colour_vision import confusions, lab, seen, series_of

ANIMATED = ("relocation", "frontier")
TOLERANCE = 3.0
"""Pixels at 100 dots per inch by which boxes of type may reach into each other."""


def figure_and_result(name: str) -> tuple[ModuleType, Result]:
    """A figure's module, and the result that is kept with the code."""
    result = load(pictures.KEPT / CATALOGUE[name].study, name)
    return importlib.import_module(f"figures.{name}"), result


def drawn(name: str, form: str) -> Iterator[writing.Drawing]:
    """Everything a figure is in a form, what moves included at its last frame."""
    module, result = figure_and_result(name)
    yield from writing.drawings(module, result, FORMS[form])
    if form == "slides" and hasattr(module, "animate"):
        animation = module.animate(result)
        drawing = writing.moving(module, result, FORMS[form], writing.figure_of(animation))
        animation._draw_frame(list(animation.new_frame_seq())[-1])
        animation._draw_was_started = True
        yield drawing


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_figure_is_fit_to_be_shown(name, form):
    found = []
    with matplotlib.rc_context({"figure.max_open_warning": 0}):
        for drawing in drawn(name, form):
            drawing.figure.draw_without_rendering()
            problems = [
                *wrong_sheet(drawing.figure, form),
                *wrong_type(drawing.figure, form),
                *cut_or_overlapping(drawing.figure),
                *covered(drawing.figure),
                *mistaken(drawing.figure),
                *wrong_caption(drawing, form),
            ]
            found += [f"{drawing.stem}: {problem}" for problem in problems]
            plt.close(drawing.figure)
    assert not found, "\n".join(found)


def wrong_sheet(figure: Figure, form: str) -> Iterator[str]:
    """A slide is 16 to 9; a paper has a column of 3.25 to 3.5 inches, and 6.9 to 7 of text."""
    width, height = figure.get_size_inches()
    if form == "slides" and not np.allclose((width, height), (40 / 3, 7.5)):
        yield f"{width} x {height} is no slide"
    if form == "paper" and not (3.25 <= width <= 3.5 or 6.9 <= width <= 7.0):
        yield f"{width} fits no column"
    if form == "paper" and height > 8.5:
        yield f"{height} is too high for a page"


def wrong_type(figure: Figure, form: str) -> Iterator[str]:
    """On slides 18 points and a title of 28; in papers 6 to 8 points and no title."""
    title = figure.get_suptitle()
    if (form == "slides") != bool(title):
        yield f"title {title!r}"
    least, most = {"slides": (18, 28), "paper": (6, 8), "screen": (11, 20)}[form]
    for text in texts(figure):
        size = float(text.get_fontsize())
        if not least <= size <= most:
            yield f"{text.get_text()!r} has {size} points"
        if form == "slides" and text.get_text() == title and size < 28:
            yield f"the title has {size} points"


def cut_or_overlapping(figure: Figure) -> Iterator[str]:
    """Type outside the sheet, and type on type."""
    near = TOLERANCE * figure.dpi / 100
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    sheet = figure.bbox
    for words, box in boxes:
        inside = box.x0 > -near and box.y0 > -near
        if not (inside and box.x1 < sheet.x1 + near and box.y1 < sheet.y1 + near):
            yield f"{words!r} is cut"
    for (a, one), (b, other) in combinations(boxes, 2):
        shared = Bbox.intersection(one, other)
        if shared is not None and min(shared.width, shared.height) > near:
            yield f"{a!r} lies on {b!r}"


def covered(figure: Figure) -> Iterator[str]:
    """A legend on bars."""
    for ax in figure.axes:
        if (legend := ax.get_legend()) is not None:
            box = legend.get_window_extent()
            if any(box.overlaps(bar.get_window_extent()) for bar in ax.patches):
                yield "the legend lies on data"


def mistaken(figure: Figure) -> Iterator[str]:
    """Series that look alike without colour, or to eyes that lack a kind of cone."""
    for number, panel in enumerate(panels(figure)):
        for view, a, b in confusions(series_of(panel)):
            yield f"panel {number}, {view}: {a} is like {b}"


def wrong_caption(drawing: writing.Drawing, form: str) -> Iterator[str]:
    """A caption says what is shown and of how much, and on a slide begins with the idea."""
    headline = drawing.caption.split("\n\n")[0].replace("\n", " ")
    if not re.search(r"n = \d|[Ee]xact|[Ss]eeds", drawing.caption):
        yield "the caption does not say n"
    if "\n\n" not in drawing.caption.strip() or len(headline) < 20:
        yield "there is no caption"
    if form == "slides" and drawing.figure.get_suptitle().replace("\n", " ") != headline:
        yield "the caption does not begin with the title"


def texts(figure: Figure) -> list[Text]:
    """All type that is drawn."""
    found = [each for each in sheets.within(figure) if isinstance(each, Text)]
    for ax in figure.axes:
        if ax.axison:
            for axis in (each for each in (ax.xaxis, ax.yaxis) if each.get_visible()):
                found += [axis.label]
                for tick in axis._update_ticks():
                    found += [label for label in (tick.label1, tick.label2) if label.get_visible()]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def test_every_figure_says_its_ideas_in_sentences():
    for name in CATALOGUE:
        module, _ = figure_and_result(name)
        sentences = [slide.sentence for slide in module.SLIDES]
        assert sentences, name
        assert len(set(sentences)) == len(sentences)
        for sentence in sentences:
            assert len(sentence.split()) >= 5, sentence
            assert len(sentence) <= 2 * sheets.TITLE_WIDTH, sentence


def test_colours_that_are_only_colours_are_told_to_be_alike():
    figure, axes = style.canvas()
    (ax,) = axes[0]
    ax.plot([0, 1], color=style.FORWARD)
    ax.plot([1, 0], color=style.REVERSE)
    assert {view for view, *_ in confusions(series_of([ax]))} == {"greyscale"}
    ax.lines[1].set_linestyle("--")
    assert not confusions(series_of([ax]))
    ax.lines[1].set(linestyle="-", color="#5E8F00", marker="o")
    ax.plot([0.5, 0.5], color="#C06A00", marker="o")
    views = {view for view, *_ in confusions(series_of([ax]))}
    assert {"protanopia", "deuteranopia"} <= views
    ax.lines[2].set_markerfacecolor("white")
    assert not confusions(series_of([ax]))
    plt.close(figure)


def test_simulated_eyes_keep_greys_and_confuse_what_they_should():
    for view in ("protanopia", "deuteranopia", "tritanopia"):
        np.testing.assert_allclose(seen((0.5, 0.5, 0.5), view), 0.5, atol=2e-3)
    red, green = np.array([(0.8, 0.2, 0.0), (0.45, 0.45, 0.0)])
    apart = np.linalg.norm(lab(red) - lab(green))
    left = np.linalg.norm(lab(seen(red, "deuteranopia")) - lab(seen(green, "deuteranopia")))
    assert left < apart / 2
    assert lab((1, 1, 1)) == pytest.approx((100, 0, 0), abs=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_a_figure_is_written_with_the_same_bytes_every_time(form, tmp_path):
    module, result = figure_and_result("calibration")
    stills = ("svg", "pdf", "png")
    for folder in ("once", "again"):
        written = list(writing.export(module, result, FORMS[form], tmp_path / folder, stills))
    assert len(written) == 1
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    kinds = {path.suffix for path in (tmp_path / "once").iterdir()}
    assert kinds == {".svg", ".pdf", ".png", ".txt"}


def moving_dot() -> FuncAnimation:
    """Three frames of odd size."""
    figure, axes = style.canvas(height=1.55, width=2.25)
    (dot,) = axes[0, 0].plot([0], [0], "o")
    axes[0, 0].set(xlim=(-1, 3), ylim=(-1, 3))

    def show(frame: int) -> list[Any]:
        dot.set_data([frame], [frame])
        return []

    return FuncAnimation(figure, show, frames=3, blit=False)


@pytest.mark.skipif(writing.ffmpeg() is None, reason="no ffmpeg: `pip install -e '.[video]'`")
def test_an_mp4_plays_where_presentations_are_given(tmp_path):
    for folder in ("once", "again"):
        animation = moving_dot()
        path = writing.write_animation(animation, tmp_path / folder, "dot", "mp4")
        plt.close(writing.figure_of(animation))
    assert path.read_bytes() == (tmp_path / "once" / "dot.mp4").read_bytes()
    told = subprocess.run(
        [str(writing.ffmpeg()), "-hide_banner", "-i", path], capture_output=True, text=True
    ).stderr
    assert "Video: h264" in told
    assert "yuv420p" in told
    width, height = map(int, re.search(r"(\d{2,})x(\d{2,})", told.split("Video:")[1]).groups())
    assert (width % 2, height % 2) == (0, 0)
    # The index stands before the pictures, so that playing begins before all is read.
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


def test_without_ffmpeg_the_gif_is_written_and_the_extra_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writing, "ffmpeg", lambda: None)
    console = Console(width=200)
    assert pictures.playable(console, ("svg", "mp4", "gif")) == ("svg", "gif")
    assert "video" in capsys.readouterr().out
    animation = moving_dot()
    path = writing.write_animation(animation, tmp_path, "dot", "gif")
    assert path.read_bytes().startswith(b"GIF89a")
    with pytest.raises(FileNotFoundError, match="video"):
        writing.write_animation(animation, tmp_path, "dot", "mp4")
    plt.close(writing.figure_of(animation))


def test_what_moves_says_so_in_a_sentence():
    modules = {name: importlib.import_module(f"figures.{name}") for name in CATALOGUE}
    assert {name for name in CATALOGUE if hasattr(modules[name], "animate")} == set(ANIMATED)
    for name in ANIMATED:
        assert len(modules[name].MOTION.split()) >= 5


def test_a_slide_is_exported_from_the_result_kept_with_the_code(tmp_path, monkeypatch, capsys):
    def never(*_: Any) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr(reproduce, "compute", never)
    command = ["environment", "--format", "slides", "--files", "svg", "--out", str(tmp_path)]
    reproduce.main(command)
    slides = sorted(path.name for path in (tmp_path / "slides").iterdir())
    assert slides == [f"environment-{n}.{kind}" for n in (1, 2, 3) for kind in ("svg", "txt")]
    shown = capsys.readouterr().out
    assert f"{tmp_path}/slides/environment-1" in shown
    assert "R1 pays where the reference is thin" in shown


def test_a_result_of_other_code_is_drawn_if_its_settings_are_those_asked_for(tmp_path):
    kept = pictures.KEPT / "bandit"
    (tmp_path / "bandit").mkdir()
    for suffix in ("json", "npz"):
        shutil.copy(kept / f"taxonomy.{suffix}", tmp_path / "bandit")
    mark = json.loads((kept / "taxonomy.json").read_text())["fingerprint"]
    size = reproduce.Reproduce().size("bandit")
    assert pictures.there("taxonomy", size, mark, tmp_path) == (tmp_path / "bandit", "")
    assert pictures.there("taxonomy", size, mark, tmp_path / "empty") == (kept, "")
    place, commit = pictures.there("taxonomy", size, "of other code", tmp_path) or ("", "")
    assert place == tmp_path / "bandit"
    assert commit
    quick = reproduce.Reproduce(quick=True).size("bandit")
    assert pictures.there("taxonomy", quick, "of quick settings", tmp_path) is None


def test_kinds_of_files_follow_what_is_asked_for():
    assert reproduce.Reproduce().files == ("svg", "png", "gif")
    assert set(reproduce.Reproduce(format="slides").files) == {"svg", "png", "pdf", "gif", "mp4"}
    assert reproduce.Reproduce(format="paper", files=("pdf",)).files == ("pdf",)


def test_a_panel_alone_names_its_axes():
    module, result = figure_and_result("on_policy")
    slide = Slide("One objective alone says on its axes what is drawn", ((4,),))
    figure = module.draw(result)
    assert not panels(figure)[4][0].get_ylabel()
    sheets.put_on_slide(figure, slide)
    ((ax,),) = panels(figure)
    assert ax.get_ylabel() == "reward lost, % of the gain"
    assert ax.get_xlabel() == "B / M"
    plt.close(figure)
