"""What must survive a kill, and the check that a resumed run is the same run.

A run's folder holds ``run.json`` (what was asked for, and of what model and data), and
``checkpoints/`` (Orbax: parameters, optimizer, step and unwritten metrics). The position in the
data and everything random are functions of the step, so a run killed at any moment and started
again with the same command gives the same numbers as one that was never killed. Both prove that
they are what was written: the record by a digest, a checkpoint by a checksum of every array.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from llm.hosts import fetch
from llm.hosts.together import meet
from llm.integrity import CHECKSUMS, Damaged, check, checksums, described
from llm.lock import LOCK
from llm.settings import SaveSettings, Training, as_record
from llm.update import TrainState

RUN, PROOF = "run.json", "sha256"
"""What was asked for, and where it says by what it can be checked."""
CHECKPOINTS = "checkpoints"
MODEL, ADAPTER = "model", "adapter"
"""Folders of the fine-tuned model and of its adapters."""

NAMED = 3
"""Arrays that an error lists at most."""

HARMLESS = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""How the storage begins to say why a checkpoint cannot be read that may be as it should be."""

# What may differ between a run and its continuation, because no number depends on it, but for
# rounding where other devices add up.
FREE = ("out", "save", "log.tensorboard", "log.wandb", "mesh", "hosts")


def check_same_run(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Claim a folder for a run, or make sure that it belongs to this very run.

    Args:
        folder: the run's folder; made if absent. One whose run never came to its first checkpoint
            may be claimed for another.
        asked: what identifies the run, as plain JSON.

    Returns:
        Whether there is something to go on from.

    Raises:
        ValueError: if the folder holds another run, or anything else; lists what differs.
    """
    record, asked = folder / RUN, json.loads(json.dumps(asked))
    written = json.dumps({**asked, PROOF: digest_of(asked)}, indent=2, sort_keys=True) + "\n"
    check_folder(folder)
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(record, written)
        return False
    try:
        before = read_record(record)
    except ValueError as error:
        raise ValueError(f"{record} cannot be read ({error}): {without_record(folder)}") from None
    if not saved_steps(folder) and before.keys() == asked.keys():
        write_text(record, written)
        return False
    old, new = flatten(before), flatten(asked)
    # A flag that a run of an earlier version did not have was at its default.
    old = {key: old.get(key, value) for key, value in USUAL.items() if key in new} | old
    different = [
        f"{key}: was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not is_free(key)
    ]
    if different:
        lines = "\n  ".join(different)
        raise ValueError(
            f"{folder} holds a run that was asked for differently:\n  {lines}\n"
            "Give the same flags to go on with it, or another --out to begin anew."
        )
    return True


def check_folder(folder: Path) -> None:
    """Raise ValueError if a run can neither begin nor go on in a folder, whatever run it is."""
    record = folder / RUN
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and a run needs a folder: choose another --out.")
    if record.exists() or not folder.exists():
        return
    # A run that was killed while it wrote its record has left a part of that, and its lock.
    if any(entry.name != LOCK and not is_partial(entry, record) for entry in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no {RUN}: {without_record(folder)}")


def without_record(folder: Path) -> str:
    """What to do about a folder whose record is gone or damaged."""
    if not saved_steps(folder):
        return "choose another --out."
    return (
        "the checkpoints beside it are untouched. Give the same command with another --out, stop "
        f"it when it begins, and put the {RUN} from there here; or choose another --out to begin "
        "anew."
    )


def read_record(path: Path) -> dict[str, Any]:
    """What a run was asked for, from its ``run.json``.

    Raises:
        ValueError: if it cannot be read, or is not what was written.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    # Those of earlier versions have no digest.
    if record.pop(PROOF, None) not in (None, digest_of(record)):
        raise ValueError(
            f"it is not what was written; if it was changed on purpose, take {PROOF} out of it"
        )
    return record


def digest_of(record: Mapping[str, Any]) -> str:
    """What tells one record from another."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def is_free(key: str) -> bool:
    """Whether a field of the settings may change between a run and its continuation."""
    name = key.removeprefix("settings.")
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in flatten(item, f"{prefix}.{key}" if prefix else key).items()
    }


USUAL = flatten({"settings": as_record(Training())})
"""The settings of a run that was given none."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: if the disk does not take it; what was there before is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # the disk has it before it has its name
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror}): make room, or choose another --out."
        ) from error


