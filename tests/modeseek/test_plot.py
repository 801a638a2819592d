"""A run's metrics become a picture with a panel for whatever there is."""

import json
from pathlib import Path

import numpy as np
import pytest

from figures.training_run import PANELS, Curves, Panel, arranged, draw, smooth
from llm.settings import OFFLINE_RECIPES, Training, as_record
from modeseek.plot import Plot, curves, main, names, target


def run_folder(folder: Path, recipe: str = "dpo", steps: int = 50, **settings: object) -> Path:
    """What a run writes, made up."""
    folder.mkdir(parents=True)
    objective = as_record(OFFLINE_RECIPES[recipe].objective)
    asked = as_record(Training(**settings))  # pyright: ignore[reportArgumentType]
    record = {"recipe": recipe, "objective": objective, "settings": asked, "fingerprints": {}}
    (folder / "run.json").write_text(json.dumps(record))
    lines = [
        {
            "step": step,
            "kind": kind,
            "loss": 1 / (1 + step),
            "margin": 0.1 * step,
            "accuracy": min(1.0, 0.1 * step),
            "chosen_log_ratio": -0.1 * step,
            "rejected_log_ratio": -0.2 * step,
            "gradient_norm": 3.0,
            "clock": {"seconds": 1.0},
        }
        for step in range(steps + 1)
        for kind in (["train"] if step else []) + (["eval"] if step % 25 == 0 else [])
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 51, "ki')  # killed while it wrote
    return folder


def titles(runs: list[Curves]) -> list[str]:
    figure = draw(runs)
    return [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]


def test_only_panels_with_something_to_show_are_drawn(tmp_path: Path) -> None:
    shown = titles([curves(run_folder(tmp_path / "a"), "a")])
    assert len(shown) == 5
    assert set(shown) == {
        "Loss",
        "Pairs in the right order",
        "Margin",
        "Where the mass goes",
        "Gradient",
    }


def test_accuracy_begins_where_margins_are_more_than_rounding(tmp_path: Path) -> None:
    run = curves(run_folder(tmp_path / "a"), "a")
    assert run.held_out["margin"][0].tolist() == [0, 25, 50]
    assert run.held_out["accuracy"][0].tolist() == [25, 50]


def test_several_runs_lie_on_top_of_each_other_under_their_names(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / where / "dpo") for where in ("x", "y")]
    assert names(tuple(folders)) == ["x/dpo", "y/dpo"]
    runs = [curves(f, n) for f, n in zip(folders, names(tuple(folders)), strict=True)]
    figure = draw(runs)
    loss = figure.axes[0]
    assert len({line.get_color() for line in loss.lines}) == 2
    last = next(ax for ax in figure.axes if ax.get_title(loc="left") == "Where the mass goes")
    words = {text.get_text() for text in last.texts}
    assert {"x/dpo", "y/dpo", "solid: preferred\ndotted: rejected"} <= words


def test_a_bold_line_begins_at_the_first_value_and_keeps_a_constant() -> None:
    values = np.concatenate(([5.0], np.ones(59)))
    found = smooth(values, 4)
    assert found[0] == 5
    np.testing.assert_allclose(found[10:], 1)
    np.testing.assert_allclose(smooth(np.arange(60.0), 4)[:55], np.arange(55.0))


@pytest.mark.parametrize("number", range(1, len(PANELS) + 1))
def test_every_panel_has_a_place_of_its_own(number: int) -> None:
    chosen: tuple[Panel, ...] = PANELS[:number]
    places = arranged(chosen)
    assert len(set(places)) == number
    columns = 1 + max(column for _, column in places)
    pairs = {p for p, panel in zip(places, chosen, strict=True) if len(panel.metrics) > 1}
    assert all(column == columns - 1 for _, column in pairs)
    assert columns <= 5


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_written_where_it_was_asked_for(tmp_path: Path, ending: str) -> None:
    folder = run_folder(tmp_path / "run")
    main([str(folder), "--format", ending])
    assert (folder / f"training.{ending}").stat().st_size > 1000
    main([str(folder), "--out", str(tmp_path / f"other.{ending}")])
    first, second = (folder / f"training.{ending}", tmp_path / f"other.{ending}")
    assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_drawn_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    with pytest.raises(ValueError, match="ending must be"):
        target(Plot(runs=(folder,), out=Path("a.jpg")))
    with pytest.raises(ValueError, match="leave one of them out"):
        target(Plot(runs=(folder,), out=Path("a.png"), format="svg"))
    with pytest.raises(ValueError, match="name the folder"):
        main([])
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        main([str(tmp_path)])
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match="no step yet"):
        main([str(folder)])
