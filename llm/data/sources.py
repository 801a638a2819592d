"""Rows from wherever they are: a file, a folder, or the Hub.

A local file is read line by line with nothing in between, so that a message about a bad row can
name its line, and so that reading it never touches a network or a cache. Only a name that exists
nowhere on the disk is taken for a data set of the Hub.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llm.data.examples import BadRows, Example
from llm.data.schemas import RowError, detect, reader

LINES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*LINES, ".parquet")
SHOWN = 10


class Row(NamedTuple):
    """A row of the data: its columns, and where it stands."""

    fields: dict[str, Any]
    where: str


def silent(_: str) -> None:
    """Say nothing."""


def read_examples(
    source: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    schema: str = "auto",
    bad_rows: BadRows = "refuse",
    say: Callable[[str], None] = silent,
) -> list[Example]:
    """Read a data set.

    Args:
        source: a JSONL, JSON or parquet file (gzipped or not), a folder of them, a folder written
            by ``datasets``, or a Hub name, ``org/name`` or ``org/name:config``.
        split: which split; ``train`` where there is one if left out.
        limit: most rows to read.
        schema: layout of the columns, a name of ``schemas.SCHEMAS``; ``"auto"`` recognises it.
        bad_rows: whether rows that break the layout stop everything or are left out.
        say: told in one line what was recognised.

    Raises:
        OSError: if nothing is there, or the Hub cannot be reached.
        ValueError: for columns in no known layout, or rows that break it: file, row and field of
            the first ten.
    """
    rows = read_rows(source, split=split, limit=limit)
    if not rows:
        raise ValueError(f"{source} holds no rows.")
    name = detect(rows[0].fields, rows[0].where) if schema == "auto" else schema
    read = reader(name)
    examples, broken = [], []
    for row in rows:
        try:
            examples.append(read(row.fields, row.where))
        except RowError as error:
            broken.append(f"{row.where}: {error}")
    if broken and (bad_rows == "refuse" or not examples):
        more = f"\n... and {len(broken) - SHOWN} more." if len(broken) > SHOWN else ""
        raise ValueError(
            f"{len(broken)} of {len(rows)} rows do not have the layout {name!r}"
            f"{' recognised in the first' if schema == 'auto' else ''}. Repair them, force another "
            "layout with --reading.schema, or pass --reading.bad-rows drop:\n"
            + "\n".join(broken[:SHOWN])
            + more
        )
    left_out = f", {len(broken)} left out" if broken else ""
    say(f"{source}: {len(rows)} rows read as {name!r}{left_out}")
    return examples


def read_rows(source: str, *, split: str | None = None, limit: int | None = None) -> list[Row]:
    """Read rows as they are; see ``read_examples``."""
    path = Path(source).expanduser()
    if path.is_file():
        rows = file_rows(path)
    elif path.is_dir():
        rows = folder_rows(path, split)
    elif source.count("/") != 1 or source[0] in "./~" or suffix(path) in SUFFIXES:
        raise FileNotFoundError(
            f"there is no file or folder {source}. Give one, or a Hub name such as org/name."
        )
    else:
        rows = hub_rows(source, split)
    return list(islice(rows, limit))


def suffix(path: Path) -> str:
    """The format's ending, whether or not the file is gzipped."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of one file.

    Raises:
        ValueError: if it is of no known format, or a line is not what the ending says.
    """
    kind = suffix(path)
    if kind == ".parquet":
        return parquet_rows(path)
    if kind in LINES:
        return json_rows(path)
    raise ValueError(f"{path} is of no known format; known endings: {', '.join(SUFFIXES)}, +.gz.")


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a file with one JSON object per line, or with one JSON list of objects."""
    opened = gzip.open if path.suffix == ".gz" else open
    name = path.name
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            if first_character(file) == "[":
                file.seek(0)
                for number, fields in enumerate(json.load(file), start=1):
                    yield Row(as_object(fields, f"{name}:{number}"), f"{name}:{number}")
                return
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{name}:{number}"
                    yield Row(as_object(parse(line, where), where), where)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}; it must be UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a JSON list: {error}.") from None


