"""``modeseek sample`` hands its line over, and says what is wrong with it."""

import json
from pathlib import Path

import pytest

from modeseek.sample import main
from tests.llm.tiny_runs import write_model, write_rows


def test_a_line_becomes_a_file_of_responses(tmp_path: Path, capsys) -> None:
    write_model(tmp_path / "model")
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    out = tmp_path / "out.jsonl"
    line = [str(tmp_path / "model"), "--data", str(data), "--out", str(out)]
    line += ["--responses", "2", "--max-new-tokens", "4", "--stop-strings", "x", "y"]
    main(line)
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a", "b"]
    assert all(len(row["responses"]) == 2 for row in rows)
    assert "2 prompts with 2 responses each" in capsys.readouterr().out
    write_rows(data, [{"prompt": "c"}])
    with pytest.raises(ValueError, match="another prompts"):
        main(line)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min-new-tokens", "128"], "min_new_tokens"),
        (["--batch", "0"], "batch"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_a_number_out_of_range_is_refused(flags: list[str], words: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["a-model", *flags])
    assert words in capsys.readouterr().err
