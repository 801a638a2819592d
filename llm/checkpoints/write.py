"""Writing a model folder that transformers, vLLM and everything else loads.

The result has the layout of the folder that the model came from: the same names, the same dtypes
unless another is asked for, the same extra files, and ``config.json`` word for word. Tensors go to
the file one at a time, so a model that fills its devices still fits the host. A folder appears
under its name only when it is complete: everything is written beside it first, then renamed.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from llm.checkpoints.folders import CONFIG, DTYPES, INDEX, WEIGHTS, Stored, open_weights
from llm.checkpoints.names import FAMILIES, Tensor, is_buffer, stored_tensor, tensors
from llm.checkpoints.read import match
from llm.hosts import fetch, is_first
from llm.model import Decoder, parameters
from llm.model.architecture import Architecture, architecture_from_config

SHARD_BYTES = 5 * 10**9

# What travels with the weights unchanged: how to generate, and under which terms.
_COMPANIONS = ("generation_config.json", "LICENSE*", "NOTICE*")

# What travels too where no tokenizer is given; beside one that is, it could contradict it.
_TOKENIZER = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "*.jinja",
)

_SPELLING = {dtype: name for name, dtype in DTYPES.items()}


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer here; those of transformers have it."""

    def save_pretrained(self, save_directory: str) -> Any:
        """Write its files into a folder."""
        ...


@dataclass(frozen=True)
class Outgoing:
    """A tensor that is to be written.

    Attributes:
        name: in the file.
        shape: in the file.
        dtype: as the format spells it.
        values: makes it, in that shape and dtype, when its turn has come.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return int(np.prod(self.shape)) * _itemsize(self.dtype)


def save_model(
    path: Path,
    decoder: Decoder,
    *,
    config: Mapping[str, Any],
    tokenizer: Tokenizer | None = None,
    source: Path | None = None,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a decoder as a model folder of the Hugging Face format.

    Args:
        path: the folder to make.
        decoder: without adapters: merge them first, or save them alone.
        config: its ``config.json``, kept as it is but for the dtype.
        tokenizer: written beside the weights; copied from ``source`` if None.
        source: the folder that the model was read from: names, dtypes, buffers and companion
            files are kept as they are there.
        dtype: of the weights; as in ``source``, or as the parameters are held, if None.
        max_shard_bytes: a file holds at most this much, or one tensor.
        overwrite: replace what is at ``path``.

    Raises:
        ValueError: if the folder holds something already, if the decoder has adapters, or if
            ``config`` describes another architecture.
        OSError: if the disk has no room for it.
    """
    values = parameters(decoder)
    adapters = sorted(name for name in values if name.rsplit("/", 1)[-1].startswith("lora_"))
    if adapters:
        raise ValueError(
            f"The decoder holds adapters ({adapters[0]} and {len(adapters) - 1} more), which a "
            "model folder has no place for: merge them first, or save the adapter alone."
        )
    if architecture_from_config(config) != decoder.architecture:
        raise ValueError(
            f"The {CONFIG} given for {path} describes another architecture than the decoder's: "
            "give the one that the decoder was built from."
        )
    outgoing = outgoing_tensors(values, decoder.architecture, source=source, dtype=dtype)
    kind = dtype if dtype is not None or source is not None else values["embedding/matrix"].dtype
    write_model_folder(
        path,
        outgoing,
        with_dtype(config, kind),
        tokenizer=tokenizer,
        source=source,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
    )


