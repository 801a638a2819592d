"""A model spread over devices is the model: losses, gradients, places and responses agree."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from filelock import FileLock
from jax.sharding import PartitionSpec

from llm.journal import METRICS, read_lines
from llm.mesh import AXES, fitting, placed, spread, whole
from tests.llm.on_meshes import CASES, FEW, MESHES
from tests.llm.test_mesh import fake
from tests.llm.tiny_runs import pairs, write_model, write_rows
from tests.simulated import on_devices

GRADIENT = 1e-4
"""Of the largest number of an array: what another order of additions may change in a gradient."""


def find(path: Path) -> None:
    """Run every case on every mesh, on eight devices; what it costs is compilation."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = on_devices(8, "-m", "tests.llm.on_meshes", str(path), timeout=1200, told=quick)
    # The compiler says so where it can only move an array by putting all of it on every device.
    assert "rematerialization" not in done.stderr, done.stderr[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What every mesh found, by mesh and case."""
    # Workers of one run share what takes minutes to find.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    path = tmp_path_factory.getbasetemp().parent / f"meshes-{run}.npz"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            find(path)
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


def run(place: Path, out: str, devices: int, recipe: str, *flags: str) -> list[dict[str, Any]]:
    """The lines of a small run on so many devices."""
    line = ["train", recipe, "--model", str(place / "model"), "--data", str(place / "pairs.jsonl")]
    line += ["--out", str(place / out), "--batch", "8", "--steps", "4", "--packing.shapes", "1"]
    line += ["--optimizer.learning-rate", "3e-3", *flags]
    on_devices(devices, "-m", "modeseek", *line)
    return read_lines(place / out / METRICS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        pytest.param("kto", (), marks=pytest.mark.exhaustive),
        ("dpo", ("--adapters.rank", "2", "--reference", "model")),
        pytest.param("reward_model", (), marks=pytest.mark.exhaustive),
        ("ppo", ("--reward", "min-length", "--sampling.max-new-tokens", "12")),
        pytest.param(
            "grpo",
            ("--reward", "min-length", "--sampling.max-new-tokens", "12"),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_a_run_on_eight_devices_has_the_numbers_of_a_run_on_one(
    tmp_path: Path, recipe: str, flags: tuple[str, ...]
) -> None:
    write_model(tmp_path / "model", num_key_value_heads=2, num_hidden_layers=2)
    write_rows(tmp_path / "pairs.jsonl", pairs())
    alone = run(tmp_path, "alone", 1, recipe, *flags)
    mesh = ("--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")
    spread_out = run(tmp_path, "spread", 8, recipe, *flags, *mesh)
    assert len(alone) == len(spread_out) > 4
    for one, other in zip(alone, spread_out, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # Before the first step the sign of a margin is that of a rounding error.
            if name not in ("clock", "kind") and not (name == "accuracy" and one["step"] < 2):
                assert other[name] == pytest.approx(value, rel=2e-3, abs=2e-4), (one, name)


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
