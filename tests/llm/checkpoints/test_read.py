"""Reading model folders: every number in its place, every defect named, all of them at once."""

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.checkpoints import find_model, load_decoder, read_architecture, read_config
from llm.checkpoints.names import stored_tensor, tensors
from llm.checkpoints.read import read_parameters
from llm.model import Decoder, abstract_decoder, parameters
from llm.model.architecture import architecture_from_config
from llm.model.lora import LoRA, merge
from tests.llm.checkpoints.model_folders import CONFIGS, HEADS, C, D, random_tensors, write_folder

FAMILIES = tuple(CONFIGS)
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def read(folder: Path, **options: Any) -> dict[str, jax.Array]:
    return read_parameters(folder, read_architecture(folder), **options)


def test_gpt2_splits_its_fused_matrix_by_columns(tmp_path: Path) -> None:
    stored = random_tensors("gpt2")
    values = read(write_folder(tmp_path, CONFIGS["gpt2"], stored))
    fused = stored["transformer.h.1.attn.c_attn.weight"]
    bias = stored["transformer.h.1.attn.c_attn.bias"]
    for part, name in enumerate(("query", "key", "value")):
        for head, width in itertools.product(range(HEADS), range(C)):
            column = part * D + head * C + width
            kernel = values[f"blocks/attention/{name}/kernel"][1, :, head, width]
            np.testing.assert_array_equal(kernel, fused[:, column])
            assert values[f"blocks/attention/{name}/bias"][1, head, width] == bias[column]


def test_gpt_neox_splits_its_fused_matrix_head_by_head(tmp_path: Path) -> None:
    stored = random_tensors("gpt_neox")
    values = read(write_folder(tmp_path, CONFIGS["gpt_neox"], stored))
    fused = stored["gpt_neox.layers.0.attention.query_key_value.weight"]
    bias = stored["gpt_neox.layers.0.attention.query_key_value.bias"]
    for part, name in enumerate(("query", "key", "value")):
        for head, width in itertools.product(range(HEADS), range(C)):
            row = (head * 3 + part) * C + width
            kernel = values[f"blocks/attention/{name}/kernel"][0, :, head, width]
            np.testing.assert_array_equal(kernel, fused[row])
            assert values[f"blocks/attention/{name}/bias"][0, head, width] == bias[row]


def test_llama_puts_the_input_axis_first(tmp_path: Path) -> None:
    stored = random_tensors("llama")
    values = read(write_folder(tmp_path, CONFIGS["llama"], stored))
    output = stored["model.layers.1.self_attn.o_proj.weight"]
    np.testing.assert_array_equal(
        values["blocks/attention/output/kernel"][1, 3, 1], output[:, 3 * C + 1]
    )
    np.testing.assert_array_equal(
        values["blocks/mlp/down/kernel"][1], stored["model.layers.1.mlp.down_proj.weight"].T
    )
    np.testing.assert_array_equal(values["head/matrix"], stored["lm_head.weight"])


