"""``modeseek label``: the answer that is kept is the one that was given, whatever comes between."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from llm.active.labels import LABELS, open_labels
from llm.active.pool import path_of
from llm.lock import only_writer
from llm.rewards import Written
from llm.rollouts import Rollout, Rollouts, write_rollouts
from modeseek import label, terminal

NONE = np.array([1], np.int32)


def pair(number: int, first: str, second: str, prompt: str = "which one?") -> Rollout:
    return Rollout(
        prompt_id=number,
        where=f"prompts.jsonl:{number}",
        source="policy",
        prompt=NONE,
        responses=tuple(Written(prompt, said, NONE, True) for said in (first, second)),
        reward=np.zeros(2),
    )


def write_run(
    folder: Path, pairs: list[Rollout], wanted: int, part: int = 0, reward: str = "person"
) -> Path:
    """A campaign that waits for a person."""
    record = {"acquisition": "certainty", "settings": {"reward": reward}}
    facts = {"round": 0, "wanted": wanted, "certainty": [0.0] * len(pairs)}
    write_rollouts(path_of(folder, 0, part), Rollouts(0, pairs, facts))
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def made(folder: Path, many: int, wanted: int, part: int = 0) -> Path:
    numbers = range(100 * part, 100 * part + many)
    return write_run(
        folder, [pair(n, f"first{n:03}", f"second{n:03}") for n in numbers], wanted, part
    )


@pytest.fixture
def answer(monkeypatch, capsys):
    """Run the command on keys from a pipe, one a line; returns what it printed."""

    def run(keys: str, folder: Path, *arguments: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        label.main([str(folder), "--name", "ann", *arguments])
        return capsys.readouterr().out

    return run


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LABELS).read_text().splitlines()]


def winners(folder: Path) -> dict[int, str]:
    return {number: one.winner for number, one in open_labels(folder).known.items()}


@pytest.mark.parametrize("key", ["a", "b"])
def test_what_stands_on_the_side_that_is_named_wins_and_sides_are_even(tmp_path, answer, key):
    out = answer(key * 40, made(tmp_path, 40, 40))
    rows = re.findall(r"│ (first|second)(\d+) +│ (first|second)\2 +│", out)
    assert len(rows) == 40
    shown = {int(number): left if key == "a" else right for left, number, right in rows}
    assert winners(tmp_path) == shown
    assert 10 <= list(shown.values()).count("first") <= 30
    line = lines_of(tmp_path)[0]
    assert line["by"] == "person:ann" and line["left"] == rows[0][0] and line["seconds"] >= 0
    assert line["first"] == "first000" and line["prompt"] == "which one?"


def test_a_pair_has_its_sides_whenever_it_comes_up(tmp_path, answer):
    folder = made(tmp_path, 1, 1)
    assert answer("?x", folder) == answer("?x", folder)
    other = [label.order_of(pair(n, "yes", "no")) for n in range(64)]
    assert 20 <= other.count(("first", "second")) <= 44, "equal texts would always stand alike"


def test_when_all_is_decided_the_campaign_is_to_go_on(tmp_path, answer):
    out = answer("aab", made(tmp_path, 5, 3))
    assert "All 3 are decided" in out
    assert f"modeseek active certainty ... --reward person --out {tmp_path}\n" in out
    assert set(winners(tmp_path)) == {0, 1, 2}, "never more than is wanted"
    again = answer("a", tmp_path)
    assert again.startswith("Nothing waits") and "All 3 are decided" in again
    assert len(lines_of(tmp_path)) == 3
    (tmp_path / "model").mkdir()
    assert "complete" in answer("", tmp_path)


def test_an_undecided_pair_is_replaced_by_the_next(tmp_path, answer):
    out = answer(" uab", made(tmp_path, 9, 2))
    assert "All 2 are decided" in out
    said = winners(tmp_path)
    assert [said[n] for n in (0, 1)] == ["undecided"] * 2 and set(said) == {0, 1, 2, 3}


def test_a_pool_that_is_used_up_is_followed_by_another(tmp_path, answer):
    out = answer("uau", made(tmp_path, 3, 2))
    assert "1 of 2 decided, and no pair is left (2 neither)" in out
    assert "writes others" in out and "modeseek active certainty" in out
    assert "All 1 are decided" in answer("a", made(tmp_path, 2, 1, part=1))
    assert set(winners(tmp_path)) == {0, 1, 2, 100}


def test_a_pool_without_pairs_is_followed_by_another_too(tmp_path, answer):
    out = answer("a", made(tmp_path, 0, 2))
    assert out.startswith("Nothing waits") and "0 of 2 decided, and no pair is left" in out


def test_one_can_go_back_and_correct(tmp_path, answer):
    folder = made(tmp_path, 4, 3)
    out = answer("z" + "ab" + "zz" + "b" + "a", folder)
    assert "no pair before this one" in out and "answered before: left, by ann" in out
    first, second, third = (
        label.order_of(pair(n, f"first{n:03}", f"second{n:03}")) for n in range(3)
    )
    assert winners(folder) == {0: first[1], 1: second[1], 2: third[0]}
    assert [line["pair"] for line in lines_of(folder)] == [0, 1, 0, 2]


def test_a_slip_on_the_very_last_pair_can_be_corrected(tmp_path, answer):
    folder = made(tmp_path, 2, 2)
    out = answer("aazb", folder)
    assert out.count("That was the last pair") == 2 and "All 2 are decided" in out
    assert winners(folder)[1] == label.order_of(pair(1, "first001", "second001"))[1]


def test_who_leaves_is_let_go_at_once(tmp_path, answer):
    assert answer("aazqz", made(tmp_path, 2, 2)).count("That was the last pair") == 1


def test_a_correction_to_neither_brings_another_pair(tmp_path, answer):
    assert "All 2 are decided" in answer("aazub", made(tmp_path, 3, 2))
    assert winners(tmp_path)[1] == "undecided" and 2 in winners(tmp_path)


def test_work_is_taken_up_where_somebody_left_it(tmp_path, answer):
    folder = made(tmp_path, 4, 3)
    out = answer("aq", folder)
    assert "1 of 3 decided" in out and f"modeseek label {folder} goes on" in out
    # A later --name counts: the fixture's stands before it.
    assert "second000" not in answer("bb", folder, "--name", "ben")
    assert [line["by"] for line in lines_of(folder)] == ["person:ann"] + ["person:ben"] * 2
    # Of two people either can correct the other.
    assert "All" in answer("", folder)


def test_a_line_that_a_kill_cut_short_is_asked_about_again(tmp_path, answer):
    folder = made(tmp_path, 2, 2)
    answer("aa", folder)
    whole = (folder / LABELS).read_bytes()
    (folder / LABELS).write_bytes(whole[:-20])
    assert "second001" in answer("a", folder)
    assert set(winners(folder)) == {0, 1}


def test_keys_without_a_meaning_change_nothing(tmp_path, answer):
    folder = made(tmp_path, 2, 1)
    out = answer(["x", "", "ab", "?", "\x1b[A"], folder)
    assert out.count("means nothing here") == 4 and "'ab' means nothing here" in out
    assert "the response on the left is better" in out
    assert not (folder / LABELS).read_text()
    answer(["\x1b[C", "A"], folder)
    assert len(winners(folder)) == 1


def test_a_narrow_terminal_has_responses_one_below_the_other(tmp_path, answer):
    folder = made(tmp_path, 1, 1)
    out = answer("", folder, columns=40)
    assert max(map(len, out.splitlines()[:12])) <= 40
    assert not re.search("first000.*second000|second000.*first000", out)
    upper, _ = sorted(["first", "second"], key=lambda which: out.index(f"{which}000"))
    answer("a", folder, columns=40)
    assert winners(folder) == {0: upper}


def test_a_text_is_shown_to_the_letter_and_cannot_take_over(tmp_path, answer):
    first = "  [bold]two[/] :smile: \x1b[2J\x1b]0;mine\x07\r\u202eend  "
    out = answer(
        "", write_run(tmp_path, [pair(0, first, "", prompt="[red]why[/x]")], 1), columns=160
    )
    assert "  [bold]two[/] :smile: \ufffd[2J" in out and "[red]why[/x]" in out
    assert not set("\x1b\x07\r\u202e") & set(out)
    assert "(empty)" in out


def test_no_letter_of_a_long_text_is_lost():
    text = "x" * 300 + " " + " ".join(f"word{n}" for n in range(200)) + "\n\n    code\n"
    for width in (30, 80, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(label.screen("p", [text, text], min(width, label.WIDE)))
        out = console.export_text()
        assert out.count("x") == 600 and re.search(r"│     code +│", out)
        assert set(re.findall(r"word\d+", out)) >= {f"word{n}" for n in range(100, 200)}


def test_the_time_left_is_told_from_the_median_pace():
    assert label.progress(2, 128, [5.0, 5.0]) == "2 of 128 decided"
    assert label.progress(8, 128, [3.0, 3.0, 900.0]) == "8 of 128 decided, about 6 min left"
    assert label.progress(120, 128, [3.0] * 3).endswith("less than a minute left")
    assert label.progress(0, 1000, [30.0] * 3).endswith("about 8.3 h left")


def refusal(run: Path, *arguments: str) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        label.main([str(run), *arguments])
    return str(error.value)


def test_what_is_no_campaign_of_a_person_is_refused_with_the_remedy(tmp_path):
    remedy = "give the folder of a campaign: modeseek active ... --reward person"
    assert refusal(tmp_path / "none").endswith(remedy + ".")
    assert refusal(tmp_path).endswith(remedy + ".")
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"reward": "person"}}))
    assert refusal(tmp_path).endswith(remedy + ".")
    (tmp_path / "run.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path)
    judged = write_run(tmp_path / "judged", [pair(0, "a", "b")], 1, reward="judge:model")
    assert "labelled by judge:model" in refusal(judged)
    waiting = made(tmp_path / "waiting", 1, 1)
    assert "give --name" in refusal(waiting, "--name", " ")
    path_of(waiting, 0, 0).unlink()
    assert "holds no pairs yet" in refusal(waiting)


def test_a_campaign_and_a_person_never_write_at_once(tmp_path):
    folder = made(tmp_path, 1, 1)
    with only_writer(folder):
        assert "another process" in refusal(folder)


def test_a_damaged_pool_is_named(tmp_path):
    path_of(made(tmp_path, 1, 1), 0, 0).write_bytes(b"PAR1")
    assert "000000-000.parquet cannot be read" in refusal(tmp_path)


def test_help_needs_neither_jax_nor_models():
    script = """
