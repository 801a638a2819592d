"""A model, its data, and one cache of compiled programs for all runs of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llm.tiny_runs import compilation_cache, pairs, write_model, write_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hosts")
    write_model(folder / "model")
    # Prompts of one size class: a program of the sampler for each would be compiled.
    write_rows(folder / "pairs.jsonl", [row | {"prompt": row["prompt"][:14]} for row in pairs()])
    with compilation_cache(folder / "programs"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODESEEK_CACHE", str(folder / "cache"))
        yield folder
