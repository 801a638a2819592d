"""``generate`` of transformers answers the prompts of a task, in a process of its own.

Command: ``python -m experiments.benchmarks.transformers_peer TASK.json``; the last line printed is
JSON, as of ``ours``. Everything that makes it fast here: one padded batch, no gradients, all
threads, weights in the dtype of the arithmetic. It draws from the whole distribution at temperature
1 and is not asked for log-probabilities, which ours returns.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.ours import peak_host_memory, time_cases
from experiments.benchmarks.tasks import Case, SampleTask, load_rows, read_task


def write(task: SampleTask) -> dict[str, Any]:
    """Answer the prompts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, task.dtype)
    if task.model.folder is not None:
        model: Any = AutoModelForCausalLM.from_pretrained(task.model.folder, dtype=dtype)
    else:
        config = dict(task.model.config)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(config.pop("model_type"), **config), dtype=dtype
            )
    model = model.to(device).eval()
    model.generation_config.eos_token_id = None
    prompts = [row.prompt.tolist() for row in load_rows(task.rows)]

    def answer(case: Case, seed: int) -> int:
        torch.manual_seed(seed)
        chosen = prompts[: case.prompts]
        size = max(map(len, chosen))
        ids = torch.tensor([[0] * (size - len(p)) + p for p in chosen], device=device)
        mask = torch.tensor([[0] * (size - len(p)) + [1] * len(p) for p in chosen], device=device)
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
        written = found[:, size:].cpu().numpy()  # waits for the device
        if not case.stops:
            return written.size
        ended = np.isin(written, task.stop)
        lengths = np.where(ended.any(1), ended.argmax(1) + 1, written.shape[1])
        return int(lengths.sum())

    on_gpu = device == "cuda"
    return {
        "cases": time_cases(task, answer),
        "compile_seconds": 0.0,
        "memory": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak_host_memory(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def main() -> None:
    """Do what the command line names."""
    task = read_task(Path(sys.argv[1]))
    assert isinstance(task, SampleTask)
    print(json.dumps(write(task)))


if __name__ == "__main__":
    main()
