"""What does it cost to score tokens, against the whole table of logits?

Command: ``python -m experiments.benchmarks.logprobs [--rounds N]``; five rounds take a few minutes
on two cores. For each vocabulary and each share of tokens that are scored, value and gradients (of
hidden states and output matrix) run compiled, dense and ours in turn within a round, so that a
machine that slows down slows both. The dense version is the usual one: all logits, log-softmax,
gather, mask. Medians over rounds; the ratio is taken round by round. Memory is the scratch that the
compiler reserves.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.results import atomically
from llm.logprobs import token_logprobs


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        words: size of the vocabulary.
        width: of the model.
        tokens: positions in the batch.
        share: of them that are scored.
    """

    words: int
    width: int
    tokens: int
    share: float


CASES = [
    Case(words, width, tokens, share)
    for words, width, tokens in ((512, 128, 4096), (4096, 256, 2048), (50_304, 256, 1024))
    for share in (1.0, 0.3)
]


@dataclass(frozen=True)
class Options:
    """Time the log-prob primitive against dense logits, paired."""

    rounds: int = 5
    """Times that both run every case."""
    out: Path = Path("reproduced/benchmarks/logprobs.json")
    """Where the figures go."""


def contestants(case: Case) -> tuple[dict[str, Callable[..., Any]], tuple[jax.Array, jax.Array]]:
    """Losses of the two versions, and the hidden states and matrix they are differentiated in."""
    random = np.random.default_rng(0)
    hidden = jnp.asarray(random.normal(size=(case.tokens, case.width)), jnp.float32)
    matrix = jnp.asarray(random.normal(size=(case.words, case.width)) / 16, jnp.float32)
    target = random.integers(case.words, size=case.tokens)
    mask = random.permutation(case.tokens) < case.share * case.tokens
    source = np.flatnonzero(mask)
    scored = [jnp.asarray(x, jnp.int32) for x in (source, target[source], [len(source)])]
    table_target, table_mask = jnp.asarray(target[:, None], jnp.int32), jnp.asarray(mask)

    def dense(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(hidden @ matrix.T)
        chosen = jnp.take_along_axis(logp, table_target, axis=1)[:, 0]
        return jnp.sum(jnp.where(table_mask, chosen, 0))

    def ours(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
        return jnp.sum(token_logprobs(hidden, matrix, *scored).logp)

    return {"dense": dense, "ours": ours}, (hidden, matrix)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of every round, and scratch memory, of both."""
    losses, heads = contestants(case)
    compiled = {
        name: jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*heads).compile()
        for name, loss in losses.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for count in range(rounds + 1):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*heads))
            if count:  # the first touches memory for the first time
                seconds[name].append(time.perf_counter() - began)
    scratch = {name: scratch_mib(run) for name, run in compiled.items()}
    return asdict(case) | {"seconds": seconds, "scratch_mib": scratch}


def scratch_mib(program: jax.stages.Compiled) -> float:
    """Memory that a compiled program reserves beside its inputs and outputs."""
    memory = program.memory_analysis()
    if memory is None:
        raise OSError(f"{jax.default_backend()} does not say what memory a program takes; use cpu.")
    return memory.temp_size_in_bytes / 2**20


def main() -> None:
    """Time, print, save."""
    options = tyro.cli(Options)
    console = Console()
    table = Table(title="value and gradients, median of rounds")
    for heading in ("vocabulary", "scored", "dense ms", "ours ms", "×", "dense MiB", "ours MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    record = []
    for case in CASES:
        with console.status(f"{case}"):
            found = measure(case, options.rounds)
        record.append(found)
        dense, ours = found["seconds"]["dense"], found["seconds"]["ours"]
        table.add_row(
            f"{case.words}",
            f"{case.share:.0%}",
            *(f"{1e3 * median(seconds):.1f}" for seconds in (dense, ours)),
            f"{median(d / o for d, o in zip(dense, ours, strict=True)):.2f}",
            *(f"{found['scratch_mib'][name]:.1f}" for name in ("dense", "ours")),
        )
    console.print(table)
    text = json.dumps(record, indent=1) + "\n"
    atomically(options.out, lambda path: path.write_text(text, encoding="utf-8"))
    console.print(f"every round: {options.out}")


if __name__ == "__main__":
    main()
