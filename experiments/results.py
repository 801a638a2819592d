"""What an experiment leaves behind: arrays, a verdict on each claim, and how they came about.

A result is two files a person can open: ``NAME.json`` with the verdicts, the settings and the
versions, and ``NAME.npz`` with the arrays. The JSON is written last, so a result that can be read
is complete. The same seeds on the same machine give the same bytes: there is no date and no
duration.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Outcome = Literal["held", "held under this condition", "did not hold"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether one claim held, in one line that was computed from the data.

    Attributes:
        claim: what is claimed, in a sentence.
        source: who claims it: the paper's section, or this project.
        outcome: held, held under a condition, or not.
        evidence: the numbers that decided, with their uncertainty.
        condition: what has to be the case, where there is a condition.
    """

    claim: str
    source: str
    outcome: Outcome
    evidence: str
    condition: str = ""

    def __post_init__(self) -> None:
        if (self.outcome == "held under this condition") != bool(self.condition):
            raise ValueError(
                f"verdict {self.claim!r}: condition is {self.condition!r} with outcome "
                f"{self.outcome!r}; give a condition exactly when the outcome names one."
            )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a figure and the table of claims are made from.

    Attributes:
        name: the experiment's.
        verdicts: one per claim.
        arrays: everything a figure draws.
        settings: what was run, as plain numbers and words.
    """

    name: str
    verdicts: list[Verdict]
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """How much to compute.

    Attributes:
        name: ``"quick"`` to see that it works, ``"default"`` to see the claim, ``"full"`` for the
            paper's lengths.
        seeds: how many repetitions.
    """

    name: Literal["quick", "default", "full"] = "default"
    seeds: int = 10

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"seeds is {self.seeds}; an interval needs at least 2.")

    def choose(self, quick: Any, default: Any, full: Any) -> Any:
        """The value that belongs to this size."""
        return {"quick": quick, "default": default, "full": full}[self.name]


def fingerprint(sources: Iterable[Path], size: Size) -> str:
    """A digest of the code and the settings a result depends on: equal digests, equal results."""
    digest = hashlib.sha256(json.dumps(asdict(size), sort_keys=True).encode())
    for path in sorted(sources):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for package in ("jax", "numpy", "optax"):
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    return digest.hexdigest()


def save(result: Result, folder: Path, size: Size, mark: str) -> Path:
    """Write a result, whole or not at all.

    Args:
        result: what to write.
        folder: created if it is missing.
        size: recorded beside the settings.
        mark: the fingerprint of what the result depends on.

    Returns:
        The path of the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "name": result.name,
        "verdicts": [asdict(verdict) for verdict in result.verdicts],
        "settings": result.settings,
        "size": asdict(size),
        "fingerprint": mark,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "numpy", "optax")},
        },
        "commit": commit(),
    }
    arrays: dict[str, Any] = {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in result.arrays.items()
    }
    atomically(folder / f"{result.name}.npz", lambda path: np.savez_compressed(path, **arrays))
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    path = folder / f"{result.name}.json"
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def load(folder: Path, name: str) -> Result:
    """Read a result back.

    Raises:
        FileNotFoundError: if there is none; says how to make it.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no result {path}; `modeseek reproduce {name} --out ...` computes it."
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz") as stored:
        arrays = dict(stored)
    verdicts = [Verdict(**verdict) for verdict in record["verdicts"]]
    return Result(
        name=record["name"], verdicts=verdicts, arrays=arrays, settings=record["settings"]
    )


def is_current(folder: Path, name: str, mark: str) -> bool:
    """Whether a complete result of exactly this code and these settings is there."""
    try:
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return record["fingerprint"] == mark and (folder / f"{name}.npz").exists()
    except (OSError, ValueError, KeyError):
        return False


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then move it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        os.replace(temporary, path)


def commit() -> str:
    """The repository's commit, or "unknown" outside a checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    here = Path(__file__).parent
    try:
        return subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
