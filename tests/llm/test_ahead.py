"""A collection made while the steps on the one before it run: how old it is, and never lost."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm import collection, preparation, refusals, responses, train
from llm.ahead import Ahead, Stopped
from llm.devices import Device
from llm.estimate import estimate
from llm.footprint import WEIGHTS
from llm.model.architecture import architecture_from_config
from llm.rewards import RewardError
from llm.rollouts import Rollouts, read_rollouts
from llm.settings import OFFLINE_RECIPES, ONLINE_RECIPES, Training
from llm.state import saved_steps
from llm.step import Step
from llm.workload import Workload
from modeseek import cli
from tests.llm import test_online as online
from tests.llm.test_online import KILL, MOMENTS, assert_same_run, collections, lines_of
from tests.llm.tiny_runs import CONFIG

Start = Callable[..., Path]
ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds after which a thread that is waited for will never come."""


place = online.place


def command(place: Path, out: Path, recipe: str = "grpo", **flags: Any) -> list[str]:
    """The line of a run of three collections of four steps, the last of which takes two."""
    return [*online.command(place, out, recipe, **flags), "--ahead"]


@pytest.fixture
def start(place, monkeypatch) -> Start:
    def given(out: Path, recipe: str = "grpo", **flags: Any) -> Path:
        monkeypatch.setattr(sys, "argv", command(place, out, recipe, **flags))
        cli.main()
        return out

    return given


@pytest.fixture(scope="module")
def straight(place) -> Path:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(place, place / "straight"))
        cli.main()
    return place / "straight"


def test_the_first_two_collections_are_of_the_policy_that_the_run_begins_with(straight):
    found = [read_rollouts(path) for path in collections(straight)]
    policies = [each.facts["policy"] for each in found]
    assert policies[0] == policies[1] != policies[2]
    lines = lines_of(straight, "rollout")
    assert [line["step"] for line in lines] == [1, 5, 9]
    assert [line["policy_step"] for line in lines] == [0, 0, 4]
    # To the reference, which the policy began as, the second is as near as the first.
    assert lines[0]["reverse_kl"] == lines[1]["reverse_kl"] == 0 < lines[2]["reverse_kl"]
    for line in lines:
        assert line["sampler_gap"] < 1e-4
        assert line["clock"]["waited"] >= 0


def test_how_stale_it_is_shows_in_the_ratios_of_the_first_step_on_it(straight):
    trained = {line["step"]: line["off_policy_per_token"] for line in lines_of(straight, "train")}
    assert trained[1] < 1e-4
    assert min(trained[5], trained[9]) > 1e-3


def test_the_same_run_again_is_the_same_to_the_bit(straight, start, tmp_path):
    assert_same_run(start(tmp_path / "again"), straight)


def test_a_reward_may_answer_while_the_steps_run(straight, start, tmp_path, monkeypatch):
    """The judge of a collection waits for a step on the one before it, and is not waited for."""
    judge, step = responses.Judges.judge, Step.__call__
    after, taken = {4: 1, 8: 5}, {number: threading.Event() for number in range(1, 11)}
    counted = iter(range(1, 11))

    def patient(self, written):
        first = written[0].prompt_id
        if len(written[0].responses) == 2 and first in after:
            assert threading.current_thread().name == "ahead"
            assert taken[after[first]].wait(PATIENCE), "the steps wait for the reward"
        return judge(self, written)

    def stepped(self, state, batches):
        found = step(self, state, batches)
        taken[next(counted)].set()
        return found

    monkeypatch.setattr(responses.Judges, "judge", patient)
    monkeypatch.setattr(Step, "__call__", stepped)
    assert_same_run(start(tmp_path / "run"), straight)


def after_steps(monkeypatch, number: int, then: Callable[[], None]) -> None:
    """Do something as soon as a run has taken so many steps."""
    step, calls = Step.__call__, []

    def stepped(self, state, batches):
        found = step(self, state, batches)
        calls.append(None)
        if len(calls) == number:
            then()
        return found

    monkeypatch.setattr(Step, "__call__", stepped)


