"""What is on disk is what was saved, whole or not loaded at all, and of the run that asks."""

import resource
import shutil

import jax
import numpy as np
import pytest

from llm.settings import SaveSettings
from llm.state import CHECKPOINTS, RUN, Saver, check_same_run, read_record, saved_steps
from tests.llm.faults.states import (
    abandoned,
    advance,
    following,
    kept,
    make_state,
    opened,
    save_steps,
    swept,
)

__all__ = ["swept"]

ASKED = {"recipe": "dpo", "settings": {"batch": 8, "out": "a", "log": {"every": 1}}}


@pytest.mark.parametrize("size", [7, 300_000])
def test_what_is_saved_is_not_touched_by_the_steps_that_use_up_its_buffers(tmp_path, size):
    state = make_state(size)
    expected = {}
    with opened(tmp_path, state, keep=9) as saver:
        for step in range(0, 15, 3):
            expected[step] = kept(state)
            saver.save(step, state)
            for _ in range(3):
                state = advance(state)
    like = make_state(size)
    for step in reversed(expected):
        with opened(tmp_path, like, keep=9) as saver:
            found = saver.restore(like)
        assert found is not None
        for got, wanted in zip(jax.tree.leaves(found), expected[step], strict=True):
            np.testing.assert_array_equal(np.asarray(got), wanted)
            assert got.dtype == wanted.dtype
        assert jax.tree.structure(found) == jax.tree.structure(like)
        shutil.rmtree(tmp_path / CHECKPOINTS / str(step))


def test_a_save_returns_before_it_is_written(tmp_path):
    state = make_state(4_000_000)
    with opened(tmp_path, state) as saver:
        saver.save(1, state)
        assert saved_steps(tmp_path) == []
        saver.close()
        assert saved_steps(tmp_path) == [1]


def test_only_the_latest_are_kept(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert saved_steps(tmp_path) == [3, 4]


def test_where_nothing_was_saved_there_is_nothing_to_restore(tmp_path):
    with opened(tmp_path, make_state()) as saver:
        assert saver.restore(make_state()) is None


def test_a_checkpoint_that_was_being_written_is_never_loaded(tmp_path):
    expected = save_steps(tmp_path, 1, 2)
    path = tmp_path / CHECKPOINTS
    (path / "2").rename(path / "2.orbax-checkpoint-tmp")
    shutil.rmtree(path / "2.orbax-checkpoint-tmp" / "state")
    with opened(tmp_path, make_state()) as saver:
        found = saver.restore(make_state())
    assert found is not None
    np.testing.assert_array_equal(np.asarray(found.step), expected[1][0])
    assert saved_steps(tmp_path) == [1]


@abandoned
@pytest.mark.parametrize("harm", ["truncated", "emptied", "without its description"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, swept, harm):
    save_steps(tmp_path, 1, 2)
    latest = tmp_path / CHECKPOINTS / "2"
    if harm == "truncated":
        for file in (file for file in latest.rglob("*") if file.parent.name == "d"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif harm == "emptied":
        shutil.rmtree(latest / "state")
    else:
        (latest / "_CHECKPOINT_METADATA").unlink()
        shutil.rmtree(latest / "state")
    remedy = pytest.raises(OSError, match=r"2 is damaged .* delete it, .* goes on after step 1")
    with opened(tmp_path, make_state()) as saver, remedy:
        saver.restore(make_state())
    shutil.rmtree(latest)
    with opened(tmp_path, make_state()) as saver:
        assert saver.restore(make_state()) is not None


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs \d+.\d MiB .* 1.0 MiB free.*--save.keep"):
        Saver(tmp_path, SaveSettings(), make_state(1_000_000))


@abandoned
def test_a_disk_that_fills_up_while_writing_leaves_the_checkpoint_before(tmp_path, swept):
    state = following(make_state(500_000))
    with opened(tmp_path, state, keep=5) as saver:
        saver.save(1, state)
        saver.checkpointer.wait()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match=r"step 1 is safe\. Make room"):
                saver.save(2, state)
                saver.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved_steps(tmp_path) == [1]
    with opened(tmp_path, state) as saver:
        assert saver.restore(state) is not None


def test_a_save_that_cannot_begin_says_what_is_safe(tmp_path, monkeypatch):
    state = make_state()
    with opened(tmp_path, state) as saver:

        def refuse(*args, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(saver.checkpointer, "save_async", refuse)
        with pytest.raises(OSError, match=r"No space left.*nothing had been saved before"):
            saver.save(1, state)


def claimed(folder, asked=ASKED) -> bool:
    return check_same_run(folder, asked)


def with_checkpoint(folder) -> None:
    (folder / CHECKPOINTS / "0").mkdir(parents=True)


def test_a_folder_is_claimed_and_known_again(tmp_path):
    folder = tmp_path / "deep" / "run"
    assert not claimed(folder)
    assert read_record(folder / RUN) == ASKED
    with_checkpoint(folder)
    assert claimed(folder)


def test_every_difference_is_a_line_and_nothing_is_written(tmp_path):
    claimed(tmp_path)
    with_checkpoint(tmp_path)
    before = (tmp_path / RUN).read_bytes()
    other = {"recipe": "ipo", "settings": {"batch": 4, "out": "b", "log": {"every": 1}}}
    with pytest.raises(ValueError, match="asked for differently") as refused:
        claimed(tmp_path, other)
    text = str(refused.value)
    assert "recipe: was 'dpo', is 'ipo'" in text
    assert "settings.batch: was 8, is 4" in text
    assert "settings.out" not in text, "where a run lies may change"
    assert (tmp_path / RUN).read_bytes() == before


def test_a_flag_that_an_earlier_version_did_not_have_was_at_its_default(tmp_path):
    claimed(tmp_path)
    with_checkpoint(tmp_path)
    assert claimed(tmp_path, ASKED | {"settings": ASKED["settings"] | {"ahead": False}})
    with pytest.raises(ValueError, match=r"settings\.ahead: was False, is True"):
        claimed(tmp_path, ASKED | {"settings": ASKED["settings"] | {"ahead": True}})


def test_what_no_number_depends_on_may_change(tmp_path):
    claimed(tmp_path)
    with_checkpoint(tmp_path)
    settings = ASKED["settings"] | {"out": "b", "save": {"every": 3}}
    assert claimed(tmp_path, ASKED | {"settings": settings})


def test_a_run_that_never_came_to_a_checkpoint_may_be_asked_for_differently(tmp_path):
    claimed(tmp_path)
    other = ASKED | {"recipe": "ipo"}
    assert not claimed(tmp_path, other)
    assert read_record(tmp_path / RUN) == other


def test_a_kill_while_the_record_is_written_does_not_lock_the_folder(tmp_path):
    (tmp_path / f".{RUN}.4711").write_text('{"rec')
    assert not claimed(tmp_path)


@pytest.mark.parametrize("name", ["thesis.tex", RUN])
def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="another --out"):
        claimed(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        claimed(tmp_path / "run")


def test_a_record_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / RUN).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        claimed(tmp_path)
