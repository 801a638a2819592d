"""A reward model written here is one that transformers scores with, and the other way round."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llm.checkpoints import load_decoder, read_config  # noqa: E402
from llm.checkpoints.reward import load_reward_model, save_reward_model  # noqa: E402
from llm.model import RewardModel, parameters, with_parameters  # noqa: E402
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


@pytest.mark.parametrize("name", MODELS)
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


@pytest.mark.parametrize("name", MODELS)
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