def write_model_folder(
    path: Path,
    outgoing: list[Outgoing],
    config: Mapping[str, Any],
    *,
    tokenizer: Tokenizer | None,
    source: Path | None,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write tensors and a configuration as a model folder, with what travels beside them.

    Of several processes the first writes, and all must call.

    Args:
        path: the folder to make.
        outgoing: the tensors.
        config: what ``config.json`` will say.
        tokenizer: written beside the weights; copied from ``source`` if None.
        source: the folder that companion files are copied from.
        max_shard_bytes: a file holds at most this much, or one tensor.
        overwrite: replace what is at ``path``.

    Raises:
        ValueError: if the folder holds something already.
        OSError: if the disk has no room for it.
    """
    shards = shards_of(outgoing, max_shard_bytes)
    if not is_first():
        hand_over([tensor for shard in shards for tensor in shard])
        return
    with fresh_folder(path, sum(tensor.bytes for tensor in outgoing), overwrite) as folder:
        write_weights(folder, shards)
        write_json(folder / CONFIG, config)
        if source is not None:
            _copy(
                source, folder, _COMPANIONS if tokenizer is not None else _COMPANIONS + _TOKENIZER
            )
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))


def outgoing_tensors(
    values: Mapping[str, Array],
    architecture: Architecture,
    *,
    source: Path | None = None,
    dtype: DTypeLike | None = None,
) -> list[Outgoing]:
    """Every tensor of a checkpoint, each made only when it is written.

    Args:
        values: parameters by '/'-joined path.
        architecture: theirs.
        source: a folder whose names, dtypes, buffers and copies are repeated.
        dtype: of the weights; as in ``source``, or as the parameters are held, if None.

    Raises:
        ValueError: if a dtype is asked for that the format's readers do not share.
    """
    if dtype is not None and jnp.dtype(dtype) not in _SPELLING:
        raise ValueError(
            f"dtype={jnp.dtype(dtype).name} is not one that checkpoints are written in: use "
            f"{', '.join(kind.name for kind in _SPELLING)}."
        )
    origin: Mapping[str, Stored] = {} if source is None else open_weights(source)[0]
    placed, _ = match(origin, architecture)
    by_name: dict[str, list[Tensor]] = {}
    for tensor in tensors(architecture):
        name = placed[tensor].name if tensor in placed else tensor.name
        by_name.setdefault(name, []).append(tensor)
    head = FAMILIES[architecture.family].head
    if architecture.tied and head in origin:
        by_name[head] = [t for t in tensors(architecture) if t.path == "embedding/matrix"]

    def spelling(name: str, held: np.dtype) -> str:
        if dtype is not None:
            return _SPELLING[jnp.dtype(dtype)]
        return origin[name].dtype if name in origin else _SPELLING[held]

    outgoing = [
        outgoing_tensor(name, parts, values, spelling(name, values[parts[0].path].dtype))
        for name, parts in by_name.items()
    ]
    for name, stored in origin.items():
        if is_buffer(name):
            outgoing.append(Outgoing(name, stored.shape, stored.dtype, stored.read))
    return outgoing


def outgoing_tensor(
    name: str, parts: list[Tensor], values: Mapping[str, Array], spelling: str
) -> Outgoing:
    """A tensor from the parameters that are its parts.

    Args:
        name: in the file.
        parts: all of them.
        values: parameters by path.
        spelling: of the dtype in the file.
    """

    def make() -> np.ndarray:
        # The layer is cut out on the devices, so that only it is gathered. A training loop that
        # forbids transfers means its steps, not this.
        with jax.transfer_guard("allow"):
            blocks = [
                fetch(values[t.path] if t.layer is None else values[t.path][t.layer]) for t in parts
            ]
        whole = stored_tensor(list(zip(parts, blocks, strict=True)))
        return whole.astype(DTYPES[spelling], copy=False)

    return Outgoing(name, parts[0].stored, spelling, make)


def shards_of(outgoing: list[Outgoing], max_shard_bytes: int) -> list[list[Outgoing]]:
    """Divide tensors over files, in each as they will stand there.

    Args:
        outgoing: what to write.
        max_shard_bytes: a file holds at most this much, or one tensor.
    """
    shards: list[list[Outgoing]] = [[]]
    filled = 0
    for tensor in outgoing:
        if shards[-1] and filled + tensor.bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.bytes
    return [in_order(shard) for shard in shards]


def in_order(outgoing: list[Outgoing]) -> list[Outgoing]:
    """Tensors as they stand in a file: wide dtypes first, so that each is aligned to its size."""
    return sorted(outgoing, key=lambda tensor: (-_itemsize(tensor.dtype), tensor.name))


def hand_over(outgoing: list[Outgoing]) -> None:
    """Help the process that writes: what lies on this host's devices is sent as each is made."""
    for tensor in outgoing:
        tensor.values()


def write_weights(folder: Path, shards: list[list[Outgoing]]) -> None:
    """Write tensors as one safetensors file, or as several and their index.

    Args:
        folder: an existing folder.
        shards: what to write, for each file.
    """
    if len(shards) == 1:
        write_file(folder / WEIGHTS, shards[0])
        return
    stem, suffix = WEIGHTS.split(".")
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
        write_file(folder / file, shard)
        placed |= {tensor.name: file for tensor in shard}
    total = sum(tensor.bytes for shard in shards for tensor in shard)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})


