"""What a run has written besides its checkpoints: damaged, cut short, or refused by the disk."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llm.checkpoints.write import fresh_folder
from llm.journal import METRICS, Journal, read_lines
from llm.lock import only_writer
from llm.rollouts import PER_TOKEN, path_of, read_rollouts, write_rollouts
from llm.runs import open_run
from llm.settings import LogSettings, Training, as_record
from llm.state import CHECKPOINTS, RUN, check_same_run, read_record
from tests.llm.test_rollouts import assert_same, made

FULL = Path("/dev/full")
"""A disk without room, where the system has one."""

full_disk = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def write_a_collection(folder: Path) -> Path:
    path = path_of(folder, 7)
    write_rollouts(path, made([[3, 1], [2], [5, 1, 4]], gold=True, known=tuple(PER_TOKEN.values())))
    return path


def test_no_bit_of_a_collection_falls_over_unnoticed(tmp_path):
    path, rng = write_a_collection(tmp_path), np.random.default_rng(0)
    before, content = read_rollouts(path), path.read_bytes()
    noticed = 0
    for place in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_rollouts(path)
        except OSError as error:
            assert str(path) in str(error)
            noticed += 1
        else:
            assert_same(found, before)  # a bit that says nothing of what is in it
    assert noticed > len(content) / 11 / 2


@pytest.mark.parametrize("what", ["prompt_tokens", "reward", "logp", "response", "finished"])
def test_nor_is_a_number_of_it_changed_by_hand(tmp_path, what):
    path = write_a_collection(tmp_path)
    table = pq.read_table(path)
    rows = table.to_pylist()
    kind = type(rows[0][what])
    changed = {list: [1, 2, 3], float: 0.25, str: "another", bool: not rows[0][what]}[kind]
    rows[0][what] = changed
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    with pytest.raises(OSError, match="its content is not what was written"):
        read_rollouts(path)


def test_nor_what_is_said_of_it(tmp_path):
    path = write_a_collection(tmp_path)
    table = pq.read_table(path)
    about = dict(table.schema.metadata)
    about[b"modeseek"] = about[b"modeseek"].replace(b"0badcafe", b"0badcaff")
    pq.write_table(table.replace_schema_metadata(about), path)
    with pytest.raises(OSError, match="its content is not what was written"):
        read_rollouts(path)


def test_a_collection_of_before_there_was_a_digest_is_read(tmp_path):
    path = write_a_collection(tmp_path)
    before, table = read_rollouts(path), pq.read_table(path)
    about = dict(table.schema.metadata)
    del about[b"modeseek.sha256"]
    pq.write_table(table.replace_schema_metadata(about), path)
    assert_same(read_rollouts(path), before)


@full_disk
def test_a_full_disk_keeps_the_collection_that_was_there(tmp_path):
    path = write_a_collection(tmp_path)
    before = path.read_bytes()
    (path.parent / f".{path.name}.partial").symlink_to(FULL)
    with pytest.raises(OSError, match=rf"{path} cannot be written .*safe.*same command again"):
        write_a_collection(tmp_path)
    assert path.read_bytes() == before


def start(folder: Path, step: int = -1) -> Journal:
    return Journal(folder, LogSettings(), step, "dpo", {})


def write_lines(folder: Path, *steps: int) -> list[bytes]:
    journal = start(folder)
    for step in steps:
        journal.write(step, "train", {"loss": step / 3}, {"seconds": 1.0})
    journal.close()
    return (folder / METRICS).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\0" * 40,
        b'{"step": 1, "kind": "tr',
        b'{"step": "1", "kind": "train"}',
        b"[1]",
        b"\xff",
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_damaged_line_is_named_and_no_other_is_lost_for_it(tmp_path, damaged, place):
    lines = write_lines(tmp_path, 0, 1, 2, 3)
    path = tmp_path / METRICS
    harmed = b"".join([*lines[:place], damaged + b"\n", *lines[place + 1 :]])
    path.write_bytes(harmed)
    for read in (lambda: read_lines(path), lambda: start(tmp_path, step=9)):
        with pytest.raises(OSError, match=rf"line {place + 1} of {path} is damaged"):
            read()
        assert path.read_bytes() == harmed
    path.write_bytes(b"".join([*lines[:place], *lines[place + 1 :]]))
    start(tmp_path, step=9).close()
    assert [line["step"] for line in read_lines(path)] == [n for n in range(4) if n != place]


@pytest.mark.parametrize("rest", [b"\0\0\0", b'{"step": 4, "ki', b"\xff", b""])
def test_only_the_last_line_may_be_cut_short(tmp_path, rest):
    lines = write_lines(tmp_path, 0, 1, 2)
    (tmp_path / METRICS).write_bytes(b"".join(lines) + rest)
    assert len(read_lines(tmp_path / METRICS)) == 3


@full_disk
def test_a_full_disk_ends_the_journal_with_a_sentence_and_it_can_be_closed(tmp_path):
    lines = write_lines(tmp_path, 0, 1)
    journal = start(tmp_path, step=1)
    assert journal.file is not None
    journal.file.close()
    journal.file = FULL.open("ab", buffering=0)
    with pytest.raises(OSError, match=r"metrics.jsonl cannot be written \(No space left.*safe"):
        journal.write(2, "train", {"loss": 1.0}, {})
    journal.close()
    assert (tmp_path / METRICS).read_bytes() == b"".join(lines)


@full_disk
def test_a_full_disk_keeps_the_record_and_the_lines_that_were_there(tmp_path):
    lines = write_lines(tmp_path, 0, 1)
    (tmp_path / f".{METRICS}").symlink_to(FULL)
    with pytest.raises(OSError, match=r"metrics.jsonl cannot be written \(No space left"):
        start(tmp_path, step=0)
    assert (tmp_path / METRICS).read_bytes() == b"".join(lines)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / f".{RUN}.{os.getpid()}").symlink_to(FULL)
    with pytest.raises(OSError, match=r"run.json cannot be written \(No space left.*--out"):
        check_same_run(folder, {"recipe": "dpo"})


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), Exception("No space left on device (os error 28)")],
    ids=["ours", "a library's"],
)
def test_a_full_disk_keeps_the_model_that_was_there(tmp_path, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("before")
    remedy = pytest.raises(OSError, match=r"model cannot be written \(.*No space left.*same comm")
    with remedy, fresh_folder(tmp_path / "model", 10, True) as folder:
        (folder / "config.json").write_text("half")
        raise error
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "config.json").read_text() == "before"


def test_a_folder_in_which_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    remedy = pytest.raises(OSError, match=r"file/run cannot be written to .*untouched")
    with remedy, only_writer(tmp_path / "file" / "run"):
        pass


ASKED = {"recipe": "dpo", "settings": as_record(Training(seed=3, out=Path("a")))}


@pytest.fixture
def claimed(tmp_path) -> Path:
    """A run with a checkpoint."""
    check_same_run(tmp_path / "run", ASKED)
    (tmp_path / "run" / CHECKPOINTS / "4").mkdir(parents=True)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"\xff" + text,
        lambda text: b"[1]",
        lambda text: text.replace(b'"seed": 3', b'"seed": 2'),
        lambda text: text.replace(b'"alpha": 16.0', b'"alpha": 17.0'),
    ],
    ids=["half", "empty", "not text", "another thing", "another seed", "another scale"],
)
def test_a_damaged_record_is_named_and_can_be_put_back(claimed, tmp_path, damage):
    record = claimed / RUN
    record.write_bytes(damage(record.read_bytes()))
    with pytest.raises(ValueError, match=rf"{record} cannot be read .*checkpoints .* untouched"):
        check_same_run(claimed, ASKED)
    with pytest.raises(ValueError, match=rf"{record} cannot be read"):
        open_run(claimed)
    # What the message says to do.
    elsewhere = {**ASKED, "settings": ASKED["settings"] | {"out": "elsewhere"}}
    check_same_run(tmp_path / "elsewhere", elsewhere)
    (tmp_path / "elsewhere" / RUN).rename(record)
    assert check_same_run(claimed, ASKED)


def test_a_lost_record_can_be_put_back_too(claimed):
    (claimed / RUN).unlink()
    with pytest.raises(ValueError, match=r"holds no run.json: the checkpoints .* untouched"):
        check_same_run(claimed, ASKED)


def test_a_record_that_was_changed_on_purpose_says_how_it_is_believed(claimed):
    record = claimed / RUN
    changed = json.loads(record.read_text())
    changed["settings"]["model"] = "moved"
    record.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="changed on purpose, take sha256 out of it"):
        open_run(claimed)
    del changed["sha256"]
    record.write_text(json.dumps(changed))
    assert open_run(claimed).settings.model == "moved"
    assert "sha256" not in read_record(record)
