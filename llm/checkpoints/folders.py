"""Model folders: finding one, on disk or on the Hub, and looking into it without loading it.

A folder of the Hugging Face format holds ``config.json`` and one or more safetensors files, each a
header of names, shapes and dtypes followed by plain numbers. The header alone says where every
number lies, so a checkpoint can be checked before any of it is read. Formats that run code when
they are opened (pickles, modelling files that come with the weights) are refused.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from llm.model.architecture import Architecture, architecture_from_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Floating-point dtypes as the format spells them; anything else is quantized.
DTYPES = {"F32": jnp.dtype("float32"), "BF16": jnp.dtype("bfloat16"), "F16": jnp.dtype("float16")}

# What a snapshot needs. Only the top level: repositories keep other formats in folders of theirs.
_WANTED = ("model*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
_UNWANTED = ("*/*",)

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class Stored:
    """A tensor as its file's header describes it.

    Attributes:
        name: what it is called in the file.
        file: the safetensors file that holds it.
        shape: as stored.
        dtype: as the format spells it, e.g. ``BF16``.
        handle: the open file.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    handle: Any

    def read(self, ranges: tuple[slice, ...] = ()) -> np.ndarray:
        """Read one block of it, a slice per leading axis; all of it by default."""
        if not ranges:
            return self.handle.get_tensor(self.name)
        return self.handle.get_slice(self.name)[ranges]


def find_model(name: str) -> Path:
    """The folder of a model, fetched from the Hugging Face Hub if it is not a local one.

    Args:
        name: a local folder, or a name on the Hub such as ``org/model``.

    Returns:
        The folder. From the Hub only safetensors, JSON, tokenizer and template files are fetched.

    Raises:
        ValueError: if the name is neither a folder nor possible on the Hub.
        OSError: if the Hub does not hand it over; says why and what to do.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if local.is_file():
        raise ValueError(f"{name} is a file: give the folder that holds it and its {CONFIG}.")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name):
        raise ValueError(
            f"There is no folder {name}, and it cannot be a name on the Hub, which reads "
            "organisation/model. Check the path."
        )
    from huggingface_hub import errors, snapshot_download

    try:
        found = snapshot_download(
            name, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)
        )
    except errors.GatedRepoError:
        raise OSError(
            f"{name} is gated on the Hub: accept its terms on its page there, and log in with a "
            "token of yours that may read it."
        ) from None
    except errors.RepositoryNotFoundError:
        raise OSError(
            f"There is no folder {name} here and no such model on the Hub (or it is private and "
            "you are not logged in). Check the spelling."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise OSError(
            f"There is no folder {name} here, and the Hub could not be asked for it "
            f"({type(error).__name__}). Check the network, or give a folder."
        ) from None
    return Path(found)


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a model folder.

    Raises:
        ValueError: if there is none, if it is not JSON, or if it asks for code of its own.
    """
    file = path / CONFIG
    if not file.is_file():
        hint = (
            " It holds an adapter: load the model it was trained on first, then the adapter."
            if (path / "adapter_config.json").is_file()
            else " Give the folder of a model in the Hugging Face format."
        )
        raise ValueError(f"{path} holds no {CONFIG}.{hint}")
    config = read_json(file)
    if config.get("auto_map"):
        raise ValueError(
            f"{file}: auto_map asks for Python code that comes with the model, which is never run. "
            f"If the model is a plain {config.get('model_type')!r}, delete auto_map from the file."
        )
    return config


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; a ValueError names the file that does not hold one."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON ({error}): fetch the file again.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds a JSON {type(value).__name__}, not an object.")
    return value


def read_architecture(path: Path) -> Architecture:
    """The architecture that the ``config.json`` of a model folder describes.

    Raises:
        ValueError: as ``read_config``, or if it describes no architecture that is known.
    """
    config = read_config(path)
    try:
        return architecture_from_config(config)
    except ValueError as error:
        raise ValueError(f"{path / CONFIG}: {error}") from None


def open_weights(path: Path) -> tuple[dict[str, Stored], list[str], set[str]]:
    """The headers of every safetensors file of a model folder.

    Args:
        path: a folder with a single file or with an index of several.

    Returns:
        The tensors by name; what is wrong with the files, one sentence each; and the names of the
        tensors that the index places in a file that could not be opened.

    Raises:
        ValueError: if there is no safetensors file or index to look into.
    """
    problems: list[str] = []
    if (path / INDEX).is_file():
        placed = read_json(path / INDEX).get("weight_map")
        if not isinstance(placed, dict):
            raise ValueError(f"{path / INDEX} has no weight_map: fetch the file again.")
        # An index is data from elsewhere: it may not lead out of the folder.
        placed = {name: Path(str(file)).name for name, file in placed.items()}
        files = sorted(set(placed.values()))
    elif (path / WEIGHTS).is_file():
        placed, files = {}, [WEIGHTS]
    else:
        raise ValueError(_no_safetensors(path))
    found: dict[str, Stored] = {}
    lost: set[str] = set()
    for file in (path / name for name in files):
        try:
            handle = safe_open(file, framework="numpy")
            names = handle.keys()
        except (SafetensorError, OSError) as error:
            inside = {name for name, shard in placed.items() if shard == file.name}
            lost |= inside
            held = f", which holds {len(inside)} tensors," if inside else ""
            why = f"cannot be read ({error})" if file.is_file() else "is missing"
            problems.append(f"{file.name}{held} {why}: fetch the file again.")
            continue
        for name in names:
            view = handle.get_slice(name)
            found[name] = Stored(name, file, tuple(view.get_shape()), view.get_dtype(), handle)
    for name in sorted(placed.keys() - found.keys() - lost):
        problems.append(
            f"{name} is not in {placed[name]}, where {INDEX} places it: the index and the files "
            "belong to different exports, fetch all of them again."
        )
        lost.add(name)
    if not placed and problems:
        raise ValueError(f"{path}: {problems[0]}")
    return found, problems, lost


def _no_safetensors(path: Path) -> str:
    others = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
    if others:
        return (
            f"{path} holds no {WEIGHTS} but {', '.join(others[:3])}, which "
            f"{'is a pickle' if len(others) == 1 else 'are pickles'}: opening one runs whatever "
            "code is in it, so it is never read. Use a checkpoint saved as safetensors, or convert "
            "it with transformers' save_pretrained on a machine where you trust it."
        )
    return (
        f"{path} holds neither {WEIGHTS} nor {INDEX}. Only safetensors are read: use a checkpoint "
        "that offers them."
    )
