"""Adapters in PEFT's format: the file as PEFT writes it, and nothing taken for what it is not."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm.checkpoints import load_adapter, load_decoder, save_adapter
from llm.mesh import make_mesh, sharding
from llm.model import Decoder, parameters, with_parameters
from llm.model.lora import LoRA, merge
from tests.llm.checkpoints.model_folders import (
    CONFIGS,
    HEADS,
    KEYS,
    LAYERS,
    C,
    D,
    F,
    random_tensors,
    write_folder,
)

RANK = 3
H0 = "base_model.model.model.layers.0."


def base(family: str, tmp_path: Path) -> str:
    return str(write_folder(tmp_path / "base", CONFIGS[family], random_tensors(family)))


def trained(folder: str, lora: LoRA) -> Decoder:
    """A decoder whose adapters are anything but what they start as."""
    decoder = load_decoder(folder, lora=lora)
    rng = np.random.default_rng(1)
    return with_parameters(
        decoder,
        {
            name: jnp.asarray(rng.normal(0, 0.3, value.shape), jnp.float32)
            for name, value in parameters(decoder).items()
            if "/lora_" in name
        },
    )


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("gpt2", ("query", "key", "value", "output", "up", "down")),
        ("gpt2", ("query", "value")),
        ("gpt_neox", ("key", "down")),
        ("llama", ("query", "key", "value", "output", "gate", "up", "down")),
    ],
)
def test_an_adapter_comes_back_bit_for_bit(
    family: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    folder = base(family, tmp_path)
    lora = LoRA(rank=RANK, alpha=5.0, targets=targets)
    decoder = trained(folder, lora)
    save_adapter(tmp_path / "adapter", decoder, lora, "someone/something")
    again, read = load_adapter(tmp_path / "adapter", load_decoder(folder))
    assert read == lora
    values = parameters(again)
    assert values.keys() == parameters(decoder).keys()
    for name, value in parameters(decoder).items():
        np.testing.assert_array_equal(values[name], value)


def test_the_file_is_the_one_that_peft_writes(tmp_path: Path) -> None:
    lora = LoRA(rank=RANK, alpha=5.0, targets=("query", "key", "output", "down"))
    decoder = trained(base("llama", tmp_path), lora)
    save_adapter(tmp_path / "adapter", decoder, lora, "someone/something")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(stored) == LAYERS * 4 * 2
    assert {name: value.shape for name, value in stored.items() if name.startswith(H0)} == {
        H0 + "self_attn.q_proj.lora_A.weight": (RANK, D),
        H0 + "self_attn.q_proj.lora_B.weight": (HEADS * C, RANK),
        H0 + "self_attn.k_proj.lora_A.weight": (RANK, D),
        H0 + "self_attn.k_proj.lora_B.weight": (KEYS * C, RANK),
        H0 + "self_attn.o_proj.lora_A.weight": (RANK, HEADS * C),
        H0 + "self_attn.o_proj.lora_B.weight": (D, RANK),
        H0 + "mlp.down_proj.lora_A.weight": (RANK, F),
        H0 + "mlp.down_proj.lora_B.weight": (D, RANK),
    }
    assert {value.dtype for value in stored.values()} == {np.dtype("float32")}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "someone/something",
        "r": RANK,
        "lora_alpha": 5.0,
        "target_modules": ["down_proj", "k_proj", "o_proj", "q_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_the_stored_matrices_are_the_correction_that_merging_adds(
    family: str, tmp_path: Path
) -> None:
    folder = base(family, tmp_path)
    lora = LoRA(rank=RANK, alpha=5.0, targets=("query", "value"))
    decoder = trained(folder, lora)
    save_adapter(tmp_path / "adapter", decoder, lora, "someone/something")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    layer = {
        "llama": H0 + "self_attn.q_proj",
        "gpt2": "base_model.model.transformer.h.0.attn.c_attn",
        "gpt_neox": "base_model.model.gpt_neox.layers.0.attention.query_key_value",
    }[family]
    module = layer.rsplit(".", 1)[-1]
    rank = config["rank_pattern"].get(module, config["r"])
    alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
    a, b = stored[layer + ".lora_A.weight"], stored[layer + ".lora_B.weight"]
    assert a.shape[0] == rank
    delta = alpha / rank * b @ a  # [out, in], as PEFT adds it
    path = "blocks/attention/query/kernel"
    query = parameters(merge(decoder))[path][0] - parameters(load_decoder(folder))[path][0]
    if family == "gpt_neox":
        delta = delta.reshape(HEADS, 3, C, D)[:, 0].reshape(D, D)
    np.testing.assert_allclose(delta[: HEADS * C].T.reshape(D, HEADS, C), query, atol=1e-6)


def foreign(tmp_path: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    """An adapter as others write it."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "bias": "none", **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def fused(rank: int = RANK) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    found = {}
    for layer in range(LAYERS):
        name = f"base_model.model.transformer.h.{layer}.attn.c_attn."
        found[name + "lora_A.weight"] = rng.normal(size=(rank, D)).astype(np.float32)
        found[name + "lora_B.weight"] = rng.normal(size=(3 * D, rank)).astype(np.float32)
    return found


