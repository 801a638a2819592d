"""Whatever becomes of a checkpoint on its disk, no run goes on from numbers that were not saved."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm.state import CHECKPOINTS, saved_steps
from tests.llm.faults.states import (
    abandoned,
    following,
    kept,
    make_state,
    opened,
    save_steps,
    swept,
)

__all__ = ["swept"]
DESCRIPTION = "_CHECKPOINT_METADATA"
SIZE = 700


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[int, list[bytes]]]:
    """A run with checkpoints of steps 1 and 2, and the bits that are in them.

    The numbers are random, because those of a pattern are compressed, and what is compressed is
    noticed by whoever unpacks it.
    """
    folder, state = tmp_path_factory.mktemp("whole"), following(make_state(SIZE))
    noise = np.random.default_rng(0).integers(0, 2**32, SIZE, dtype=np.uint32).view(np.float32)
    state.trainable["a/b.c/kernel"] = state.trainable["a/b.c/kernel"].at[:].set(noise)
    found = {}
    with opened(folder, state, keep=5) as saver:
        for step in (1, 2):
            found[step] = [leaf.tobytes() for leaf in kept(state)]
            saver.save(step, state)
            state = following(state)
    return folder, found


def restored(folder: Path) -> list[bytes] | str | None:
    """The bits of what a run goes on from, or what it says instead."""
    like = make_state(SIZE)
    try:
        with opened(folder, like, keep=5) as saver:
            found = saver.restore(like)
    except OSError as error:
        return str(error)
    return None if found is None else [leaf.tobytes() for leaf in kept(found)]


def harms(file: Path) -> Iterator[Callable[[], None]]:
    """Ways to damage a file, each of which needs the file as it was."""
    content, rng = file.read_bytes(), np.random.default_rng(len(file.name))

    def flip(place: int, bit: int) -> None:
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)

    for place in rng.integers(len(content), size=3).tolist():
        yield lambda place=place: flip(place, int(rng.integers(8)))
    for share in (0.5, 0.99):
        size = int(share * len(content))
        yield lambda size=size: file.write_bytes(content[:size]) and None
    yield lambda: file.write_bytes(bytes(len(content))) and None
    yield file.unlink


@abandoned
def test_a_file_that_is_damaged_in_any_way_is_noticed_or_was_not_needed(whole, tmp_path, swept):
    folder, saved = whole
    names = [file.relative_to(folder) for file in (folder / CHECKPOINTS / "2").rglob("*")]
    harmed = noticed = 0
    for name in (name for name in names if (folder / name).is_file()):
        copy = shutil.copytree(folder, tmp_path / "run", dirs_exist_ok=True)
        for harm in harms(copy / name):
            harm()
            found = restored(copy)
            harmed += 1
            if isinstance(found, str):
                noticed += 1
                assert f"{copy / CHECKPOINTS / '2'} is damaged (" in found, name
                assert "goes on after step 1" in found, name
            else:
                assert found == saved[2], name
            shutil.rmtree(copy)
            shutil.copytree(folder, copy)
    assert harmed > 60 and noticed > harmed / 3


@abandoned
def test_a_bit_that_falls_over_in_the_numbers_is_named_by_its_array(whole, tmp_path, swept):
    """What the format itself does not notice: it has no checksums of numbers."""
    copy = shutil.copytree(whole[0], tmp_path / "run")
    files = [file for file in (copy / CHECKPOINTS / "2").rglob("*") if file.parent.name == "d"]
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    found = restored(copy)
    assert isinstance(found, str)
    assert "(trainable.a.b.c.kernel is not what was saved): move or delete it" in found
    shutil.move(copy / CHECKPOINTS / "2", tmp_path / "aside")
    assert restored(copy) == whole[1][1]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), ValueError("RESOURCE_EXHAUSTED: memory")]
)
def test_nobody_is_told_to_delete_a_checkpoint_that_may_be_whole(
    whole, tmp_path, monkeypatch, error
):
    copy, like = shutil.copytree(whole[0], tmp_path / "run"), make_state(SIZE)

    def refuse(*given, **options):
        raise error

    with opened(copy, like, keep=5) as saver:
        monkeypatch.setattr(saver.checkpointer, "load", refuse)
        with pytest.raises(OSError, match=r"2 cannot be read .*says nothing against it") as told:
            saver.restore(like)
    assert "move or delete" not in str(told.value)


@abandoned
def test_a_checkpoint_of_another_version_is_not_called_damaged(whole, tmp_path, swept):
    copy, like = shutil.copytree(whole[0], tmp_path / "run"), make_state(SIZE)
    like = replace(like, optimizer=(like.optimizer, {"added": like.step}))
    remedy = pytest.raises(OSError, match=r"keeps other arrays \(.*: go on with the version that")
    with opened(copy, like, keep=5) as saver, remedy:
        saver.restore(like)


def description(folder: Path, step: int) -> dict:
    return json.loads((folder / CHECKPOINTS / str(step) / DESCRIPTION).read_text())


def describe(folder: Path, step: int, about: dict) -> None:
    (folder / CHECKPOINTS / str(step) / DESCRIPTION).write_text(json.dumps(about))


def test_a_checkpoint_of_before_there_were_checksums_is_taken_as_it_is_and_that_is_said(
    whole, tmp_path
):
    copy = shutil.copytree(whole[0], tmp_path / "run")
    describe(copy, 2, description(copy, 2) | {"custom_metadata": {}})
    like, said = make_state(SIZE), []
    with opened(copy, like, keep=5) as saver:
        assert saver.restore(like, said.append) is not None
    assert said == [
        f"{copy / CHECKPOINTS / '2'} holds no checksums to check it by: it is taken as it is"
    ]


@pytest.mark.parametrize(
    "about",
    [
        {"custom_metadata": {"checksumz": {}}},
        {"custom_metadata": {"checksums": None}},
        {"custom_metadata": {"checksums": {}}},
        {"custom_metadatb": {}},
        {"metrics": 3, "commit_timestamp_nsecs": "soon"},
    ],
    ids=str,
)
def test_a_description_that_was_damaged_does_not_pass_for_an_older_one(whole, tmp_path, about):
    copy = shutil.copytree(whole[0], tmp_path / "run")
    describe(copy, 2, description(copy, 2) | about)
    found = restored(copy)
    if "custom_metadatb" in about:  # one more field beside those that are there
        about = {**description(copy, 2)}
        about["custom_metadatb"] = about.pop("custom_metadata")
        describe(copy, 2, about)
        found = restored(copy)
    assert isinstance(found, str) and f"{copy / CHECKPOINTS / '2'} is damaged" in found


def test_one_that_cannot_even_be_listed_is_named_whichever_it_is(whole, tmp_path):
    copy = shutil.copytree(whole[0], tmp_path / "run")
    describe(copy, 1, description(copy, 1) | {"init_timestamp_nsecs": "never"})
    found = restored(copy)
    assert isinstance(found, str)
    assert f"{copy / CHECKPOINTS / '1'} is damaged" in found and "goes on after step 2" in found


def test_a_checkpoint_under_another_name_is_not_that_of_the_step(whole, tmp_path):
    copy = shutil.copytree(whole[0], tmp_path / "run")
    (copy / CHECKPOINTS / "2").rename(copy / CHECKPOINTS / "5")
    found = restored(copy)
    assert isinstance(found, str) and "5 is damaged (it is that of step 2)" in found


@pytest.mark.parametrize(
    "alien",
    ["notes.txt", "7", "²", "007/", "old/", "2 (copy)/", "9.orbax-checkpoint-tmp/", "2/alien"],
)
def test_what_somebody_else_puts_beside_checkpoints_or_into_one_changes_nothing(
    whole, tmp_path, alien
):
    copy = shutil.copytree(whole[0], tmp_path / "run")
    path = copy / CHECKPOINTS / alien
    if alien.endswith("/"):
        path.mkdir()
    else:
        path.write_text("mine")
    assert saved_steps(copy) == [1, 2]
    assert restored(copy) == whole[1][2]


def test_an_empty_folder_in_the_place_of_a_checkpoint_is_named(whole, tmp_path):
    copy = shutil.copytree(whole[0], tmp_path / "run")
    (copy / CHECKPOINTS / "7").mkdir()
    found = restored(copy)
    assert isinstance(found, str) and "7 is damaged" in found and "after step 2" in found


def test_no_clock_decides_which_checkpoint_is_the_latest_or_which_goes(tmp_path):
    save_steps(tmp_path, 1, 2, 3)
    for step, time in ((1, 2**33), (2, 0), (3, 2**31)):
        path = tmp_path / CHECKPOINTS / str(step) / DESCRIPTION
        stamped = re.sub(r'_nsecs": \d+', rf'_nsecs": {time * 10**9 + 1}', path.read_text())
        path.write_text(stamped)
        for entry in (path.parent, *path.parent.rglob("*")):
            os.utime(entry, (time, time))
    state = make_state()
    with opened(tmp_path, state, keep=3) as saver:
        found = saver.restore(state)
        assert found is not None and int(found.step) == 3
        saver.save(4, following(found))
    assert saved_steps(tmp_path) == [2, 3, 4]
