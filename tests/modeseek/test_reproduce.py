"""A reproduction that is interrupted keeps what is finished and goes on from there."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.catalogue import BANDIT, ROOT, chosen
from experiments.results import Size
from modeseek.options import mirror, unmirror
from objectives import RECIPES


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "modeseek", "reproduce", *words, "--quick", "--out", str(out)]


def test_an_interrupted_reproduction_continues_where_it_stopped(tmp_path):
    words = ("environment", "taxonomy", "kl_estimators", "--processes", "1")
    run = subprocess.Popen(command(tmp_path, *words), stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("bandit/*.json")):
        assert run.poll() is None
        time.sleep(0.1)
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
    for name in BANDIT:
        assert (ROOT / "figures" / f"{name}.py").exists()


def test_an_experiment_brings_what_it_reads():
    assert chosen(["frontier"]) == ["complementarity", "frontier"]
    assert "calibration" not in chosen([])


def test_sizes_choose():
    assert [Size(name).choose(1, 2, 3) for name in ("quick", "default", "full")] == [1, 2, 3]


def test_flags_say_the_same_as_the_recipe_they_stand_for():
    for name, recipe in RECIPES.items():
        assert repr(unmirror(mirror(recipe))) == repr(recipe), name
