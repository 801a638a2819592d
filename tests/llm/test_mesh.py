"""Placement: the table covers the parameters, uneven axes stay whole, and devices read shards."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, PartitionSpec

from llm.mesh import AXES, PLACEMENT, batch_sharding, describe, make_mesh, sharding
from llm.model import abstract_decoder
from llm.model.architecture import architecture_from_config
from llm.model.lora import TARGETS, LoRA
from tests.llm.checkpoints.model_folders import CONFIGS, random_tensors, write_folder
from tests.simulated import on_devices


def fake(data: int, fsdp: int, tensor: int) -> jax.sharding.AbstractMesh:
    """A mesh of more devices than there are, for the table alone."""
    return jax.sharding.AbstractMesh((data, fsdp, tensor), AXES)


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    architecture = architecture_from_config(CONFIGS[family])
    targets = tuple(t for t in TARGETS if t != "gate" or architecture.gated_mlp)
    decoder = abstract_decoder(architecture, lora=LoRA(rank=3, targets=targets))
    return {
        "/".join(map(str, path)): leaf.get_value().shape
        for path, leaf in nnx.to_flat_state(nnx.state(decoder, nnx.Param))
    }


def test_one_device_is_a_mesh_too() -> None:
    mesh = make_mesh(jax.devices()[:1])
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert describe(mesh) == "1 x cpu: data 1, fsdp 1, tensor 1"


def test_sizes_that_do_not_fit_the_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 device cannot be laid out with fsdp=2, tensor=1"):
        make_mesh(jax.devices()[:1], fsdp=2)
    with pytest.raises(ValueError, match=r"tensor=0 must be at least 1"):
        make_mesh(jax.devices()[:1], tensor=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_matrix_is_split_and_fits_its_line_of_the_table(family: str) -> None:
    mesh = fake(2, 2, 2)
    for path, shape in shapes(family).items():
        spec = sharding(mesh, path, shape).spec
        assert len(spec) in (0, len(shape)), path
        if path.endswith(("kernel", "matrix")):
            assert "fsdp" in spec, path
        if path.endswith("scale"):
            assert spec == PartitionSpec(), path


def test_every_line_of_the_table_is_used() -> None:
    paths = {path for family in CONFIGS for path in shapes(family)}
    for ending, _ in PLACEMENT:
        assert any(re.search(f"{ending}$", path) for path in paths), ending


def test_an_axis_that_does_not_divide_stays_whole() -> None:
    kernel = "blocks/attention/query/kernel"
    assert sharding(fake(1, 2, 4), kernel, (2, 8, 4, 2)).spec == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert sharding(fake(1, 3, 4), kernel, (2, 8, 4, 2)).spec == PartitionSpec(
        None, None, "tensor", None
    )
    assert sharding(fake(1, 2, 8), kernel, (2, 8, 4, 2)).spec == PartitionSpec(
        None, "fsdp", None, None
    )


def test_the_optimizer_follows_its_parameters() -> None:
    mesh = fake(1, 2, 2)
    moment = sharding(mesh, "optimizer/0/mu/blocks/mlp/up/kernel", (2, 8, 12))
    assert moment.spec == sharding(mesh, "blocks/mlp/up/kernel", (2, 8, 12)).spec
    assert sharding(mesh, "optimizer/0/v_row/blocks/mlp/up/kernel", (2, 8)).spec == PartitionSpec()
    assert sharding(mesh, "optimizer/0/count", ()).spec == PartitionSpec()


def test_a_batch_is_split_over_data_and_fsdp() -> None:
    mesh: Mesh = make_mesh(jax.devices()[:1])
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))


PROGRAM = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from llm.checkpoints import load_decoder, read_config, save_model
from llm.checkpoints import folders
from llm.model.lora import LoRA
from llm.mesh import describe, make_mesh, sharding
from llm.model import parameters

read = []
whole = folders.Stored.read
def counted(self, ranges=()):
    block = whole(self, ranges)
    read.append(block.nbytes)
    return block
folders.Stored.read = counted

source, out = Path(sys.argv[1]), Path(sys.argv[2])
plain = parameters(load_decoder(str(source)))
bytes_once = sum(read)
read.clear()
mesh = make_mesh(data=2, tensor=2)
decoder = load_decoder(str(source), mesh=mesh)
values = parameters(decoder)
report = {
    "mesh": describe(mesh),
    "ratio": sum(read) / bytes_once,
    "equal": all(np.array_equal(plain[name], values[name]) for name in plain),
    "placed": all(v.sharding == sharding(mesh, name, v.shape) for name, v in values.items()),
    "query": values["blocks/attention/query/kernel"].addressable_shards[0].data.shape,
}
with jax.transfer_guard("disallow"):
    save_model(out, decoder, config=read_config(source), source=source)
adapted = parameters(load_decoder(str(source), mesh=mesh, lora=LoRA(rank=2)))
name = "blocks/attention/query/lora_a"
report["adapter"] = adapted[name].sharding == sharding(mesh, name, adapted[name].shape)
print(json.dumps(report))
"""


@pytest.mark.parametrize("family", ["gpt_neox", pytest.param("llama", marks=pytest.mark.slow)])
def test_eight_devices_read_their_shards_and_write_the_same_file(
    family: str, tmp_path: Path
) -> None:
    stored = random_tensors(family)
    source = write_folder(tmp_path / "in", CONFIGS[family], stored, files=2)
    done = on_devices(8, "-c", PROGRAM, str(source), str(tmp_path / "out"), timeout=240)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["mesh"] == "8 x cpu: data 2, fsdp 2, tensor 2"
    assert report["equal"] and report["placed"] and report["adapter"]
    assert report["query"] == [2, 4, 2, 2]
    # Copies along `data` share one reading, and a shard is read without the rest of its tensor.
    assert report["ratio"] == pytest.approx(1.0)
    from safetensors.numpy import load_file

    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == stored.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(written[name], value)
