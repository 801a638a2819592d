"""What a policy wrote while it was trained: every response, as text and as numbers, on disk.

A collection is the middle of Algorithm 1: responses, their rewards, and what the objective is told
about each of their tokens. It is kept whole, one file each, because the inner steps that follow
cannot be resumed without it (the policy that wrote it is gone by then), because labels may have
cost money, and because reading what a policy writes is how reward hacking is found. The files are
Parquet, a row per response, which any table program opens. Each proves by a digest of its content
that it is what was written, because it is learned from again after a kill.

Key to the axes: N responses of a prompt, T tokens of a response.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32

from llm.data.examples import Group
from llm.data.text import prompt_text, response_text
from llm.rewards import Written

FOLDER = "rollouts"
SUFFIX = ".parquet"
METADATA, PROOF = b"modeseek", b"modeseek.sha256"
"""Where a file keeps the facts of its collection, and the digest of all that it holds."""

PER_TOKEN = {
    "logp": "old_logp",
    "ref_logp": "ref_logp",
    "value": "old_value",
    "return": "returns",
    "advantage": "advantage",
}
"""Columns with a number per token, and what a batch calls them."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """One prompt of a collection and the responses to it.

    Attributes:
        prompt_id: what tells it from the run's other prompts in the random keys.
        where: file and row the prompt was read from.
        source: who wrote the responses: ``policy``, ``reference`` or ``dataset``.
        prompt: token ids.
        responses: as text and as token ids.
        reward: as they were judged.
        trained: what they are trained on, where a penalty was taken off; else None.
        gold: a reward that is only looked at; None where there is none.
        known: numbers per token of all responses, one response after the other, by the name that a
            batch has for them: ``old_logp`` under the distribution that drew them, nats; further
            ``ref_logp``, ``old_value``, ``returns`` and ``advantage``, where they exist.
    """

    prompt_id: int
    where: str
    source: str
    prompt: Int32[np.ndarray, "_"]
    responses: tuple[Written, ...]
    reward: Float64[np.ndarray, " N"]
    trained: Float64[np.ndarray, " N"] | None = None
    gold: Float64[np.ndarray, " N"] | None = None
    known: Mapping[str, Float32[np.ndarray, "_"]] = field(default_factory=dict)

    @property
    def group(self) -> Group:
        """What is trained on."""
        return Group(
            prompt=self.prompt,
            responses=tuple(response.tokens for response in self.responses),
            rewards=self.worth.astype(np.float32),
            where=self.where,
        )

    @property
    def worth(self) -> Float64[np.ndarray, " N"]:
        """What the responses are trained on."""
        return self.reward if self.trained is None else self.trained

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response, the one that ended it included."""
        return [len(response.tokens) for response in self.responses]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """One collection.

    Attributes:
        iteration: of Algorithm 1, counted from 0.
        rollouts: one for each prompt.
        facts: everything else there is to say, as plain JSON: the policy's fingerprint, the numbers
            of the collection, and what is carried from it to the next.
    """

    iteration: int
    rollouts: list[Rollout]
    facts: dict[str, Any] = field(default_factory=dict)


def as_written(
    tokenizer: Any,
    prompt: np.ndarray,
    tokens: np.ndarray,
    *,
    finished: bool,
    stop: Collection[int],
) -> Written:
    """A response as a person, or a reward, reads it.

    Args:
        tokenizer: of whoever wrote it.
        prompt: token ids.
        tokens: of the response, with the one that ended it.
        finished: whether it ended by itself and was not cut.
        stop: tokens that end a response.
    """
    asked, said = prompt.tolist(), tokens.tolist()
    return Written(
        prompt=prompt_text(tokenizer, asked),
        response=response_text(tokenizer, asked, said, stop),
        tokens=tokens,
        finished=finished,
    )


def path_of(run: Path, iteration: int) -> Path:
    """Where a run keeps a collection."""
    return run / FOLDER / f"{iteration:06d}{SUFFIX}"


def rollout_files(run: Path) -> list[Path]:
    """The complete collections of a run, in order."""
    return sorted((run / FOLDER).glob(f"*{SUFFIX}"))