def is_partial(entry: Path, path: Path) -> bool:
    """Whether a file is what a killed ``write_text`` of a path left behind."""
    return entry.name.startswith(f".{path.name}.")


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, in order.

    One that is being written, or was when the run was killed, has another name until it is whole.
    """
    path = folder / CHECKPOINTS
    entries = path.iterdir() if path.is_dir() else ()
    return sorted(int(entry.name) for entry in entries if is_checkpoint(entry))


def is_checkpoint(entry: Path) -> bool:
    """Whether something is a checkpoint by its name, and not what somebody put beside them."""
    return re.fullmatch("0|[1-9][0-9]*", entry.name) is not None and entry.is_dir()


class Saver:
    """Checkpoints of one run: saved beside the training, loaded only when they are complete.

    Args:
        folder: the run's folder.
        settings: how many to keep.
        state: a state like the ones to save; tells how much room they need.

    Raises:
        OSError: if the disk has no room for them.
    """

    def __init__(self, folder: Path, settings: SaveSettings, state: TrainState) -> None:
        from orbax.checkpoint import v1 as ocp

        path = folder.resolve() / CHECKPOINTS
        path.mkdir(parents=True, exist_ok=True)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        # What is there will make room, sooner or later.
        there = sum(map(size_of, path.rglob("*")))
        # One more than are kept, because the next one is written before the oldest goes.
        needed, free = size * (settings.keep + 1) - there, shutil.disk_usage(path).free
        if needed > free:
            raise OSError(
                f"{path} needs {needed / 2**20:.1f} MiB for {settings.keep} checkpoints and the "
                f"one being written, and its disk has {free / 2**20:.1f} MiB free: make room, or "
                "choose another --out or a smaller --save.keep."
            )
        self.folder = folder
        self.saved = -1
        # Orbax tells in pages of tracebacks what it raises besides, and that is told in a sentence.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        newest = ocp.training.preservation_policies.LatestN(settings.keep)
        try:
            self.checkpointer = ocp.training.Checkpointer(
                str(path),
                preservation_policy=newest,  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=True,
            )
        except Exception as error:
            for step in saved_steps(folder):
                try:
                    described(path / str(step))
                except Exception as cause:
                    raise self.damage(step, cause) from error
            raise OSError(f"{path} cannot be opened ({reason(error)}).") from error

    def restore(
        self, like: TrainState, say: Callable[[str], None] = lambda line: None
    ) -> TrainState | None:
        """The latest complete checkpoint, or None.

        One that is damaged is not passed over: what it held can be lost by that, and it may be
        only the first thing that its disk has lost. Somebody who knows has to decide.

        Args:
            like: a state of the same structure, on the devices where the restored one shall live.
            say: told if there is nothing to check the checkpoint by.

        Raises:
            OSError: if it cannot be read, or is not, to the bit, what was saved; names it, and what
                the run can go on from without it.
        """
        latest = self.checkpointer.latest
        if latest is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in zip(names(like), leaves, strict=True)
        }
        path = self.folder / CHECKPOINTS / str(latest.step)
        saved: dict[str, str] | None = None
        try:
            saved = described(path)
            # In here all processes wait for each other: whoever fails can only end, and is missed.
            found = self.checkpointer.load(latest.step, abstract)
        except Exception as error:
            if saved is not None and saved.keys() != abstract.keys():
                raise OSError(
                    f"the checkpoint {path} was saved by a version that keeps other arrays "
                    f"({', '.join(sorted(saved.keys() ^ abstract.keys())[:NAMED])}): go on with "
                    "the version that began the run, or choose another --out."
                ) from error
            raise self.damage(latest.step, error) from error
        if saved is None:
            say(f"{path} holds no checksums to check it by: it is taken as it is")

        def compare() -> None:
            try:
                if saved is not None:
                    check(found, saved)
                step = int(fetch(found["step"]))
                if step != latest.step:
                    raise Damaged(f"it is that of step {step}")
            except Damaged as error:
                raise self.damage(latest.step, error) from error

        meet("check", compare)
        self.saved = latest.step
        return jax.tree.unflatten(structure, [found[name] for name in abstract])

    def save(self, step: int, state: TrainState) -> None:
        """Begin to save; training goes on meanwhile.

        Raises:
            OSError: if this save or the one before it failed; the last complete one is untouched.
        """
        if step == self.saved:
            return
        leaves = dict(zip(names(state), jax.tree.leaves(state), strict=True))
        try:
            # Training forbids transfers that nobody asked for; here they are what is asked for.
            with jax.transfer_guard("allow"):
                proof: Any = {CHECKSUMS: checksums(leaves)}
                self.checkpointer.save_async(step, leaves, force=True, custom_metadata=proof)
        except Exception as error:
            raise self.failure(error) from error
        self.saved = step

    def close(self) -> None:
        """Wait until what was begun is on disk.

        Raises:
            OSError: if it could not be written.
        """
        try:
            self.checkpointer.wait()
            self.checkpointer.close()
        except Exception as error:
            raise self.failure(error) from error

    def damage(self, step: int, error: Exception) -> OSError:
        """Which checkpoint is damaged, and what the run can go on from without it."""
        path, said = self.folder / CHECKPOINTS / str(step), reason(error)
        if isinstance(error, (PermissionError, MemoryError)) or said.startswith(HARMLESS):
            return OSError(
                f"the checkpoint {path} cannot be read ({said}), which says nothing against it: "
                "see to that, and give the same command again."
            )
        others = [other for other in saved_steps(self.folder) if other != step]
        then = f"goes on after step {others[-1]}" if others else "begins anew"
        return OSError(
            f"the checkpoint {path} is damaged ({said}): move or delete it, and the same command "
            f"{then}."
        )

    def failure(self, error: Exception) -> OSError:
        """What went wrong, what is safe, and what to do."""
        steps = saved_steps(self.folder)
        safe = f"step {steps[-1]} is safe" if steps else "nothing had been saved before"
        return OSError(
            f"a checkpoint could not be written to {self.folder / CHECKPOINTS} ({reason(error)}); "
            f"{safe}. Make room, or the disk writable, and give the same command again."
        )


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for anything else, and for what has gone meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def reason(error: Exception) -> str:
    """The first line of what an error's first cause says, or its kind where it says nothing."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def names(state: TrainState) -> list[str]:
    """A readable, unique name for every array of a state, in the order of its leaves."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".")
        for path, _ in jax.tree.leaves_with_path(state)
    ]
