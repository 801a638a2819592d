"""Writing figures: every form, every kind of file, the caption beside it, and what moves.

An animation is a GIF, which every program shows, and an MP4 that presentation programs play. The
MP4 needs ffmpeg, which the extra ``video`` brings where the machine has none.
"""

import importlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.animation import FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from PIL import Image

from experiments.results import Result, atomically
from figures import style
from figures.captions import caption_of, caption_of_slide
from figures.forms import Form, Page, Slide
from figures.sheets import put_in_paper, put_on_slide

Extension = Literal["svg", "png", "pdf", "gif", "mp4"]

FRAMES_PER_SECOND = 6
DOTS = {"gif": 70, "mp4": 144}
"""Per inch; an MP4 in the form of slides is 1920 x 1080."""
NO_FFMPEG = (
    "MP4 needs ffmpeg, and there is none: `pip install -e '.[video]'` brings one. "
    "The GIF shows the same."
)


@dataclass(frozen=True)
class Written:
    """A figure, or one slide of it, on disk.

    Attributes:
        stem: of its files.
        paths: of the pictures, and of the caption.
        idea: the first line of the caption.
    """

    stem: str
    paths: tuple[Path, ...]
    idea: str


@dataclass(frozen=True)
class Drawing:
    """A figure in one form.

    Attributes:
        stem: of the files to write.
        figure: ready to be written.
        caption: what to print beside it.
    """

    stem: str
    figure: Figure
    caption: str


def export(
    module: ModuleType, result: Result, form: Form, folder: Path, files: Sequence[Extension]
) -> Iterator[Written]:
    """Write a figure in one form, one slide after the other, and its animation if it has one.

    Args:
        module: of the figure.
        result: of its experiment.
        form: which.
        folder: created if it is missing.
        files: which kinds; animations are the last two.
    """
    stills = [kind for kind in files if kind not in DOTS]
    for drawing in drawings(module, result, form) if stills else ():
        paths = style.write(drawing.figure, folder, drawing.stem, stills)
        yield with_caption(drawing, folder, paths)
    kinds: list[Extension] = [kind for kind in files if kind in DOTS]
    if kinds and hasattr(module, "animate") and form.name != "paper":
        animation: FuncAnimation = module.animate(result)
        drawing = moving(module, result, form, figure_of(animation))
        paths = [write_animation(animation, folder, drawing.stem, kind) for kind in kinds]
        plt.close(drawing.figure)
        yield with_caption(drawing, folder, paths)


def drawings(module: ModuleType, result: Result, form: Form) -> Iterator[Drawing]:
    """Everything a figure is in one form, drawn one by one.

    Args:
        module: of the figure, with its ``SLIDES`` and perhaps a ``PAGE``.
        result: of its experiment.
        form: which.
    """
    if form.name == "slides":
        slides: tuple[Slide, ...] = module.SLIDES
        for number, slide in enumerate(slides, start=1):
            figure = module.draw(result, **dict(slide.view))
            where = f"Slide {number} of {len(slides)}" if len(slides) > 1 else ""
            caption = caption_of_slide(module, figure, slide, where)
            put_on_slide(figure, slide)
            stem = f"{result.name}-{number}" if len(slides) > 1 else result.name
            yield Drawing(stem, figure, caption)
        return
    page: Page = getattr(module, "PAGE", Page())
    figure = module.draw(result, **dict(page.view if form.name == "paper" else ()))
    caption = caption_of(module, figure)
    if form.name == "paper":
        put_in_paper(figure, page)
    yield Drawing(result.name, figure, caption)


def moving(module: ModuleType, result: Result, form: Form, figure: Figure) -> Drawing:
    """The figure of an animation in one form; its idea is the module's ``MOTION``."""
    still = module.draw(result)
    plt.close(still)
    if form.name != "slides":
        return Drawing(result.name, figure, caption_of(module, still))
    slide = Slide(module.MOTION)
    put_on_slide(figure, slide)
    return Drawing(f"{result.name}-moving", figure, caption_of_slide(module, still, slide, ""))


def figure_of(animation: FuncAnimation) -> Figure:
    """The figure that an animation moves."""
    return animation._fig  # pyright: ignore[reportAttributeAccessIssue]


def with_caption(drawing: Drawing, folder: Path, paths: Sequence[Path]) -> Written:
    """Write the caption beside the pictures."""
    caption = folder / f"{drawing.stem}.txt"
    atomically(caption, lambda path: path.write_text(drawing.caption, encoding="utf-8"))
    return Written(drawing.stem, (*paths, caption), drawing.caption.split("\n\n")[0])


class Frames(PillowWriter):
    """Takes a frame as it stands on the canvas; its parent would draw it two more times."""

    def grab_frame(self, **savefig_kwargs: Any) -> None:
        """Keep the frame that has just been drawn."""
        canvas: Any = self.fig.canvas
        frames: list[Image.Image] = self._frames  # pyright: ignore[reportAttributeAccessIssue]
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))


class Film(FFMpegWriter):
    """Likewise."""

    def grab_frame(self, **savefig_kwargs: Any) -> None:
        """Hand ffmpeg the frame that has just been drawn."""
        canvas, process = self.fig.canvas, self._proc  # pyright: ignore[reportAttributeAccessIssue]
        process.stdin.write(canvas.buffer_rgba())  # pyright: ignore[reportAttributeAccessIssue]


def write_animation(animation: FuncAnimation, folder: Path, stem: str, kind: Extension) -> Path:
    """Save an animation, with one layout for every frame.

    Raises:
        FileNotFoundError: for an MP4 where there is no ffmpeg.
    """
    path, dots, figure = folder / f"{stem}.{kind}", DOTS[kind], figure_of(animation)
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    writer = Frames(fps=FRAMES_PER_SECOND) if kind == "gif" else film()
    figure.set_dpi(dots)
    rc: dict[Any, Any] = style.RC | {"animation.ffmpeg_path": ffmpeg() or "ffmpeg"}
    with matplotlib.rc_context(rc):
        atomically(path, lambda temporary: animation.save(str(temporary), writer=writer, dpi=dots))
    return path


def film() -> Film:
    """H.264 as presentation programs play it: 4:2:0, even sides, and the same bytes every time.

    Raises:
        FileNotFoundError: if there is no ffmpeg.
    """
    if ffmpeg() is None:
        raise FileNotFoundError(NO_FFMPEG)
    even = "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white"
    plain = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    # The number of threads decides how a picture is cut, and so the bytes.
    picture = ["-pix_fmt", "yuv420p", "-crf", "18", "-r", "30", "-vf", even, "-threads", "2"]
    return Film(
        fps=FRAMES_PER_SECOND,
        codec="libx264",
        extra_args=[*picture, *plain, "-movflags", "+faststart"],
    )


def ffmpeg() -> str | None:
    """The program that makes films: that of the extra ``video``, or the machine's own."""
    try:
        return importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return shutil.which("ffmpeg")
