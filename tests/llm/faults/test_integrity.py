"""Every bit of an array counts, its place too, and where its pieces lie does not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.integrity import Damaged, check, checksums, digest
from tests.simulated import on_devices

KINDS = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "bool")


def made(kind: str, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    """Numbers of a kind with all sorts of bits."""
    rng = np.random.default_rng(0)
    if kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    size = jnp.dtype(kind).itemsize
    words = rng.integers(0, 2 ** (8 * size), shape, dtype=np.uint64)
    return words.astype(f"uint{8 * size}").view(jnp.dtype(kind))


def number(values: np.ndarray) -> str:
    return checksums({"it": jnp.asarray(values)})["it"]


def other_bits(values: np.ndarray) -> np.ndarray:
    """The same with one bit of one number changed, for every bit of every number."""
    if values.dtype == bool:
        return values ^ np.eye(values.size, dtype=bool).reshape(-1, *values.shape)
    bits = 8 * values.itemsize
    words = values.reshape(-1).view(f"uint{bits}")
    flips = (np.uint64(1) << np.arange(bits, dtype=np.uint64)).astype(words.dtype)
    changed = words ^ np.kron(np.eye(values.size, dtype=words.dtype), flips[:, None])
    return changed.view(values.dtype).reshape(-1, *values.shape)


def assert_every_bit_counts(values: np.ndarray) -> None:
    changed = other_bits(values)
    assert len(changed) == values.size * (1 if values.dtype == bool else 8 * values.itemsize)
    found = np.asarray(jax.jit(jax.vmap(digest))(changed))
    assert int(number(values), 16) not in found.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_can_change_without_a_trace(kind):
    assert_every_bit_counts(made(kind))


def test_nor_can_a_bit_of_a_number_of_eight_bytes(x64):
    for kind in ("float64", "int64"):
        assert_every_bit_counts(made(kind, (2, 2)))


def test_numbers_that_are_equal_and_not_the_same_are_told_apart():
    assert number(np.float32([0.0])) != number(np.float32([-0.0]))
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert number(np.array([quiet])) != number(np.array([other]))


def test_numbers_cannot_trade_places():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = {number(np.flip(values, axis)) for axis in range(3)} | {number(values)}
    assert len(found) == 4


def test_a_scalar_and_an_array_without_numbers_have_one_too():
    found = checksums({"scalar": jnp.ones((), jnp.int32), "empty": jnp.zeros((0, 3))})
    assert set(found) == {"scalar", "empty"} and found["empty"] == "00000000"
    assert checksums({}) == {}


def test_what_is_not_what_was_saved_is_named():
    arrays = {"a": jnp.ones(3), "b": jnp.zeros(3), "c": jnp.ones(2)}
    saved = checksums(arrays)
    check(arrays, saved)
    check({"b": arrays["b"]}, saved)
    with pytest.raises(Damaged, match=r"^b is not what was saved$"):
        check(arrays | {"b": jnp.zeros(3).at[1].set(1)}, saved)
    with pytest.raises(Damaged, match=r"^a and 2 more"):
        check(arrays, {})


def test_training_may_ask_for_them():
    arrays = {"a": jnp.ones(3), "half": jnp.ones((2, 2), jnp.bfloat16)}
    with jax.transfer_guard("disallow"):
        first = checksums(arrays)
        assert checksums(arrays) == first


SPREAD = """
import json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from llm.integrity import checksums
from llm.mesh import make_mesh
from tests.llm.faults.test_integrity import KINDS, made

values = {kind: made(kind, (4, 8, 6)) for kind in KINDS} | {"step": np.int32(3)}
found = [checksums(jax.device_put(values))]
for sizes in ({"data": 4}, {"fsdp": 4}, {"fsdp": 2, "tensor": 2}):
    mesh = make_mesh(**sizes)
    for spec in ((), ("fsdp",), (None, "fsdp"), ("tensor", ("data", "fsdp")), ("fsdp", "tensor")):
        placed = {
            name: jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec[: value.ndim])))
            for name, value in values.items()
        }
        with jax.transfer_guard("disallow"):
            found.append(checksums(placed))
print(json.dumps(found))
"""


def test_how_arrays_are_spread_over_devices_changes_nothing():
    done = on_devices(4, "-c", SPREAD, timeout=120)
    first, *others = json.loads(done.stdout.splitlines()[-1])
    assert len(others) == 15 and all(other == first for other in others)
