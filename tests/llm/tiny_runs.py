"""Runs small enough to be repeated: a llama of a few thousand parameters, bytes for tokens."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jaxtyping import Array

from llm.checkpoints.write import save_model
from llm.data.examples import Group
from llm.data.order import InOrder
from llm.data.packing import Batch
from llm.data.plan import PackingSettings, Plan, make_plan
from llm.model import ActorCritic, Decoder, RewardModel
from llm.model.architecture import architecture_from_config
from llm.model.lora import LoRA
from llm.update import Learner, Parameters
from tests.llm.data.byte_tokenizer import make_tokenizer

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "max_position_embeddings": 128,
    "vocab_size": 258,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}


@contextmanager
def compilation_cache(folder: Path) -> Iterator[None]:
    """Within the block a program is compiled once, however many runs and processes need it."""
    wanted = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in wanted}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            reset_cache()


def make_decoder(seed: int = 0, *, lora: LoRA | None = None) -> Decoder:
    """A random decoder whose next-token distributions are far from uniform."""
    return Decoder(architecture_from_config(CONFIG), rngs=nnx.Rngs(seed), lora=lora)


def loud(values: Parameters, seed: int = 1) -> Parameters:
    """Parameters moved far enough for every nonlinearity to count."""
    rng = np.random.default_rng(seed)
    return {
        path: value + 0.2 * rng.standard_normal(value.shape).astype(np.float32)
        for path, value in values.items()
    }


def make_groups(
    *shapes: Sequence[int], seed: int = 0, rewards: Sequence[float] = ()
) -> list[Group]:
    """Groups of random ids.

    Args:
        shapes: of each group: tokens of the prompt, then of each response.
        seed: of the ids.
        rewards: of the responses of every group; 1, 1/2, 0, ... when not given.
    """
    rng = np.random.default_rng(seed)

    def ids(length: int) -> np.ndarray:
        return rng.integers(2, 258, length, dtype=np.int32)

    return [
        Group(
            prompt=ids(prompt),
            responses=tuple(ids(length) for length in lengths),
            rewards=np.array((rewards or (1.0, 0.5, 0.0))[: len(lengths)], np.float32),
            where=f"row {number}",
        )
        for number, (prompt, *lengths) in enumerate(shapes, 1)
    ]


def in_pieces(groups: list[Group], max_tokens: int = 64) -> Plan:
    """One step of all the groups, cut into batches of at most so many positions, in rows of 64."""
    settings = PackingSettings(max_tokens=max_tokens, row_length=64, shapes=1)
    return make_plan(groups, InOrder(len(groups), len(groups)), settings, steps=1, width=16)


def make_learner(module: Decoder | RewardModel | ActorCritic, **fields: Any) -> Learner:
    """A learner that walks straight down the gradient, a unit at a time."""
    given = {"transformation": optax.sgd(1.0), "rate": optax.constant_schedule(1.0)} | fields
    return Learner(module=module, **given)


def unpacked(groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """Groups as everybody lays them out: a row per response, padded, each with its prompt."""
    many = len(groups[0].responses)
    assert all(len(group.responses) == many for group in groups)
    rows = [np.concatenate((g.prompt, y)) for g in groups for y in g.responses]
    most = max(map(len, rows))
    longest = max(len(y) for g in groups for y in g.responses)
    tokens = np.zeros((len(rows), most), np.int32)
    real = np.zeros((len(rows), most), np.int32)
    at = np.zeros((len(rows), longest), np.int32)
    mask = np.zeros((len(rows), longest), bool)
    target = np.zeros((len(rows), longest), np.int32)
    for r, row in enumerate(rows):
        group = groups[r // many]
        size = len(group.responses[r % many])
        tokens[r, : len(row)], real[r, : len(row)] = row, 1
        at[r, :size] = len(group.prompt) - 1 + np.arange(size)
        target[r, :size], mask[r, :size] = group.responses[r % many], True
    shape = (len(groups), many, longest)
    return {
        "tokens": tokens,
        "real": real,
        "at": at,
        "target": target,
        "mask": mask.reshape(shape),
        "reward": np.stack([group.rewards for group in groups]),
        "last": real.sum(axis=1).astype(np.int32) - 1,
    }


def hidden_of(decoder: Decoder, table: dict[str, np.ndarray]) -> Array:
    """Hidden states of unpacked rows."""
    tokens, real = jnp.asarray(table["tokens"]), jnp.asarray(table["real"])
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None, :], tokens.shape)
    return decoder(tokens, places, real, jnp.zeros_like(tokens))


def dense_logp(decoder: Decoder, table: dict[str, np.ndarray]) -> Array:
    """Log-probabilities as [B, N, T] by way of all the logits there are."""
    logp = jax.nn.log_softmax(decoder.logits(hidden_of(decoder, table)), axis=-1)
    rows = jnp.arange(logp.shape[0])[:, None]
    return logp[rows, table["at"], table["target"]].reshape(table["mask"].shape)


def total(parts: Iterable[Any]) -> Any:
    """Trees added up."""
    return jax.tree.map(lambda *leaves: sum(leaves), *parts)


def as_jax(batch: Batch) -> Batch:
    """A batch on the device."""
    return jax.tree.map(jnp.asarray, batch)


def write_model(folder: Path, **changes: Any) -> Path:
    """A model folder with a tokenizer, as if it had come from the Hub."""
    config = CONFIG | changes
    decoder = Decoder(architecture_from_config(config), rngs=nnx.Rngs(0))
    save_model(folder, decoder, config=config, tokenizer=make_tokenizer())
    return folder


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(number: int = 24) -> list[dict[str, str]]:
    """Preference rows of uneven length."""
    rng = np.random.default_rng(0)
    return [
        {
            "prompt": f"q{row}: " + "x" * int(rng.integers(1, 20)),
            "chosen": " " + "good" * int(rng.integers(1, 6)),
            "rejected": " " + "bad" * int(rng.integers(1, 9)),
        }
        for row in range(number)
    ]
