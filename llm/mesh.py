"""Where every array lives when there is more than one device.

A mesh lays the devices out on three axes. Along ``data`` everything but the batch is repeated;
along ``fsdp`` the batch is split too, but each parameter is cut up as well and gathered just before
it is used, which is how a model larger than one device trains; along ``tensor`` the matrices are
split so that one example is worked on by several devices at once. One table says which dimension of
which parameter goes to which axis, another the same of what is computed on the way, and nothing
else in the project decides that. The compiler inserts the communication.

Key to the axes of arrays: R rows, S positions of a row, J positions that are looked at, V
vocabulary, D width, L layers, H query heads, K key heads, C head width, F MLP width, r rank.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.mesh_utils import create_device_mesh
from jax.lax import with_sharding_constraint
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

T = TypeVar("T")

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
"""Axes that the rows of a batch are split over."""

# What a parameter's path ends with -> the axis of each of its dimensions. The first match counts;
# a path that none matches (norms, output biases, scalars) is repeated on every device.
PLACEMENT: tuple[tuple[str, PartitionSpec], ...] = (
    # [V D]: the vocabulary is what the log-prob primitive splits.
    (r"(embedding|head)/matrix", PartitionSpec("tensor", "fsdp")),
    (r"positions/matrix", PartitionSpec(None, "fsdp")),
    # [L D H C] and [L H C]: heads are independent until the output projection adds them up.
    (r"(query|key|value)/kernel", PartitionSpec(None, "fsdp", "tensor", None)),
    (r"(query|key|value)/bias", PartitionSpec(None, "tensor", None)),
    # [L H C D]
    (r"attention/output/kernel", PartitionSpec(None, "tensor", None, "fsdp")),
    # [L D F] and [L F], then [L F D]: one exchange per block, after the second matrix.
    (r"(gate|up)/kernel", PartitionSpec(None, "fsdp", "tensor")),
    (r"(gate|up)/bias", PartitionSpec(None, "tensor")),
    (r"down/kernel", PartitionSpec(None, "tensor", "fsdp")),
    # Adapters are cut like the kernel beside them; their rank [r] is too short to cut.
    (r"(query|key|value|gate|up)/lora_a", PartitionSpec(None, "fsdp", None)),
    (r"(query|key|value)/lora_b", PartitionSpec(None, None, "tensor", None)),
    (r"(gate|up)/lora_b", PartitionSpec(None, None, "tensor")),
    (r"attention/output/lora_a", PartitionSpec(None, "tensor", None, None)),
    (r"down/lora_a", PartitionSpec(None, "tensor", None)),
    (r"(output|down)/lora_b", PartitionSpec(None, None, "fsdp")),
)

Activation = Literal["hidden", "heads", "stack", "slots", "logits", "rows"]

# What is computed -> the axis of each of its dimensions; those that follow are whole.
ACTIVATIONS: dict[Activation, PartitionSpec] = {
    "hidden": PartitionSpec(ROWS),  # [R S D]
    "heads": PartitionSpec(ROWS, None, "tensor"),  # [R S H C]
    "stack": PartitionSpec(None, ROWS, "tensor"),  # [L R K J C], the cache of all layers
    "slots": PartitionSpec(ROWS, "tensor"),  # [R K C J], that of one
    "logits": PartitionSpec(ROWS),  # [R V]: a token is drawn where all of its row is seen
    "rows": PartitionSpec(ROWS),  # [R ...], whatever else belongs to a row
}

GATHERED = "gathered"
"""Name of a weight that was put together for a layer: the backward pass does so again."""


def make_mesh(
    devices: Sequence[Any] | None = None,
    data: int | None = None,
    fsdp: int | None = None,
    tensor: int = 1,
) -> Mesh:
    """Lay devices out on the axes data, fsdp and tensor.

    Args:
        devices: the devices to use; all of them, on every host, if None.
        data: how many copies of the parameters there are; what the other two leave over if None.
        fsdp: in how many pieces each copy is stored; with ``data`` None too it takes every device
            that ``tensor`` leaves, because memory is what runs out first.
        tensor: how many devices share the work on one example.

    Returns:
        A mesh whose axes the compiler fills in by itself (axis type Auto).

    Raises:
        ValueError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    given = {"data": data, "fsdp": fsdp, "tensor": tensor}
    for name, size in given.items():
        if size is not None and size < 1:
            raise ValueError(f"mesh: {name}={size} must be at least 1.")
    if data is None and fsdp is None:
        data = 1
    known = math.prod(size for size in (data, fsdp, tensor) if size is not None)
    rest = count // known
    sizes = (rest if data is None else data, rest if fsdp is None else fsdp, tensor)
    if math.prod(sizes) != count:
        asked = ", ".join(f"{name}={size}" for name, size in given.items() if size is not None)
        raise ValueError(
            f"mesh: {count} device{'s' * (count != 1)} cannot be laid out with {asked}. "
            "Choose data x fsdp x tensor equal to the number of devices, or leave data or fsdp out."
        )
    # An axis may take a part of a dimension of the torus: 32 of the chips of a slice of 4 x 8 x 8.
    grid = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def sharding(mesh: Mesh | AbstractMesh, path: str, shape: Sequence[int]) -> NamedSharding:
    """Where a parameter goes.

    Args:
        mesh: from ``make_mesh``; one without devices is enough for a plan.
        path: its '/'-joined path; a prefix is welcome, so an optimiser's moments are placed like
            the parameters they belong to.
        shape: its global shape. A dimension that its axis does not divide is left whole.

    Returns:
        The placement to give to ``jax.device_put`` or ``jax.jit``.
    """
    spec = next(
        (axes for ending, axes in PLACEMENT if re.search(rf"(^|/)({ending})$", path)),
        PartitionSpec(),
    )
    # A scalar beside a parameter, or a factored moment of it, is repeated.
    return fitting(mesh, spec if len(spec) == len(shape) else PartitionSpec(), shape)


