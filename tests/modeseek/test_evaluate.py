"""``modeseek evaluate`` shows what it measured, writes it down, and says what it needs."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.checkpoints import save_model
from llm.checkpoints.reward import save_reward_model
from llm.model import Decoder, RewardModel, with_parameters
from llm.model.architecture import architecture_from_config
from llm.settings import Training, as_record
from modeseek.evaluate import main
from tests.llm.checkpoints.model_folders import CONFIGS
from tests.llm.data.byte_tokenizer import make_tokenizer

CONFIG = CONFIGS["llama"] | {"vocab_size": 258, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language models, a reward model and pairs, all of bytes."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer()
    for seed, name in enumerate(("model", "reference")):
        decoder = Decoder(architecture_from_config(CONFIG), rngs=nnx.Rngs(seed))
        save_model(root / name, decoder, config=CONFIG, tokenizer=tokenizer)
    head = jnp.asarray(np.random.default_rng(0).normal(size=8), jnp.float32)
    model = with_parameters(RewardModel(decoder), {"head/kernel": head})
    save_reward_model(root / "reward", model, config=CONFIG, tokenizer=tokenizer)
    rows = [{"prompt": f"say {n}:", "chosen": f" {n}!", "rejected": " no"} for n in range(8)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_a_language_model_is_measured_against_a_reference(folders: Path, tmp_path: Path) -> None:
    data, reference = str(folders / "pairs.jsonl"), str(folders / "reference")
    line = [str(folders / "model"), "--data", data, "--reference", reference]
    main([*line, "--out", str(tmp_path / "numbers.json")])
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert (found["kind"], found["groups"], found["prompts"]) == ("language model", 8, 8)
    numbers = found["numbers"]
    # Weights of a model that has read nothing: every byte is about as likely as every other.
    assert numbers["loss_per_token"]["value"] == pytest.approx(np.log(258), abs=0.1)
    assert numbers["loss_per_token"]["low"] < numbers["loss_per_token"]["value"]
    assert numbers["accuracy_by_sum"]["units"] == 8
    assert numbers["length_rejected"]["value"] == 4  # " no" and EOS
    assert 0 < numbers["forward_kl_per_token"]["value"] < 1


def test_a_model_is_no_distance_from_itself(folders: Path, capsys) -> None:
    model = str(folders / "model")
    main([model, "--data", str(folders / "pairs.jsonl"), "--reference", model])
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("KL(model || reference)"))
    assert "0.000" in row
    assert "8 groups of 8 prompts" in " ".join(shown.split())


def test_a_reward_model_is_known_by_its_config(folders: Path, capsys) -> None:
    main([str(folders / "reward"), "--data", str(folders / "pairs.jsonl")])
    shown = capsys.readouterr().out
    assert "reward model" in shown
    assert "Bradley-Terry loss" in shown
    assert "KL" not in shown


def test_a_run_that_is_not_finished_says_what_to_do(folders: Path, tmp_path: Path) -> None:
    record = {"recipe": "dpo", "settings": as_record(Training(model=str(folders / "model")))}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="modeseek export"):
        main([str(tmp_path)])


def test_what_is_missing_is_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a model"):
        main([])
    with pytest.raises(ValueError, match="there is no folder"):
        main([str(folders / "model"), "--out", str(tmp_path / "no" / "numbers.json")])
    other = CONFIG | {"vocab_size": 300}
    decoder = Decoder(architecture_from_config(other), rngs=nnx.Rngs(0))
    save_model(tmp_path / "other", decoder, config=other, tokenizer=make_tokenizer())
    data = str(folders / "pairs.jsonl")
    with pytest.raises(ValueError, match="do not share a vocabulary"):
        main([str(folders / "model"), "--data", data, "--reference", str(tmp_path / "other")])
