"""A run killed at any moment and started again is, bit for bit, a run that was never killed."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm import finetune as chapters
from llm.journal import Journal, read_lines
from llm.lock import only_writer
from llm.state import Saver, saved_steps
from llm.step import Step
from llm.train import Clock
from modeseek import cli
from tests.llm.tiny_runs import CONFIG, compilation_cache, pairs, write_model, write_rows

STEPS, SAVE_EVERY = 6, 2
SECRETS = {"HF_TOKEN": "hf_TopSecretTokenOfMine", "WANDB_API_KEY": "0123456789abcdef-my-key"}

Train = Callable[..., Path]


class Straight(NamedTuple):
    """A run that nothing disturbed.

    Attributes:
        folder: of the run.
        moments: copies of the folder as it was at some moments, by what had just happened.
        compiled: how many programs were compiled while steps were taken.
    """

    folder: Path
    moments: dict[str, Path]
    compiled: int


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A model, its data, and one cache of compiled programs for all runs here."""
    folder = tmp_path_factory.mktemp("runs")
    write_model(folder / "model")
    write_rows(folder / "pairs.jsonl", pairs())
    with compilation_cache(folder / "programs"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODESEEK_CACHE", str(folder / "cache"))
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield folder


def command(place: Path, out: Path, recipe: str = "dpo", **flags: Any) -> list[str]:
    """The line of a small run, as a user types it."""
    given = {
        "model": place / "model",
        "data": place / "pairs.jsonl",
        "out": out,
        "batch": 4,
        "steps": STEPS,
        "save.every": SAVE_EVERY,
        "evaluate_every": 3,
        "packing.shapes": 1,
        "optimizer.learning_rate": 3e-3,
        "reading.eval_share": 0.1,
    } | {name.replace("__", "."): value for name, value in flags.items()}
    line = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return ["modeseek", "train", recipe, *line]


@pytest.fixture
def train(place, monkeypatch) -> Train:
    """Give the command of the run."""

    def start(out: Path, recipe: str = "dpo", **flags: Any) -> Path:
        monkeypatch.setattr(sys, "argv", command(place, out, recipe, **flags))
        cli.main()
        return out

    return start


@pytest.fixture(scope="module")
def straight(place) -> Straight:
    """The run all others are compared with, and what a kill would have left at some moments."""
    out, moments, compiled, watching, savers = place / "straight", {}, [], [], []
    write, save, run = Journal.write, Saver.save, chapters.run

    def keep(moment: str) -> None:
        for saver in savers:  # a folder that is being written to cannot be copied
            saver.checkpointer.wait()
        moments[moment] = place / moment
        shutil.copytree(out, place / moment)

    def written(self, step, kind, *numbers):
        write(self, step, kind, *numbers)
        if (step, kind) == (0, "eval"):
            keep("before anything was saved")

    def saved(self, step, state):
        if step == 4:
            keep("before the save of step 4")
        save(self, step, state)
        savers[:] = [self]
        if step in (0, 4):
            keep(f"after the save of step {step}")

    def ran(*args, **options):
        watching.append(True)
        end = run(*args, **options)
        watching.clear()
        keep("before the model was written")
        return end

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if watching and event.endswith("backend_compile_duration"):
            compiled.append(event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "write", written)
        patch.setattr(Saver, "save", saved)
        patch.setattr(chapters, "run", ran)
        patch.setattr(sys, "argv", command(place, out))
        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            cli.main()
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
    return Straight(out, moments, len(compiled))


def numbers(folder: Path) -> list[str]:
    """The lines of a run's metrics as they stand there, but for what was timed."""
    lines = read_lines(folder / "metrics.jsonl")
    return [json.dumps({k: v for k, v in line.items() if k != "clock"}) for line in lines]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def assert_same_run(folder: Path, straight: Straight) -> None:
    assert numbers(folder) == numbers(straight.folder)
    assert weights(folder) == weights(straight.folder)


MOMENTS = (
    "before anything was saved",
    "after the save of step 0",
    "before the save of step 4",
    "after the save of step 4",
    "before the model was written",
)


def test_a_run_learns_what_it_is_shown(straight):
    lines = read_lines(straight.folder / "metrics.jsonl")
    trained = [(number, "train") for number in range(1, STEPS + 1)]
    looks = [(number, "eval") for number in (0, 3, 6)]
    assert sorted((line["step"], line["kind"]) for line in lines) == sorted(trained + looks)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    first, last = lines[0], lines[-1]
    # The reference spoke in a program of its own, which may round a sum over a response otherwise.
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < first["loss"] and last["accuracy"] == 1


def test_nothing_is_compiled_once_steps_are_taken(straight):
    assert straight.compiled == 0


def test_no_secret_of_the_environment_is_in_any_file_of_a_run(straight):
    files = [file for file in straight.folder.rglob("*") if file.is_file()]
    assert len(files) > 8
    for file in files:
        text = file.read_bytes()
        assert not any(value.encode() in text for value in SECRETS.values()), file


def test_a_complete_run_given_again_says_so_and_changes_nothing(straight, train, capsys):
    before = weights(straight.folder), numbers(straight.folder)
    train(straight.folder)
    assert "complete" in capsys.readouterr().out
    assert (weights(straight.folder), numbers(straight.folder)) == before


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_kill_leaves_behind_goes_on_as_if_nothing_had_happened(
    straight, train, tmp_path, moment
):
    out = shutil.copytree(straight.moments[moment], tmp_path / "run")
    assert_same_run(train(out), straight)


def test_another_run_of_the_same_command_is_the_same_to_the_bit(straight, train, tmp_path):
    assert_same_run(train(tmp_path / "run"), straight)


@pytest.mark.parametrize(("reference", "more"), [("cache", 0), ("model", 1)])
def test_the_model_that_was_read_stays_only_where_it_is_the_reference(
    train, tmp_path, monkeypatch, reference, more
):
    """The embedding is there as it trains, and as each of the optimizer's two moments."""
    build, found = Step.__init__, []

    def embeddings() -> int:
        gc.collect()
        return sum(array.shape == shape for array in jax.live_arrays())

    def built(self, *given, **more):
        build(self, *given, **more)
        found.append(embeddings() - before)

    monkeypatch.setattr(Step, "__init__", built)
    shape = (CONFIG["vocab_size"], CONFIG["hidden_size"])
    before = embeddings()
    train(tmp_path / "run", steps=1, reference=reference)
    assert found == [3 + more]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_step_at_hand_and_the_run_goes_on_from_it(
    straight, train, tmp_path, monkeypatch, capsys, number, status
):
    tick = Clock.tick

    def ring(self, plan, step):
        tick(self, plan, step)
        if step == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "tick", ring)
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path / "run")
    assert stopped.value.code == status
    assert "saved after step 3 of 6" in capsys.readouterr().out
    assert saved_steps(tmp_path / "run")[-1] == 3
    assert not (tmp_path / "run" / "model").exists()
    assert_same_run(train(tmp_path / "run"), straight)


