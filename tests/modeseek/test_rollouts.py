"""``modeseek rollouts`` shows what was written, what it was worth, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm.data.sources import read_examples
from llm.rewards import Written
from llm.rollouts import Rollout, Rollouts, path_of, write_rollouts
from modeseek.rollouts import main
from tests.llm.data.byte_tokenizer import make_tokenizer


def collection(iteration: int, *, gold: bool = True) -> Rollouts:
    """Four prompts of two responses; later ones and later collections have higher rewards."""
    tokenizer = make_tokenizer()

    def written(prompt: str, said: str) -> Written:
        ids = np.array(tokenizer(said)["input_ids"] + [1], np.int32)
        return Written(prompt=prompt, response=said, tokens=ids, finished=said != "cut")

    rollouts = []
    for number in range(4):
        prompt = f"ask [{number}]"  # looks like markup, and is none
        responses = (written(prompt, "cut"), written(prompt, f"yes {number}"))
        size = sum(len(response.tokens) for response in responses)
        reward = np.array([number, number + 0.5]) + 10 * iteration
        known = {
            "old_logp": np.full(size, -1.0, np.float32),
            "ref_logp": np.full(size, -1.25, np.float32),
            "advantage": np.linspace(-1, 1, size, dtype=np.float32),
        }
        rollouts.append(
            Rollout(
                prompt_id=number,
                where=f"prompts.jsonl:{number}",
                source="policy",
                prompt=np.array([5, 6], np.int32),
                responses=responses,
                reward=reward,
                gold=-reward if gold else None,
                known=known,
            )
        )
    numbers = {"reward": 1.75 + 10 * iteration, "response_length": 5.0, "finished": 0.5}
    return Rollouts(iteration, rollouts, {"numbers": numbers})


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run with three collections."""
    for iteration in range(3):
        write_rollouts(path_of(tmp_path, iteration), collection(iteration))
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def show(capsys, *line: object) -> str:
    main([str(part) for part in line])
    return " ".join(capsys.readouterr().out.split())


def test_all_collections_are_listed_with_the_numbers_they_have(folder, capsys):
    shown = show(capsys, folder)
    assert "collection reward tokens finished 0 1.750 5.0 50.0% 1 11.750" in shown
    assert "gold" not in shown


def test_many_collections_are_thinned_evenly(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("modeseek.rollouts.LISTED", 3)
    for iteration in range(5):
        write_rollouts(path_of(tmp_path, iteration), collection(iteration))
    shown = show(capsys, tmp_path)
    assert "3 of 5 collections" in shown
    assert "41.750" in shown and "21.750" in shown and "31.750" not in shown


def test_a_collection_shows_the_best_a_middling_and_the_worst_prompt(folder, capsys):
    shown = show(capsys, folder, "--iteration", 1, "--prompts", 2)
    assert shown.startswith("collection 1: reward 11.750")
    assert shown.index("ask [3]") < shown.index("ask [0]") and "ask [1]" not in shown
    # Within a prompt the best response stands first.
    first = shown.index("reward 13.500, gold -13.500, 6 tokens yes 3")
    assert first < shown.index("reward 13.000, gold -13.000, 4 tokens, cut before its end cut")


def test_the_last_collection_can_be_asked_for_without_its_number(folder, capsys):
    assert "collection 2:" in show(capsys, folder, "--iteration", -1)


def test_tokens_are_shown_with_what_was_said_of_them(folder, capsys):
    shown = show(capsys, folder, "--iteration", 0, "--prompts", 1, "--tokens")
    assert "token logp ref logp - ref advantage" in shown
    assert "y -1.000 -1.250 +0.250" in shown and "</s> -1.000" in shown and "+1.000" in shown


def test_what_is_written_out_can_be_trained_on(folder, capsys, tmp_path):
    out = tmp_path / "out" / "rated.jsonl"
    assert "12 prompts" in show(capsys, folder, "--out", out)
    examples = read_examples(str(out))
    assert len(examples) == 12 and examples[0].responses == ("cut", "yes 0")
    assert examples[-1].rewards == (23.0, 23.5)
    show(capsys, folder, "--iteration", 1, "--out", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1] * 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--iteration", "7"), "no collection 7; there are 3, from 0 to 2"),
        (("--iteration", "-4"), "no collection -4"),
        (("--prompts", "0"), "--prompts is 0"),
        (("--tokens",), "name it with --iteration"),
    ],
)
def test_what_is_not_there_is_refused(folder, flags, message):
    with pytest.raises(ValueError, match=message):
        main([str(folder), *flags])


def test_a_folder_without_rollouts_is_answered_with_what_writes_some(tmp_path):
    with pytest.raises(ValueError, match=r"holds no rollouts: only an online recipe"):
        main([str(tmp_path)])
    with pytest.raises(ValueError, match="no folder"):
        main([str(tmp_path / "none")])


def test_a_damaged_file_is_named(folder):
    path_of(folder, 1).write_bytes(b"PAR1")
    with pytest.raises(OSError, match=r"000001\.parquet cannot be read"):
        main([str(folder)])
