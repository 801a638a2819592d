"""A campaign on a tiny model: what each round learns from, what a kill costs, who is asked."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from llm.active import campaign, labels, workshop
from llm.active.labels import open_labels
from llm.active.pool import facts_of, pool_files
from llm.active.report import COSTS
from llm.journal import read_lines
from llm.rewards import RewardError
from llm.rewards.words import OfText
from llm.rollouts import path_of, read_rollouts
from llm.runs import open_run
from llm.state import Saver, saved_steps
from modeseek import cli
from tests.llm.tiny_runs import compilation_cache, pairs, write_model, write_rows

LABELS, ROUNDS, EPOCHS, BATCH = 4, 3, 3, 2
ENDS = [6, 18, 36]
"""Steps at the end of each round: all labels so far, three times, two at a time."""

Start = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A model, prompts with responses, and one cache of compiled programs for all runs here."""
    folder = tmp_path_factory.mktemp("active")
    write_model(folder / "model")
    write_rows(folder / "pairs.jsonl", [row | {"prompt": row["prompt"][:14]} for row in pairs(60)])
    with compilation_cache(folder / "programs"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODESEEK_CACHE", str(folder / "cache"))
        yield folder


def command(place: Path, out: Path, name: str = "certainty", **flags: Any) -> list[str]:
    """The line of a small campaign, as a user types it."""
    given = {
        "model": place / "model",
        "data": place / "pairs.jsonl",
        "out": out,
        "reward": "regex:[!-~]",
        "rounds": ROUNDS,
        "labels": LABELS,
        "epochs": EPOCHS,
        "batch": BATCH,
        "pool.pairs": 2,
        "pool.prompts": 2,
        "pool.samples": 2,
        "contest.prompts": 6,
        "sampling.max_new_tokens": 8,
        "sampling.rows": 8,
        "packing.shapes": 1,
        "optimizer.learning_rate": 1e-2,
        "reading.eval_share": 0.1,
        "save.every": 4,
        "save.keep": 9,
    } | {name.replace("__", "."): value for name, value in flags.items()}
    line = [
        word
        for name, value in given.items()
        if value is not None
        for word in (
            [f"--{name.replace('_', '-')}"]
            if value is True
            else [f"--{name.replace('_', '-')}", str(value)]
        )
    ]
    return ["modeseek", "active", name, *line]


@pytest.fixture
def start(place, monkeypatch) -> Start:
    """Give the command of the campaign."""

    def given(out: Path, name: str = "certainty", **flags: Any) -> Path:
        monkeypatch.setattr(sys, "argv", command(place, out, name, **flags))
        cli.main()
        return out

    return given


@pytest.fixture(scope="module")
def straight(place) -> Path:
    """A campaign that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(place, place / "straight"))
        cli.main()
    return place / "straight"


def lines_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == kind]


def assert_same_run(folder: Path, other: Path) -> None:
    """Metrics but for what was timed, labels but for when, and the weights: all to the byte."""
    one, two = (
        [{k: v for k, v in line.items() if k != "clock"} for line in lines]
        for lines in (read_lines(folder / "metrics.jsonl"), read_lines(other / "metrics.jsonl"))
    )
    assert one == two
    mine, theirs = (open_labels(run).known for run in (folder, other))
    assert {n: label.winner for n, label in mine.items()} == {
        n: label.winner for n, label in theirs.items()
    }
    weights = Path("model") / "model.safetensors"
    assert (folder / weights).read_bytes() == (other / weights).read_bytes()


def test_every_round_learns_from_all_labels_so_far(straight):
    rounds = lines_of(straight, "round")
    assert [line["labels"] for line in rounds] == [4, 8, 12]
    assert [line["step"] for line in rounds] == ENDS
    assert [line["step"] for line in lines_of(straight, "eval")] == [0, *ENDS]
    for number in range(ROUNDS):
        bought = read_rollouts(path_of(straight, number)).rollouts
        assert len(bought) == LABELS
        for pair in bought:
            worth = [sum("!" <= c <= "~" for c in y.response) for y in pair.responses]
            assert pair.reward.tolist() == [float(worth[0] > worth[1]), float(worth[1] > worth[0])]


def test_the_first_loss_of_a_round_is_log_2_because_it_starts_at_the_reference(straight):
    losses = {line["step"]: line["loss"] for line in lines_of(straight, "train")}
    for begin in (0, *ENDS[:-1]):
        assert losses[begin + 1] == pytest.approx(np.log(2), abs=1e-4)
        assert losses[begin + 2] != pytest.approx(np.log(2), abs=1e-4)


def test_the_first_choice_is_random_and_the_report_says_so(place, straight, start, capsys):
    facts = [facts_of(path) for path in pool_files(straight)]
    assert all(one["blind"] == (one["round"] == 0) for one in facts)
    assert [line["blind"] for line in lines_of(straight, "round")] == [1, 0, 0]
    assert max(facts[0]["certainty"]) == 0 < min(facts[-1]["certainty"][:2])
    out = start(place / "said", rounds=1)
    said = " ".join(capsys.readouterr().out.split())
    assert "round 1 chooses at random: policy and reference are the same" in said
    shutil.rmtree(out)


def test_the_pairs_that_were_labelled_are_those_of_the_largest_implicit_reward_difference(straight):
    known = open_labels(straight).known
    for number in (1, 2):
        path = next(p for p in pool_files(straight) if facts_of(p)["round"] == number)
        pool = read_rollouts(path)
        margin = []
        for pair in pool.rollouts:
            ratio = 0.2 * (pair.known["old_logp"] - pair.known["ref_logp"])
            cut = pair.lengths[0]
            margin.append(abs(float(ratio[:cut].sum() - ratio[cut:].sum())))
        np.testing.assert_allclose(margin, pool.facts["certainty"], atol=1e-5)
        asked = [pair.prompt_id in known for pair in pool.rollouts]
        assert asked == sorted(asked, reverse=True)
        assert (np.diff(pool.facts["certainty"]) <= 0).all()


def test_every_second_is_accounted_for(straight):
    for line in lines_of(straight, "round"):
        clock = line["clock"]
        spent = sum(clock[name] for name in COSTS)
        assert clock["per_label"] == pytest.approx(spent / LABELS)
        assert clock["generation"] > 0 and clock["training"] > 0 and clock["evaluation"] > 0
    assert lines_of(straight, "round")[0]["clock"]["scoring"] > 0


def test_a_campaign_is_a_run_like_any_other(straight, capsys, monkeypatch):
    run = open_run(straight)
    assert run.name == "online_dpo" and run.steps[-1] == ENDS[-1]
    for line in (["rollouts", str(straight)], ["plot", str(straight), "--out", str(straight)]):
        monkeypatch.setattr(sys, "argv", ["modeseek", *line])
        cli.main()
    assert capsys.readouterr().out


def test_the_decided_pairs_are_written_as_a_data_set_with_who_and_when(straight):
    rows = [json.loads(line) for line in (straight / "preferences.jsonl").read_text().splitlines()]
    assert len(rows) == LABELS * ROUNDS
    assert {row["by"] for row in rows} == {"regex:[!-~]"}
    assert [row["round"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(row["chosen"] != row["rejected"] and row["at"] for row in rows)


def killed_at(moment: str, out: Path, start: Start, monkeypatch, **flags: Any) -> None:
    """Begin a campaign and end it in the middle, as a kill does."""

    class Killed(BaseException):
        pass

    ask, save, write = labels.append, Saver.save, campaign.write_rollouts
    seen = []

    def append(path: Path, line: Any) -> None:
        ask(path, line)
        seen.append(line["pair"])
        if moment == "between labels" and len(seen) == LABELS + 2:
            raise Killed

    def saved(self, step, state):
        if moment == "before a save" and step == ENDS[1]:
            raise Killed
        save(self, step, state)
        if moment == "in the middle of learning" and step == 12:
            self.checkpointer.wait()
            raise Killed

    def written(path, found):
        write(path, found)
        if moment == "before learning" and found.iteration == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(labels, "append", append)
        patch.setattr(Saver, "save", saved)
        patch.setattr(campaign, "write_rollouts", written)
        with pytest.raises(Killed):
            start(out, **flags)


@pytest.mark.parametrize(
    "moment",
    [
        "between labels",
        "in the middle of learning",
        pytest.param("before learning", marks=pytest.mark.slow),
        pytest.param("before a save", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_after_a_kill_it_goes_on_to_the_bit_and_nobody_is_asked_twice(
    straight, start, tmp_path, monkeypatch, moment
):
    out = tmp_path / "run"
    killed_at(moment, out, start, monkeypatch)
    with (out / "labels.jsonl").open("a") as file:
        file.write('{"pair": 7, "winn')
    start(out)
    assert_same_run(out, straight)
    told = [line for line in (out / "labels.jsonl").read_text().splitlines() if line.endswith("}")]
    pairs_asked = [json.loads(line)["pair"] for line in told]
    assert len(pairs_asked) == len(set(pairs_asked))


def test_rounds_without_a_checkpoint_are_learned_again_and_nobody_is_asked_again(
    straight, start, tmp_path, monkeypatch
):
    out, seldom = tmp_path / "run", {"save.every": 1000}
    killed_at("before learning", out, start, monkeypatch, **seldom)
    assert saved_steps(out) == [0]
    asked = (out / "labels.jsonl").read_text()
    start(out, **seldom)
    assert saved_steps(out) == [0, ENDS[-1]]
    assert (out / "labels.jsonl").read_text().startswith(asked)
    assert_same_run(out, straight)


def test_ctrl_c_while_it_learns_saves_and_says_how_to_go_on(
    straight, start, tmp_path, monkeypatch, capsys
):
    save, out = Saver.save, tmp_path / "run"

    def ring(self, step, state):
        save(self, step, state)
        if step == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", ring)
        with pytest.raises(SystemExit) as stopped:
            start(out)
    assert stopped.value.code == 130
    assert "in round 2, after step" in " ".join(capsys.readouterr().out.split())
    start(out)
    assert_same_run(out, straight)


def test_a_judge_that_fails_keeps_what_it_said(straight, start, tmp_path, monkeypatch, capsys):
    out, judge, calls = tmp_path / "run", OfText.__call__, []

    def down(self, groups):
        calls.append(len(groups))
        if len(groups) == LABELS and calls.count(LABELS) == 2:
            raise RewardError("the judge is down. Give the same command again.")
        return judge(self, groups)

    with monkeypatch.context() as patch:
        patch.setattr(OfText, "__call__", down)
        with pytest.raises(SystemExit):
            start(out)
    assert "the judge is down" in capsys.readouterr().err
    assert saved_steps(out)[-1] == ENDS[0]
    start(out)
    assert_same_run(out, straight)


def test_going_on_learns_from_where_the_round_before_ended(start, tmp_path):
    out = start(tmp_path / "run", no_restart=True, restart=None, rounds=2)
    losses = {line["step"]: line["loss"] for line in lines_of(out, "train")}
    assert losses[1] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[ENDS[0] + 1] != pytest.approx(np.log(2), abs=1e-3)


def test_the_newest_labels_alone_make_every_round_the_same_length(start, tmp_path):
    out = start(
        tmp_path / "run", "random", no_restart=True, learn="newest", epochs=1, contest__every=2
    )
    assert [line["step"] for line in lines_of(out, "round")] == [2, 4, 6]
    assert [line["step"] for line in lines_of(out, "eval")] == [0, 4, 6]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("hybrid", {"pool.prune": 0.25}),
        ("offline", {"pool.shortest": 4}),
        pytest.param("entropy", {}, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param("uncertainty", {}, marks=pytest.mark.slow),
        pytest.param("diverse", {}, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_every_function_buys_what_was_asked_for(start, tmp_path, name, flags):
    out = start(tmp_path / "run", name, rounds=2, **flags)
    assert [line["labels"] for line in lines_of(out, "round")] == [4, 8]
    assert all(0 <= line["win_rate"] <= 1 for line in lines_of(out, "eval"))


def test_an_ensemble_shares_its_base_and_its_members_differ(start, tmp_path, monkeypatch):
    seen, own = [], campaign.Campaign.open_members

    def opened(self, stack):
        members = own(self, stack)
        seen.append((self, members))
        return members

    monkeypatch.setattr(campaign.Campaign, "open_members", opened)
    flags = {"adapters.rank": 2, "pool.members": 3, "rounds": 2}
    out = start(tmp_path / "run", "disagreement", **flags)
    [(whole, members)] = seen
    assert len(members) == 3
    for path, first in members[0].initial.items():
        for other in members[1:]:
            mine = other.initial[path]
            assert np.array_equal(first, mine) == (not path.endswith("lora_a")), path
            np.testing.assert_array_equal(np.sort(first, axis=None), np.sort(mine, axis=None))
    after = [jax.device_get(member.state.trainable) for member in members]
    assert all(not np.array_equal(after[0][p], after[1][p]) for p in after[0])
    assert all(path.split("/")[-1].startswith("lora_") for path in after[0])
    assert [line["labels"] for line in lines_of(out, "round")] == [4, 8]
    assert saved_steps(out / "members" / "2")[-1] == ENDS[1]
    assert (out / "adapter").is_dir() and whole.tools.fixed.reference is None


def test_a_person_is_waited_for(start, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as waits:
        start(out, reward="person", gold="regex:[!-~]", rounds=1)
    assert waits.value.code == 0
    assert "pairs wait for a person, 4 of them" in " ".join(capsys.readouterr().out.split())
    known = open_labels(out)
    for pair in read_rollouts(pool_files(out)[0]).rollouts:
        known.add(pair, "first", "person:ada")
    start(out, reward="person", gold="regex:[!-~]", rounds=1)
    assert [line["labels"] for line in lines_of(out, "round")] == [4]
    rows = [json.loads(line) for line in (out / "preferences.jsonl").read_text().splitlines()]
    assert [row["by"] for row in rows] == ["person:ada"] * LABELS


def test_the_policy_can_be_compared_with_the_responses_of_the_data(start, tmp_path):
    write_rows(
        tmp_path / "held.jsonl",
        [{"prompt": row["prompt"][:14], "completion": row["chosen"]} for row in pairs(8)],
    )
    out = start(
        tmp_path / "run",
        "random",
        rounds=1,
        contest__against="dataset",
        reading__eval_source=tmp_path / "held.jsonl",
    )
    [first, last] = lines_of(out, "eval")
    worth = np.mean([len(row["chosen"].strip()) for row in pairs(6)])
    assert first["rival_reward"] == last["rival_reward"] == pytest.approx(worth)


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("certanty", {}, ["certainty"]),
        ("disagreement", {}, ["--adapters.rank"]),
        ("random", {"labels": 0}, ["labels", "0"]),
        ("random", {"optimizer.schedule": "cosine"}, ["constant"]),
        ("random", {"pool.shortest": 9}, ["--pool.shortest is 9", "8"]),
        ("random", {"pool.prune": 1}, ["prune", "share"]),
        ("random", {"sampling.top_p": 0.9}, ["top-p"]),
        ("random", {"reading.eval_share": 0}, ["--reading.eval-share"]),
        ("random", {"gold": "person"}, ["person", "another reward"]),
        ("random", {"reward": "0.5*person + kind"}, ["person", "alone"]),
        ("random", {"reward": "judge:x", "gold": None}, ["rewards.judge"]),
        ("random", {"data": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ("random", {"contest.against": "dataset"}, []),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_slow(
    place, start, tmp_path, capsys, monkeypatch, name, flags, words
):
    if not words:
        prompts = [{"prompt": row["prompt"]} for row in pairs(20)]
        flags |= {"data": write_rows(tmp_path / "prompts.jsonl", prompts)}
        words = ["no response: there is a prompt alone"]
    monkeypatch.setattr(workshop, "load", None)
    with pytest.raises(SystemExit) as refused:
        start(tmp_path / "run", name, **flags)
    assert refused.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in said, said


def test_a_judge_that_can_tell_nothing_apart_is_named(start, tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(tmp_path / "run", "random", reward="has-regex:zzzzzzzz")
    said = " ".join(capsys.readouterr().err.split())
    assert "has-regex:zzzzzzzz decided 0 of the 4 pairs wanted in round 1" in said


def test_another_campaign_in_the_same_folder_is_refused(straight, start, capsys):
    with pytest.raises(SystemExit):
        start(straight, rounds=ROUNDS + 1)
    assert "campaign.rounds: was 3, is 4" in capsys.readouterr().err
