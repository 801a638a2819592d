"""Arrays whose pieces lie on the devices of several hosts, and their way to and from NumPy.

With one process every function here is a plain ``jax.device_put`` or ``jax.device_get``.
"""

from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from llm.mesh import repeated

T = TypeVar("T")


def fetch(tree: Any) -> Any:
    """A tree of arrays as NumPy, whole, on every process.

    Every process must ask for the same arrays at the same point, because what lies on other hosts
    is sent here: the arrays are repeated on every device first, so ask for large ones one by one.

    Args:
        tree: of JAX arrays or of anything that NumPy takes.

    Returns:
        The same numbers, bit for bit the same everywhere.
    """
    leaves, structure = jax.tree.flatten(tree)
    far = [place for place, leaf in enumerate(leaves) if is_far(leaf)]
    if far:
        found = whole([leaves[place] for place in far])
        for place, leaf in zip(far, found, strict=True):
            leaves[place] = leaf
    return jax.tree.unflatten(structure, jax.device_get(leaves))


def is_far(leaf: Any) -> bool:
    """Whether a part of an array can be read on another host only."""
    return (
        isinstance(leaf, jax.Array)
        and not leaf.is_fully_addressable
        and not leaf.is_fully_replicated
    )


def whole(leaves: list[jax.Array]) -> list[Any]:
    """Arrays of which every device has all; one program sends the parts of all of them."""
    meshes = {leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)}
    if len(meshes) == 1 and all(isinstance(leaf.sharding, NamedSharding) for leaf in leaves):
        return list(repeater(meshes.pop())(leaves))
    # A placement that the compiler chose has no mesh to name.
    with jax.transfer_guard("allow"):
        return [multihost_utils.process_allgather(leaf, tiled=True) for leaf in leaves]


def same(values: Any) -> Any:
    """The identity: what a program does that only moves numbers."""
    return values


@cache
def repeater(mesh: Mesh) -> Any:
    """A program that puts arrays whole on every device of a mesh."""
    return jax.jit(same, out_shardings=NamedSharding(mesh, PartitionSpec()))


def spread(tree: T, sharding: Sharding | None) -> T:
    """Arrays of which every host holds all it needs, on the devices.

    Args:
        tree: of NumPy arrays in their whole shape. Only the parts that the devices of this process
            hold are read; the rest need not be filled in.
        sharding: where they go; any device when None.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def placed(leaf: Any) -> jax.Array:
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    # Where transfers are forbidden that nobody asked for, these are what is asked for.
    with jax.transfer_guard("allow"):
        return jax.tree.map(placed, tree)


def repeat(tree: T, mesh: Mesh | None) -> T:
    """Small values that every process has, on every device.

    Args:
        tree: numbers or arrays, the same on every process. Python's numbers stay as weakly typed as
            they are.
        mesh: the devices; None for one.
    """
    if mesh is None or not is_across(mesh):
        return jax.device_put(tree, repeated(mesh))
    if all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)):
        return spread(tree, repeated(mesh))
    with jax.transfer_guard("allow"):
        return repeater(mesh)(tree)


def is_across(mesh: Mesh) -> bool:
    """Whether a mesh has devices of more than one process."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


class Vote:
    """The largest number that any process has called, known to all of them one call later.

    The numbers meet on the devices behind whatever these are busy with, and the answer is read when
    the next is asked for, so that no device ever waits for it. Every process must call alike.
    """

    def __init__(self) -> None:
        devices = np.array(jax.devices())
        self.alone = len({device.process_index for device in devices}) == 1
        if not self.alone:
            mesh = Mesh(devices, ("device",))
            self.places = NamedSharding(mesh, PartitionSpec("device"))
            everywhere = NamedSharding(mesh, PartitionSpec())
            self.largest = jax.jit(jnp.max, out_shardings=everywhere)
            self.size = len(devices)
            self.called: jax.Array | None = None

    def __call__(self, number: int) -> int:
        """Call a number, 0 for none; with one process it is the answer.

        Returns:
            The largest number of the call before.
        """
        if self.alone:
            return number
        before = self.called
        self.called = self.largest(spread(np.full(self.size, number, np.int32), self.places))
        return 0 if before is None else int(jax.device_get(before))
