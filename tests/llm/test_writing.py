"""A file of responses: rated it can be trained on, interrupted it goes on, else it is refused."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llm.data.examples import DataSettings
from llm.data.sources import read_examples
from llm.writing import NOTE, Writing, write_responses, written_before
from tests.llm.tiny_runs import write_model, write_rows

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes, and prompts in two layouts."""
    root = tmp_path_factory.mktemp("writing")
    write_model(root / "model")
    write_rows(root / "prompts.jsonl", ({"prompt": f"say {'x' * n}:"} for n in range(7)))
    write_rows(
        root / "pairs.jsonl",
        ({"prompt": f"say {'x' * n}:", "chosen": "a", "rejected": "b"} for n in range(7)),
    )
    return root


def settings(folder: Path, out: Path, **changes) -> Writing:
    """Two short responses to each prompt."""
    given = {"data": str(folder / "prompts.jsonl"), "responses": 2, "max_new_tokens": 8}
    return Writing(**{**given, "out": out, "batch": 4, "reward": "min-length", **changes})


def write(folder: Path, settings: Writing) -> int:
    """Write with the model of bytes."""
    return write_responses(str(folder / "model"), settings, QUIET)


def test_an_interrupted_file_goes_on_and_can_be_trained_on(folder: Path, tmp_path: Path) -> None:
    asked = settings(folder, tmp_path / "whole.jsonl", logp=True)
    assert write(folder, asked) == 7
    whole = asked.out.read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["prompt"] for row in rows] == [f"say {'x' * n}:" for n in range(7)]
    assert all(len(row[name]) == 2 for row in rows for name in ("responses", "rewards", "logp"))
    assert len({text for row in rows for text in row["responses"]}) == 14
    assert all(-8 * 12 < logp < 0 for row in rows for logp in row["logp"])
    # A kill in the middle of the sixth line.
    cut = replace(asked, out=tmp_path / "cut.jsonl", batch=3)
    lines = whole.splitlines(keepends=True)
    cut.out.write_text("".join(lines[:5]) + lines[5][:20])
    note = asked.out.with_name(asked.out.name + NOTE).read_text()
    cut.out.with_name(cut.out.name + NOTE).write_text(note)
    assert write(folder, cut) == 2
    assert cut.out.read_text() == whole
    assert write(folder, cut) == 0
    examples = read_examples(str(asked.out))
    assert [example.rewards for example in examples] == [tuple(row["rewards"]) for row in rows]
    # Responses in the data are not read; the prompts are the same, so the answers are.
    paired = settings(
        folder, tmp_path / "p.jsonl", data=str(folder / "pairs.jsonl"), reward=None, batch=7
    )
    write(folder, paired)
    again = [json.loads(line) for line in paired.out.read_text().splitlines()]
    assert [row["responses"] for row in again] == [row["responses"] for row in rows]
    assert "rewards" not in again[0]


def test_a_file_of_another_run_is_never_added_to(folder: Path, tmp_path: Path) -> None:
    asked = settings(folder, tmp_path / "out.jsonl")
    assert written_before(asked.out, {"model": "a", "settings": {"seed": 0}}) == 0
    assert written_before(asked.out, {"model": "a", "settings": {"seed": 0}}) == 0
    with pytest.raises(ValueError, match="another model, seed"):
        written_before(asked.out, {"model": "b", "settings": {"seed": 1}})
    stranger = tmp_path / "mine.jsonl"
    stranger.write_text("precious\n")
    with pytest.raises(ValueError, match="not from this command"):
        write(folder, replace(asked, out=stranger))
    assert stranger.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_new_tokens": 128}, "context holds 128"),
        ({"reading": DataSettings(max_prompt_length=125)}, "has room for 120"),
        ({"reading": DataSettings(max_length=64)}, "max-prompt-length"),
        ({"out": Path("/nowhere/at/all.jsonl")}, "no folder"),
        ({"reward": "nonsense"}, "nonsense"),
        ({"reward": "person"}, "modeseek active --reward person"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_model_is_loaded(
    folder: Path, tmp_path: Path, changes, words, monkeypatch
) -> None:
    monkeypatch.setattr("llm.writing.load_policy", None)
    with pytest.raises(ValueError, match=words):
        write(folder, settings(folder, **{"out": tmp_path / "out.jsonl", **changes}))
    assert not list(tmp_path.iterdir())
