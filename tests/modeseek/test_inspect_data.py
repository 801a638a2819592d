"""``modeseek inspect-data`` shows what is scored, what is wrong, and how full the batches are."""

import json

import pytest

from modeseek.inspect_data import main
from tests.llm.data.byte_tokenizer import make_tokenizer

ROWS = [
    {"prompt": "ask ", "chosen": "yes\n", "rejected": "no"},
    {"prompt": "ask ", "chosen": "same", "rejected": "same"},
]


@pytest.fixture
def folder(tmp_path):
    """A file of rows beside a tokenizer."""
    make_tokenizer(add_bos=True).save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def show(folder, capsys, *flags: str) -> str:
    main([str(folder / "rows.jsonl"), "--tokenizer", str(folder / "model"), *flags])
    return " ".join(capsys.readouterr().out.split())


def test_tokens_that_are_scored_stand_in_brackets(folder, capsys):
    shown = show(folder, capsys, "--rows", "1")
    assert "<s>|a|s|k| |" in shown
    assert "[y][e][s][⏎][</s>]" in shown and "[n][o][</s>]" in shown
    assert "response 1, reward 1, 5 tokens: scored" in shown
    assert "rows.jsonl:2" not in shown.partition("[</s>]")[2]


def test_layout_padding_and_lengths_are_shown(folder, capsys):
    shown = show(folder, capsys)
    assert "read as 'preference'" in shown
    assert "batches of 1 x 64 positions" in shown and "padding" in shown
    assert "█" in shown


def test_rows_that_break_the_contract_are_listed_and_not_refused(folder, capsys):
    shown = show(folder, capsys)
    assert "1 of 2 rows break the data contract" in shown
    assert "identical responses" in shown and "keep one, or rate both alike" in shown


def test_a_long_response_shows_its_two_ends(folder, capsys):
    row = {"prompt": "p", "chosen": "b" * 100 + "z", "rejected": "c"}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    shown = show(folder, capsys)
    assert "... 42 tokens ..." in shown and "[z][</s>]" in shown


def test_good_data_are_said_to_be_good(folder, capsys):
    (folder / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    assert "all 1 rows keep the data contract" in show(folder, capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "-1"], "--rows is -1"),
        (["--batch", "0"], "--batch is 0"),
        (["--reading.schema", "dpo"], "no schema 'dpo'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(folder, capsys, flags, message):
    with pytest.raises(ValueError, match=message):
        show(folder, capsys, *flags)


def test_a_tokenizer_that_is_not_there_is_named(folder, capsys, monkeypatch):
    (folder / "empty").mkdir()
    monkeypatch.setattr("sys.argv", ["modeseek"])
    with pytest.raises(ValueError, match="empty cannot be loaded"):
        main([str(folder / "rows.jsonl"), "--tokenizer", str(folder / "empty")])
