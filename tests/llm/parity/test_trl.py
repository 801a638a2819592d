"""TRL's DPO and ours: the same model, token ids and optimizer give the same losses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

pytest.importorskip("torch")
pytest.importorskip("trl")

from experiments.benchmarks.dpo_contestants import DPOTask, save_groups
from llm.checkpoints.write import save_model
from llm.data.examples import Group
from llm.embedded.tokenizer import train_tokenizer
from llm.model import Decoder
from llm.model.architecture import architecture_from_config, config_from_architecture

ROOT = Path(__file__).parents[3]


def losses(who: str, task: Path) -> list[float]:
    line = [sys.executable, "-m", "experiments.benchmarks.dpo_contestants", who, str(task)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])["losses"]


def test_the_first_twenty_losses_of_trl_are_ours(tmp_path):
    tokenizer = train_tokenizer(["a small text to learn from, and another one"], 300)
    architecture = architecture_from_config(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        }
    )
    decoder = Decoder(architecture, rngs=nnx.Rngs(0))
    config = config_from_architecture(architecture)
    save_model(tmp_path / "model", decoder, config=config, tokenizer=tokenizer)
    draw = np.random.default_rng(0)

    def text() -> np.ndarray:
        return draw.integers(5, len(tokenizer), draw.integers(2, 20)).astype(np.int32)

    rewards = np.array([1, 0], np.float32)
    # Eight pairs, again and again, so that twenty steps are enough to learn them.
    groups = [Group(text(), (text(), text()), rewards, str(i)) for i in range(8)] * 10
    save_groups(tmp_path / "groups.npz", groups)
    task = DPOTask(
        model=str(tmp_path / "model"),
        groups=str(tmp_path / "groups.npz"),
        batch=4,
        steps=20,
        learning_rate=1e-3,
    )
    (tmp_path / "task.json").write_text(json.dumps(vars(task)))
    ours, theirs = (losses(who, tmp_path / "task.json") for who in ("modeseek", "trl"))
    assert len(ours) == len(theirs) == 20
    assert ours[-1] < 0.6  # they are not all log 2
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(ours[:5], theirs[:5], atol=1e-5)
