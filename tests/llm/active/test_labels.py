"""Labels are kept, each once; nobody is asked for more than is wanted, or twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.active.labels import AT_ONCE, Desk, ask, open_labels, write_preferences
from llm.rewards import RewardError, Written
from llm.rollouts import Rollout


def pair(number: int, first: str = "good", second: str = "bad") -> Rollout:
    texts = [Written("Say", text, np.array([5], np.int32), True) for text in (first, second)]
    return Rollout(number, "row 1", "policy", np.array([4], np.int32), tuple(texts), np.zeros(2))


class Fussy:
    """Prefers the text that sorts first; undecided about every third pair."""

    name = "fussy"

    def __init__(self, patience: int = 10**6) -> None:
        self.asked: list[int] = []
        self.patience = patience

    def __call__(self, groups: Any) -> list[np.ndarray]:
        found = []
        for group in groups:
            if len(self.asked) == self.patience:
                raise RewardError("no more today")
            number = int(group[0].prompt.split()[-1]) if " " in group[0].prompt else 1
            self.asked.append(number)
            better = group[0].response < group[1].response
            found.append(np.array([better, not better], float) if number % 3 else np.full(2, 0.5))
        return found


def numbered(many: int) -> list[Rollout]:
    found = []
    for number in range(many):
        texts = ("a", "b") if number % 2 else ("b", "a")
        written = tuple(
            Written(f"Say {number}", text, np.array([5], np.int32), True) for text in texts
        )
        found.append(
            Rollout(number, "row", "policy", np.array([4], np.int32), written, np.zeros(2))
        )
    return found


def test_undecided_pairs_are_replaced_by_the_next_and_nobody_is_asked_for_more(tmp_path):
    judge = Fussy()
    desk = Desk(numbered(30), 10, open_labels(tmp_path))
    ask(judge, desk, lambda line: None)
    assert [p.prompt_id for p in desk.decided] == [1, 2, 4, 5, 7, 8, 10, 11, 13, 14]
    assert judge.asked == list(range(15)) and desk.undecided == 5 and not desk.waiting()
    for decided in desk.decided:
        better = decided.responses[int(np.argmax(decided.reward))]
        assert better.response == "a" and sorted(decided.reward) == [0, 1]


def test_a_judge_that_fails_is_not_asked_again_about_what_it_said(tmp_path):
    judge = Fussy(patience=AT_ONCE + 3)
    pairs = numbered(3 * AT_ONCE)
    desk = Desk(pairs, 2 * AT_ONCE, open_labels(tmp_path))
    with pytest.raises(RewardError):
        ask(judge, desk, lambda line: None)
    kept = len(open_labels(tmp_path).known)
    assert kept == AT_ONCE
    other = Fussy()
    again = Desk(pairs, 2 * AT_ONCE, open_labels(tmp_path))
    ask(other, again, lambda line: None)
    assert min(other.asked) == AT_ONCE and len(again.decided) == 2 * AT_ONCE
    assert not set(other.asked) & set(range(AT_ONCE))


def test_every_answer_says_who_gave_it_when_and_about_what(tmp_path):
    labels = open_labels(tmp_path)
    labels.add(pair(4), "second", "person:ada", note="by hand")
    [line] = [json.loads(text) for text in labels.path.read_text().splitlines()]
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "pair": 4,
        "winner": "second",
        "by": "person:ada",
        "note": "by hand",
        "prompt": "Say",
        "first": "good",
        "second": "bad",
    }


def test_what_a_kill_cut_short_is_passed_over_and_a_later_answer_corrects(tmp_path):
    labels = open_labels(tmp_path)
    labels.add(pair(1), "first", "ada")
    labels.add(pair(2), "undecided", "ada")
    with labels.path.open("a") as file:
        file.write('{"pair": 3, "winner": "fi')
    again = open_labels(tmp_path)
    again.add(pair(1), "second", "ada")
    known = open_labels(tmp_path).known
    assert {number: label.winner for number, label in known.items()} == {
        1: "second",
        2: "undecided",
    }


def test_decided_pairs_are_a_preference_data_set(tmp_path):
    from llm.data.sources import read_examples

    desk = Desk(numbered(6), 3, open_labels(tmp_path))
    ask(Fussy(), desk, lambda line: None)
    path = Path(tmp_path / "preferences.jsonl")
    write_preferences(path, desk.decided, {p.prompt_id: {"by": "fussy"} for p in desk.decided})
    examples = read_examples(str(path))
    assert [(e.prompt, e.responses, e.rewards) for e in examples] == [
        (f"Say {number}", ("a", "b"), (1.0, 0.0)) for number in (1, 2, 4)
    ]