def test_asked_to_stop_it_saves_at_once_and_keeps_what_the_thread_has_written(
    straight, start, tmp_path, monkeypatch, capsys
):
    write, out, written = collection.write_rollouts, tmp_path / "run", threading.Event()
    asked, parts, close = threading.Event(), [], Ahead.close

    def slow(path: Path, found: Rollouts) -> None:
        write(path, found)
        if found.iteration == 1 and path.parent.suffix == ".parts":
            parts.append(path.name)
            written.set()
            assert asked.wait(PATIENCE)

    def ask() -> None:
        assert written.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)

    def closed(self, **options) -> None:
        self._given_up.set()
        asked.set()
        close(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(collection, "write_rollouts", slow)
        patch.setattr(Ahead, "close", closed)
        after_steps(patch, 2, ask)
        with pytest.raises(SystemExit) as stopped:
            start(out)
    assert stopped.value.code == 143
    assert "saved after step 2 of 10" in capsys.readouterr().out
    assert saved_steps(out)[-1] == 2
    assert parts == ["000000.parquet"], "a thread that is not needed begins no other part"
    assert threads() == []
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            collection,
            "write_rollouts",
            lambda path, found: (
                again.append(f"{path.parent.name}/{path.name}"),
                write(path, found),
            ),
        )
        assert_same_run(start(out), straight)
    assert "000001.parts/000000.parquet" not in again


def threads() -> list[str]:
    """Threads that somebody has left."""
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


def test_a_reward_that_cannot_answer_costs_no_step_and_no_sample(
    straight, start, tmp_path, monkeypatch, capsys
):
    judge, out = responses.Judges.judge, tmp_path / "run"

    def down(self, written):
        if written[0].prompt_id == 4 and len(written[0].responses) == 2:
            raise RewardError("the judge is down. Give the same command again.")
        return judge(self, written)

    with monkeypatch.context() as patch:
        patch.setattr(responses.Judges, "judge", down)
        with pytest.raises(SystemExit) as stopped:
            start(out)
    assert stopped.value.code == 2 and "the judge is down" in capsys.readouterr().err
    assert saved_steps(out)[-1] == 4
    assert len(list((out / "rollouts" / "000001.parts").iterdir())) == 2
    assert threads() == []
    write, first = responses.Writer.write, []
    monkeypatch.setattr(
        responses.Writer,
        "write",
        lambda self, engine, groups, ids, source: (
            first.append(ids[0]),
            write(self, engine, groups, ids, source),
        )[1],
    )
    assert_same_run(start(out), straight)
    assert not {4, 6} & set(first), "what was written is not written again"


@pytest.mark.slow
def test_a_step_that_fails_first_on_a_collection_is_gone_on_from(
    straight, start, tmp_path, monkeypatch, capsys
):
    """Its state is saved when who wrote the collection at hand has been forgotten."""
    step, reports, out = Step.__call__, [], tmp_path / "run"

    def broken(self, state, batches):
        if len(reports) < 4:
            state, report = step(self, state, batches)
            reports.append(report)
            return state, report
        return state, reports[-1]._replace(finite=self.everywhere(np.zeros((), bool)))

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", broken)
        patch.setattr(train, "explain", lambda *given: "it is broken.")
        with pytest.raises(SystemExit):
            start(out)
    assert "step 5: it is broken" in capsys.readouterr().err
    assert saved_steps(out)[-1] == 4
    assert_same_run(start(out), straight)


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, pytest.param(9, marks=pytest.mark.exhaustive)])
def test_it_goes_on_from_every_checkpoint(straight, start, tmp_path, step):
    """From the middle of a collection, and from its end, with nothing of the next on disk."""
    out = shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(out / "model")
    for later in saved_steps(out):
        if later > step:
            shutil.rmtree(out / "checkpoints" / str(later))
    assert saved_steps(out)[-1] == step
    iteration = (step - 1) // 4
    for path in collections(out)[iteration + 1 :]:
        path.unlink()
    assert_same_run(start(out), straight)


@pytest.mark.parametrize("recipe", ["sft", "dpo"])
def test_nothing_is_written_ahead_where_nothing_is_written(recipe):
    with pytest.raises(ValueError, match=r"--ahead .* data that exist: leave it out"):
        preparation.prepare(
            recipe, OFFLINE_RECIPES[recipe], Training(ahead=True), lambda line: None
        )


def test_several_devices_are_refused():
    with pytest.raises(ValueError, match=r"--ahead is for one device, and there are 8"):
        refusals.check_ahead("rloo", ONLINE_RECIPES["rloo"], 8, lambda line: None)


@pytest.mark.parametrize(("recipe", "told"), [("reinforce", 1), ("rloo", 1), ("ppo", 0)])
def test_a_method_that_does_not_see_how_old_samples_are_says_so(recipe, told):
    said: list[str] = []
    refusals.check_ahead(recipe, ONLINE_RECIPES[recipe], 1, said.append)
    assert len(said) == told
    assert all("does not correct" in line for line in said)