@pytest.mark.parametrize("family", FAMILIES)
def test_any_slice_of_a_parameter_is_read_without_the_rest(family: str) -> None:
    architecture = architecture_from_config(CONFIGS[family])
    stored = random_tensors(family)
    rng = np.random.default_rng(0)
    for tensor in tensors(architecture):
        whole = tensor.read(stored[tensor.name].__getitem__, tuple((0, n) for n in tensor.shape))
        for _ in range(10):
            starts = [int(rng.integers(n)) for n in tensor.shape]
            bounds = tuple(
                (a, int(rng.integers(a, n)) + 1) for a, n in zip(starts, tensor.shape, strict=True)
            )
            box = tensor.read(stored[tensor.name].__getitem__, bounds)
            np.testing.assert_array_equal(box, whole[tuple(slice(a, b) for a, b in bounds)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_range_of_heads_is_one_run_of_the_file(family: str) -> None:
    architecture = architecture_from_config(CONFIGS[family])
    stored = random_tensors(family)
    kernel = next(t for t in tensors(architecture) if t.path == "blocks/attention/query/kernel")
    fetched = []

    def fetch(ranges: tuple[slice, ...]) -> np.ndarray:
        block = stored[kernel.name][ranges]
        fetched.append(block.size)
        return block

    half = ((0, D), (HEADS // 2, HEADS), (0, C))
    assert kernel.read(fetch, half).size == D * HEADS // 2 * C
    # Interleaved per head, the three parts of the heads lie together; elsewhere nothing extra does.
    extra = 3 if family == "gpt_neox" else 1
    assert fetched == [extra * D * HEADS // 2 * C]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parameters_are_those_of_the_decoder(family: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS[family], random_tensors(family))
    state = nnx.state(abstract_decoder(read_architecture(folder)), nnx.Param)
    expected = {
        "/".join(str(part) for part in path): leaf.get_value().shape
        for path, leaf in nnx.to_flat_state(state)
    }
    assert {name: value.shape for name, value in read(folder).items()} == expected


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_keeps_every_bit(family: str, dtype: str, files: int, tmp_path: Path) -> None:
    stored = random_tensors(family, dtype)
    values = read(write_folder(tmp_path, CONFIGS[family], stored, files))
    parts: dict[str, list[Any]] = {}
    for tensor in tensors(architecture_from_config(CONFIGS[family])):
        value = np.asarray(values[tensor.path])
        block = value if tensor.layer is None else value[tensor.layer]
        parts.setdefault(tensor.name, []).append((tensor, block))
    assert parts.keys() == stored.keys()
    for name, value in stored.items():
        assert stored_tensor(parts[name]).tobytes() == value.tobytes(), name


def test_the_dtype_can_be_chosen(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], random_tensors("llama", "bfloat16"))
    assert {value.dtype for value in read(folder, dtype=jnp.float32).values()} == {
        jnp.dtype("float32")
    }


def test_layers_of_different_dtypes_are_read_in_the_wider(tmp_path: Path) -> None:
    stored = random_tensors("llama", "bfloat16")
    stored[Q_PROJ] = stored[Q_PROJ].astype(np.float32)
    values = read(write_folder(tmp_path, CONFIGS["llama"], stored))
    assert values["blocks/attention/query/kernel"].dtype == jnp.float32
    assert values["blocks/attention/key/kernel"].dtype == jnp.bfloat16


def test_a_checkpoint_of_the_body_alone_reads_the_same(tmp_path: Path) -> None:
    stored = random_tensors("gpt2")
    bare = {name.removeprefix("transformer."): value for name, value in stored.items()}
    first = read(write_folder(tmp_path / "a", CONFIGS["gpt2"], stored))
    second = read(write_folder(tmp_path / "b", CONFIGS["gpt2"], bare))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    stored = random_tensors("llama")
    missing = "model.layers.0.mlp.up_proj.weight"
    del stored[missing]
    stored["model.layers.0.mlp.router.weight"] = np.zeros((3, D), np.float32)
    stored[Q_PROJ] = np.zeros((5, D), np.float32)
    stored["model.norm.weight"] = np.zeros(D, np.int8)
    folder = write_folder(tmp_path, CONFIGS["llama"], stored)
    with pytest.raises(ValueError, match=r"4 problems") as caught:
        read(folder)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 4
    assert any(missing in line and "[12, 8] is missing" in line for line in lines)
    assert any("router.weight in model.safetensors" in line for line in lines)
    assert any(Q_PROJ in line and "[5, 8], expected [8, 8]" in line for line in lines)
    assert any("model.norm.weight" in line and "stored as I8" in line for line in lines)


def test_a_missing_shard_is_one_problem_beside_the_others(tmp_path: Path) -> None:
    stored = random_tensors("llama")
    stored["lm_head.weight"] = np.zeros((2, D), np.float32)
    folder = write_folder(tmp_path, CONFIGS["llama"], stored, files=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"2 problems") as caught:
        read(folder)
    assert "model-00002-of-00003.safetensors, which holds 7 tensors, is missing" in str(
        caught.value
    )
    assert "lm_head.weight in model-00001-of-00003.safetensors" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], random_tensors("llama"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read.*fetch the file"):
        read(folder)


def test_an_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, CONFIGS["llama"], random_tensors("llama"), files=2)
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"1 problem\).*\n.*model\.extra\.weight is not in"):
        read(folder)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIGS["llama"], random_tensors("llama"), files=2)
    first = folder / "model-00001-of-00002.safetensors"
    first.rename(tmp_path / "elsewhere.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(first.name, "../elsewhere.safetensors"))
    with pytest.raises(ValueError, match=r"elsewhere\.safetensors, which holds 11 tensors, is mis"):
        read(folder)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, which is a pickle.*never read"):
        read(tmp_path)


def test_code_that_comes_with_a_model_is_refused(tmp_path: Path) -> None:
    remote = {**CONFIGS["llama"], "auto_map": {"AutoModel": "modeling.Model"}}
    write_folder(tmp_path, remote, random_tensors("llama"))
    with pytest.raises(ValueError, match=r"auto_map.*never run"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"holds no config\.json\. Give the folder of a model"),
        ("{", r"config\.json is not JSON"),
        ("[]", r"config\.json holds a JSON list"),
        ('{"model_type": "mamba"}', r"config\.json: model_type is 'mamba'"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(
    text: str | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_architecture(tmp_path)


def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"load the model it was trained on first"):
        read_config(tmp_path)


def test_a_tied_model_may_store_its_embedding_twice_but_not_two_of_them(tmp_path: Path) -> None:
    stored = random_tensors("gpt2")
    stored["lm_head.weight"] = stored["transformer.wte.weight"].copy()
    assert "head/matrix" not in read(write_folder(tmp_path / "a", CONFIGS["gpt2"], stored))
    stored["lm_head.weight"][5, 5] += 1
    with pytest.raises(ValueError, match=r"lm_head\.weight .* differs .*tie_word_embeddings"):
        read(write_folder(tmp_path / "b", CONFIGS["gpt2"], stored))


def test_a_name_that_can_be_neither_a_folder_nor_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder \./runs/first/model"):
        find_model("./runs/first/model")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"is a file: give the folder"):
        find_model(str(tmp_path / "model.safetensors"))
    assert find_model(str(tmp_path)) == tmp_path


def test_the_hub_is_asked_for_safetensors_and_text_of_the_top_level_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_model("someone/something") == tmp_path
    wanted = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
    ]
    unwanted = [
        "pytorch_model.bin",
        "consolidated.safetensors",
        "original/params.json",
        "onnx/model.safetensors",
        "modeling_something.py",
    ]
    name = asked.pop("name")
    assert name == "someone/something"
    assert list(filter_repo_objects(wanted + unwanted, **asked)) == wanted


def test_a_hub_that_does_not_answer_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def offline(name: str, **options: Any) -> str:
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(OSError, match=r"could not be asked for it.*Check the network"):
        find_model("someone/something")


def test_adapters_do_not_change_a_loaded_model_until_they_are_trained(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path, CONFIGS["llama"], random_tensors("llama")))
    plain = parameters(load_decoder(folder))
    adapted = load_decoder(folder, lora=LoRA(rank=2, targets=("query", "down")), seed=3)
    values = parameters(adapted)
    assert values.keys() - plain.keys() == {
        f"blocks/{name}/lora_{side}" for name in ("attention/query", "mlp/down") for side in "ab"
    }
    assert np.any(values["blocks/mlp/down/lora_a"])
    for name, value in parameters(merge(adapted)).items():
        np.testing.assert_array_equal(value, plain[name])


