"""The line of ``modeseek export`` becomes the checkpoint that was asked for."""

from pathlib import Path
from typing import Any

import pytest

from llm import export, runs
from modeseek.export import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the exporter was asked for, in place of doing it."""
    seen: dict[str, Any] = {}

    def export_checkpoint(run: Any, say: Any, **options: Any) -> None:
        seen.update(options, run=run)

    monkeypatch.setattr(export, "export_checkpoint", export_checkpoint)
    monkeypatch.setattr(runs, "open_run", lambda folder: folder)
    return seen


def test_the_latest_checkpoint_is_the_default(asked: dict[str, Any]) -> None:
    main(["runs/dpo"])
    assert asked == {
        "run": Path("runs/dpo"),
        "step": None,
        "out": None,
        "dtype": None,
        "adapter_only": False,
    }


def test_every_flag_arrives(asked: dict[str, Any]) -> None:
    main(["a", "--step", "20", "--out", "b", "--dtype", "bfloat16", "--adapter-only"])
    assert asked["step"] == 20
    assert asked["out"] == Path("b")
    assert asked["dtype"] == "bfloat16"
    assert asked["adapter_only"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        main([str(tmp_path)])
