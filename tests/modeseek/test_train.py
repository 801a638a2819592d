"""Whatever is wrong with a training command is one plain sentence, before anything slow."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from llm.devices import USABLE
from modeseek import cli
from modeseek.train import quiet
from tests.llm.tiny_runs import pairs, write_model, write_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model and data with which nothing is wrong, and copies with which something is."""
    folder = tmp_path_factory.mktemp("bad")
    model = write_model(folder / "model")
    rows = pairs(12)
    write_rows(folder / "pairs.jsonl", rows)

    def copy(name: str) -> Path:
        return shutil.copytree(model, folder / name)

    bare = copy("no-tokenizer")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    unknown = copy("unknown")
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    small = copy("small")
    (small / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))

    (folder / "empty.jsonl").write_text("")
    write_rows(folder / "lame.jsonl", [*rows[:3], {"prompt": "a", "rejected": "b"}, *rows[3:]])
    write_rows(folder / "told.jsonl", [{"prompt": r["prompt"], "completion": "x"} for r in rows])
    good = [{"prompt": r["prompt"], "completion": r["chosen"], "label": True} for r in rows]
    write_rows(folder / "good.jsonl", good)
    (folder / "occupied").mkdir()
    (folder / "occupied" / "thesis.tex").write_text("")
    (folder / "a-file").write_text("")
    return folder


FINE = "--model {place}/model --data {place}/pairs.jsonl --out {out} --batch 4 "


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["name a recipe", "dpo"]),
        ("dpp", ["unknown recipe", "dpo"]),
        ("pppo", ["unknown recipe", "ppo"]),
        (f"dpo {FINE} --wrong 1", ["--wrong"]),
        (f"dpo {FINE} --steps 0", ["steps is 0", "at least 1"]),
        (f"dpo {FINE} --steps many", ["--steps", "many"]),
        (f"dpo {FINE} --save.every 0", ["every", "at least 1"]),
        (f"dpo {FINE} --objective.beta -1", ["DPO.beta", "-1", "greater than 0"]),
        (f"dpo {FINE} --reference none", ["--reference none", "DPO", "cache or model"]),
        (f"dpo {FINE} --batch 40", ["--batch is 40", "11 groups", "--batch 11"]),
        (f"dpo {FINE} --model {{place}}/nowhere", ["nowhere", "There is no folder"]),
        (f"dpo {FINE} --model {{place}}/pairs.jsonl", ["is a file"]),
        (f"dpo {FINE} --model {{place}}/no-tokenizer", ["tokenizer", "tokenizer.json"]),
        (f"dpo {FINE} --model {{place}}/pickled", ["pickle", "safetensors"]),
        (f"dpo {FINE} --model {{place}}/unknown", ["mamba", "llama"]),
        (f"dpo {FINE} --model {{place}}/small", ["tokenizer does not belong to the model"]),
        (f"dpo {FINE} --data {{place}}/nothing.jsonl", ["nothing.jsonl"]),
        (f"dpo {FINE} --data {{place}}/empty.jsonl", ["empty.jsonl"]),
        (f"dpo {FINE} --data {{place}}/lame.jsonl", ["lame.jsonl:4", "chosen"]),
        (f"dpo {FINE} --data {{place}}/told.jsonl", ["this recipe compares responses"]),
        (f"kto {FINE} --data {{place}}/good.jsonl", ["every response is desirable", "threshold"]),
        (f"dpo {FINE} --out {{place}}/occupied", ["occupied is not empty", "another --out"]),
        (f"dpo {FINE} --out {{place}}/a-file", ["a-file is a file", "another --out"]),
        (f"dpo {FINE} --packing.max-tokens 8", ["more than the 8", "--packing.max-tokens"]),
        (f"dpo {FINE} --log.wandb mine", ["--log.wandb", "pip install wandb"]),
    ],
)
def test_a_wrong_command_is_answered_with_a_remedy(
    place, tmp_path, capsys, monkeypatch, line, words
):
    def never(*args, **options):
        raise AssertionError("something slow has begun")

    monkeypatch.setattr("llm.finetune.Step", never)
    monkeypatch.setattr("llm.finetune.with_reference", never)
    monkeypatch.setitem(sys.modules, "wandb", None)
    before = sorted(place.rglob("*"))
    typed = line.format(place=place, out=tmp_path / "run").split()
    monkeypatch.setattr(sys, "argv", ["modeseek", "train", *typed])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in said
    for word in words:
        assert word in said, said
    assert sorted(place.rglob("*")) == before


def test_a_gpu_gives_a_run_as_much_memory_as_plans_count_on(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    quiet()
    assert float(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == USABLE
