"""What is written here is what transformers reads, and what transformers writes is read here.

Tiny random models of every family, made by transformers, go through our decoder and back. Nothing
is compared with a tolerance but the outputs of the two decoders: the files hold the same bits.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

from llm.checkpoints import load_decoder, read_config, save_model  # noqa: E402
from llm.model import Decoder  # noqa: E402
from llm.model.architecture import architecture_from_config, config_from_architecture  # noqa: E402

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {**GPT2, **IDS}),
    "gpt2 untied": ("GPT2Config", {**GPT2, **IDS, "tie_word_embeddings": False}),
    "gpt_neox": (
        "GPTNeoXConfig",
        {key: value for key, value in SIZES.items() if key != "num_key_value_heads"},
    ),
    "llama": ("LlamaConfig", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "llama tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**SIZES, "sliding_window": 4}),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 12, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {**SIZES, "head_dim": 12, "sliding_window": 4}),
}

TOKENS = np.array([[1, 5, 9, 23, 42, 3, 60, 7]])


def saved(name: str, folder: Path, dtype: Any = None, **options: Any) -> Any:
    """A random model of transformers, in a folder and in memory."""
    torch.manual_seed(0)
    kind, settings = MODELS[name]
    config = getattr(transformers, kind)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales start out all alike
            parameter.add_(0.05 * torch.randn_like(parameter))
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder, **options)
    return model


def torch_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def our_logits(decoder: Decoder) -> np.ndarray:
    tokens = jnp.asarray(TOKENS, jnp.int32)
    positions = jnp.arange(tokens.shape[1])[None]
    ones, zeros = jnp.ones_like(tokens), jnp.zeros_like(tokens)
    return np.asarray(decoder.logits(decoder(tokens, positions, ones, zeros)))


def continuation(model: Any) -> list[int]:
    tokens = torch.tensor(TOKENS)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(tokens, max_new_tokens=4, **options)[0].tolist()


def weights(file: Path) -> list[tuple[str, tuple[Any, bytes]]]:
    return [(key, (value.dtype, value.tobytes())) for key, value in load_file(file).items()]


def reload(folder: Path) -> Any:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_through_the_decoder_and_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "in")
    decoder = load_decoder(str(tmp_path / "in"))
    np.testing.assert_allclose(our_logits(decoder), torch_logits(model), atol=1e-5)
    save_model(
        tmp_path / "out", decoder, config=read_config(tmp_path / "in"), source=tmp_path / "in"
    )
    before = load_file(tmp_path / "in" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.dtype == after[key].dtype
        assert value.tobytes() == after[key].tobytes(), key
    again = reload(tmp_path / "out")
    # The weights are the same bits; torch's arithmetic need not be, from one call to the next.
    np.testing.assert_allclose(torch_logits(again), torch_logits(model), atol=1e-5)
    assert continuation(again) == continuation(model)


def test_bfloat16_shards_of_transformers_are_read_and_written(tmp_path: Path) -> None:
    saved("qwen3", tmp_path / "in", torch.bfloat16, max_shard_size="4KB")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    decoder = load_decoder(str(tmp_path / "in"))
    config = read_config(tmp_path / "in")
    save_model(
        tmp_path / "out", decoder, config=config, source=tmp_path / "in", max_shard_bytes=5000
    )
    assert read_config(tmp_path / "out") == config
    before, after = (
        {key: value for file in folder.glob("*.safetensors") for key, value in weights(file)}
        for folder in (tmp_path / "in", tmp_path / "out")
    )
    assert before == after
    first, second = (torch_logits(reload(tmp_path / name)) for name in ("in", "out"))
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_a_model_of_our_own_is_one_that_transformers_runs(name: str, tmp_path: Path) -> None:
    kind, settings = MODELS[name]
    config = getattr(transformers, kind)(**settings).to_dict()
    architecture = architecture_from_config(config)
    decoder = Decoder(architecture, rngs=nnx.Rngs(0))
    save_model(tmp_path, decoder, config=config_from_architecture(architecture))
    again = reload(tmp_path)
    np.testing.assert_allclose(our_logits(decoder), torch_logits(again), atol=1e-5)
    assert len(continuation(again)) == TOKENS.shape[1] + 4