def refused(train: Train, capsys, out: Path, *args: str, **flags: Any) -> str:
    """What a command answers that is not to run, on one red line or several."""
    with pytest.raises(SystemExit) as stopped:
        train(out, *args, **flags)
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_that_is_going_on_is_not_given_to_a_second_command(straight, train, tmp_path, capsys):
    out = shutil.copytree(straight.moments["after the save of step 4"], tmp_path / "run")
    with only_writer(out):
        before = snapshot(out)
        assert "written to by another process" in refused(train, capsys, out)
        assert snapshot(out) == before
    assert_same_run(train(out), straight)


def test_a_run_asked_for_differently_is_refused_and_left_alone(
    straight, place, train, tmp_path, capsys
):
    out = shutil.copytree(straight.moments["after the save of step 4"], tmp_path / "run")
    before = snapshot(out)
    other = write_rows(tmp_path / "other.jsonl", pairs(23))
    model = shutil.copytree(place / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0}))
    text = refused(train, capsys, out, batch=2, objective__beta=0.2)
    assert "settings.batch: was 4, is 2" in text and "objective.beta: was 0.1, is 0.2" in text
    assert "fingerprints" not in text
    assert "fingerprints.data: was" in refused(train, capsys, out, data=other)
    assert "fingerprints.model: was" in refused(train, capsys, out, model=model)
    assert "recipe: was 'dpo', is 'ipo'" in refused(train, capsys, out, "ipo")
    assert snapshot(out) == before


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_run_that_diverges_stops_and_keeps_the_state_before(train, tmp_path, capsys):
    out = tmp_path / "run"
    text = refused(
        train, capsys, out, optimizer__learning_rate=1e18, optimizer__name="sgd", log__every=4
    )
    assert "step 2: " in text and "pairs.jsonl:" in text and "not finite" in text
    assert "The state after step 1 is kept" in text and "--optimizer.learning-rate" in text
    assert saved_steps(out)[-1] == 1
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(str(out / "checkpoints")) as checkpointer:
        state = checkpointer.load(1)
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in state.values())
    assert np.asarray(state["step"]) == 1 and np.asarray(state["finite"])


