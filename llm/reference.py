"""The reference's word on every response: said once, kept on disk, used in every epoch.

The reference never changes, and neither do the data, so its log-probabilities are a column of the
data set. Computing them once costs a third of one epoch of training; computing them in every step
costs a third of every epoch. The cache is keyed by the model's weights and by the token ids, which
are what becomes of the data, the template and the tokenizer together. A checksum stands beside the
numbers of every group, so that what a kill has cut short or a disk has damaged is asked again.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt32

from llm.cache import cache_folder
from llm.data.examples import Group
from llm.data.packing import Batch
from llm.hosts import from_first, is_first

SAMPLE = 1 << 20
"""Bytes that are read at either end of a file of weights."""


def model_fingerprint(folder: Path) -> str:
    """What tells one model from another: its config, and a sample of each file of weights.

    Args:
        folder: of a Hugging Face model. The first and last MiB of each file and its size are read:
            the header with all names and shapes, and numbers that any training changes.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE))
            file.seek(max(size - SAMPLE, 0))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]


def data_fingerprint(groups: Sequence[Group]) -> str:
    """What tells one tokenized data set from another: every token id and every reward, in order."""
    digest = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.responses):
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(np.ascontiguousarray(part, np.int32).tobytes())
        digest.update(np.ascontiguousarray(group.rewards, np.float32).tobytes())
    return digest.hexdigest()[:16]


def cached_reference(
    groups: Sequence[Group],
    key: str,
    batches: Iterable[Batch],
    score: Callable[[Batch], Float32[np.ndarray, "B N T"]],
    folder: Path | None = None,
) -> list[Float32[np.ndarray, " tokens"]]:
    """Log-probabilities of every response token under the reference, from disk where they are.

    What is computed is kept as it is computed, and a killed pass goes on where it was. It does so
    with the same batches, so that the last bit of a number does not depend on where that was.

    Args:
        groups: the data set.
        key: what the numbers depend on.
        batches: all groups, laid out; those whose numbers are known are passed over.
        score: the reference's log-probabilities on a batch, nats.
        folder: of the cache; the user's when None.

    Returns:
        For each group one array, one response after the other; 0 where a token is not scored.
    """
    path = (cache_folder() if folder is None else folder) / "reference" / f"{key}.f32"
    ends = np.cumsum([group.scored for group in groups])
    numbers: list[np.ndarray] = []
    proofs = np.zeros(0, np.uint32)

    def known() -> list[bool]:
        nonlocal proofs
        flat, proofs = open_numbers(path, int(ends[-1]), len(groups))
        numbers.extend(np.split(flat, ends[:-1]))
        return [
            checksum(part) == proof for part, proof in zip(numbers, proofs.tolist(), strict=True)
        ]

    # What one process has on its disk decides what all of them compute.
    there = from_first(known)
    if not all(there):
        for batch in batches:
            rows = [(b, row) for b, row in enumerate(np.asarray(batch.example)) if row >= 0]
            if all(there[row] for _, row in rows):
                continue
            values = score(batch)
            for b, row in rows if is_first() else ():
                responses = enumerate(groups[row].responses)
                numbers[row][:] = np.concatenate([values[b, n, : len(y)] for n, y in responses])
                proofs[row] = checksum(numbers[row])
    flat = from_first(lambda: np.concatenate(numbers))
    return np.split(flat, ends[:-1])


def checksum(numbers: np.ndarray) -> int:
    """What tells the numbers of a group from others."""
    return zlib.crc32(numbers.tobytes())


def open_numbers(
    path: Path, size: int, groups: int
) -> tuple[Float32[np.ndarray, " size"], UInt32[np.ndarray, " groups"]]:
    """The numbers in a file and a checksum for each group, written when they are changed.

    The file is made where it is absent: zeros, of which no checksum is 0. Two runs may fill it at
    once: they write the same numbers.
    """
    if not path.exists() or path.stat().st_size != 4 * (size + groups):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        np.zeros(size + groups, np.uint32).tofile(partial)
        os.replace(partial, path)
    words = np.memmap(path, np.uint32, "r+")
    return words[:size].view(np.float32), words[size:]