def first_character(file: Any) -> str:
    """The first character that is not a space."""
    while character := file.read(1):
        if not character.isspace():
            return character
    return ""


def parse(line: str, where: str) -> Any:
    """One line of JSON."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}. Each line must be one object.") from None


def as_object(value: Any, where: str) -> dict[str, Any]:
    """A row must have columns."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds a {type(value).__name__}; a row must be a JSON object.")
    return value


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a parquet file, counted from 1."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from None
    number = 0
    for batch in file.iter_batches():
        for fields in batch.to_pylist():
            number += 1
            yield Row(fields, f"{path.name}:{number}")


def folder_rows(path: Path, split: str | None) -> Iterator[Row]:
    """Rows of all data files in a folder, or of a data set that ``datasets`` saved there."""
    if (path / "dataset_dict.json").is_file():
        inside = sorted(child.name for child in path.iterdir() if child.is_dir())
        return folder_rows(path / choose_split(inside, split, str(path)), None)
    if (path / "state.json").is_file():
        import datasets

        return numbered(datasets.load_from_disk(str(path)), path.name)
    files = sorted(child for child in path.rglob("*") if suffix(child) in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no data file in {path}; known endings: {', '.join(SUFFIXES)}.")
    return (row for file in of_split(files, path, split) for row in file_rows(file))


def of_split(files: Sequence[Path], folder: Path, split: str | None) -> list[Path]:
    """The files whose path names the split: ``train.jsonl``, ``train-00000.parquet``, ..."""

    def names(file: Path, wanted: str) -> bool:
        relative = file.relative_to(folder)
        return any(part.split(".")[0].split("-")[0] == wanted for part in relative.parts)

    chosen = [file for file in files if names(file, split or "train")]
    if split is not None and not chosen:
        raise ValueError(
            f"no file of {folder} belongs to split {split!r}; there are "
            f"{', '.join(file.relative_to(folder).as_posix() for file in files[:SHOWN])}."
        )
    return chosen or list(files)


def choose_split(names: Sequence[str], split: str | None, source: str) -> str:
    """The split asked for, or the one to take when none was."""
    if split is None and ("train" in names or len(names) == 1):
        return "train" if "train" in names else names[0]
    if split in names and split is not None:
        return split
    asked = "needs --reading.split" if split is None else f"has no split {split!r}"
    raise ValueError(f"{source} {asked}; there are {', '.join(names)}.")


def numbered(rows: Any, name: str) -> Iterator[Row]:
    """Rows with their place, counted from 1."""
    return (Row(dict(fields), f"{name}:{number}") for number, fields in enumerate(rows, start=1))


def hub_rows(source: str, split: str | None) -> Iterator[Row]:
    """Rows of a data set of the Hub, or of its copy in the local cache."""
    import datasets

    name, _, config = source.partition(":")
    try:
        try:
            found = datasets.load_dataset(name, config or None, split=split)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            found = converted(name, config, split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(
            f"{source} is no file or folder here and could not be read from the Hub: {reason[0]}"
        ) from None
    if isinstance(found, dict):
        found = found[choose_split([str(key) for key in found], split, source)]
    return numbered(found, name)


def converted(name: str, config: str, split: str | None) -> Any:
    """A data set whose rows come out of a script, which nobody runs: the Hub's own parquet copy.

    Raises:
        ValueError: without a configuration and a split; the copy has a folder for each.
    """
    import datasets

    if not config or split is None:
        raise ValueError(
            "its rows come out of a script, which is never run; to read the Hub's parquet copy, "
            "name the configuration (org/name:config) and --reading.split."
        )
    files = f"hf://datasets/{name}@~parquet/{config}/{split}/*.parquet"
    return datasets.load_dataset("parquet", data_files={split: files}, split=split)
