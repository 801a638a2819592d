"""Runs small enough to be killed two hundred times: a few thousand weights, a handful of steps.

Small is what makes the moments that matter frequent. Every recipe is here, with its reference, its
critic, its reward and its collections; a checkpoint is due after every step or every other.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

STEPS, MINIBATCHES, KEEP = 6, 2, 2
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
REWARD = "regex:[!-~]"
"""Counts the letters that can be read: exact, and different for every response."""


@dataclass(frozen=True)
class Place:
    """Where everything of the harness lies.

    Attributes:
        folder: holds the model, the data, the caches and all runs.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """What every run begins from."""
        return self.folder / "model"

    @property
    def data(self) -> Path:
        """What every run learns from: pairs, or their prompts."""
        return self.folder / "pairs.jsonl"


def write_inputs(place: Place) -> None:
    """Make the model and the data; it needs a device."""
    from flax import nnx

    from llm.checkpoints.write import save_model
    from llm.embedded.tokenizer import train_tokenizer
    from llm.model import Decoder
    from llm.model.architecture import architecture_from_config

    rows = list(pairs(24))
    tokenizer = train_tokenizer((row["prompt"] for row in rows), vocabulary=300)
    config = CONFIG | {"vocab_size": len(tokenizer)}
    decoder = Decoder(architecture_from_config(config), rngs=nnx.Rngs(0))
    save_model(place.model, decoder, config=config, tokenizer=tokenizer)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    place.data.write_text(lines, encoding="utf-8")


def pairs(number: int) -> list[dict[str, str]]:
    """Preference rows of uneven length, their prompts within one size class."""
    rng = np.random.default_rng(0)
    return [
        {
            "prompt": f"q{row}: " + "x" * int(rng.integers(4, 11)),
            "chosen": " " + "good" * int(rng.integers(1, 6)),
            "rejected": " " + "bad" * int(rng.integers(1, 9)),
        }
        for row in range(number)
    ]


def asked(name: str, place: Place, out: Path, *, save_every: int = 1) -> tuple[Any, Any]:
    """The recipe and the settings of a run, as its command would have them.

    Args:
        name: of the recipe.
        place: of the inputs.
        out: the run's folder.
        save_every: steps between checkpoints; no number of a run depends on it.
    """
    from llm.data.examples import DataSettings
    from llm.data.plan import PackingSettings
    from llm.settings import (
        ONLINE_RECIPES,
        TRAIN_RECIPES,
        OptimizerSettings,
        SamplingSettings,
        SaveSettings,
        Training,
    )

    online = name in ONLINE_RECIPES
    recipe = TRAIN_RECIPES[name]
    if online:
        recipe = replace(recipe, reuse=replace(recipe.reuse, minibatches=MINIBATCHES))
    return recipe, Training(
        model=str(place.model),
        data=str(place.data),
        out=out,
        steps=STEPS,
        batch=2 if online else 4,
        evaluate_every=3,
        evaluate_prompts=2,
        reward=REWARD if online else None,
        reading=DataSettings(eval_share=0.2),
        packing=PackingSettings(shapes=1),
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup=0.0),
        sampling=SamplingSettings(max_new_tokens=8, rows=4),
        save=SaveSettings(every=save_every, keep=KEEP),
    )