def test_an_adapter_of_a_fused_matrix_becomes_three_that_start_alike(tmp_path: Path) -> None:
    tensors = fused()
    decoder, lora = load_adapter(foreign(tmp_path, tensors), load_decoder(base("gpt2", tmp_path)))
    assert lora == LoRA(rank=RANK, alpha=6.0, targets=("query", "key", "value"))
    values = parameters(decoder)
    name = "base_model.model.transformer.h.1.attn.c_attn."
    for part, target in enumerate(lora.targets):
        path = f"blocks/attention/{target}/lora_"
        np.testing.assert_array_equal(values[path + "a"][1], tensors[name + "lora_A.weight"].T)
        rows = tensors[name + "lora_B.weight"][part * D : (part + 1) * D]
        np.testing.assert_array_equal(values[path + "b"][1], rows.T.reshape(RANK, HEADS, C))


def test_an_adapter_goes_where_its_kernel_is(tmp_path: Path) -> None:
    mesh = make_mesh(jax.devices()[:1])
    decoder, _ = load_adapter(
        foreign(tmp_path, fused()), load_decoder(base("gpt2", tmp_path), mesh=mesh), mesh=mesh
    )
    for name, value in parameters(decoder).items():
        assert value.sharding == sharding(mesh, name, value.shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, r"use_dora is True, which is not implemented"),
        ({"peft_type": "IA3", "r": None}, r"peft_type is 'IA3'(.|\n)*r is None"),
        ({"bias": "all"}, r"bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"alpha_pattern": {"c_attn": 12}}, r"scaled by 12 / 3 and others by 6 / 3"),
        ({"r": 2}, r"have shapes \[3, 8\] and \[24, 3\], expected \[2, 8\] and \[24, 2\]"),
    ],
)
def test_an_adapter_that_computes_something_else_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = foreign(tmp_path, fused(), **changes)
    with pytest.raises(ValueError, match=message):
        load_adapter(folder, load_decoder(base("gpt2", tmp_path)))


def test_a_fused_adapter_of_three_times_the_rank_must_be_three_blocks(tmp_path: Path) -> None:
    folder = foreign(tmp_path, fused(3 * RANK), alpha_pattern={"c_attn": 18})
    with pytest.raises(ValueError, match=r"mixes the ranks of query, key and value"):
        load_adapter(folder, load_decoder(base("gpt2", tmp_path)))


def test_what_fits_nothing_is_listed_at_once(tmp_path: Path) -> None:
    tensors = fused()
    del tensors["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"]
    tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros((RANK, D), np.float32)
    folder = foreign(tmp_path, tensors)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        load_adapter(folder, load_decoder(base("gpt2", tmp_path)))
    assert "lm_head.lora_A.weight adapts nothing" in str(caught.value)
    assert "h.1.attn.c_attn.lora_B.weight adapts nothing" in str(caught.value)
    assert "blocks/attention/query/lora_a lacks layers [1]" in str(caught.value)


def test_a_pickled_adapter_is_never_opened(tmp_path: Path) -> None:
    folder = foreign(tmp_path, {})
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"holds no adapter_model\.safetensors"):
        load_adapter(folder, load_decoder(base("gpt2", tmp_path)))


def test_a_decoder_is_not_adapted_twice(tmp_path: Path) -> None:
    lora = LoRA(rank=RANK, targets=("query",))
    decoder = load_decoder(base("gpt2", tmp_path), lora=lora)
    with pytest.raises(ValueError, match=r"has adapters already: merge them"):
        load_adapter(foreign(tmp_path, fused()), decoder)


def test_the_lora_must_be_the_decoders(tmp_path: Path) -> None:
    decoder = load_decoder(base("gpt2", tmp_path), lora=LoRA(rank=RANK, targets=("query",)))
    with pytest.raises(ValueError, match=r"no adapter at blocks/attention/key/lora_a"):
        save_adapter(tmp_path / "out", decoder, LoRA(rank=RANK, targets=("key",)), "base")
