"""Writing model folders: the source's own bits, nothing half-written, nothing lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from llm.checkpoints import load_decoder, read_config, save_model
from llm.checkpoints.write import fresh_folder
from llm.model import Decoder, parameters, with_parameters
from llm.model.lora import LoRA
from tests.llm.checkpoints.model_folders import CONFIGS, D, V, random_tensors, write_folder

FAMILIES = tuple(CONFIGS)


def export(source: Path, out: Path, **options: Any) -> dict[str, np.ndarray]:
    save_model(out, load_decoder(str(source)), config=read_config(source), source=source, **options)
    return load_file(out / "model.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "in", CONFIGS["llama"], random_tensors("llama"))


@pytest.fixture
def decoder(source: Path) -> Decoder:
    return load_decoder(str(source))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_comes_back_bit_for_bit(family: str, dtype: str, tmp_path: Path) -> None:
    stored = random_tensors(family, dtype)
    source = write_folder(tmp_path / "in", CONFIGS[family], stored)
    written = export(source, tmp_path / "out")
    assert written.keys() == stored.keys()
    for name, value in stored.items():
        assert written[name].dtype == value.dtype
        assert written[name].tobytes() == value.tobytes(), name


def test_what_old_checkpoints_hold_beside_the_weights_is_kept(tmp_path: Path) -> None:
    stored = {
        name.removeprefix("transformer."): value for name, value in random_tensors("gpt2").items()
    }
    stored["h.0.attn.bias"] = np.tril(np.ones((1, 1, 4, 4), np.bool_))
    stored["h.1.attn.masked_bias"] = np.array(-1e4, np.float32)
    stored["lm_head.weight"] = stored["wte.weight"].copy()
    stored["ln_f.bias"] = stored["ln_f.bias"].astype(np.float16)  # a dtype of its own
    written = export(write_folder(tmp_path / "in", CONFIGS["gpt2"], stored), tmp_path / "out")
    assert written.keys() == stored.keys()
    for name, value in stored.items():
        assert written[name].dtype == value.dtype
        np.testing.assert_array_equal(written[name], value)


def test_a_changed_weight_is_what_is_written(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    path = "blocks/attention/output/kernel"
    changed = with_parameters(decoder, {path: parameters(decoder)[path] + 1})
    save_model(tmp_path / "out", changed, config=read_config(source), source=source)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out")
    )
    for name in before:
        np.testing.assert_array_equal(after[name], before[name] + ("o_proj" in name))


def test_shards_stay_below_their_size_and_the_index_knows_them(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = read_config(source)
    save_model(out, decoder, config=config, source=source, max_shard_bytes=1000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    before = load_file(source / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in before.values())
    assert index["weight_map"].keys() == before.keys()
    files = sorted(set(index["weight_map"].values()))
    assert files == sorted(file.name for file in out.glob("*.safetensors"))
    assert files[-1].endswith(f"-of-{len(files):05d}.safetensors") and len(files) > 2
    for file in files:
        part = load_file(out / file)
        assert sum(value.nbytes for value in part.values()) <= 1000 or len(part) == 1
        for name, value in part.items():
            assert index["weight_map"][name] == file
            np.testing.assert_array_equal(value, before[name])
    again = parameters(load_decoder(str(out)))
    for name, value in parameters(decoder).items():
        np.testing.assert_array_equal(again[name], value)


def test_the_format_is_the_one_that_transformers_expects(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    save_model(tmp_path / "out", decoder, config=read_config(source), source=source)
    file = tmp_path / "out" / "model.safetensors"
    with safe_open(file, framework="numpy") as stream:
        assert stream.metadata() == {"format": "pt"}
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0  # so that every tensor is aligned in memory
    assert sum(end - start for start, end in offsets(header)) == len(raw) - 8 - length


def offsets(header: dict[str, Any]) -> list[list[int]]:
    return [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]


def test_a_dtype_asked_for_is_in_the_file_and_in_the_configuration(tmp_path: Path) -> None:
    config = {**CONFIGS["gpt2"], "n_ctx": 16, "task_specific_params": {"é": 1.0}}
    source = write_folder(tmp_path / "in", config, random_tensors("gpt2"))
    kept = export(source, tmp_path / "kept")
    assert {value.dtype for value in kept.values()} == {np.dtype("float32")}
    assert read_config(tmp_path / "kept") == config
    halved = export(source, tmp_path / "halved", dtype=jnp.bfloat16)
    assert {value.dtype for value in halved.values()} == {jnp.dtype("bfloat16")}
    assert read_config(tmp_path / "halved") == {**config, "torch_dtype": "bfloat16"}
    assert list(read_config(tmp_path / "halved")) == list(config)
    with pytest.raises(ValueError, match=r"dtype=int8 is not one that checkpoints are written in"):
        export(source, tmp_path / "no", dtype=jnp.int8)


def test_a_model_from_nowhere_is_written_as_it_is_held(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    held = with_parameters(
        decoder, {name: value.astype(jnp.bfloat16) for name, value in parameters(decoder).items()}
    )
    save_model(tmp_path / "out", held, config=read_config(source))
    assert read_config(tmp_path / "out")["dtype"] == "bfloat16"
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {jnp.dtype("bfloat16")}


def test_companions_travel_and_weights_of_other_formats_do_not(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    travelling = ("generation_config.json", "tokenizer.json", "chat_template.jinja", "LICENSE")
    for name in (*travelling, "pytorch_model.bin", "training_args.json", "notes.md"):
        (source / name).write_text(name)
    save_model(tmp_path / "out", decoder, config=read_config(source), source=source)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        *travelling,
    }
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "tokenizer.json"


class Given:
    """A tokenizer that is given, and may fail."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def save_pretrained(self, save_directory: str) -> None:
        (Path(save_directory) / "tokenizer.json").write_text("given")
        if self.error is not None:
            raise self.error


