"""What several tests of language models share."""

import os
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def harbour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, made by this very code; workers of one run share what takes minutes."""
    from llm.embedded.pretrain import embedded_model

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    cache = tmp_path_factory.getbasetemp().parent / f"embedded-{run}"
    with FileLock(f"{cache}.lock"):
        return embedded_model(lambda _: None, cache)
