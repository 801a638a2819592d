"""Where every array lives when there is more than one device.

A mesh lays the devices out on three axes. Along ``data`` everything but the batch is repeated;
along ``fsdp`` the batch is split too, but each parameter is cut up as well and gathered just before
it is used, which is how a model larger than one device trains; along ``tensor`` the matrices are
split so that one example is worked on by several devices at once. One table says which dimension of
which parameter goes to which axis, and nothing else in the project decides that. The compiler
inserts the communication.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

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
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


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
    if len(spec) != len(shape):
        spec = PartitionSpec()  # a scalar beside a parameter, or a factored moment of it
    return NamedSharding(
        mesh,
        PartitionSpec(
            *(
                axis if axis is not None and size % mesh.shape[axis] == 0 else None
                for size, axis in zip(shape, spec, strict=False)
            )
        ),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch goes: its first axis is split over data and fsdp, the rest is whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def describe(mesh: Mesh) -> str:
    """One line for the console, e.g. ``8 x cpu: data 2, fsdp 2, tensor 2``."""
    kind = mesh.devices.flat[0].device_kind
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return f"{mesh.size} x {kind}: {axes}"
