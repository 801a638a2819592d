"""How fast are responses written here, against ``generate`` of transformers on the same machine?

Command: ``python -m experiments.benchmarks.sampling [--models DIR ...] [--rounds N]``, about five
minutes on two cores. What to expect: 64 prompts with 8 responses of naturally uneven length at
least 3 times as fast, batches of fixed length ahead at every size.
Both contestants write with the same weights, each in a process of its own; they take turns, so that
a machine that slows down slows both. The models are the embedded one, any folders that are named,
and one of random weights with the vocabulary of GPT-2, which never ends by itself. Speeds are
medians of tokens per second over calls after the first, whose seconds, compilation or warm-up in
them, are given beside. A response counts up to the token that ends it.
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

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.sampling_contestants import CONTESTANTS, Case, SamplingTask, save_task
from experiments.results import atomically

OPENINGS = ("Once upon a time, there was a {} {}.", "One day a {} {} went to the park.")
SIZES = ("little", "big", "happy", "sad", "funny", "red", "lonely", "brave")
ANIMALS = ("dog", "cat", "bird", "fish")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time sampling against transformers, paired."""

    models: tuple[Path, ...] = ()
    """Folders of models that tell stories, each with its tokenizer."""
    random: bool = True
    """Also time a model of random weights, 16 million parameters and 50,257 tokens."""
    rounds: int = 3
    """Times that both run."""
    calls: int = 3
    """Timed calls of each case in a round."""
    longest: int = 256
    """Most tokens of a response where a model ends it by itself."""
    fixed: int = 128
    """Tokens of a response where nothing ends it."""
    out: Path = Path("reproduced/benchmarks/sampling.json")
    """Where the figures go."""


def cases(options: Options, ends: bool) -> list[Case]:
    """What a model writes; one that never ends by itself only fixed lengths."""
    uneven = Case(
        name="64 x 8, uneven",
        prompts=64,
        responses=8,
        max_new_tokens=options.longest,
        stops=True,
    )
    fixed = [
        Case(
            name=f"batch {size}, fixed",
            prompts=size,
            responses=1,
            max_new_tokens=options.fixed,
            stops=False,
        )
        for size in (1, 8, 64)
    ]
    return [uneven, *fixed] if ends else fixed


def story_task(folder: Path, options: Options) -> SamplingTask:
    """Beginnings of stories."""
    from llm.inputs import read_tokenizer
    from llm.sampler import stop_tokens

    tokenizer = read_tokenizer(folder)
    texts = [o.format(s, a) for o in OPENINGS for s in SIZES for a in ANIMALS]
    prompts = [list(tokenizer(text)["input_ids"]) for text in texts]
    stop = list(stop_tokens(folder, tokenizer.eos_token_id))
    return task(folder, prompts, stop, options)


def embedded_task(options: Options, console: Console) -> SamplingTask:
    """Questions in the embedded language, to the embedded model."""
    from llm.data.examples import DataSettings
    from llm.data.rendering import tokenize
    from llm.embedded.examples import built_in
    from llm.embedded.pretrain import HARBOUR, embedded_model
    from llm.inputs import read_tokenizer
    from llm.sampler import stop_tokens

    folder = embedded_model(console.print)
    tokenizer = read_tokenizer(folder)
    examples = built_in(HARBOUR, "sft", held_out=True)[:64]
    groups = tokenize(examples, tokenizer, DataSettings(), prompts_only=True)
    prompts = [group.prompt.tolist() for group in groups]
    return task(folder, prompts, list(stop_tokens(folder, tokenizer.eos_token_id)), options)


def random_task(folder: Path, options: Options) -> SamplingTask:
    """Random tokens, to a model of random weights."""
    from flax import nnx

    from llm.checkpoints.write import save_model
    from llm.model import Decoder
    from llm.model.architecture import architecture_from_config, config_from_architecture

    sizes = {"vocab_size": 50257, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 512}
    architecture = architecture_from_config({"model_type": "gpt2", **sizes})
    decoder = Decoder(architecture, rngs=nnx.Rngs(0))
    save_model(folder, decoder, config=config_from_architecture(architecture), tokenizer=None)
    lengths = np.random.default_rng(0)
    prompts = [lengths.integers(1, 50000, lengths.integers(8, 17)).tolist() for _ in range(64)]
    return task(folder, prompts, [], options)


def task(folder: Path, prompts: list[list[int]], stop: list[int], options: Options) -> SamplingTask:
    """What both contestants do with a model."""
    return SamplingTask(
        model=str(folder),
        prompts=prompts,
        stop=stop,
        cases=cases(options, bool(stop)),
        calls=options.calls,
        threads=os.cpu_count() or 1,
    )


def run_one(who: str, path: Path) -> dict[str, Any]:
    """One contestant in a process of its own."""
    line = [sys.executable, "-m", "experiments.benchmarks.sampling_contestants", who, str(path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise OSError(f"{who} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def speed(found: dict[str, Any]) -> float:
    """Tokens per second of a case in one round."""
    return median(n / s for n, s in zip(found["tokens"], found["seconds"], strict=True))


def main() -> None:
    """Time, print, save."""
    options = tyro.cli(Options)
    console = Console()
    record: dict[str, Any] = {"options": dataclasses.asdict(options), "models": {}}
    record["options"]["models"] = [folder.name for folder in options.models]
    del record["options"]["out"]  # where things lie on this machine is nobody's business
    with tempfile.TemporaryDirectory() as temporary:
        tasks = {"embedded": embedded_task(options, console)}
        tasks |= {folder.name: story_task(folder, options) for folder in options.models}
        if options.random:
            tasks["random, 16M"] = random_task(Path(temporary) / "random", options)
        path = Path(temporary) / "task.json"
        for name, given in tasks.items():
            save_task(path, given)
            rounds = []
            for count in range(options.rounds):
                with console.status(f"{name}, round {count + 1} of {options.rounds}"):
                    rounds.append({who: run_one(who, path) for who in CONTESTANTS})
            record["models"][name] = rounds
            console.print(table(name, given.cases, rounds))
    text = json.dumps(record, indent=1) + "\n"
    atomically(options.out, lambda path: path.write_text(text, encoding="utf-8"))


def table(name: str, cases: list[Case], rounds: list[dict[str, Any]]) -> Table:
    """Speeds of a model, a case in a row."""
    made = Table("case", title=f"{name}: tokens per second, float32 (medians)")
    for heading in (*CONTESTANTS, "times as fast", "first call here, s", "there, s"):
        made.add_column(heading, justify="right")
    for case in cases:
        ours, theirs = ([speed(r[who][case.name]) for r in rounds] for who in CONTESTANTS)
        faster = median(a / b for a, b in zip(ours, theirs, strict=True))
        first = [median(r[who][case.name]["first"] for r in rounds) for who in CONTESTANTS]
        made.add_row(
            case.name,
            *(f"{median(rates):,.0f}" for rates in (ours, theirs)),
            f"{faster:.2f}",
            *(f"{seconds:.1f}" for seconds in first),
        )
    return made


if __name__ == "__main__":
    main()