def test_a_tokenizer_that_is_given_replaces_the_sources(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    (source / "tokenizer.json").write_text("source's")
    (source / "tokenizer.model").write_text("source's")
    out = tmp_path / "out"
    save_model(out, decoder, config=read_config(source), source=source, tokenizer=Given())
    assert (out / "tokenizer.json").read_text() == "given"
    assert not (out / "tokenizer.model").exists()


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_half_written_export_is_never_found(
    error: BaseException, source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    config = read_config(source)
    with pytest.raises(type(error)):
        save_model(out, decoder, config=config, tokenizer=Given(error))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    save_model(out, decoder, config=config)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(type(error)):
        save_model(out, decoder, config=config, tokenizer=Given(error), overwrite=True)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_what_a_killed_export_left_behind_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".out.unfinished"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    with fresh_folder(tmp_path / "out", 0, overwrite=False) as folder:
        assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_in_it_is_replaced_only_on_request(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    config = read_config(source)
    with pytest.raises(ValueError, match=r"out is not empty: choose another folder"):
        save_model(out, decoder, config=config)
    with pytest.raises(ValueError, match=r"config\.json is a file: give a folder"):
        save_model(source / "config.json", decoder, config=config)
    save_model(out, decoder, config=config, overwrite=True)
    assert {file.name for file in out.iterdir()} == {"config.json", "model.safetensors"}


def test_a_disk_without_room_is_refused_before_anything_is_written(
    source: Path, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"needs 0\.00 GB and the disk has 0\.00 GB left"):
        save_model(tmp_path / "out", decoder, config=read_config(source))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_decoder_with_adapters_is_not_a_model_folder(source: Path, tmp_path: Path) -> None:
    adapted = load_decoder(str(source), lora=LoRA(rank=2, targets=("query",)))
    with pytest.raises(ValueError, match=r"query/lora_a and 1 more.*merge them first"):
        save_model(tmp_path / "out", adapted, config=read_config(source))


def test_a_configuration_of_another_model_is_refused(
    source: Path, decoder: Decoder, tmp_path: Path
) -> None:
    other = {**read_config(source), "vocab_size": V + 1}
    with pytest.raises(ValueError, match=r"describes another architecture"):
        save_model(tmp_path / "out", decoder, config=other)
    assert parameters(decoder)["embedding/matrix"].shape == (V, D)
