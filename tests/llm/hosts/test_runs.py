"""A run of several processes: the run of one, whatever dies, wherever it goes on."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.rollouts import read_rollouts
from llm.state import saved_steps
from modeseek import cli
from tests.llm.hosts.processes import (
    BOUND,
    ROOT,
    assert_close_run,
    assert_same_run,
    finish,
    line,
    online,
    run,
    start,
)

TRY_AGAIN, ABORTED, KILLED = 75, -6, -9
STOPPED = 143

Line = Callable[..., list[str]]


@pytest.fixture(scope="module")
def straight(place) -> Path:
    """A run of two processes that nothing disturbed."""
    run(line(place, place / "straight"))
    return place / "straight"


@pytest.fixture(scope="module")
def written(place) -> Path:
    """The same for one that learns from what it writes."""
    run(online(place, place / "written"))
    return place / "written"


def here(monkeypatch, command: list[str]) -> None:
    """Give a command in this process, which has one device."""
    monkeypatch.setattr(sys, "argv", ["modeseek", *command])
    cli.main()


def test_two_processes_train_what_one_trains(place, straight, tmp_path, monkeypatch):
    here(monkeypatch, line(place, tmp_path / "run"))
    assert_close_run(straight, tmp_path / "run")


@pytest.mark.slow
def test_where_the_devices_are_the_same_so_is_every_bit(place, straight, tmp_path):
    run(line(place, tmp_path / "run"), count=1, devices=2)
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_two_processes_write_and_learn_what_one_does(place, written, tmp_path, monkeypatch):
    run(online(place, tmp_path / "two"), count=1, devices=2)
    assert_same_run(tmp_path / "two", written)
    here(monkeypatch, online(place, tmp_path / "one"))
    assert_close_run(written, tmp_path / "one", within=1e-4)
    for path in sorted((written / "rollouts").glob("0*.parquet")):
        one = read_rollouts(tmp_path / "one" / "rollouts" / path.name)
        for mine, theirs in zip(read_rollouts(path).rollouts, one.rollouts, strict=True):
            assert [y.response for y in mine.responses] == [y.response for y in theirs.responses]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_four_processes_share_one_model(place, tmp_path):
    mesh = {"mesh__fsdp": 2, "mesh__tensor": 2}
    run(line(place, tmp_path / "four", **mesh), count=4)
    run(line(place, tmp_path / "one", **mesh), count=1, devices=4)
    assert_same_run(tmp_path / "four", tmp_path / "one")


def died(command: list[str], moment: str, victim: int) -> None:
    """One process is killed, and the other ends by itself, says of whom and what to do."""
    ended = finish(start(command, moments={victim: moment}))
    assert ended[victim].status == KILLED, ended[victim].text
    other = ended[1 - victim]
    assert other.seconds - ended[victim].seconds < 60
    # Where the coordinator is gone, JAX may be as quick to abort the process as we to end it.
    assert other.status in (TRY_AGAIN, ABORTED), other.text
    said = f"process {victim} of 2 is gone; start the same command again on every host: it goes on"
    assert said in other.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "victim"),
    [
        pytest.param("kill-step-5", 1, marks=pytest.mark.exhaustive),
        pytest.param("kill-step-4", 0, marks=pytest.mark.exhaustive),
        ("kill-save-3", 1),
    ],
)
def test_whoever_is_killed_all_end_and_the_same_command_goes_on(
    place, straight, tmp_path, moment, victim
):
    died(line(place, tmp_path / "run"), moment, victim)
    run(line(place, tmp_path / "run"))
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(place, straight, tmp_path, monkeypatch):
    died(line(place, tmp_path / "run"), "kill-save-2", 0)
    here(monkeypatch, line(place, tmp_path / "run"))
    assert_close_run(tmp_path / "run", straight)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_of_one_process_goes_on_in_two(place, straight, tmp_path):
    ended = finish(start(line(place, tmp_path / "run"), count=1, moments={0: "kill-step-4"}))
    assert ended[0].status == KILLED
    run(line(place, tmp_path / "run"))
    assert_close_run(tmp_path / "run", straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "processes"), [(1, 2), pytest.param(0, 1, marks=pytest.mark.exhaustive)]
)
def test_whoever_is_killed_while_it_judges_what_is_written_is_kept(
    place, written, tmp_path, victim, processes
):
    out = tmp_path / "run"
    # The first judges held-out prompts, and then there is one for each collection.
    died(online(place, out), "kill-judge-3", victim)
    parts = sorted((out / "rollouts" / "000001.parts").iterdir())
    assert [part.name for part in parts] == ["000000.parquet", "000002.parquet"]
    run(online(place, out), count=processes, devices=2 // processes)
    assert_same_run(out, written)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_request_to_stop_reaches_all_processes_after_the_same_step(place, straight, tmp_path):
    out = tmp_path / "run"
    ended = finish(start(line(place, out), moments={1: "term-step-3"}))
    assert [process.status for process in ended] == [STOPPED, STOPPED], ended
    assert "stopped by SIGTERM; saved after step 4 of 6" in " ".join(ended[0].text.split())
    assert saved_steps(out)[-1] == 4
    run(line(place, out))
    assert_same_run(out, straight)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_request_to_stop_in_the_middle_of_a_collection(place, written, tmp_path):
    out = tmp_path / "run"
    ended = finish(start(online(place, out), moments={1: "term-judge-3"}))
    assert [process.status for process in ended] == [STOPPED, STOPPED], ended
    assert saved_steps(out)[-1] == 2
    run(online(place, out))
    assert_same_run(out, written)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_reward_that_fails_in_one_process_is_told_by_all_and_costs_nothing(
    place, written, tmp_path
):
    out = tmp_path / "run"
    ended = finish(start(online(place, out), moments={1: "fail-judge-3"}))
    assert [process.status for process in ended] == [2, 2], ended
    assert "process 1 of 2: the judge is down" in " ".join(ended[0].text.split())
    assert saved_steps(out)[-1] == 2
    run(online(place, out))
    assert_same_run(out, written)


SUPERVISED = """
import sys
from modeseek import cli, processes
processes.PROGRAM = (sys.executable, "-m", "tests.llm.hosts.victim", "kill-step-5-1")
cli.main()
"""


@pytest.mark.slow
def test_launch_starts_all_again_until_the_run_is_done(place, straight, tmp_path):
    # It dies in the fifth step it takes, when that of the second was saved: fewer are left then.
    launch = ["launch", "local", "--processes", "2", "--restarts", "1", "--"]
    command = [sys.executable, "-c", SUPERVISED, *launch, *line(place, tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("process 1 ended with status -9: all go on") == 1
    assert "process 1 of 2 is gone; start the same command again" in done.stderr
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_hosts_that_were_told_different_things_do_not_begin(place, tmp_path):
    ended = finish(start(line(place, tmp_path / "run"), extra={1: ["--seed", "1"]}))
    assert [process.status for process in ended] == [2, 2], ended
    text = " ".join(ended[0].text.split())
    assert "processes 0 and 1 do not have the same run: " in text
    assert "settings.seed: 0 and 1" in text


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_that_diverges_ends_everywhere_and_is_explained_once(place, tmp_path):
    wrong = {"optimizer__learning_rate": 1e18, "optimizer__name": "sgd"}
    ended = finish(start(line(place, tmp_path / "run", **wrong)))
    assert [process.status for process in ended] == [2, 2], ended
    assert "The state after step 1 is kept" in " ".join(ended[0].text.split())
    assert "step 2" not in ended[1].text
    assert saved_steps(tmp_path / "run")[-1] == 1