def write_rollouts(path: Path, collected: Rollouts) -> None:
    """Write a collection whole, or not at all.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "iteration": pa.int32(),
        "prompt_id": pa.int64(),
        "response_id": pa.int32(),
        "source": pa.string(),
        "where": pa.string(),
        "prompt": pa.string(),
        "response": pa.string(),
        "prompt_tokens": pa.list_(pa.int32()),
        "tokens": pa.list_(pa.int32()),
        "finished": pa.bool_(),
        "reward": pa.float64(),
        "trained_reward": pa.float64(),
        "gold": pa.float64(),
        **{column: pa.list_(pa.float32()) for column in PER_TOKEN},
    }
    schema, rows = pa.schema(list(kinds.items())), list(rows_of(collected))
    table = pa.table({name: [row[name] for row in rows] for name in kinds}, schema=schema)
    facts = json.dumps(collected.facts).encode()
    table = table.replace_schema_metadata({METADATA: facts, PROOF: proof(table, facts)})
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, partial, write_page_checksum=True)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # the disk has it before it has its name
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            f"the rollouts {path} cannot be written ({first_line(error)}). Everything that was "
            "written before is safe: see to the disk, and give the same command again."
        ) from error


def proof(table: Any, facts: bytes) -> bytes:
    """A digest of a collection's rows, to the bit, and of what is said about them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = hashlib.sha256(facts)
    for name in table.column_names:
        column = table[name]
        if pa.types.is_list(column.type):
            found.update(pc.list_flatten(column).to_numpy().tobytes())  # pyright: ignore
            column = pc.list_value_length(column)  # pyright: ignore
        found.update(json.dumps([name, column.to_pylist()]).encode())
    return found.hexdigest().encode()


def rows_of(collected: Rollouts) -> Iterable[dict[str, Any]]:
    """A row for each response."""
    for rollout in collected.rollouts:
        ends = np.cumsum(rollout.lengths)[:-1]
        parts = {name: np.split(values, ends) for name, values in rollout.known.items()}
        for n, response in enumerate(rollout.responses):
            yield {
                "iteration": collected.iteration,
                "prompt_id": rollout.prompt_id,
                "response_id": n,
                "source": rollout.source,
                "where": rollout.where,
                "prompt": response.prompt,
                "response": response.response,
                "prompt_tokens": rollout.prompt,
                "tokens": response.tokens,
                "finished": response.finished,
                "reward": rollout.reward[n],
                "trained_reward": None if rollout.trained is None else rollout.trained[n],
                "gold": None if rollout.gold is None else rollout.gold[n],
                **{
                    column: parts[name][n] if name in parts else None
                    for column, name in PER_TOKEN.items()
                },
            }


def read_rollouts(path: Path) -> Rollouts:
    """Read a collection back, every number as it was.

    Raises:
        OSError: if the file cannot be read, or is not what was written; names it.
    """
    import pyarrow as pa

    try:
        table, facts = read_table(path)
        rows = table.to_pylist()
        together: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            together.setdefault(row["prompt_id"], []).append(row)
        iteration = rows[0]["iteration"]
        return Rollouts(iteration, [rollout_of(rows) for rows in together.values()], facts)
    except (pa.ArrowException, OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise OSError(f"the rollouts {path} cannot be read ({first_line(error)}).") from None


def read_table(path: Path) -> tuple[Any, dict[str, Any]]:
    """The table of a file and the facts of its collection, both as they were written.

    Raises:
        Exception: of many kinds, if that is not what is there.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path, page_checksum_verification=True)
    about = table.schema.metadata or {}
    # Those of earlier versions have no digest.
    if about.get(PROOF) not in (None, proof(table, about[METADATA])):
        raise ValueError("its content is not what was written")
    return table, json.loads(about[METADATA])


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def of_all(rows: Sequence[Mapping[str, Any]], column: str) -> Float64[np.ndarray, " N"] | None:
    """A number of each response of a prompt; None where there is none."""
    if rows[0][column] is None:
        return None
    return np.array([row[column] for row in rows], np.float64)


def rollout_of(rows: Sequence[Mapping[str, Any]]) -> Rollout:
    """One prompt from the rows of its responses."""
    first = rows[0]
    known = {
        name: np.concatenate([np.asarray(row[column], np.float32) for row in rows])
        for column, name in PER_TOKEN.items()
        if first[column] is not None
    }
    responses = tuple(
        Written(
            prompt=row["prompt"],
            response=row["response"],
            tokens=np.asarray(row["tokens"], np.int32),
            finished=row["finished"],
        )
        for row in rows
    )
    return Rollout(
        prompt_id=first["prompt_id"],
        where=first["where"],
        source=first["source"],
        prompt=np.asarray(first["prompt_tokens"], np.int32),
        responses=responses,
        reward=np.array([row["reward"] for row in rows], np.float64),
        trained=of_all(rows, "trained_reward"),
        gold=of_all(rows, "gold"),
        known=known,
    )
