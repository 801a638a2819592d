"""Whole runs on disks that fill up, cannot be written to, or have lost a part of a checkpoint.

The disks are real: a file system in memory of a given size, and folders mounted for reading alone,
both seen by the processes of a test and by nobody else.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.state import saved_steps
from tests.llm.hosts.conftest import place
from tests.llm.hosts.processes import (
    BOUND,
    ROOT,
    assert_same_run,
    finish,
    line,
    online,
    run,
    start,
)

__all__ = ["place"]
TRAIN = f'{sys.executable} -c "from modeseek.cli import main; main()"'
ENTER = ["unshare", "--mount", "bash", "-c"]
REFUSED, TRY_AGAIN, ABORTED = 2, 75, -6


def may_mount() -> bool:
    """Whether this system lets a test have file systems of its own."""
    try:
        script = "mount -t tmpfs -o size=64k none /mnt"
        return subprocess.run([*ENTER, script], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


mounts = pytest.mark.skipif(not may_mount(), reason="needs the right to mount a file system")


def within(script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script that may mount."""
    return subprocess.run(
        [*ENTER, script], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False
    )


@pytest.fixture(scope="module")
def straight(place) -> Path:
    """A run that nothing disturbed."""
    run(line(place, place / "straight"), count=1)
    return place / "straight"


@pytest.fixture(scope="module")
def shared(place) -> Path:
    """The same for two processes that share every array."""
    run(line(place, place / "shared", mesh__fsdp=2))
    return place / "shared"


@mounts
@pytest.mark.slow
@pytest.mark.parametrize("room", [2.3, pytest.param(2.7, marks=pytest.mark.exhaustive)])
def test_a_disk_that_fills_up_loses_nothing_and_with_more_room_the_run_goes_on(
    place, straight, tmp_path, room
):
    """There is room for two checkpoints, which are kept, and not for the third beside them."""
    files = [file for file in (straight / "checkpoints" / "6").rglob("*") if file.is_file()]
    size = round(room * sum(-(-file.stat().st_size // 4096) * 4 for file in files))
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"{TRAIN} {' '.join(line(place, disk / 'run', save__every=1))}"
    done = within(
        f"mount -t tmpfs -o size={size}k none {disk} && {command}; echo first $?;"
        f"ls {disk}/run/checkpoints; mount -o remount,size=4m {disk} && {command}; echo second $?;"
        f"cp -r {disk}/run {tmp_path}/copy"
    )
    assert "first 2" in done.stdout, done.stdout + done.stderr
    assert "second 0" in done.stdout, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert "No space left on device" in said and "is safe. Make room" in said
    assert "Traceback" not in said
    assert_same_run(tmp_path / "copy", straight)


@mounts
@pytest.mark.slow
def test_a_disk_that_cannot_be_written_to_is_named_and_what_is_on_it_is_untouched(
    straight, place, tmp_path
):
    out = shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(out / "model")
    command = f"{TRAIN} {' '.join(line(place, out))}"
    done = within(f"mount --bind {out} {out} && mount -o remount,ro,bind {out} && {command}")
    assert done.returncode == REFUSED, done.stderr
    said = f"{out} cannot be written to (Read-only file system). What is in it is untouched"
    assert said in done.stderr
    run(line(place, out), count=1)
    assert_same_run(out, straight)


def lose(folder: Path) -> None:
    """A shard is gone."""
    shutil.rmtree(folder / "ocdbt.process_1")


def flip(folder: Path) -> None:
    """A bit of a shard falls over."""
    files = (folder / "ocdbt.process_1" / "d").iterdir()
    shard = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [pytest.param(lose, marks=pytest.mark.exhaustive), flip])
def test_a_damaged_shard_ends_all_processes_in_time_and_without_it_the_run_goes_on(
    place, shared, tmp_path, harm: Callable[[Path], None]
):
    out = shutil.copytree(shared, tmp_path / "run")
    command = line(place, out, mesh__fsdp=2)
    shutil.rmtree(out / "model")
    assert saved_steps(out) == [4, 6]
    latest = out / "checkpoints" / "6"
    harm(latest / "state")
    ended = finish(start(command))
    assert REFUSED in [process.status for process in ended], ended
    assert {process.status for process in ended} <= {REFUSED, TRY_AGAIN, ABORTED}, ended
    # What all have met together is said by the first of them.
    together = {process.status for process in ended} == {REFUSED}
    for process in ended[:1] if together else ended:
        assert f"the checkpoint {latest} is damaged" in process.text, ended
        assert "move or delete it, and the same command goes on after step 4" in process.text
        assert "goes on after step 6" not in process.text
    shutil.move(latest, tmp_path / "aside")
    run(command)
    assert_same_run(out, shared)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_damaged_part_of_a_collection_is_written_again_and_the_others_are_not(place, tmp_path):
    out = tmp_path / "run"
    run(online(place, out), count=1)
    undisturbed = shutil.copytree(out, tmp_path / "undisturbed")
    shutil.rmtree(out)
    ended = finish(start(online(place, out), count=1, moments={0: "kill-judge-3"}))
    assert ended[0].status == -9, ended
    first, second = sorted((out / "rollouts" / "000001.parts").iterdir())
    content = first.read_bytes()
    first.write_bytes(content[:-100])
    whole = second.stat().st_ino
    again = finish(start(online(place, out), count=1, moments={0: "kill-judge-1"}))
    assert again[0].status == -9, again
    assert first.read_bytes() == content and second.stat().st_ino == whole
    run(online(place, out), count=1)
    assert_same_run(out, undisturbed)
