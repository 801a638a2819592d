"""Every way data are stored gives the same rows, and a bad file is named."""

import gzip
import json
from pathlib import Path

import pytest

from llm.data.sources import read_examples, read_rows

ROWS = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("a local file was read through the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def stored(folder: Path, form: str) -> Path:
    """The rows in one of the forms they come in."""
    if form == "jsonl":
        (folder / "rows.jsonl").write_text(LINES)
    elif form == "jsonl.gz":
        (folder / "rows.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    elif form == "json":
        (folder / "rows.json").write_text("\n " + json.dumps(ROWS))
    elif form == "lines in .json":
        (folder / "rows.json").write_text(LINES)
    elif form == "blank lines":
        (folder / "rows.jsonl").write_text("\n" + LINES.replace("\n", "\n\n"))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    return next(folder.iterdir())


@pytest.mark.parametrize(
    "form", ["jsonl", "jsonl.gz", "json", "lines in .json", "blank lines", "parquet"]
)
def test_every_format_gives_the_same_rows(tmp_path, form):
    path = stored(tmp_path, form)
    for source in (path, tmp_path):
        assert [row.fields for row in read_rows(str(source))] == ROWS


def test_a_row_knows_its_file_and_line(tmp_path):
    stored(tmp_path, "blank lines")
    rows = read_rows(str(tmp_path))
    assert [row.where for row in rows[:2]] == ["rows.jsonl:2", "rows.jsonl:4"]


def test_a_saved_data_set_is_read_with_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list(ROWS)
    part.save_to_disk(str(tmp_path / "one"))
    assert [row.fields for row in read_rows(str(tmp_path / "one"))] == ROWS
    both = datasets.DatasetDict(train=part, test=part.select(range(2)))
    both.save_to_disk(str(tmp_path / "two"))
    assert len(read_rows(str(tmp_path / "two"))) == 5
    assert len(read_rows(str(tmp_path / "two"), split="test")) == 2
    with pytest.raises(ValueError, match=r"no split 'valid'; there are test, train"):
        read_rows(str(tmp_path / "two"), split="valid")


def test_the_files_of_a_folder_are_divided_by_split(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINES)
    (tmp_path / "test-00000-of-00001.jsonl").write_text(LINES.splitlines()[0])
    (tmp_path / "notes.md").write_text("not data")
    assert len(read_rows(str(tmp_path))) == 5
    assert len(read_rows(str(tmp_path), split="test")) == 1
    with pytest.raises(ValueError, match=r"split 'dev'; there are .*train\.jsonl"):
        read_rows(str(tmp_path), split="dev")


def test_a_limit_reads_no_further(tmp_path):
    (tmp_path / "rows.jsonl").write_text(LINES + "not json\n")
    assert len(read_rows(str(tmp_path), limit=5)) == 5
    with pytest.raises(ValueError, match=r"rows\.jsonl:6 is not JSON"):
        read_rows(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"[1, 2]", r"a\.jsonl:1 holds a int; a row must be a JSON object"),
        ("a.json", b"[{", r"not a JSON list"),
        ("a.jsonl", b"\xff\xfe", r"must be UTF-8"),
        ("a.jsonl.gz", b"plain", r"cannot be read"),
        ("a.parquet", b"plain", r"not a parquet file"),
        ("a.csv", b"x,y", r"no known format.*\.jsonl"),
        ("a.jsonl", b"", r"holds no rows"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_examples(str(tmp_path / name))


@pytest.mark.parametrize("source", ["no/such/file", "./missing", "missing.jsonl", "a/b.parquet"])
def test_a_path_that_is_not_there_is_never_looked_for_on_the_hub(source):
    with pytest.raises(OSError, match="no file or folder"):
        read_rows(source)


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"no data file in .*\.jsonl"):
        read_rows(str(tmp_path))


def test_a_hub_name_is_read_with_its_configuration_and_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        part = datasets.Dataset.from_list(ROWS)
        return part if split else datasets.DatasetDict(train=part, test=part.select([0]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read_rows("someone/pairs:small", limit=2)
    assert [row.where for row in rows] == ["someone/pairs:1", "someone/pairs:2"]
    assert len(read_rows("someone/pairs", split="test")) == 5
    assert asked == [("someone/pairs", "small", None), ("someone/pairs", None, "test")]


def test_a_hub_that_cannot_be_reached_is_an_error_in_one_sentence(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_, **__):
        raise ConnectionError("no route\n  with a long trace")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(OSError, match=r"someone/pairs is no file or folder here .*: no route$"):
        read_rows("someone/pairs")


def test_a_hub_name_with_a_script_is_read_from_the_copy_that_needs_none(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, config=None, split=None, data_files=None):
        if name != "parquet":
            raise RuntimeError("Dataset scripts are no longer supported, but found farm.py")
        asked.append((data_files, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read_rows("someone/farm:instructions", split="sft")
    files = "hf://datasets/someone/farm@~parquet/instructions/sft/*.parquet"
    assert rows[0].where == "someone/farm:1" and asked == [({"sft": files}, "sft")]
    with pytest.raises(OSError, match=r"someone/farm .*org/name:config\) and --reading\.split"):
        read_rows("someone/farm", split="sft")


def test_rows_that_break_the_layout_are_all_named_at_once(write_lines):
    source = write_lines(ROWS[0], {"prompt": "p"}, {"prompt": "p", "chosen": 3, "rejected": "r"})
    with pytest.raises(ValueError) as caught:
        read_examples(source)
    message = str(caught.value)
    assert "2 of 3 rows" in message
    assert "pairs.jsonl:2: field 'chosen' is missing" in message
    assert "pairs.jsonl:3" in message and "--reading.bad-rows drop" in message
    assert len(read_examples(source, bad_rows="drop")) == 1


def test_no_more_than_ten_rows_are_named(write_lines):
    source = write_lines(ROWS[0], *[{"prompt": "p"}] * 30)
    with pytest.raises(ValueError, match=r"pairs\.jsonl:11: (?s:.*) and 20 more") as caught:
        read_examples(source)
    assert "pairs.jsonl:12:" not in str(caught.value)


def test_what_was_recognised_is_said(write_lines):
    said = []
    read_examples(write_lines(*ROWS), say=said.append)
    assert "5 rows read as 'preference'" in said[0]