def test_a_loaded_model_holds_and_computes_what_it_is_asked_to(tmp_path: Path) -> None:
    folder = str(write_folder(tmp_path, CONFIGS["llama"], random_tensors("llama", "bfloat16")))
    decoder = load_decoder(folder, dtype=jnp.bfloat16, remat="full", unroll=2)
    assert {value.dtype for value in parameters(decoder).values()} == {jnp.dtype("float32")}
    assert (decoder.dtype, decoder.remat, decoder.unroll) == (jnp.bfloat16, "full", 2)


@pytest.mark.shared
def test_stories260k_tells_its_story(shared: Path) -> None:
    from tokenizers import Tokenizer

    folder = shared / "models" / "stories260K"
    decoder = load_decoder(str(folder))

    @nnx.jit
    def following(decoder: Decoder, tokens: jax.Array, length: int) -> jax.Array:
        positions = jnp.arange(tokens.shape[1])[None]
        there = (positions < length).astype(jnp.int32)
        hidden = decoder(tokens, positions, there, jnp.zeros_like(tokens))
        return jnp.argmax(decoder.logits(hidden[0, length - 1]))

    tokens = np.zeros((1, 32), np.int32)
    tokens[0, 0] = 1
    for length in range(1, 32):
        tokens[0, length] = following(decoder, jnp.asarray(tokens), length)
    told = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens[0].tolist())
    assert told.startswith("Once upon a time, there was a little girl named Lily.")


@pytest.mark.slow
@pytest.mark.shared
def test_stories260k_has_its_known_loss(shared: Path) -> None:
    from tokenizers import Tokenizer

    folder = shared / "models" / "stories260K"
    decoder = load_decoder(str(folder))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with gzip.open(shared / "data" / "tinystories" / "tinystories.jsonl.gz", "rt") as lines:
        rows = (json.loads(line) for line in lines)
        held_out = (row["text"] for row in rows if row["src"] == "train-gpt2 val.bin")
        stories = [
            tokenizer.encode(text[:1200]).ids[:384] for text in itertools.islice(held_out, 40)
        ]
    tokens = np.zeros((40, 384), np.int32)
    there = np.zeros((40, 384), np.int32)
    for row, story in enumerate(stories):
        tokens[row, : len(story)], there[row, : len(story)] = story, 1

    @nnx.jit
    def loss(decoder: Decoder, tokens: jax.Array, there: jax.Array) -> tuple[jax.Array, jax.Array]:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        hidden = decoder(tokens, positions, there, jnp.zeros_like(tokens))
        logp = jax.nn.log_softmax(decoder.logits(hidden[:, :-1]))
        scored = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0] * there[:, 1:]
        return -jnp.sum(scored), jnp.sum(there[:, 1:])

    total, count = loss(decoder, jnp.asarray(tokens), jnp.asarray(there))
    assert math.isclose(float(total) / float(count), 1.2494, abs_tol=1e-4)
