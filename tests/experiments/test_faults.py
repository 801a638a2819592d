"""The harness that kills runs would notice a loss, and forks only where nothing can be torn."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.faults.__main__ import line_of, table_of
from experiments.faults.children import BUSY, Child, Watch
from experiments.faults.kills import (
    AIMS,
    Disk,
    Story,
    Undisturbed,
    check_disk,
    check_states,
    differences,
    digest,
    doing,
    weights,
)

ROOT = Path(__file__).parents[2]
BEFORE = Disk({2: "two", 3: "three"}, {"rollouts/000000.parquet": (7, 100)})


def losses(after: Disk, before: Disk = BEFORE) -> list[str]:
    story = Story()
    check_disk(before, after, story)
    return story.losses


def test_what_is_still_there_is_not_lost():
    assert losses(BEFORE) == []
    later = Disk({3: "three", 4: "four"}, BEFORE.collections | {"rollouts/000001.parquet": (8, 9)})
    assert losses(later) == [], "retention takes the oldest"
    torn = Disk({2: "a part", 3: "three", 4: "four"}, BEFORE.collections)
    assert losses(torn) == [], "and may be killed meanwhile"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (Disk({2: "two"}, BEFORE.collections), "the checkpoint of step 3 is gone"),
        (Disk({2: "two", 3: "else"}, BEFORE.collections), "the checkpoint of step 3 is another"),
        (Disk({4: "four"}, BEFORE.collections), "the checkpoint of step 3 is gone"),
        (Disk(BEFORE.checkpoints), "rollouts/000000.parquet is gone"),
        (
            Disk(BEFORE.checkpoints, {"rollouts/000000.parquet": (8, 100)}),
            "rollouts/000000.parquet was written, and judged, again",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_lost_is_noticed(after, said):
    assert losses(after) == [said]


def test_a_part_is_not_lost_where_its_collection_is_whole():
    part = Disk({}, {"rollouts/000001.parts/000002.parquet": (5, 5)})
    assert losses(Disk({}, {"rollouts/000001.parquet": (6, 50)}), part) == []
    assert losses(Disk(), part) == ["rollouts/000001.parts/000002.parquet is gone"]


def state(what: str, step: int, number: str) -> dict:
    return {"what": what, "step": step, "checksums": {"w": number}}


def told(*lines: dict, disk: Disk = BEFORE) -> Story:
    states = {step: {"w": str(step)} for step in range(6)}
    story = Story()
    check_states(list(lines), Undisturbed(Path("x"), states, 1.0, {}), disk, story)
    return story


def test_a_run_that_goes_on_from_its_latest_checkpoint_is_as_it_should_be():
    story = told(state("restored", 3, "3"), state("saved", 4, "4"))
    assert (story.resumed, story.losses, story.divergences) == (1, [], [])
    assert told(disk=BEFORE) == Story(), "killed before it had said anything"
    assert told(state("saved", 0, "0"), disk=Disk()) == Story()


def test_a_run_that_goes_on_from_anything_else_is_noticed():
    (lost,) = told(state("restored", 2, "2")).losses
    assert lost == "step 3 was on disk, and the run went on after 2"
    (lost,) = told(state("saved", 0, "0")).losses
    assert lost == "step 3 was on disk, and the run began anew"
    (other,) = told(state("restored", 3, "3"), state("saved", 4, "5")).divergences
    assert other == "the state that was saved at step 4"
    (other,) = told(state("restored", 3, "4")).divergences
    assert other == "the state that was restored at step 3"


def make_run(folder: Path, loss: float = 1.0, weight: bytes = b"w") -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(weight)
    line = {"step": 1, "kind": "train", "loss": loss, "clock": {"seconds": time.monotonic()}}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_two_runs_differ_in_what_they_computed_and_not_in_their_clocks(tmp_path):
    one = make_run(tmp_path / "one")
    assert differences(one, make_run(tmp_path / "same")) == []
    assert differences(one, make_run(tmp_path / "loss", loss=2.0)) == ["metrics.jsonl"]
    found = differences(one, make_run(tmp_path / "weight", weight=b"v"))
    assert found == ["model/model.safetensors"]
    shutil.rmtree(one / "model")
    assert differences(one, tmp_path / "same") == ["model/model.safetensors"]


def test_a_folder_is_known_by_every_byte_of_it(tmp_path):
    before = digest(make_run(tmp_path / "one"))
    (tmp_path / "one" / "model" / "model.safetensors").write_bytes(b"v")
    assert digest(tmp_path / "one") != before


def test_what_a_run_was_doing_is_read_from_its_counters_and_its_folder(tmp_path):
    child = Child(0, Watch())
    assert doing(child, tmp_path) == ("start",)
    child.watch.add("steps")
    assert doing(child, tmp_path) == ("step",)
    child.watch.add(BUSY)
    assert doing(child, tmp_path) == ("collect",)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    assert doing(child, tmp_path) == ("collect",), "left by another kill"
    child.watch.add("saves")
    assert doing(child, tmp_path) == ("save", "collect")
    child.watch.add("exports")
    assert doing(child, tmp_path) == ("save", "export")


def test_every_aim_is_taken_now_and_then():
    assert weights(AIMS).sum() == pytest.approx(1) and (weights(AIMS) > 0.03).all()


def test_the_table_adds_up():
    kills = [{"hit": ["save"]}, {"hit": ["step"]}, {"hit": ["save", "collect"]}]
    run = {"kills": kills, "resumed": 3, "losses": [], "divergences": ["model"]}
    table = table_of({"dpo": {"runs": [run, run]}, "ppo": {"runs": [run]}})
    first, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert first[0] == "recipe" and first[-2:] == ["losses", "divergences"]
    assert rows[0] == ["dpo", "6", "0", "2", "2", "4", "0", "6", "0", "2"]
    assert rows[-1] == ["**all**", "9", "0", "3", "3", "6", "0", "9", "0", "3"]
    assert line_of("ppo", {"runs": [run]}) == "ppo: 3 kills, model"


FORK = """
import os, threading
from pathlib import Path
from experiments.faults.__main__ import prepare
prepare(Path("nowhere"))
from jax._src import xla_bridge
print(threading.active_count(), xla_bridge.backends_are_initialized())
"""


@pytest.mark.slow
def test_nothing_has_begun_that_a_fork_could_tear():
    line = [sys.executable, "-c", FORK]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split()[-2:] == ["1", "False"]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "processes"), [("rloo", 1), ("dpo", 2)])
def test_runs_that_are_killed_lose_nothing(tmp_path, recipe, processes):
    line = [sys.executable, "-m", "experiments.faults", "--kills", "3", "--recipes", recipe]
    line += ["--processes", str(processes), "--out", str(tmp_path)]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    assert f"{recipe}: 3 kills, nothing lost, nothing different" in found.stdout
    (record,) = tmp_path.glob("*.json")
    runs = json.loads(record.read_text())["recipes"][recipe]["runs"]
    assert sum(len(run["kills"]) for run in runs) == 3
    assert "/" not in json.dumps(json.loads(record.read_text())["options"])
