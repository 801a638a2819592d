"""A model spread over devices is the model: losses, gradients, places and responses agree."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from llm.mesh import AXES, fitting, placed, spread, whole
from tests.llm.on_meshes import CASES, FEW, MESHES
from tests.llm.test_mesh import fake

ROOT = Path(__file__).resolve().parents[2]

GRADIENT = 1e-4
"""Of the largest number of an array: what another order of additions may change in a gradient."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What every mesh found, by mesh and case."""
    path = tmp_path_factory.mktemp("meshes") / "found.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tests.llm.on_meshes", str(path)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # The compiler says so where it can only move an array by putting all of it on every device.
    assert "rematerialization" not in done.stderr, done.stderr[-3000:]
    by: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            mesh, case, name = key.split(":")
            by.setdefault(f"{mesh}:{case}", {})[name.replace("|", "/")] = stored[key]
    return by


TRIED = [(m, c) for m in MESHES for c in CASES if m != "one" and (c == "dpo" or m in FEW)]


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "case"), TRIED)
def test_any_mesh_learns_and_writes_what_one_device_does(found, mesh: str, case: str) -> None:
    ours, alone = found[f"{mesh}:{case}"], found[f"one:{case}"]
    assert ours.keys() == alone.keys()
    for name, value in alone.items():
        if name == "written/tokens":
            np.testing.assert_array_equal(ours[name], value)
            continue
        if name.startswith("written/"):
            np.testing.assert_allclose(ours[name], value, atol=1e-5)
            continue
        # The first step of Adam turns the rounding of a small gradient into a step of full size.
        tolerance = GRADIENT if name.startswith("0/") else 10 * GRADIENT
        np.testing.assert_allclose(
            ours[name], value, atol=tolerance * max(float(np.abs(value).max()), 1e-3), err_msg=name
        )


@pytest.mark.slow
def test_the_policy_wrote_something_worth_comparing(found) -> None:
    tokens = found["one:dpo"]["written/tokens"]
    assert len(tokens) > 200 and len(np.unique(tokens)) > 50


def test_an_axis_is_left_out_where_it_does_not_divide() -> None:
    mesh = fake(2, 2, 4)
    rows = PartitionSpec(("data", "fsdp"), "tensor")
    assert fitting(mesh, rows, (8, 8)).spec == rows
    assert fitting(mesh, rows, (6, 6)).spec == PartitionSpec("data", None)
    assert fitting(mesh, rows, (3, 4)).spec == PartitionSpec(None, "tensor")
    assert fitting(fake(4, 2, 1), rows, (6, 1)).spec == PartitionSpec("fsdp", "tensor")


def test_a_weight_in_use_is_kept_in_pieces_along_tensor_alone() -> None:
    mesh = fake(1, 2, 2)
    path, shape = "blocks/mlp/up/kernel", (2, 8, 12)
    assert whole(mesh, path, shape).spec == PartitionSpec(None, None, "tensor")
    assert mesh.axis_names == AXES


def test_without_a_mesh_nothing_is_placed() -> None:
    x = jnp.zeros((2, 2))
    assert placed(None, x, "hidden") is x
    assert spread(None, {"a": x})["a"] is x