def test_adapters_alone_move_and_the_base_says_the_exact_divergence(place, train, tmp_path):
    out = train(
        tmp_path / "run",
        adapters__rank=2,
        reference="model",
        steps=2,
        optimizer__learning_rate=0.05,
        optimizer__warmup=0.0,
    )
    first, *_, last = read_lines(out / "metrics.jsonl")
    assert first["reverse_kl_per_token"] == 0 and first["forward_kl_per_token"] == 0
    assert last["reverse_kl_per_token"] > 0 and last["forward_kl_per_token"] > 0
    before = load_file(place / "model" / "model.safetensors")
    after = load_file(out / "model" / "model.safetensors")
    moved = {name for name, value in after.items() if (value != before[name]).any()}
    assert moved == {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"}
    assert (out / "adapter" / "adapter_config.json").exists()


@pytest.mark.slow
def test_a_frozen_embedding_stays_and_everything_else_moves(place, train, tmp_path):
    out = tmp_path / "run"
    line = [*command(place, out, steps=2), "--freeze-embedding"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", line)
        cli.main()
    before = load_file(place / "model" / "model.safetensors")
    after = load_file(out / "model" / "model.safetensors")
    still = {name for name, value in after.items() if (value == before[name]).all()}
    assert still == {"model.embed_tokens.weight"}


@pytest.mark.slow
def test_a_cached_reference_trains_like_a_reference_model(place, straight, train, tmp_path):
    out = train(tmp_path / "run", reference="model")
    for one, other in zip(
        read_lines(out / "metrics.jsonl"),
        read_lines(straight.folder / "metrics.jsonl"),
        strict=True,
    ):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert "reverse_kl_per_token" in one and "reverse_kl_per_token" not in other


@pytest.mark.slow
def test_a_window_of_steps_is_the_mean_of_its_steps(straight, train, tmp_path):
    whole = [
        line for line in read_lines(straight.folder / "metrics.jsonl") if line["kind"] == "train"
    ]
    out = train(tmp_path / "run", log__every=4)
    lines = [line for line in read_lines(out / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [4, 6]
    for line, steps in zip(lines, (whole[:4], whole[4:]), strict=True):
        assert line["loss"] == pytest.approx(np.mean([step["loss"] for step in steps]), rel=1e-5)


KILL = """
import os, signal, sys
from llm.state import Saver
from llm.step import Step
moment, number = sys.argv.pop(1), int(sys.argv.pop(1))

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

save, step = Saver.save, Step.__call__
calls = []

def saved(self, at, state):
    save(self, at, state)
    if at == number:
        if moment == "between saves":
            self.checkpointer.wait()
        kill()

def stepped(self, state, batches):
    calls.append(None)
    found = step(self, state, batches)
    if len(calls) == number:
        kill()
    return found

if moment == "during a step":
    Step.__call__ = stepped
else:
    Saver.save = saved
from modeseek.cli import main
main()
"""


def killed(line: list[str], moment: str, number: int) -> None:
    """Run a command in a process of its own that is killed at a moment."""
    process = [sys.executable, "-c", KILL, moment, str(number), *line[1:]]
    root = Path(__file__).parents[2]
    found = subprocess.run(process, cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("during a save", 4),
        pytest.param("during a save", 0, marks=pytest.mark.slow),
        pytest.param("between saves", 2, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param("during a step", 1, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param("during a step", 5, marks=pytest.mark.slow),
    ],
)
def test_kill_9_at_any_moment_and_the_same_command_again(
    place, straight, train, tmp_path, moment, number
):
    out = tmp_path / "run"
    killed(command(place, out), moment, number)
    assert not (out / "model").exists()
    assert_same_run(train(out), straight)
