"""How a checkpoint proves that it is what was saved.

Between the arrays of a run and the arrays of its continuation lie a copy to the host, a compressor,
a disk and all of it again, and of a bit that falls over on the way the file formats notice little.
So every array leaves with a number that only it has: a sum of its words, each mixed with its place
in the array. Integers add up in any order alike, so the sum is the same on one device and on a
thousand, however the array is cut; each device reads its own part where it lies. The numbers travel
in the description of the checkpoint, and after a restore the devices compute them again.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

CHECKSUMS = "checksums"
"""Where the description of a checkpoint has them: a number in hexadecimal for each array's name."""


class Damaged(Exception):
    """A checkpoint that is not what was saved; says in what."""


def checksums(arrays: Mapping[str, Array]) -> dict[str, str]:
    """A number for each array that changes with any of its bits, and with their order.

    Args:
        arrays: by name; sharded in any way, over any number of hosts.

    Returns:
        By name, 32 bits in hexadecimal; equal on every host, and under any sharding.
    """
    compute = program(everywhere(arrays))
    # Training forbids transfers that nobody asked for; this one is of four bytes for each array.
    with jax.transfer_guard("allow"):
        found = jax.device_get({name: compute(arrays[name]) for name in sorted(arrays)})
    return {name: f"{int(number):08x}" for name, number in found.items()}


@cache
def program(placed: NamedSharding | None) -> Callable[[Array], Array]:
    """Computes the number of one array, and places it.

    Not of all at once, because on a CPU the mixed words of an array take the room of that array.
    """
    return jax.jit(digest, out_shardings=placed)


def everywhere(arrays: Mapping[str, Array]) -> NamedSharding | None:
    """Whole on every device of the arrays' mesh, where each host can read it; None without one."""
    shardings = (array.sharding for array in arrays.values())
    meshes = (placed.mesh for placed in shardings if isinstance(placed, NamedSharding))
    mesh = next(meshes, None)
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def digest(array: Array) -> UInt32[Array, ""]:
    """A sum over the words of an array: one that changes changes the sum, whatever it was."""
    words = words_of(array)
    # Every step is one to one for the word at a place, so no change of a single word is lost;
    # that words at different places trade places, or change together, is seen but for chance.
    mixed = words * np.uint32(0x9E3779B1) + places(words.shape) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x21F0AAAD)
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0x735A2D97)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)


def words_of(array: Array) -> UInt32[Array, "*shape"]:
    """The bits of an array, as they are, in words of 32 or filled up to them."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)


def places(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """The place of every word in the whole array, modulo 2^32.

    Made of the axes and not by flattening, because flattening a sharded array would gather it.
    """
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = place + along * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return place


def described(path: Path) -> dict[str, str] | None:
    """The checksums that were saved with a checkpoint.

    Args:
        path: the folder of the checkpoint.

    Returns:
        By name; None for a checkpoint of a version that saved none.

    Raises:
        Damaged: if its description cannot be read.
    """
    from orbax.checkpoint import v1 as ocp

    found = ocp.checkpointables_metadata(str(path.resolve()))
    # Orbax describes what it cannot read as if it were empty, but for the time.
    if found.init_timestamp_nsecs is None:
        raise Damaged("its description cannot be read")
    about: Any = found.custom_metadata or {}
    if about and (about.keys() != {CHECKSUMS} or not isinstance(about[CHECKSUMS], dict)):
        raise Damaged("its description is not one that was written")
    return about.get(CHECKSUMS)


def check(arrays: Mapping[str, Array], saved: Mapping[str, str]) -> None:
    """Make sure that restored arrays are, bit for bit, those that were saved.

    Args:
        arrays: by name; all that a checkpoint holds, or some of it.
        saved: as ``described``.

    Raises:
        Damaged: if one is not; names it.
    """
    found = checksums(arrays)
    wrong = [name for name, number in found.items() if saved.get(name) != number]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise Damaged(f"{wrong[0]}{more} is not what was saved")
