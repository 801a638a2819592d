"""``modeseek launch`` prints what the guides show, starts what it prints, and nothing else."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.catalogue import ROOT
from modeseek import cli, processes
from modeseek.processes import supervise

GUIDES = sorted((ROOT / "docs" / "pages" / "launch").glob("*.md"))
SHOWN = re.compile(r"```console\n\$ modeseek (.*)\n((?:.*\n)*?)```")


def given(monkeypatch, line: list[str]) -> int:
    """The exit status of a command line."""
    monkeypatch.setattr(sys, "argv", ["modeseek", *line])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_there_is_a_guide_for_each_kind_of_place():
    assert [guide.stem for guide in GUIDES] == ["one_machine", "slurm", "tpu_pod"]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_shows_exactly_what_is_printed(guide, monkeypatch, capsys):
    shown = SHOWN.findall(guide.read_text(encoding="utf-8"))
    assert shown
    for line, output in shown:
        assert given(monkeypatch, shlex.split(line)) == 0
        assert capsys.readouterr().out == output


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("launch", ["name a place", "tpu-pod", "slurm", "local"]),
        ("launch slrm -- train dpo", ["unknown place", "slurm"]),
        ("launch slurm --dry-run", ["behind the two dashes stands nothing", "-- train dpo"]),
        ("launch local -- chat DIR", ["stands chat DIR"]),
        ("launch local -- train dpo --hosts.count=2", ["--hosts is what launch gives"]),
        ("launch slurm --node 4 -- train dpo", ["--node"]),
        ("launch local --processes 0 -- train dpo", ["Local.processes is 0", "at least 1"]),
    ],
)
def test_a_wrong_word_is_answered_with_a_remedy(monkeypatch, capsys, line, words):
    assert given(monkeypatch, line.split()) == 2
    text = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in text, text


def test_the_scripts_are_scripts(monkeypatch, capsys, tmp_path):
    assert given(monkeypatch, ["launch", "slurm", "--dry-run", "--", "train", "dpo"]) == 0
    script = capsys.readouterr().out.split("\n", 1)[1].rsplit("END", 1)[0]
    (tmp_path / "job").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "job")], check=True, timeout=10)


def test_what_is_printed_is_what_a_launcher_is_given(monkeypatch, tmp_path, capfd):
    fake = tmp_path / "sbatch"
    fake.write_text("#!/bin/sh\ncat\nexit 7\n")
    fake.chmod(0o755)
    line = ["launch", "slurm", "--nodes", "3"]
    there = ["--", "train", "dpo", "--out", "a b"]
    assert given(monkeypatch, [*line, "--dry-run", *there]) == 0
    shown = capfd.readouterr().out
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert given(monkeypatch, [*line, *there]) == 7
    assert shown == f"sbatch <<'END'\n{capfd.readouterr().out}END\n"
    assert "--out 'a b'" in shown


def test_a_launcher_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert given(monkeypatch, ["launch", "slurm", "--", "train", "dpo"]) == 2
    assert "sbatch is not installed here" in capsys.readouterr().err


COMPANY = """
import os, signal, sys, time
from pathlib import Path
home, index = Path(sys.argv[1]), int(os.environ["MODESEEK_INDEX"])
seen = len(list(home.glob(f"{index}-*")))
(home / f"{index}-{seen}").touch()
assert os.environ["JAX_NUM_CPU_DEVICES"] == "3" and os.environ["MODESEEK_COUNT"] == "2"
what = sys.argv[2].split(",")[seen]
if what == "kill" and index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if what == "kill":
    sys.exit(75)
if what == "wrong":
    sys.exit(2 if index == 0 else 75)
if what == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (home / f"ready-{index}").touch()
    time.sleep(30)
"""


@pytest.fixture
def company(monkeypatch) -> None:
    """Instead of a run, processes that end as they are told."""
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, "-c", COMPANY))


@pytest.mark.parametrize(
    ("lives", "restarts", "status", "said"),
    [
        ("end", 2, 0, []),
        ("kill,kill,end", 3, 0, ["(1 of 3)", "(2 of 3)"]),
        ("kill,kill,end", 1, 137, ["(1 of 1)"]),
        ("wrong,end", 3, 2, []),
    ],
)
def test_who_has_died_is_started_again_and_who_is_wrong_is_not(
    company, tmp_path, lives, restarts, status, said
):
    told: list[str] = []
    assert supervise([str(tmp_path), lives], 2, 3, restarts, told.append) == status
    assert len(told) == len(said)
    for text, words in zip(told, said, strict=True):
        assert words in text and "process 1 ended with status -9" in text


def test_a_request_to_stop_is_passed_on_and_is_the_end(tmp_path):
    code = (
        "import sys\nfrom modeseek import processes\n"
        f"processes.PROGRAM = (sys.executable, '-c', {COMPANY!r})\n"
        f"sys.exit(processes.supervise([{str(tmp_path)!r}, 'wait'], 2, 3, 5, print))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 20
    while len(list(Path(tmp_path).glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 143
    assert not list(tmp_path.glob("[01]-1"))
