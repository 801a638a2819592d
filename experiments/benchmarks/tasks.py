"""What a contestant is given: a model, token ids, and how much to do with them, as one JSON file.

Nothing of the project is imported here, so that a contestant can read its task before it decides
which checkout of the project it is going to run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder whose weights are random, because speed does not depend on what they say.

    Attributes:
        config: as in the ``config.json`` of a Hugging Face model.
        folder: where weights and tokenizer are; None to make the weights on the device.
    """

    config: dict[str, Any]
    folder: str | None = None

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return self.config["vocab_size"]


def llama(width: int, layers: int, words: int, positions: int) -> Model:
    """A model of Llama's shape: tied, heads of 64, an MLP as wide as 8/3 of the model."""
    return Model(
        config={
            "model_type": "llama",
            "vocab_size": words,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(width // 64, 1),
            "num_key_value_heads": max(width // 64, 1),
            "intermediate_size": width * 8 // 3 // 32 * 32,
            "max_position_embeddings": positions,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        }
    )


def pythia(width: int, layers: int, heads: int, words: int = 50304, positions: int = 2048) -> Model:
    """A model of Pythia's shape; (2048, 24, 16) is the one of 1.4 billion parameters."""
    return Model(
        config={
            "model_type": "gpt_neox",
            "vocab_size": words,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "max_position_embeddings": positions,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "use_parallel_residual": True,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
            "tie_word_embeddings": False,
        }
    )


class Row(NamedTuple):
    """A prompt and its responses, the best one first; none where the policy answers."""

    prompt: np.ndarray
    responses: tuple[np.ndarray, ...]

    @property
    def tokens(self) -> int:
        """Tokens that a plain implementation reads: the prompt once for each response."""
        return self.scored + len(self.responses) * len(self.prompt)

    @property
    def scored(self) -> int:
        """Tokens that the loss is told about."""
        return sum(map(len, self.responses))


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the texts of a made-up data set are.

    Attributes:
        prompt: median tokens of a prompt.
        response: median tokens of a response.
        spread: standard deviation of the logarithm of a length; 0 for equal lengths.
        longest: most tokens of a prompt with one response.
    """

    prompt: int
    response: int
    spread: float = 0.6
    longest: int


SPECIAL = 3
"""Token ids below this begin, end and pad, and are in no text."""


def make_rows(number: int, responses: int, lengths: Lengths, words: int, seed: int) -> list[Row]:
    """Texts of random tokens.

    Args:
        number: of rows.
        responses: to each prompt.
        lengths: of the texts.
        words: size of the vocabulary.
        seed: of ids and lengths.
    """
    random = np.random.default_rng(seed)

    def text(median: int, most: int) -> np.ndarray:
        size = round(median * np.exp(lengths.spread * random.standard_normal()))
        return random.integers(SPECIAL, words, min(max(size, 2), most), dtype=np.int32)

    def row() -> Row:
        prompt = text(lengths.prompt, lengths.longest * 3 // 4)
        room = lengths.longest - len(prompt)
        return Row(prompt, tuple(text(lengths.response, room) for _ in range(responses)))

    return [row() for _ in range(number)]


def save_rows(path: Path, rows: Sequence[Row]) -> None:
    """Keep rows as one flat array, the number of parts of each, and the length of every part."""
    parts = [part for row in rows for part in (row.prompt, *row.responses)]
    np.savez(
        path,
        ids=np.concatenate(parts),
        lengths=np.array([len(part) for part in parts]),
        many=np.array([1 + len(row.responses) for row in rows]),
    )


def load_rows(path: str | Path) -> list[Row]:
    """What ``save_rows`` kept."""
    with np.load(path) as file:
        parts = np.split(file["ids"], np.cumsum(file["lengths"])[:-1])
        ends = np.cumsum(file["many"])
    return [
        Row(parts[end - many], tuple(parts[end - many + 1 : end]))
        for end, many in zip(ends, np.diff(ends, prepend=0), strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """A short training run.

    Attributes:
        recipe: of ``modeseek train``, and the peer's trainer of the same method.
        model: what is trained.
        rows: file of ``save_rows``, in the order in which they are seen.
        batch: rows in a step.
        steps: of the optimizer; each row is seen once.
        warm: first steps that are not timed: they compile, and fill allocators and caches.
        learning_rate: of AdamW with betas (0.9, 0.999), constant, without decay; gradients are
            clipped to a norm of 1.
        beta: of DPO; weight of the KL penalty where the policy writes.
        responses: written to each prompt; 0 where the rows hold them.
        max_new_tokens: a written response is cut after so many.
        dtype: of the arithmetic. Weights that train, and their moments, are float32 everywhere.
        remat: what the backward pass computes again; the peer checkpoints unless it is ``none``.
        max_tokens: positions on a device at a time; a larger step is cut in pieces.
        padding_free: whether the peer lays rows end to end, where its trainer can.
        per_device: rows that the peer puts through at a time; a step of more is accumulated.
        devices: that the model is spread over, along ``data``.
        rank: of adapters that train in the place of the weights; 0 for none.
    """

    recipe: str
    model: Model
    rows: str
    batch: int
    steps: int
    warm: int = 2
    learning_rate: float = 1e-5
    beta: float = 0.1
    responses: int = 0
    max_new_tokens: int = 64
    dtype: str = "float32"
    remat: str = "none"
    max_tokens: int = 16384
    padding_free: bool = False
    per_device: int | None = None
    devices: int = 1
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to write.

    Attributes:
        name: what it is called in the table.
        prompts: how many of the task's.
        responses: to each.
        max_new_tokens: a response is cut after so many.
        stops: whether the model's end tokens end a response.
    """

    name: str
    prompts: int
    responses: int
    max_new_tokens: int
    stops: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """Responses to be written.

    Attributes:
        model: that writes them.
        rows: file of ``save_rows``; only prompts are read.
        stop: tokens that end a response.
        cases: what to write.
        calls: of each case after the first, which compiles or warms up.
        dtype: of the arithmetic and of the weights it reads.
    """

    model: Model
    rows: str
    stop: list[int] = field(default_factory=list)
    cases: list[Case]
    calls: int = 2
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class SweepTask:
    """Several runs of ours, one after the other in one process.

    Attributes:
        runs: in this order.
        until_one_fails: whether the first that fails is the last.
    """

    runs: list[TrainTask]
    until_one_fails: bool = False


Task = TrainTask | SampleTask | SweepTask
KINDS: dict[str, type[Any]] = {"train": TrainTask, "sample": SampleTask, "sweep": SweepTask}


def save_task(path: Path, task: Task) -> Path:
    """Write a task down."""
    kind = next(name for name, made in KINDS.items() if isinstance(task, made))
    path.write_text(json.dumps({"kind": kind, **asdict(task)}), encoding="utf-8")
    return path


def read_task(path: Path) -> Task:
    """A task from its file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return task_of(KINDS[record.pop("kind")], record)


def task_of(kind: type[Any], record: dict[str, Any]) -> Any:
    """A task from its record."""
    if "model" in record:
        record["model"] = Model(**record["model"])
    if "cases" in record:
        record["cases"] = [Case(**case) for case in record["cases"]]
    if "runs" in record:
        record["runs"] = [task_of(TrainTask, run) for run in record["runs"]]
    return kind(**record)
