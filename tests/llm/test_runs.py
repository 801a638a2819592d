"""A run's folder is read back as it was written, and its checkpoints as what was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm.checkpoints import load_decoder
from llm.checkpoints.reward import load_reward_model
from llm.data.examples import DataSettings
from llm.export import export_checkpoint
from llm.loading import load
from llm.model import parameters
from llm.model.architecture import architecture_from_config
from llm.reference import model_fingerprint
from llm.runs import Run, from_record, is_run, open_run
from llm.settings import (
    WITH_CRITIC,
    AdapterSettings,
    OptimizerSettings,
    SaveSettings,
    Training,
    as_record,
)
from llm.state import Saver
from llm.update import TrainState
from tests.llm.checkpoints.model_folders import CONFIGS, random_tensors, write_folder
from tests.llm.data.byte_tokenizer import make_tokenizer

CONFIG = CONFIGS["llama"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "source", CONFIG, random_tensors("llama"))
    make_tokenizer().save_pretrained(str(folder))
    return folder


def begun(folder: Path, name: str, settings: Training) -> Path:
    """The folder of a run; by step 1 all that trains has grown by 1, by step 2 by 2."""
    folder.mkdir()
    record = {
        "recipe": name,
        "objective": {"": "DPO"},
        "settings": as_record(settings),
        "fingerprints": {"model": model_fingerprint(Path(str(settings.model)))},
    }
    (folder / "run.json").write_text(json.dumps(record))
    reward = name == "reward_model"
    architecture = architecture_from_config(CONFIG)
    source, critic = Path(str(settings.model)), name in WITH_CRITIC
    trainable = load(source, architecture, settings, reward, critic).trainable
    saver = None
    for step in (1, 2):
        grown = {path: value + step for path, value in trainable.items()}
        state = TrainState(
            step=jnp.int32(step),
            trainable=grown,
            optimizer={"moments": grown},
            totals={},
            finite=jnp.ones((), bool),
        )
        saver = saver or Saver(folder, SaveSettings(), state)
        saver.save(step, state)
    assert saver is not None
    saver.close()
    return folder


def said(lines: list[str]) -> Callable[[Any], None]:
    return lambda line: lines.append(str(line))


def test_settings_come_back_from_plain_json() -> None:
    settings = Training(
        model="m",
        out=Path("o"),
        steps=3,
        reading=DataSettings(limit=5),
        adapters=AdapterSettings(rank=2, targets=("query", "up")),
        optimizer=OptimizerSettings(learning_rate=1e-3, clip_norm=float("inf")),
    )
    assert from_record(Training, json.loads(json.dumps(as_record(settings)))) == settings


def test_a_checkpoint_is_exported_as_it_was_then(source: Path, tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", "dpo", Training(model=str(source)))
    run = open_run(folder)
    assert is_run(folder) and not is_run(source)
    assert run.steps == [1, 2]
    before = parameters(load_decoder(str(source)))
    first = export_checkpoint(run, said([]), step=1)
    assert first.name == "model-1"
    after = parameters(load_decoder(str(first)))
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value + 1)
    latest = export_checkpoint(run, said([]), out=tmp_path / "out", dtype=jnp.bfloat16)
    assert {str(v.dtype) for v in load_file(latest / "model.safetensors").values()} == {"bfloat16"}
    assert (latest / "tokenizer.json").is_file()
    value = parameters(load_decoder(str(latest)))["norm/scale"]
    np.testing.assert_allclose(value, before["norm/scale"] + 2, rtol=0.01)


def test_adapters_are_merged_or_written_alone(source: Path, tmp_path: Path) -> None:
    adapters = AdapterSettings(rank=2, alpha=2.0, targets=("query",))
    settings = Training(model=str(source), adapters=adapters)
    run = open_run(begun(tmp_path / "run", "dpo", settings))
    alone = export_checkpoint(run, said([]), adapter_only=True)
    assert alone.name == "adapter-2"
    assert len(load_file(alone / "adapter_model.safetensors")) == 2 * 2
    whole = parameters(load_decoder(str(export_checkpoint(run, said([])))))
    before = parameters(load_decoder(str(source)))
    trained = run.restore(
        2, load(source, architecture_from_config(CONFIG), settings, False).trainable
    )
    a, b = (trained[f"blocks/attention/query/lora_{side}"] for side in "ab")
    delta = jnp.einsum("lir,lrhc->lihc", a, b)
    path = "blocks/attention/query/kernel"
    np.testing.assert_allclose(whole[path], before[path] + delta, rtol=1e-5)
    np.testing.assert_array_equal(whole["norm/scale"], before["norm/scale"])


@pytest.mark.parametrize("rank", [0, 2])
def test_a_reward_model_is_exported_with_its_head(source: Path, tmp_path: Path, rank: int) -> None:
    settings = Training(model=str(source), adapters=AdapterSettings(rank=rank))
    values = load(source, architecture_from_config(CONFIG), settings, True).values
    assert [path for path in values if "head" in path] == ["head/kernel"]
    run = open_run(begun(tmp_path / "run", "reward_model", settings))
    out = export_checkpoint(run, said([]))
    model = load_reward_model(str(out))
    np.testing.assert_array_equal(parameters(model)["head/kernel"], np.full(8, 2.0))
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == 0  # BOS, not EOS
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    with pytest.raises(ValueError, match="adapter-only"):
        export_checkpoint(run, said([]), adapter_only=True)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_with_a_critic_keeps_it_and_hands_out_the_policy(
    source: Path, tmp_path: Path, rank: int
) -> None:
    settings = Training(model=str(source), adapters=AdapterSettings(rank=rank))
    architecture = architecture_from_config(CONFIG)
    begun_from = load(source, architecture, settings, False, critic=True)
    assert {"head/kernel", "head/bias"} < begun_from.trainable.keys()
    assert not any(np.any(begun_from.values[f"head/{part}"]) for part in ("kernel", "bias"))
    run = open_run(begun(tmp_path / "run", "ppo", settings))
    whole = run.restore(2, begun_from.trainable)
    assert whole["head/bias"] == 2
    policy = run.restore(2, load(source, architecture, settings, False).trainable)
    heads = {"head/kernel", "head/bias"}
    assert {f"decoder/{path}" for path in policy} == whole.keys() - heads
    for path, value in policy.items():
        np.testing.assert_array_equal(value, whole[f"decoder/{path}"])
    held = parameters(begun_from.policy(whole))
    assert all(np.array_equal(held[path], value) for path, value in policy.items())
    files = load_file(export_checkpoint(run, said([])) / "model.safetensors")
    assert files.keys() == load_file(source / "model.safetensors").keys()


def test_what_cannot_be_exported_is_refused_with_the_reason(source: Path, tmp_path: Path) -> None:
    run = open_run(begun(tmp_path / "run", "dpo", Training(model=str(source))))
    with pytest.raises(ValueError, match="no checkpoint of step 7; there are those of 1, 2"):
        export_checkpoint(run, said([]), step=7)
    with pytest.raises(ValueError, match="trained the weights themselves"):
        export_checkpoint(run, said([]), adapter_only=True)
    with pytest.raises(ValueError, match="not empty"):
        export_checkpoint(run, said([]), out=source)
    (source / "config.json").write_text(json.dumps(CONFIG | {"bos_token_id": 3}))
    with pytest.raises(ValueError, match="is not the model that"):
        export_checkpoint(run, said([]))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("{", "cannot be read"),
        ('{"recipe": "dpo"}', "cannot be read"),
        ('{"recipe": "dop", "settings": {}}', "no recipe dop"),
        ('{"recipe": "dpo", "settings": {"bath": 3}}', "Training has no bath"),
    ],
)
def test_a_record_that_is_not_ours_is_refused(tmp_path: Path, record: str, reason: str) -> None:
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(ValueError, match=reason):
        open_run(tmp_path)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the folder of a run"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        Run(tmp_path, "dpo", Training(), {}).find_step(None)


def test_nothing_that_was_trained_is_lost_on_the_way(source: Path, tmp_path: Path) -> None:
    settings = Training(model=str(source))
    run = open_run(begun(tmp_path / "run", "dpo", settings))
    like = load(source, architecture_from_config(CONFIG), settings, False).trainable
    found = run.restore(1, like)
    assert found.keys() == like.keys()
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b + 1).all()), found, like)))
