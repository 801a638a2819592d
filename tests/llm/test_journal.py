"""The lines of a run: whole, in order, each once, wherever the run was interrupted."""

import json
import sys

import pytest

from llm.journal import METRICS, Journal, check_loggers, read_lines
from llm.settings import LogSettings

CLOCK = {"seconds": 1.0}


def start(folder, step=-1, **settings) -> Journal:
    return Journal(folder, LogSettings(**settings), step, "dpo", {"recipe": "dpo"})


def written(folder, *steps) -> None:
    journal = start(folder)
    for step in steps:
        journal.write(step, "train", {"loss": step / 3}, CLOCK)
    journal.close()


def test_a_line_has_what_was_computed_apart_from_what_was_timed(tmp_path):
    journal = start(tmp_path)
    journal.write(3, "eval", {"loss": 0.1}, {"seconds": 2.5})
    journal.close()
    expected = {"step": 3, "kind": "eval", "loss": 0.1, "clock": {"seconds": 2.5}}
    assert read_lines(tmp_path / METRICS) == [expected]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    journal = start(tmp_path)
    journal.write(1, "train", {"loss": 0.5}, CLOCK)
    assert len(read_lines(tmp_path / METRICS)) == 1
    journal.close()


def test_a_resumed_run_takes_back_the_lines_it_will_write_again(tmp_path):
    written(tmp_path, 0, 1, 2, 3)
    before = (tmp_path / METRICS).read_bytes()
    start(tmp_path, step=1).close()
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [0, 1]
    assert before.startswith((tmp_path / METRICS).read_bytes()), "lines that stay stay as they are"


def test_a_run_that_begins_anew_keeps_no_line_not_even_of_step_0(tmp_path):
    written(tmp_path, 0, 1)
    start(tmp_path, step=-1).close()
    assert (tmp_path / METRICS).read_bytes() == b""


def test_a_line_broken_by_a_kill_is_dropped_and_the_next_begins_a_line(tmp_path):
    written(tmp_path, 0, 1)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 2, "kind": "tr')
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [0, 1]
    journal = start(tmp_path, step=5)
    journal.write(2, "train", {"loss": 1.0}, CLOCK)
    journal.close()
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


def test_a_run_without_lines_has_none(tmp_path):
    assert read_lines(tmp_path / METRICS) == []


@pytest.mark.parametrize(
    ("package", "settings"),
    [("tensorboardX", {"tensorboard": True}), ("wandb", {"wandb": "a-project"})],
)
def test_a_logger_that_is_not_installed_is_named_with_its_remedy(monkeypatch, package, settings):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"--log.* needs .*pip install {package}"):
        check_loggers(LogSettings(**settings))
    check_loggers(LogSettings())


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboardX")
    journal = start(tmp_path, tensorboard=True)
    journal.write(1, "train", {"loss": 0.5}, CLOCK)
    journal.close()
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert events and b"train/loss" in events[0].read_bytes()


class FakeRun:
    """Stands in for the package wandb, which needs an account."""

    def __init__(self) -> None:
        self.asked, self.logged, self.finished = [], [], 0

    def init(self, **given):
        self.asked.append(given)
        return self

    def log(self, numbers, step) -> None:
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished += 1


def test_a_resumed_run_goes_on_in_the_same_weights_and_biases_run(tmp_path, monkeypatch):
    run = FakeRun()
    monkeypatch.setitem(sys.modules, "wandb", run)
    for step in (-1, 1):
        journal = start(tmp_path, step=step, wandb="a-project")
        journal.write(step + 2, "train", {"loss": 0.5}, CLOCK)
        journal.close()
    first, second = run.asked
    assert first["id"] == second["id"] and first["project"] == "a-project"
    assert run.logged[0] == (1, {"train/loss": 0.5, "train/seconds": 1.0})
    assert run.finished == 2
