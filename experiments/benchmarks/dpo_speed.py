"""How fast is DPO here, and how much memory does it take, against TRL on the same machine?

Command: ``python -m experiments.benchmarks.dpo_speed --data FILE --tokenizer FOLDER [--rounds N]``.
A llama-shaped model of random weights and the tokenizer's vocabulary is made, the data are
tokenized once, and both train on the same token ids, in the same order, in float32, each in a
process of its own with the threads it takes by default; they take turns, so that a machine that
slows down slows both. Seconds are medians over steps after the first two, which compile or warm up;
modeseek's include its share of the reference pass, as if the data were seen once. A token is
counted where a plain implementation reads it: a prompt once for each response, no padding.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.dpo_contestants import DPOTask, load_groups, save_groups
from experiments.results import atomically


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time DPO against TRL, paired."""

    data: str
    """Preference data, as for modeseek train."""
    tokenizer: Path
    """Folder of a tokenizer; its vocabulary is the model's."""
    rounds: int = 3
    """Times that both run."""
    steps: int = 12
    """Steps of each run."""
    batch: int = 8
    """Pairs in a step."""
    width: int = 256
    """D of the model."""
    layers: int = 4
    """L of the model."""
    max_length: int = 512
    """Most tokens of a prompt with one response."""
    out: Path = Path("reproduced/benchmarks/dpo_speed.json")
    """Where the figures go."""


def make_model(folder: Path, options: Options, tokenizer: Any) -> int:
    """A random model with the tokenizer beside it; returns its number of parameters."""
    import math

    from flax import nnx

    from llm.checkpoints.write import save_model
    from llm.model import Decoder, parameters
    from llm.model.architecture import architecture_from_config, config_from_architecture

    architecture = architecture_from_config(
        {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": options.width,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.width // 64,
            "num_key_value_heads": options.width // 64,
            "intermediate_size": options.width * 8 // 3 // 32 * 32,
            "max_position_embeddings": options.max_length,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        }
    )
    decoder = Decoder(architecture, rngs=nnx.Rngs(0))
    config = config_from_architecture(architecture)
    save_model(folder, decoder, config=config, tokenizer=tokenizer)
    return sum(math.prod(value.shape) for value in parameters(decoder).values())


def prepare(folder: Path, options: Options) -> tuple[DPOTask, int]:
    """Write the task; returns it with the model's size."""
    from transformers import AutoTokenizer

    from llm.data.examples import DataSettings
    from llm.data.rendering import tokenize
    from llm.data.sources import read_examples

    tokenizer = AutoTokenizer.from_pretrained(str(options.tokenizer))
    size = make_model(folder / "model", options, tokenizer)
    need = options.batch * options.steps
    examples = read_examples(options.data, bad_rows="drop")
    settings = DataSettings(bad_rows="drop", max_length=options.max_length)
    groups = tokenize(examples, tokenizer, settings)
    if len(groups) < need:
        raise ValueError(
            f"--data has {len(groups)} usable pairs, and {options.steps} steps of {options.batch} "
            "need more: lower --steps or --batch."
        )
    save_groups(folder / "groups.npz", groups[:need])
    task = DPOTask(
        model=str(folder / "model"),
        groups=str(folder / "groups.npz"),
        batch=options.batch,
        steps=options.steps,
        learning_rate=1e-5,
    )
    return task, size


def run_one(who: str, task: Path) -> dict[str, Any]:
    """One contestant in a process of its own."""
    line = [sys.executable, "-m", "experiments.benchmarks.dpo_contestants", who, str(task)]
    done = subprocess.run(
        line, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    if done.returncode:
        raise OSError(f"{who} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def speed(task: DPOTask, result: dict[str, Any]) -> float:
    """Tokens per second over the steps after the first two."""
    pairs = load_groups(task.groups)
    tokens = [2 * len(prompt) + len(w) + len(r) for prompt, w, r in pairs]
    per_step = [sum(tokens[i : i + task.batch]) for i in range(0, len(tokens), task.batch)]
    reference = result.get("reference_seconds", 0.0) / task.steps
    rates = [
        count / (seconds + reference)
        for count, seconds in zip(per_step[2:], result["seconds"][2:], strict=True)
    ]
    return median(rates)


def main() -> None:
    """Time, print, save."""
    options = tyro.cli(Options)
    console = Console()
    rounds = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        task, size = prepare(folder, options)
        (folder / "task.json").write_text(json.dumps(dataclasses.asdict(task)), encoding="utf-8")
        for count in range(options.rounds):
            with console.status(f"round {count + 1} of {options.rounds}"):
                found = {who: run_one(who, folder / "task.json") for who in ("modeseek", "trl")}
            for result in found.values():
                result["tokens_per_second"] = speed(task, result)
                del result["task"]
            rounds.append(found)
    setting = dataclasses.asdict(options) | {
        "data": Path(options.data).name,
        "tokenizer": options.tokenizer.name,
    }
    del setting["out"]  # where things lie on this machine is nobody's business
    record = {"options": setting, "parameters": size, "rounds": rounds}
    text = json.dumps(record, indent=1) + "\n"
    atomically(options.out, lambda path: path.write_text(text, encoding="utf-8"))

    title = f"DPO, {size / 1e6:.1f}M parameters, {options.batch} pairs, float32 (medians)"
    table = Table(title=title)
    for heading in ("", "tokens/s", "peak GiB", "GiB before training"):
        table.add_column(heading, justify="right")
    for who in ("modeseek", "trl"):
        cells = [
            median(r[who][key] for r in rounds)
            for key in ("tokens_per_second", "memory", "memory_before")
        ]
        table.add_row(who, f"{cells[0]:,.0f}", f"{cells[1]:.2f}", f"{cells[2]:.2f}")
    console.print(table)
    faster = median(
        r["modeseek"]["tokens_per_second"] / r["trl"]["tokens_per_second"] for r in rounds
    )
    smaller = median(r["modeseek"]["memory"] / r["trl"]["memory"] for r in rounds)
    apart = max(
        abs(a - b)
        for r in rounds
        for a, b in zip(r["modeseek"]["losses"], r["trl"]["losses"], strict=True)
    )
    console.print(
        f"modeseek trains {faster:.2f} times as fast in {smaller:.2f} of the memory; "
        f"their losses differ by {apart:.1e} at most"
    )


if __name__ == "__main__":
    main()
