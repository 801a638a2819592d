"""Whatever a user gets wrong is answered with a sentence that names it, before any computing."""

import subprocess
import sys

import pytest

from modeseek import cli


def answer(capsys, monkeypatch, line: str) -> tuple[int, str]:
    """Exit status and stderr of a command line."""
    monkeypatch.setattr(sys, "argv", ["modeseek", *line.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("reprodce", ["unknown command", "reproduce"]),
        ("reproduce negativ_gradient", ["unknown experiment", "negative_gradient"]),
        ("reproduce zzz", ["There are:", "environment", "frontier"]),
        ("reproduce --seeds 1", ["seeds is 1", "at least 2"]),
        ("reproduce --quick --full", ["exclude each other"]),
        ("reproduce --processes 0", ["--processes is 0", "at least 1"]),
        ("reproduce --wrong", ["--wrong"]),
        ("bandit", ["name a recipe", "online_best_of_n"]),
        ("bandit online_dpp", ["unknown recipe", "online_dpo"]),
        ("bandit ipo --problem R3", ["unknown problem", "R1"]),
        ("bandit ipo --problem r1", ["unknown problem", "R1"]),
        ("bandit dpo --objective.beta -1", ["DPO.beta", "-1", "greater than 0"]),
        ("bandit dpo --objective.beta 0", ["DPO.beta", "greater than 0"]),
        ("bandit dpo --reuse.inner-steps 0", ["inner_steps", "T >= 1"]),
        ("bandit dpo --learning-rate nan", ["learning_rate", "finite"]),
        ("bandit dpo --learning-rate 0", ["learning_rate", "above 0"]),
        ("bandit dpo --steps 0", ["--steps is 0"]),
        ("bandit dpo --seeds 1", ["--seeds is 1"]),
        ("bandit dpo --problem R1-tokens", ["--policy tokens"]),
        ("bandit dpo --betaa 1", ["--betaa"]),
        ("active", ["name an acquisition function", "certainty", "disagreement"]),
        ("active certanty", ["unknown acquisition function", "certainty"]),
        ("active random --rounds 0", ["rounds", "0"]),
        ("active random --pool.prunee 1", ["--pool.prunee"]),
        ("label", ["Folder of the campaign"]),
    ],
)
def test_a_wrong_word_is_answered_with_a_remedy(capsys, monkeypatch, line, words):
    status, text = answer(capsys, monkeypatch, line)
    assert status == 2
    flat = " ".join(text.split())
    for word in words:
        assert word in flat, text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train online_dpo --reward nothing", ["no reward 'nothing'", "min-length"]),
        ("train online_dpo --reward mode-length:many", ["mode-length:23"]),
        ("train online_dpo --reward model:nowhere", ["nowhere"]),
        ("train ppo --gold lexicon:nowhere.txt", ["nowhere.txt"]),
        ("train dpo --data nowhere.jsonl", ["nowhere.jsonl"]),
        ("sample --data nowhere.jsonl", ["nowhere.jsonl"]),
        ("sample --reward nothing", ["no reward 'nothing'"]),
        ("classifier", ["name labelled texts"]),
        ("classifier nowhere.jsonl", ["nowhere.jsonl"]),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_made(
    capsys, monkeypatch, tmp_path, line, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path / "cache"))
    for module in ("inputs", "writing"):
        monkeypatch.setattr(f"llm.{module}.embedded_model", lambda *a, **k: pytest.fail("made"))
    status, text = answer(capsys, monkeypatch, line)
    assert status == 2
    for word in words:
        assert word in " ".join(text.split())
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(capsys, monkeypatch, tmp_path):
    occupied = tmp_path / "a-file"
    occupied.write_text("")
    for command in ("reproduce environment", "bandit dpo"):
        status, text = answer(capsys, monkeypatch, f"{command} --out {occupied}/below")
        assert status == 2
        assert "can't be written" in text


def test_the_module_is_a_command_too():
    line = [sys.executable, "-m", "modeseek", "--help"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "reproduce" in shown
