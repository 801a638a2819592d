"""A reproduction that is interrupted keeps what is finished and goes on from there."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.catalogue import BANDIT, CATALOGUE, ROOT, TEXT, chosen, module_of
from experiments.results import Size
from modeseek.options import mirror, unmirror
from modeseek.reproduce import tasks_of
from objectives import RECIPES


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "modeseek", "reproduce", *words, "--quick", "--out", str(out)]


def test_an_interrupted_reproduction_continues_where_it_stopped(tmp_path):
    words = ("environment", "taxonomy", "kl_estimators", "--processes", "1")
    # What runs in the background inherits that Ctrl-C is ignored; a person's command does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while not list(tmp_path.glob("bandit/*.json")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    shown, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "same command continues" in " ".join(shown.split())
    kept = {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("bandit/*.json")}
    again = subprocess.run(command(tmp_path, *words), capture_output=True, text=True, check=True)
    assert "already there" in again.stdout
    for name, when in kept.items():
        assert (tmp_path / "bandit" / f"{name}.json").stat().st_mtime_ns == when
    claims = (tmp_path / "CLAIMS.md").read_text()
    for name in ("environment", "taxonomy", "kl_estimators"):
        record = json.loads((tmp_path / "bandit" / f"{name}.json").read_text())
        assert record["verdicts"], name
        assert record["verdicts"][0]["claim"].replace("|", "\\|") in claims
        assert (tmp_path / "figures" / f"{name}.svg").stat().st_size > 1000


def test_every_experiment_has_a_file_a_figure_and_a_place_in_the_catalogue():
    files = {path.stem for path in (ROOT / "experiments" / "bandit").glob("[a-z]*.py")}
    assert files == set(BANDIT)
    for name in CATALOGUE:
        assert (ROOT / "figures" / f"{name}.py").exists()
        assert (ROOT / f"{module_of(name).replace('.', '/')}.py").exists()


def test_an_experiment_brings_what_it_reads():
    assert chosen(["frontier"]) == ["complementarity", "frontier"]
    assert "calibration" not in chosen([])


def test_the_study_on_text_is_asked_for_by_one_word_and_runs_by_no_default():
    assert chosen(["text"]) == list(TEXT)
    assert not set(chosen([])) & set(TEXT)


def test_runs_that_two_experiments_share_are_one_task(tmp_path, monkeypatch):
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path))
    size = Size("quick", 2)
    parts = {
        name: tasks_of(name, size, tmp_path, ("svg",))
        for name in ("text_on_policy", "text_complementarity")
    }
    names = {name: {task.name for task in tasks} for name, tasks in parts.items()}
    assert len(names["text_on_policy"] & names["text_complementarity"]) > 20
    for name, tasks in parts.items():
        assert tasks[-1].name == name
        known = {task.name for task in tasks}
        assert all(set(task.after) <= known for task in tasks)
        assert set(tasks[-1].after) == known - {name}
        # What has been computed is no task any more.
        first = tasks[0].arguments[0].args[0].path
        first.parent.mkdir(parents=True, exist_ok=True)
        first.write_text("{}")
        assert tasks[0].name not in {task.name for task in tasks_of(name, size, tmp_path, ())}
        first.unlink()


def test_sizes_choose():
    assert [Size(name).choose(1, 2, 3) for name in ("quick", "default", "full")] == [1, 2, 3]


def test_flags_say_the_same_as_the_recipe_they_stand_for():
    for name, recipe in RECIPES.items():
        assert repr(unmirror(mirror(recipe))) == repr(recipe), name