import sys
from modeseek import label
try:
    label.main(["--help"])
except SystemExit as stop:
    assert not stop.code
heavy = {"jax", "numpy", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "--name" in done.stdout, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Whatever starts the tests in the background may have had Ctrl-C ignored, for children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Terminals.


@contextmanager
def opened_terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: the person's and the program's."""
    pty = pytest.importorskip("pty", reason="no terminals here")
    person, program = pty.openpty()
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


def is_waiting(program: int) -> bool:
    """Whether a single key would be taken."""
    termios = pytest.importorskip("termios", reason="no terminals here")

    return not termios.tcgetattr(program)[3] & termios.ICANON


def read_until(person: int, text: bytes, seen: bytearray) -> None:
    """Read what the terminal shows until a text has come."""
    deadline = time.monotonic() + 30
    while text not in seen and time.monotonic() < deadline:
        if select.select([person], [], [], 0.1)[0]:
            seen.extend(os.read(person, 4096))
    assert text in seen, seen.decode(errors="replace")


def press(person: int, program: int, *keys: bytes) -> None:
    """Press keys as soon as one is waited for."""
    deadline = time.monotonic() + 20
    while not is_waiting(program) and time.monotonic() < deadline:
        time.sleep(0.005)
    for key in keys:
        os.write(person, key)


@pytest.mark.parametrize(
    ("pressed", "read"),
    [
        ([b"a"], "a"),
        ([b" "], " "),
        ([b"\x1b[D"], "\x1b[D"),
        ([b"\x1b", b"[C"], "\x1b[C"),
        ([b"\x1b"], "\x1b"),
        (["é".encode()], "é"),
        ([b"\x04"], terminal.END),
        ([b"\n"], "\n"),
    ],
)
def test_a_single_key_is_enough_and_the_terminal_is_put_back(pressed, read, monkeypatch):
    termios = pytest.importorskip("termios", reason="no terminals here")

    if len(pressed) > 1:  # however late the rest comes on a busy machine
        monkeypatch.setattr(terminal, "REST", 10.0)

    with opened_terminal() as (person, program), open(program, closefd=False) as stream:
        before = termios.tcgetattr(program)
        os.write(person, b"typed before it was asked\n")
        read_until(person, b"asked\r\n", bytearray())  # it is echoed once it has arrived
        hand = threading.Thread(target=press, args=(person, program, *pressed))
        hand.start()
        assert terminal.read_key(stream) == read
        hand.join()
        assert termios.tcgetattr(program) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_terminal_is_put_back_whatever_ends_the_program(number):
    termios = pytest.importorskip("termios", reason="no terminals here")

    with opened_terminal() as (_, program):
        before, handler = termios.tcgetattr(program), signal.getsignal(number)
        with pytest.raises((SystemExit, KeyboardInterrupt)), terminal.without_enter(program):
            assert is_waiting(program)
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert termios.tcgetattr(program) == before
        assert signal.getsignal(number) == handler


def test_a_person_answers_with_one_key_and_leaves_with_ctrl_c(tmp_path):
    termios = pytest.importorskip("termios", reason="no terminals here")

    folder, seen = made(tmp_path, 3, 3), bytearray()
    script = (
        "import os, sys; os.login_tty(0); sys.argv[0] = 'modeseek'; "
        "from modeseek.cli import main; main()"
    )
    line = [sys.executable, "-c", script, "label", str(folder), "--name", "ann"]

    with opened_terminal() as (person, program):
        before = termios.tcgetattr(program)
        environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
        running = subprocess.Popen(line, stdin=program, env=environment)
        read_until(person, b"q\x1b[0m quit", seen)
        press(person, program, b"a")
        read_until(person, b"1 of 3 decided", seen)
        press(person, program, b"\x03")
        read_until(person, b"all on the disk", seen)
        assert running.wait(20) == 0
        assert termios.tcgetattr(program) == before
    assert list(winners(folder)) == [0]
