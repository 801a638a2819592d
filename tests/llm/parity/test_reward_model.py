"""A reward model written here is one that transformers scores with, and the other way round."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llm.checkpoints import load_decoder, read_config  # noqa: E402
from llm.checkpoints.reward import load_reward_model, save_reward_model  # noqa: E402
from llm.model import Decoder, RewardModel, parameters, with_parameters  # noqa: E402
from llm.model.architecture import architecture_from_config  # noqa: E402
from tests.llm.data.byte_tokenizer import make_tokenizer  # noqa: E402
from tests.llm.parity.test_round_trip import MODELS, saved  # noqa: E402

# Two sequences, the second of them padded on the right.
LONG, SHORT = [1, 5, 9, 23, 42, 3, 60, 2], [1, 17, 8, 2]
PADDING = 0


def scores(model: RewardModel) -> np.ndarray:
    """Rewards of both sequences, in a row of one each."""
    tokens = jnp.array([LONG, SHORT + [PADDING] * 4])
    positions = jnp.broadcast_to(jnp.arange(8)[None], (2, 8))
    segments = jnp.array([[1] * 8, [1] * 4 + [0] * 4])
    at = jnp.array([7, 8 + 3])
    return np.asarray(model(tokens, positions, segments, jnp.zeros_like(tokens), at=at))


def torch_scores(model: Any) -> np.ndarray:
    with torch.no_grad():
        found = model(
            torch.tensor([LONG, SHORT + [PADDING] * 4]),
            attention_mask=torch.tensor([[1] * 8, [1] * 4 + [0] * 4]),
        )
    return found.logits[:, 0].float().numpy()


def trained(folder: Path) -> RewardModel:
    """The language model of a folder with a head that says something."""
    model = RewardModel(load_decoder(str(folder)))
    width = model.decoder.architecture.width
    head = np.random.default_rng(0).normal(size=width).astype(np.float32)
    return with_parameters(model, {"head/kernel": jnp.asarray(head)})


@pytest.mark.parametrize("name", [name for name in MODELS if name != "llama tied"])
def test_transformers_gives_the_rewards_that_we_give(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path / "in")
    ours = trained(tmp_path / "in")
    config = read_config(tmp_path / "in")
    save_reward_model(tmp_path / "out", ours, config=config, source=tmp_path / "in")
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    assert theirs.config.num_labels == 1
    np.testing.assert_allclose(torch_scores(theirs.eval()), scores(ours), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2 untied", "llama tied", "gemma2"])
def test_a_reward_model_of_transformers_is_read_and_read_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind, settings = MODELS[name]
    config = getattr(transformers, kind)(**settings, num_labels=1)
    theirs = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_reward_model(str(tmp_path / "theirs"))
    np.testing.assert_allclose(scores(ours), torch_scores(theirs), atol=1e-5)
    save_reward_model(
        tmp_path / "ours",
        ours,
        config=read_config(tmp_path / "theirs"),
        source=tmp_path / "theirs",
    )
    again = parameters(load_reward_model(str(tmp_path / "ours")))
    before = parameters(ours)
    assert again.keys() == before.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(again[path], value)


def test_a_batch_of_texts_is_padded_with_what_the_model_takes_for_padding(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # and so it may not stay
    config = dict(read_config_of("llama"), vocab_size=258)
    model = RewardModel(Decoder(architecture_from_config(config), rngs=nnx.Rngs(0)))
    head = np.random.default_rng(0).normal(size=16).astype(np.float32)
    model = with_parameters(model, {"head/kernel": jnp.asarray(head)})
    save_reward_model(tmp_path, model, config=config, tokenizer=tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # the caller's is left alone
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a long text</s>", "short</s>"]
    with torch.no_grad():
        together = theirs(**again(texts, padding=True, return_tensors="pt")).logits[:, 0]
        apart = [theirs(**again(text, return_tensors="pt")).logits[0, 0] for text in texts]
    np.testing.assert_allclose(together, np.array(apart), atol=1e-5)
    ids = jnp.asarray(again(texts[1])["input_ids"])[None]
    ones = jnp.ones_like(ids)
    at = jnp.array([ids.shape[1] - 1])
    ours = model(ids, jnp.arange(ids.shape[1])[None], ones, 0 * ones, at=at)
    np.testing.assert_allclose(ours, together[1:], atol=1e-5)


def read_config_of(name: str) -> dict[str, Any]:
    kind, settings = MODELS[name]
    return getattr(transformers, kind)(**settings).to_dict()
