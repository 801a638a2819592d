"""Benchmarks: what is counted, who takes turns with whom, and that nothing said is lost."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.numbers import Numbers, answered, lines_of, passes, trained
from experiments.benchmarks.ours import Compiling
from experiments.benchmarks.recipes import BASELINE, EVERY, costs, order_of
from experiments.benchmarks.report import Report, save
from experiments.benchmarks.rounds import (
    MODESEEK,
    NO_ROOM,
    TRL,
    Contestant,
    Notebook,
    Turn,
    as_before,
    checked_out,
    explained,
    listen,
)
from experiments.benchmarks.tasks import (
    SPECIAL,
    Case,
    Lengths,
    Row,
    SampleTask,
    SweepTask,
    TrainTask,
    llama,
    load_rows,
    make_rows,
    pythia,
    read_task,
    save_rows,
    save_task,
)
from experiments.benchmarks.words import make_tokenizer, spell

ROOT = Path(__file__).parents[2]
MODEL = llama(64, 1, 64, 64)
LENGTHS = Lengths(prompt=8, response=8, longest=32)
HALF = Numbers(
    tokens_per_second=50.0, scored_per_second=20.0, mfu=0.1, memory=4.0, compile=0.0, first=9.0
)
WHOLE = replace(HALF, tokens_per_second=100.0, memory=1.0)


def task_of(folder: Path, rows: list[Row], **fields) -> TrainTask:
    save_rows(folder / "rows.npz", rows)
    given = {"recipe": "dpo", "model": MODEL, "rows": str(folder / "rows.npz"), "batch": 2}
    return TrainTask(**given | {"steps": 4} | fields)


def test_rows_come_back_from_a_file_whatever_they_hold(tmp_path):
    rows = make_rows(3, 2, LENGTHS, 64, 0) + make_rows(2, 0, LENGTHS, 64, 1)
    save_rows(tmp_path / "rows.npz", rows)
    again = load_rows(tmp_path / "rows.npz")
    assert [len(row.responses) for row in again] == [2, 2, 2, 0, 0]
    for before, after in zip(rows, again, strict=True):
        np.testing.assert_array_equal(before.prompt, after.prompt)
        for one, other in zip(before.responses, after.responses, strict=True):
            np.testing.assert_array_equal(one, other)


def test_texts_have_the_lengths_that_were_asked_for_and_no_special_token():
    rows = make_rows(400, 2, replace(LENGTHS, longest=200), 64, 0)
    assert min(min(row.prompt) for row in rows) >= SPECIAL
    assert np.median([len(row.prompt) for row in rows]) == pytest.approx(8, abs=1)
    assert max(len(r.prompt) + max(map(len, r.responses)) for r in rows) <= 200
    same = make_rows(9, 1, replace(LENGTHS, spread=0.0), 64, 0)
    assert {(len(row.prompt), row.scored) for row in same} == {(8, 8)}


def test_a_task_comes_back_from_a_file(tmp_path):
    train = task_of(tmp_path, make_rows(8, 2, LENGTHS, 64, 0))
    case = Case(name="a", prompts=1, responses=2, max_new_tokens=3)
    for task in (
        train,
        SampleTask(model=MODEL, rows="x", cases=[case], stop=[1]),
        SweepTask(runs=[train, train], until_one_fails=True),
    ):
        assert read_task(save_task(tmp_path / "task.json", task)) == task


def test_words_are_the_ids_they_are_made_of():
    tokenizer = make_tokenizer(64)
    ids = list(range(SPECIAL, 64))
    assert tokenizer(spell(ids))["input_ids"] == ids
    assert len(tokenizer) == 64


def test_the_models_have_the_sizes_they_are_named_after():
    from experiments.benchmarks.gpu import parameters_of

    assert parameters_of(pythia(2048, 24, 16)) == pytest.approx(1.41e9, rel=0.01)


def test_speed_counts_the_tokens_of_the_timed_steps_and_a_share_of_the_reference(tmp_path):
    row = Row(np.zeros(10, np.int32), (np.zeros(5, np.int32), np.zeros(7, np.int32)))
    task = task_of(tmp_path, [row] * 8, warm=2)
    found = {
        "marks": [3.0, 4.0, 5.0, 6.0],
        "seconds": 2.0,
        "reference_seconds": 4.0,
        "compile_seconds": 1.5,
        "written": [],
        "memory": 1.0,
    }
    n = trained(task, found, peak=1e9)
    seconds = 2.0 + 4.0 * 2 / 4
    assert n.tokens_per_second == pytest.approx(2 * 2 * (2 * 10 + 12) / seconds)
    assert n.scored_per_second == pytest.approx(2 * 2 * 12 / seconds)
    assert (n.first, n.compile) == (3.0, 1.5)
    assert passes(task) == 4 and passes(replace(task, recipe="sft")) == 3
    faster = trained(replace(task, recipe="sft"), found | {"reference_seconds": 0.0}, peak=1e9)
    assert n.mfu is not None and faster.mfu is not None
    assert faster.mfu / n.mfu == pytest.approx(3 / 4 * seconds / 2.0)


def test_fresh_responses_count_with_the_lengths_they_had(tmp_path):
    rows = make_rows(8, 0, LENGTHS, 64, 0)
    task = task_of(tmp_path, rows, recipe="rloo", responses=4)
    found = answered(task, [80, 80, 40, 40])
    assert [row.scored for row in found] == [40] * 4 + [20] * 4


def test_a_ratio_is_taken_round_by_round_and_a_failure_is_told():
    rounds = [
        {"modeseek": WHOLE, "TRL": HALF},
        {"modeseek": replace(WHOLE, tokens_per_second=200.0), "TRL": HALF},
        {"modeseek": WHOLE, "TRL": "TRL ran out of memory"},
    ]
    ours, theirs = lines_of("DPO", rounds)
    assert ours.faster is None
    assert theirs.faster == (3.0, 2.0, 4.0)
    assert theirs.smaller == 0.25
    assert theirs.note == "TRL ran out of memory"
    assert "×3.00 (2.00–4.00)" in theirs.cells
    alone = lines_of("DPO", [{"modeseek": "failed:\nwhy", "TRL": HALF}])
    assert "failed:" in alone[0].cells and alone[1].faster is None
    assert all(len(line.cells) == 10 for line in (*alone, ours, theirs))


def test_nested_spells_of_compiling_count_once():
    compiling = Compiling()
    compiling.spells = [(1.0, 2.0), (1.5, 1.8), (1.9, 4.0), (6.0, 7.0)]
    assert compiling.seconds() == pytest.approx(4.0)
    assert compiling.seconds(1.5, 6.5) == pytest.approx(3.0)
    assert compiling.seconds(4.0, 6.0) == 0.0


def test_the_baseline_stands_between_the_recipes():
    names = ["sft", *(str(number) for number in range(9))]
    order = order_of(names, backwards=False)
    assert sorted(set(order)) == sorted(names)
    assert order[0] == order[-1] == BASELINE
    assert order_of(names, backwards=True)[1] == "8"
    apart = [place for place, name in enumerate(order) if name == BASELINE]
    assert max(np.diff(apart)) <= EVERY + 1


def test_a_recipe_is_compared_with_the_nearest_baseline(tmp_path):
    rows = make_rows(8, 2, replace(LENGTHS, spread=0.0), 64, 0)
    task = task_of(tmp_path, rows, warm=2)
    tasks = {name: replace(task, recipe=name) for name in ("sft", "dpo", "ipo")}

    def result(seconds: float) -> dict:
        apart = {"collecting_seconds": 0.0, "reference_seconds": 1.0, "written": []}
        return {"seconds": seconds} | apart

    order = ["sft", "dpo", "ipo", "sft"]
    given = [result(1.0), result(2.0), {"error": "why"}, result(4.0)]
    found = costs(order, tasks, given)
    assert found["dpo"].of_baseline == pytest.approx(0.5)
    assert found["dpo"].reference == pytest.approx(0.25)
    assert found["ipo"] == "why"


def test_an_earlier_state_runs_what_ours_runs(tmp_path):
    task = task_of(tmp_path, make_rows(8, 2, LENGTHS, 64, 0))
    before = Contestant(name="before", checkout=tmp_path)
    turns = as_before([Turn(who=MODESEEK, task=task), Turn(who=TRL, task=task)], before)
    assert [turn.who.name for turn in turns] == ["modeseek", "TRL", "before"]
    with checked_out(str(ROOT)) as found:
        assert found.checkout == ROOT
    with pytest.raises(ValueError, match="neither a folder nor a commit"), checked_out("nothing"):
        pass


def test_a_contestant_that_cannot_run_is_told(tmp_path):
    nobody = Contestant(name="nobody", module="nobody")
    task = task_of(tmp_path, make_rows(8, 2, LENGTHS, 64, 0))
    said, trouble = listen(Turn(who=nobody, task=task), "cpu", limit=60)
    assert said == [] and trouble is not None and "failed" in trouble
    assert explained("TRL", "...\nRESOURCE_EXHAUSTED: no") == f"TRL {NO_ROOM}"


def test_a_notebook_keeps_every_line_at_once(tmp_path):
    notebook = Notebook(tmp_path / "deep" / "notes.jsonl")
    for number in range(2):
        notebook.write("part", number=number)
        lines = notebook.path.read_text().splitlines()
        assert json.loads(lines[-1]) == {"part": "part", "number": number}


def test_a_report_is_a_page_and_a_record(tmp_path):
    report = Report(title="Speed", headings=("", "tokens/s"), rows=[("DPO", "7")], record={"a": 1})
    save(tmp_path / "speed.json", {"machine": "this"}, {"speed": report})
    assert json.loads((tmp_path / "speed.json").read_text()) == {
        "machine": "this",
        "speed": {"a": 1},
    }
    page = (tmp_path / "speed.md").read_text()
    assert page == "Speed\n\n|  | tokens/s |\n| --- | ---: |\n| DPO | 7 |\n"


def run(module: str, *arguments: str) -> str:
    line = [sys.executable, "-m", f"experiments.benchmarks{module}", "--tiny", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_table_is_made_with_an_earlier_state_beside_it(tmp_path):
    out = tmp_path / "speed.json"
    only = ("--only", "train", "recipes", "scaling", "--recipes", "dpo", "rloo", "ppo")
    here = ("--rounds", "1", "--before", str(ROOT), "--no-peers", "--out", str(out))
    page = run("", *only, *here)
    record = json.loads(out.read_text())
    lines = record["speed"]["lines"]
    assert {(line["part"], line["who"]) for line in lines} == {
        (part, who) for part in ("DPO", "SFT", "RLOO") for who in ("modeseek", "modeseek before")
    }
    assert all(line["numbers"]["tokens_per_second"] > 0 for line in lines)
    assert all(0 < line["numbers"]["mfu"] < 1 for line in lines)
    assert record["recipes"].keys() == {"sft", "dpo", "rloo", "ppo"}
    assert all(row["tokens_per_second"] > 0 for row in record["recipes"].values())
    assert record["scaling"]["devices"][0]["tokens_per_second"] > 0
    assert "| RLOO | modeseek before |" in page


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    run(".gpu", "--rounds", "1", "--out", str(out))
    record = json.loads(out.read_text())
    assert record["checks"]["attention"]["ok"], record["checks"]
    assert record["checks"]["saving"]["ok"], record["checks"]
    rows = record["speed"]["rows"]
    assert all(row["numbers"] for row in rows if row["who"] == "modeseek")
    assert [row[-1] for row in record["largest"]["rows"]] == ["fits"] * 3
    assert [row[0] for row in record["recipes"]["rows"]] == ["sft", "rloo"]
    notes = (tmp_path / "gpu.jsonl").read_text().splitlines()
    assert {json.loads(line)["part"] for line in notes} >= {"machine", "checks", "recipes"}
