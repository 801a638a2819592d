"""Tokenizers, files of rows, and groups of random lengths."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.data.examples import Group
from tests.llm.data.byte_tokenizer import TEMPLATE, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Knows BOS but does not add it, as GPT-2's."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """Has a chat template that ends a turn with text of its own."""
    return make_tokenizer(template=TEMPLATE)


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., str]:
    """Write rows as JSON lines and give the path."""

    def write(*rows: Any, name: str = "pairs.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def random_groups() -> Callable[..., list[Group]]:
    """Groups of random ids and log-normal lengths."""

    def make(number: int, *, responses: int = 2, seed: int = 0, longest: int = 90) -> list[Group]:
        rng = np.random.default_rng(seed)

        def ids(mean: float) -> np.ndarray:
            length = int(np.clip(rng.lognormal(np.log(mean), 0.6), 1, longest))
            return rng.integers(2, 200, length, dtype=np.int32)

        return [
            Group(
                prompt=ids(15),
                responses=tuple(ids(20) for _ in range(rng.integers(1, responses + 1))),
                rewards=np.zeros(0, np.float32),
                where=f"random:{row}",
            )
            for row in range(number)
        ]

    def rated(*args: Any, **options: Any) -> list[Group]:
        return [
            Group(g.prompt, g.responses, np.arange(len(g.responses), dtype=np.float32), g.where)
            for g in make(*args, **options)
        ]

    return rated