def fitting(mesh: Mesh | AbstractMesh, spec: PartitionSpec, shape: Sequence[int]) -> NamedSharding:
    """A placement without the axes that do not divide their dimension."""

    def axes(size: int, wanted: Any) -> Any:
        kept: tuple[str, ...] = ()
        for name in (wanted,) if isinstance(wanted, str) else wanted or ():
            if size % math.prod(mesh.shape[axis] for axis in (*kept, name)) == 0:
                kept = (*kept, name)
        # An axis by itself is its name, so that equal placements look equal.
        return kept if len(kept) > 1 else next(iter(kept), None)

    return NamedSharding(mesh, PartitionSpec(*map(axes, shape, spec)))


def spread(mesh: Mesh | None, tree: T) -> T:
    """Keep parameters, and whatever is like them, where the table puts them; for use under jit.

    Args:
        mesh: from ``make_mesh``; without one nothing happens.
        tree: parameters by path, or a state that holds such and their moments.
    """
    if mesh is None:
        return tree

    def place(path: Any, x: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return with_sharding_constraint(x, sharding(mesh, name, x.shape))

    return jax.tree_util.tree_map_with_path(place, tree)


def placed(mesh: Mesh | None, x: Array, what: Activation) -> Array:
    """Keep something that is computed where the table puts it; for use under jit.

    Args:
        mesh: from ``make_mesh``; without one nothing happens.
        x: a dimension that its axes do not divide stays whole.
        what: its line of the table.
    """
    if mesh is None:
        return x
    return with_sharding_constraint(x, fitting(mesh, ACTIVATIONS[what], x.shape))


def whole(mesh: Mesh | AbstractMesh, path: str, shape: Sequence[int]) -> NamedSharding:
    """Where a parameter is used: as it is kept, but put together along ``fsdp``.

    Args:
        mesh: from ``make_mesh``.
        path: of the parameter.
        shape: its global shape.
    """
    spec = sharding(mesh, path, shape).spec
    return NamedSharding(mesh, PartitionSpec(*(None if a == "fsdp" else a for a in spec)))


def gathered(mesh: Mesh | None, path: str, x: Array, *, layer: bool = False) -> Array:
    """A parameter as arithmetic needs it, put together along ``fsdp``; for use under jit.

    The way back is the other way round: each device gets its own piece of the gradient, summed
    over all. The result is named, so that a layer need not keep it for its backward pass.

    Args:
        mesh: from ``make_mesh``; without one, or with a single device along ``fsdp``, nothing
            happens.
        path: of the parameter.
        x: the parameter, in whatever dtype it is needed.
        layer: whether it is that of one layer, without the axis of the stack.
    """
    if mesh is None or mesh.shape["fsdp"] == 1:
        return x
    shape = (1, *x.shape) if layer else x.shape
    kept, used = (find(mesh, path, shape) for find in (sharding, whole))
    if kept.spec == used.spec:
        return x
    if layer:
        kept, used = (NamedSharding(mesh, PartitionSpec(*at.spec[1:])) for at in (kept, used))
    return checkpoint_name(moved(x, kept, used), GATHERED)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def moved(x: Array, kept: NamedSharding, used: NamedSharding) -> Array:
    """An array from where it is kept to where it is used, and its gradient back."""
    return with_sharding_constraint(x, used)


moved.defvjp(
    lambda x, kept, used: (with_sharding_constraint(x, used), None),
    lambda kept, used, _, g: (with_sharding_constraint(g, kept),),
)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch goes: its first axis is split over data and fsdp, the rest is whole."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def repeated(mesh: Mesh | None) -> NamedSharding | None:
    """Where a number goes that every device needs; None, without a mesh, for where JAX puts it."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def describe(mesh: Mesh) -> str:
    """One line for the console, e.g. ``8 x cpu: data 2, fsdp 2, tensor 2``."""
    kind = mesh.devices.flat[0].device_kind
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return f"{mesh.size} x {kind}: {axes}"
