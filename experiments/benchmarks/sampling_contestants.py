"""The same prompts answered with the same weights, here and by transformers: one process each.

Command: ``python -m experiments.benchmarks.sampling_contestants WHO TASK.json``, where WHO is
``modeseek`` or ``transformers``; ``sampling`` writes the task. The last line printed is JSON: of
every case the seconds of the first call, which compiles or warms up, those of the others, and the
tokens that each wrote. Both draw from the whole distribution at temperature 1 in float32 and keep
keys and values; modeseek also returns the log-probability of every token, which ``generate`` is not
asked for.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to write.

    Attributes:
        name: what it is called in the table.
        prompts: how many of the task's.
        responses: to each.
        max_new_tokens: a response is cut after so many.
        stops: whether the model's end tokens end a response.
    """

    name: str
    prompts: int
    responses: int
    max_new_tokens: int
    stops: bool


@dataclass(frozen=True, kw_only=True)
class SamplingTask:
    """What both are given.

    Attributes:
        model: folder of a Hugging Face model.
        prompts: token ids.
        stop: tokens that end a response.
        cases: what to write.
        calls: of each case after the first.
        threads: that torch computes with.
    """

    model: str
    prompts: list[list[int]]
    stop: list[int]
    cases: list[Case]
    calls: int
    threads: int


def read_task(path: Path) -> SamplingTask:
    """A task from its file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return SamplingTask(**record | {"cases": [Case(**case) for case in record["cases"]]})


def save_task(path: Path, task: SamplingTask) -> None:
    """Write a task down."""
    path.write_text(json.dumps(asdict(task)), encoding="utf-8")


Write = Callable[[Case, int], int]
"""Writes a case with a seed; returns how many tokens that were."""


def modeseek(task: SamplingTask) -> Write:
    """The sampler of this project, as training uses it."""
    from llm.checkpoints.folders import read_architecture
    from llm.checkpoints.read import load_decoder
    from llm.sampler import Sampling, sample

    decoder = load_decoder(task.model, unroll=read_architecture(Path(task.model)).layers)
    prompts = [np.array(prompt, np.int32) for prompt in task.prompts]

    def write(case: Case, seed: int) -> int:
        settings = Sampling(
            responses=case.responses,
            max_new_tokens=case.max_new_tokens,
            stop=tuple(task.stop) if case.stops else (),
            seed=seed,
        )
        groups = sample(
            decoder, prompts[: case.prompts], settings, rows=case.prompts * case.responses
        )
        return sum(len(answer.tokens) for group in groups for answer in group)

    return write


def transformers(task: SamplingTask) -> Write:
    """``generate`` with everything that makes it fast here: one padded batch, no gradients."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def write(case: Case, seed: int) -> int:
        torch.manual_seed(seed)
        chosen = task.prompts[: case.prompts]
        size = max(map(len, chosen))
        ids = torch.tensor([[0] * (size - len(p)) + p for p in chosen])
        mask = torch.tensor([[0] * (size - len(p)) + [1] * len(p) for p in chosen])
        with torch.no_grad():
            found = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=case.max_new_tokens,
                num_return_sequences=case.responses,
                pad_token_id=0,
                eos_token_id=task.stop if case.stops else None,
            )
        written = found[:, size:].numpy()
        if not case.stops:
            return written.size
        ended = np.isin(written, task.stop)
        lengths = np.where(ended.any(1), ended.argmax(1) + 1, written.shape[1])
        return int(lengths.sum())

    return write


CONTESTANTS = {"modeseek": modeseek, "transformers": transformers}


def main() -> None:
    """Write every case, time it, print what came out."""
    who, path = sys.argv[1:]
    task = read_task(Path(path))
    write = CONTESTANTS[who](task)
    found: dict[str, dict[str, Any]] = {}
    for case in task.cases:
        seconds, tokens = [], []
        for seed in range(task.calls + 1):
            began = time.perf_counter()
            tokens.append(write(case, seed))
            seconds.append(time.perf_counter() - began)
        found[case.name] = {"first": seconds[0], "seconds": seconds[1:], "tokens": tokens[1:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