def write_file(file: Path, outgoing: list[Outgoing]) -> None:
    """One safetensors file: the header's length, the header, and the numbers behind it.

    Args:
        file: where to.
        outgoing: what to write; each tensor is made, written and let go before the next.
    """
    ordered = in_order(outgoing)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.bytes],
        }
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in ordered:
            stream.write(np.ascontiguousarray(tensor.values()).reshape(-1).view(np.uint8).data)
        _flush(stream)


@contextmanager
def fresh_folder(path: Path, size: int, overwrite: bool) -> Iterator[Path]:
    """A folder to fill that takes its name only once it is complete.

    Args:
        path: the name.
        size: how many bytes will be written, to be refused before the first if they do not fit.
        overwrite: whether something at ``path`` may be replaced.

    Yields:
        An empty folder beside ``path``; removed again if filling it fails.

    Raises:
        ValueError: if ``path`` holds something and may not be replaced.
        OSError: if the disk has no room for it, or does not take it.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: give a folder.")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"{path} is not empty: choose another folder, or allow overwriting it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(
            f"{path} needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left: "
            "free some room, or choose another disk."
        )
    unfinished = path.parent / f".{path.name}.unfinished"
    replaced = path.parent / f".{path.name}.replaced"
    for leftover in (unfinished, replaced):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed here
    unfinished.mkdir()
    try:
        yield unfinished
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # Tokenizers are written by a library that has no kind of error for a disk.
        if isinstance(error, OSError) or "(os error " in str(error):
            raise OSError(
                f"{path} cannot be written ({error}). Nothing else is touched: see to the disk, "
                "and give the same command again."
            ) from error
        raise
    if path.exists():
        path.rename(replaced)
    unfinished.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)


def with_dtype(config: Mapping[str, Any], dtype: DTypeLike | None) -> dict[str, Any]:
    """A configuration that says which dtype its weights are in; unchanged if None."""
    if dtype is None:
        return dict(config)
    name = jnp.dtype(dtype).name
    # Both spellings where both are there: older readers know only the second.
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(keys, name)}


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object as transformers does: indented, keys in the order given."""
    with file.open("wb") as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
        _flush(stream)


def _flush(stream: IO[bytes]) -> None:
    """Make sure that the bytes are on the disk before the folder gets its name."""
    stream.flush()
    os.fsync(stream.fileno())


def _copy(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for file in (file for pattern in patterns for file in source.glob(pattern)):
        if file.is_file():
            # Contents only: the permissions of a read-only source are not wanted.
            shutil.copyfile(file, folder / file.name)


def _itemsize(spelling: str) -> int:
    """Bytes per number of a dtype as the format spells it, buffers' dtypes included."""
    widths = {"64": 8, "32": 4, "16": 2}
    return next((width for ending, width in widths.items() if spelling.endswith(ending)), 1)