def test_memory_is_that_of_the_copy_and_of_writing_while_steps_are_taken():
    load = Workload(prompts=99, prompt_tokens=20.0, response_tokens=30.0, responses=2, longest=64)
    device = Device(name="test", flops=1e12, bandwidth=1e11, memory=1e11, mfu=0.5, kind="cpu")
    after, ahead = (
        estimate(
            architecture_from_config(CONFIG),
            "grpo",
            ONLINE_RECIPES["grpo"],
            Training(ahead=flag),
            load,
            device,
        )
        for flag in (False, True)
    )
    held = {
        when: sum(item.bytes for item in after.memory if item.when == when)
        for when in ("always", "training", "sampling")
    }
    copied = next(item.bytes for item in after.memory if item.what == WEIGHTS)
    assert after.peak == held["always"] + max(held["training"], held["sampling"])
    assert ahead.peak == sum(held.values()) + copied


def test_what_is_made_is_handed_over_with_its_progress():
    go, told = threading.Event(), []

    def make(go_on):
        assert go_on(0.5)
        assert go.wait(PATIENCE)
        return "made"

    def tell(share: float) -> bool:
        told.append(share)
        go.set()
        return True

    ahead = Ahead(make)
    assert ahead.wait(tell) == "made" and ahead.is_ready
    assert told[0] == 0.5
    assert ahead.wait(tell) == "made", "and again, whoever asks"
    ahead.close()
    assert threads() == []


@pytest.mark.parametrize("error", [RewardError("down"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_goes_wrong_in_the_thread_is_raised_where_it_is_waited_for(error):
    def make(go_on):
        raise error

    with pytest.raises(type(error)) as found:
        Ahead(make).wait(lambda share: True)
    assert found.value is error


def test_who_stops_waiting_stops_the_thread_after_its_part():
    parts: list[int] = []

    def make(go_on):
        while go_on(0.0):
            parts.append(len(parts))
            time.sleep(0.01)
        raise collection.Interrupted

    ahead = Ahead(make)
    with pytest.raises(Stopped):
        ahead.wait(lambda share: False)
    ahead.close()
    assert parts and threads() == []


def test_nobody_in_a_hurry_waits_for_a_part():
    go = threading.Event()
    ahead = Ahead(lambda go_on: go.wait(PATIENCE))
    began = time.monotonic()
    ahead.close(at_once=True)
    assert time.monotonic() - began < 1 and not ahead.is_ready
    go.set()
    ahead.close()


IN_TIME = """
import os, signal, sys, threading, time
from pathlib import Path
from llm import responses
from llm.step import Step

# Whoever started the tests in the background of a script made them deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
judge, step, calls = responses.Judges.judge, Step.__call__, []

def hanging(self, written):
    if written[0].prompt_id == 4 and len(written[0].responses) == 2:
        print("hangs", flush=True)
        time.sleep(600)
    return judge(self, written)

def stepped(self, state, batches):
    calls.append(None)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=once_saved, daemon=True).start()
    return step(self, state, batches)

def once_saved():
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    while not (out / "checkpoints" / "2").is_dir():
        time.sleep(0.1)
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)

responses.Judges.judge, Step.__call__ = hanging, stepped
from modeseek.cli import main
main()
"""


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_a_reward_that_hangs(
    place, straight, start, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    found = subprocess.run(
        [sys.executable, "-c", IN_TIME, *command(place, out)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode in (130, -signal.SIGINT), found.stderr
    assert saved_steps(out)[-1] == 2
    assert_same_run(start(out), straight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "ppo" else pytest.mark.exhaustive)
        for name in online.RUNS
    ],
)
def test_kill_9_at_any_moment_and_the_same_command_again(place, start, tmp_path, name):
    recipe, flags = online.RUNS[name]
    undisturbed = start(tmp_path / "undisturbed", recipe, **flags)
    for moment, number in MOMENTS:
        out = tmp_path / moment
        found = subprocess.run(
            [
                sys.executable,
                "-c",
                KILL,
                moment,
                str(number),
                *command(place, out, recipe, **flags)[1:],
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert found.returncode == -signal.SIGKILL, (moment, found.stderr)
        assert not (out / "model").exists()
        assert_same_run(start(out, recipe, **flags), undisturbed)
