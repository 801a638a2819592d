"""A run's folder, read back: what was asked for, and what its checkpoints hold.

``run.json`` says everything a run depends on, as plain JSON. From it the settings are made again,
the model that the run began from is found, and the trained numbers of any checkpoint are put beside
it. Reading never disturbs a run that is still going.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jax

from llm.inputs import model_folder
from llm.integrity import check, described
from llm.reference import model_fingerprint
from llm.settings import TRAIN_RECIPES, WITH_CRITIC, Training
from llm.state import CHECKPOINTS, RUN, read_record, reason, saved_steps
from llm.update import Parameters

POLICY = "decoder/"
"""What the paths of a policy begin with where it has a critic beside it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run, as its folder says.

    Attributes:
        folder: of the run.
        name: of its recipe.
        settings: what was asked for.
        record: all of ``run.json``.
    """

    folder: Path
    name: str
    settings: Training
    record: Mapping[str, Any]

    @property
    def steps(self) -> list[int]:
        """Steps after which there is a complete checkpoint, ascending."""
        return saved_steps(self.folder)

    def find_step(self, step: int | None) -> int:
        """A step of which there is a checkpoint, the latest by default.

        Raises:
            ValueError: if there is none; lists those that there are.
        """
        steps = self.steps
        if not steps:
            raise ValueError(
                f"{self.folder} holds no checkpoint: the run was stopped before its first. Give "
                "the command of the run again."
            )
        if step is not None and step not in steps:
            there = ", ".join(map(str, steps))
            raise ValueError(
                f"{self.folder} holds no checkpoint of step {step}; there are those of {there}. "
                "Give one of them, or train with a larger --save.keep."
            )
        return steps[-1] if step is None else step

    def source(self, say: Callable[[str], None]) -> Path:
        """Folder of the model that the run began from.

        Raises:
            ValueError: if the model there is another one by now.
            OSError: if it cannot be fetched.
        """
        folder = model_folder(self.settings, say)
        if model_fingerprint(folder) != self.record["fingerprints"]["model"]:
            raise ValueError(
                f"{folder} is not the model that {self.folder} began from: its weights or its "
                "config.json have changed since. Put the model back that was there."
            )
        return folder

    def restore(self, step: int, like: Parameters) -> Parameters:
        """What was trained, as it was after a step; the optimizer's state is not read.

        Args:
            step: of which there is a checkpoint.
            like: arrays of the same paths and shapes, on the devices where these shall live. Of a
                run with a critic they may be those of the policy alone.

        Raises:
            OSError: if it cannot be read, or is not, to the bit, what was saved; names it.
        """
        from orbax.checkpoint import v1 as ocp

        alone = self.name in WITH_CRITIC and not any(path.startswith(POLICY) for path in like)
        prefix = f"trainable/{POLICY if alone else ''}"
        names = {path: f"{prefix}{path}".replace("/", ".") for path in like}
        wanted = {
            names[path]: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for path, leaf in like.items()
        }
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        path = self.folder / CHECKPOINTS / str(step)
        try:
            saved = described(path)
            with context:
                found: Any = ocp.load(str(path.resolve()), wanted)
            if saved is not None:
                check(found, saved)
        except Exception as error:
            raise OSError(
                f"the checkpoint {path} is damaged ({reason(error)}): give the --step of another."
            ) from error
        return {path: found[name] for path, name in names.items()}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RUN).is_file()


def open_run(folder: Path) -> Run:
    """Read what a run was asked for.

    Raises:
        ValueError: if the folder is not that of a run, or of one that this version cannot read.
    """
    file = folder / RUN
    if not file.is_file():
        raise ValueError(f"{folder} holds no {RUN}: give the folder of a run, its --out.")
    try:
        record = read_record(file)
        name, settings = record["recipe"], from_record(Training, record["settings"])
        if name not in TRAIN_RECIPES:
            raise ValueError(f"there is no recipe {name}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}): it was written by another version, or by hand, or "
            "is damaged."
        ) from None
    return Run(folder, name, settings, record)


def from_record(cls: type[T], record: Mapping[str, Any]) -> T:
    """A settings value from what ``as_record`` made of it.

    Raises:
        ValueError: if the record has a field that the value has not.
    """
    hints = get_type_hints(cls)
    unknown = record.keys() - hints.keys() - {""}
    if unknown:
        raise ValueError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
    return cls(**{name: revived(hints[name], record[name]) for name in record if name})


def revived(kind: Any, value: Any) -> Any:
    """One field of a settings value from plain JSON."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_record(kind, value)
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if kind == Path | None and value is not None else value
