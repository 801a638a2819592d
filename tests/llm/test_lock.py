"""Two commands that write into one folder: the second is told, and harms nothing."""

import os
import signal
import subprocess
import sys

import pytest

from llm.lock import LOCK, check_unused, only_writer
from llm.state import check_folder

HOLD = """
import sys, time
from pathlib import Path
from llm.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "runs" / "dpo"
    with only_writer(folder):
        with pytest.raises(OSError, match=r"written to by another process.*another folder"):
            check_unused(folder)
        with pytest.raises(OSError, match=str(folder)), only_writer(folder):
            pass
    check_unused(folder)
    with only_writer(folder):
        pass


def test_looking_makes_nothing(tmp_path):
    check_unused(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_only_locked_is_free_for_a_run(tmp_path):
    with only_writer(tmp_path):
        check_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    check_folder(tmp_path)


def test_kill_9_leaves_nobody_locked_out(tmp_path):
    line = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="another process"):
            check_unused(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    check_unused(tmp_path)
