"""How speed and memory grow: with batch, length, vocabulary, model and devices, ours alone.

DPO on pairs of equal lengths, one quantity moved at a time from the same middle. Devices on a CPU
are simulated: they share its cores, so more of them show what laying out and exchanging cost, and
nothing else.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.numbers import trained
from experiments.benchmarks.report import Report
from experiments.benchmarks.rounds import MODESEEK, Failed, Notebook, Turn, run
from experiments.benchmarks.speed import written_down
from experiments.benchmarks.tasks import Lengths, TrainTask, llama, make_rows, save_rows

HEADINGS = ("", "", "parameters", "tokens/s", "MFU", "peak GiB", "compile s")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement.

    Attributes:
        pairs: in a step.
        text: tokens of a prompt, and of each response.
        words: V.
        width: D.
        layers: L.
        devices: that share the batch.
        steps: of the run.
    """

    pairs: int = 8
    text: int = 64
    words: int = 4096
    width: int = 256
    layers: int = 4
    devices: int = 1
    steps: int = 6


GRID: dict[str, list[dict[str, int]]] = {
    "pairs": [{"pairs": pairs} for pairs in (1, 4, 16, 32)],
    "tokens of a text": [{"text": t, "pairs": 512 // t} for t in (16, 64, 128, 256)],
    "vocabulary": [{"words": words} for words in (512, 8192, 32768, 131072)],
    "width, layers": [
        {"width": w, "layers": n} for w, n in ((64, 2), (128, 4), (256, 4), (512, 8))
    ],
    "devices": [{"devices": devices} for devices in (1, 2, 4)],
}
SMALL = Point(pairs=2, text=8, words=64, width=64, layers=1, steps=3)
SMALL_GRID = {"pairs": [{"pairs": 2}], "devices": [{"devices": 2}]}


def scaling(tiny: bool, folder: Path, peak: float, notebook: Notebook) -> Iterator[str | Report]:
    """Make the table.

    Args:
        tiny: whether only to show that it works.
        folder: for data and models.
        peak: FLOP/s of the machine.
        notebook: gets every run as it ends.

    Yields:
        What is being done, now and then; at last the report.
    """
    middle, grid = (SMALL, SMALL_GRID) if tiny else (Point(), GRID)
    rows: list[tuple[str, ...]] = []
    record: dict[str, Any] = {}
    for what, points in grid.items():
        for number, changes in enumerate(points):
            point = replace(middle, **changes)
            said = " × ".join(str(value) for value in changes.values())
            yield f"{what} {said}"
            task, size = prepare(point, folder / f"{what}-{number}")
            line: dict[str, Any] = {"point": asdict(point), "parameters": size}
            try:
                found = run(Turn(who=MODESEEK, task=task), "cpu", limit=600)
            except Failed as error:
                line["error"] = str(error)
                rows.append((what, said, f"{size:,}", "failed", "", "", ""))
            else:
                n = trained(task, found, peak)
                line |= asdict(n)
                rows.append(
                    (
                        what,
                        said,
                        f"{size:,}",
                        f"{n.tokens_per_second:,.0f}",
                        f"{n.mfu:.1%}",
                        f"{n.memory:.2f}",
                        f"{n.compile:.1f}",
                    )
                )
            record.setdefault(what, []).append(line)
            notebook.write("scaling", what=what, **line)
    title = "How it grows (DPO, float32; devices of a CPU are simulated and share its cores)"
    yield Report(title=title, headings=HEADINGS, rows=rows, record=record)


def prepare(point: Point, folder: Path) -> tuple[TrainTask, int]:
    """The task of a point, and how many parameters its model has."""
    from math import prod

    from llm.model import abstract_decoder, parameters
    from llm.model.architecture import architecture_from_config

    folder.mkdir()
    lengths = Lengths(prompt=point.text, response=point.text, spread=0.0, longest=4 * point.text)
    model = llama(point.width, point.layers, point.words, max(4 * point.text, 64))
    shapes = parameters(abstract_decoder(architecture_from_config(model.config)))
    model = written_down(folder / "model", model)
    rows = make_rows(point.pairs * point.steps, 2, lengths, point.words, 0)
    save_rows(folder / "rows.npz", rows)
    task = TrainTask(
        recipe="dpo",
        model=model,
        rows=str(folder / "rows.npz"),
        batch=point.pairs,
        steps=point.steps,
        devices=point.devices,
    )
    return task, sum(prod(shape.shape) for shape in shapes.values())
