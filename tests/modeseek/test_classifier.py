"""From labelled texts to a reward, by two commands."""

import json
import sys

import pytest

from modeseek import cli
from tests.llm.rewards.written import numbers
from tests.llm.tiny_runs import write_rows

pytest.importorskip("sklearn")

WORDS = {1: ("lovely", "warm", "bright"), 0: ("grim", "cold", "dull")}


def rows(number: int, start: int = 0) -> list[dict[str, object]]:
    """Texts of both classes in turn."""
    return [
        {"review": f"a {WORDS[n % 2][n % 3]} and {WORDS[n % 2][n // 2 % 3]} day {n}", "good": n % 2}
        for n in range(start, start + number)
    ]


def command(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["modeseek", "classifier", *map(str, words)])
    cli.main()


def test_a_classifier_says_how_good_it_is_and_becomes_a_reward(monkeypatch, capsys, tmp_path):
    data, out = write_rows(tmp_path / "texts.jsonl", rows(120)), tmp_path / "made"
    named = ("--text", "review", "--label", "good", "--out", out)
    command(monkeypatch, data, *named, "--share", "0.25")
    said = " ".join(capsys.readouterr().out.split())
    assert "accuracy 1.0000" in said and "on 30 texts it was not trained on" in said
    assert "lovely" in said and "grim" in said and f"--reward classifier:{out}" in said
    good, bad = numbers(f"classifier:{out}", "a lovely day", "a dull day")
    assert good > 0 > bad
    others = write_rows(tmp_path / "others.jsonl", rows(40, 200))
    command(monkeypatch, data, *named, "--held-out", others)
    assert "on 40 texts" in " ".join(capsys.readouterr().out.split())
    assert json.loads((out / "classifier.json").read_text())["accuracy"]["units"] == 40


@pytest.mark.parametrize(
    ("rows", "flags", "words"),
    [
        (rows(40), (), ["no text in column 'text'", "review"]),
        (rows(3), ("--text", "review", "--label", "good"), ["--share 0.1 of 3 texts keeps 0"]),
        (rows(40), ("--share", "1.5"), ["share", "between 0 and 1"]),
        (
            [row for row in rows(40) if row["good"]],
            ("--text", "review", "--label", "good"),
            ["all of one class"],
        ),
    ],
)
def test_what_teaches_nothing_is_refused(monkeypatch, capsys, tmp_path, rows, flags, words):
    data = write_rows(tmp_path / "texts.jsonl", rows)
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, data, *flags, "--out", tmp_path / "made")
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in said
    assert not (tmp_path / "made").exists()
