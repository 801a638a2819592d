"""DPO on the same weights, token ids, order and optimizer, here and in TRL: one process each.

Command: ``python -m experiments.benchmarks.dpo_contestants WHO TASK.json``, where WHO is
``modeseek`` or ``trl``; ``dpo_speed`` writes the task, and the parity test does. The last line
printed is JSON: the loss and the seconds of every step, and the process's memory. Each contestant
does what its users get by default: TRL runs the reference in every step, modeseek once before the
first, and its seconds are reported beside those of the steps.
"""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class DPOTask:
    """What both are given.

    Attributes:
        model: folder of a Hugging Face model.
        groups: npz of token ids, from ``save_groups``.
        batch: pairs in a step.
        steps: how many; pairs are seen in order.
        learning_rate: of AdamW with betas (0.9, 0.999), constant; no clipping, no decay.
        beta: of DPO.
    """

    model: str
    groups: str
    batch: int
    steps: int
    learning_rate: float
    beta: float = 0.1


def save_groups(path: Path, groups: list[Any]) -> None:
    """Keep prompts, preferred and dispreferred responses as one flat array with their lengths."""
    parts = [part for group in groups for part in (group.prompt, *group.responses)]
    np.savez(path, ids=np.concatenate(parts), lengths=np.array([len(part) for part in parts]))


def load_groups(path: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(prompt, chosen, rejected) of every pair."""
    with np.load(path) as file:
        parts = np.split(file["ids"], np.cumsum(file["lengths"])[:-1])
    return [(parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts), 3)]


def memory() -> float:
    """Most memory this process ever held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_modeseek(task: DPOTask) -> dict[str, Any]:
    """The trainer's own step on the task."""
    import jax
    import optax

    from llm.checkpoints.read import load_decoder
    from llm.data.examples import Group
    from llm.data.order import InOrder
    from llm.data.plan import PackingSettings, make_plan
    from llm.loading import structure
    from llm.model import parameters
    from llm.train import Step, means
    from llm.update import Fixed, Learner
    from objectives import DPO

    pairs, rewards = load_groups(task.groups), np.array([1, 0], np.float32)
    groups = [
        Group(prompt, (chosen, rejected), rewards, str(i))
        for i, (prompt, chosen, rejected) in enumerate(pairs[: task.batch * task.steps])
    ]
    decoder = load_decoder(task.model, unroll=12)
    width = decoder.architecture.width
    order = InOrder(len(groups), task.batch)
    plan = make_plan(groups, order, PackingSettings(), steps=task.steps, width=width)
    rate = optax.constant_schedule(task.learning_rate)
    learner = Learner(structure(decoder), optax.adamw(rate, weight_decay=0.0), rate)
    values = parameters(decoder)
    fixed, objective = Fixed({}), DPO(beta=task.beta)
    before = memory()

    look = jax.jit(learner.look)
    known: list[np.ndarray] = []
    once = make_plan(groups, order, PackingSettings(shapes=1), steps=task.steps, width=width)
    batches = [batch for step in range(task.steps) for batch in once.micro_batches(step)]
    compiled = look.lower(values, fixed, jax.device_put(batches[0])).compile()
    began = time.perf_counter()
    for batch in batches:
        logp = np.asarray(compiled(values, fixed, jax.device_put(batch)).logp)
        for b, row in enumerate(batch.example):
            if row >= 0:
                found = [logp[b, n, : len(y)] for n, y in enumerate(groups[row].responses)]
                known.append(np.concatenate(found))
    reference = time.perf_counter() - began
    plan = plan.with_known(ref_logp=known)

    examples, cut = plan.examples(cut=False) + plan.examples(cut=True), bool(plan.pieces)
    example = jax.device_put(examples[0])
    state, sums = jax.jit(learner.start)(values, fixed, example, objective)
    step = Step(learner, fixed, objective, state, sums, examples, cut=cut, put=jax.device_put)
    losses, seconds = [], []
    for number in range(task.steps):
        began = time.perf_counter()
        state, report = step(state, [jax.device_put(b) for b in plan.micro_batches(number)])
        losses.append(means(jax.device_get(report.totals))["loss"])
        seconds.append(time.perf_counter() - began)
    return {
        "losses": losses,
        "seconds": seconds,
        "reference_seconds": reference,
        "padding": plan.padding,
        "memory_before": before,
        "memory": memory(),
    }


def run_trl(task: DPOTask) -> dict[str, Any]:
    """TRL's DPOTrainer on the task; its own batching, padding and reference pass."""
    import tempfile

    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Given(DPOTrainer):
        """Takes token ids as they are, in the order they are in."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    class Watch(TrainerCallback):
        """The seconds of every step and its loss."""

        def __init__(self) -> None:
            self.losses: list[float] = []
            self.seconds: list[float] = []
            self.began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    pairs = load_groups(task.groups)[: task.batch * task.steps]
    rows = {
        "prompt_ids": [prompt.tolist() for prompt, _, _ in pairs],
        "chosen_ids": [chosen.tolist() for _, chosen, _ in pairs],
        "rejected_ids": [rejected.tolist() for _, _, rejected in pairs],
    }
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    models = [AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32) for _ in "ab"]
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=task.batch,
            max_steps=task.steps,
            learning_rate=task.learning_rate,
            lr_scheduler_type="constant",
            beta=task.beta,
            max_grad_norm=0.0,
            max_length=None,
            optim="adamw_torch",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Given(
            models[0],
            ref_model=models[1],
            args=settings,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        before = memory()
        trainer.train()
    return {
        "losses": watch.losses,
        "seconds": watch.seconds,
        "memory_before": before,
        "memory": memory(),
    }


CONTESTANTS = {"modeseek": run_modeseek, "trl": run_trl}


def main() -> None:
    """Run one contestant and print what it measured."""
    who, path = sys.argv[1:]
    task = DPOTask(**json.loads(Path(path).read_text(encoding="utf-8")))
    print(json.dumps(CONTESTANTS[who](task) | {"task": asdict(task)}))


if __name__ == "__main__":
    main()
