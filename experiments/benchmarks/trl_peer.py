"""TRL carries out a training task: its own trainer, batching, padding and reference pass.

Command: ``python -m experiments.benchmarks.trl_peer TASK.json``; the last line printed is JSON, as
of ``ours``. It gets what makes it fast and changes no number: the reference's log-probabilities
computed once beforehand, no activation checkpointing unless the task wants some, no checkpoints,
its fused output head, and all threads. Token ids go in as they are, in the order they are in.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.ours import peak_host_memory, since_began
from experiments.benchmarks.tasks import Row, TrainTask, load_rows, read_task
from experiments.benchmarks.words import make_tokenizer, spell

TRIED = (1, 2, 4, 8, 16, 32)
"""In how many pieces a step is put through, until one fits."""


def train(task: TrainTask) -> dict[str, Any]:
    """Train; the step is cut in more pieces until it fits the device."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    for pieces in TRIED:
        if task.per_device is not None and task.batch // pieces > task.per_device:
            continue
        try:
            return attempt(task, pieces)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise MemoryError(f"not even a row in {TRIED[-1]} of {task.batch} fits the device")


def attempt(task: TrainTask, pieces: int) -> dict[str, Any]:
    """Train with a step put through in so many pieces."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """The moment every step ended, and its loss."""

        def __init__(self) -> None:
            self.marks: list[float] = []
            self.losses: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            edge = len(self.marks) + 1 in (1, task.warm, task.steps)
            if edge and torch.cuda.is_available():
                torch.cuda.synchronize()  # elsewhere the device may run behind, as it may in use
            self.marks.append(since_began())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    watch = Watch()
    rows = load_rows(task.rows)[: task.batch * task.steps]
    tokenizer = make_tokenizer(task.model.words)
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        given: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": task.batch // pieces,
            "gradient_accumulation_steps": pieces,
            "max_steps": task.steps,
            "learning_rate": task.learning_rate,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused" if on_gpu else "adamw_torch",
            "bf16": task.dtype == "bfloat16",  # autocast over float32 weights, as here
            "use_cpu": not on_gpu,
            "gradient_checkpointing": task.remat != "none",
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        make = {"dpo": dpo, "sft": sft, "rloo": rloo, "grpo": rloo}[task.recipe]
        kept: dict[str, Any] = {}
        trainer: Any = make(task, given, rows, tokenizer, kept)
        trainer.add_callback(watch)
        # Batches in the order of the file: both see the same tokens in every step.
        if not task.responses:
            trainer._get_train_sampler = lambda *_, **__: SequentialSampler(trainer.train_dataset)
        trainer.train()
    found = {
        "marks": watch.marks,
        "losses": watch.losses,
        "written": kept.get("written", []),
        "seconds": watch.marks[-1] - watch.marks[task.warm - 1],
        "reference_seconds": kept.get("reference_seconds", 0.0),
        "compile_seconds": 0.0,
        "memory": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak_host_memory(),
        "pieces": pieces,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }
    del trainer
    return found


def model_of(task: TrainTask) -> Any:
    """The model with float32 weights: read, or made on the device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if task.model.folder is not None:
        return AutoModelForCausalLM.from_pretrained(task.model.folder, dtype=torch.float32)
    config = dict(task.model.config)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config.pop("model_type"), **config), dtype=torch.float32
        )


def dpo(
    task: TrainTask, given: dict[str, Any], rows: list[Row], tokenizer: Any, kept: dict[str, Any]
) -> Any:
    """Its DPOTrainer; the reference's log-probabilities are computed before the first step."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Given(DPOTrainer):
        """Takes token ids."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *given: Any, **named: Any) -> Any:
            began = since_began()
            try:
                return super()._precompute_ref_logps(*given, **named)
            finally:
                kept["reference_seconds"] = since_began() - began

    data = {
        "prompt_ids": [row.prompt.tolist() for row in rows],
        "chosen_ids": [row.responses[0].tolist() for row in rows],
        "rejected_ids": [row.responses[1].tolist() for row in rows],
    }
    return Given(
        model_of(task),
        args=DPOConfig(beta=task.beta, max_length=None, precompute_ref_log_probs=True, **given),
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
    )


def sft(
    task: TrainTask, given: dict[str, Any], rows: list[Row], tokenizer: Any, kept: dict[str, Any]
) -> Any:
    """Its SFTTrainer on the responses alone, padded or with rows laid end to end."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    texts = [np.concatenate((row.prompt, row.responses[0])).tolist() for row in rows]
    labels = [[-100] * len(row.prompt) + row.responses[0].tolist() for row in rows]
    return SFTTrainer(
        model_of(task),
        args=SFTConfig(
            max_length=None,
            padding_free=task.padding_free,
            dataset_kwargs={"skip_prepare_dataset": True},
            **given,
        ),
        train_dataset=Dataset.from_dict({"input_ids": texts, "labels": labels}),
        processing_class=tokenizer,
    )


def rloo(
    task: TrainTask, given: dict[str, Any], rows: list[Row], tokenizer: Any, kept: dict[str, Any]
) -> Any:
    """Its RLOOTrainer or GRPOTrainer: fresh responses every step, by ``generate``."""
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    kept["written"] = []

    def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
        """See ``ours.Even``."""
        kept["written"].append(sum(map(len, completion_ids)))
        return [float(np.mean(np.array(ids) % 2 == 0)) for ids in completion_ids]

    settings, trainer = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}[
        task.recipe
    ]
    given["per_device_train_batch_size"] *= task.responses
    return trainer(
        model_of(task),
        reward_funcs=even,
        args=settings(
            beta=task.beta,
            num_generations=task.responses,
            max_completion_length=task.max_new_tokens,
            **given,
        ),
        train_dataset=Dataset.from_dict({"prompt": [spell(row.prompt) for row in rows]}),
        processing_class=tokenizer,
    )


def main() -> None:
    """Do what the command line names."""
    task = read_task(Path(sys.argv[1]))
    assert isinstance(task, TrainTask)
    print(json.dumps(train(task)))


if __name__ == "__main__":
    main()
