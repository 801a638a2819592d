"""tunix carries out a DPO task: its own trainer, model and reference pass in JAX.

Command: ``python -m experiments.benchmarks.tunix_peer TASK.json``; the last line printed is JSON,
as of ``ours``. Its decoder has the task's shape and random weights of its own, so losses are not
compared. Every batch is padded to the longest prompt and the longest response of the data, since
it compiles a program for every shape; its reference answers in every step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.ours import Compiling, peak_memory, since_began
from experiments.benchmarks.tasks import Model, Row, TrainTask, load_rows, read_task


def train(task: TrainTask, compiling: Compiling) -> dict[str, Any]:
    """Train."""
    import jax
    import optax
    from flax import nnx
    from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig, TrainingInput
    from tunix.sft.hooks import TrainingHooks

    class Watch(TrainingHooks):
        """The moment every step ended, and its loss."""

        def __init__(self) -> None:
            self.marks: list[float] = []
            self.losses: list[Any] = []

        def on_train_step_end(self, train_ctx: Any, train_step: int, train_loss: Any) -> None:
            if len(self.marks) + 1 in (1, task.warm, task.steps):
                jax.block_until_ready(train_loss)
            self.marks.append(since_began())
            self.losses.append(train_loss)

        def on_train_start(self, train_ctx: Any) -> None:
            pass

        def on_train_end(self, train_ctx: Any) -> None:
            pass

        def on_train_step_start(self, train_ctx: Any) -> None:
            pass

        def on_eval_step_start(self, train_ctx: Any) -> None:
            pass

        def on_eval_step_end(self, train_ctx: Any, eval_loss: Any) -> None:
            pass

    rows, watch = load_rows(task.rows)[: task.batch * task.steps], Watch()
    most = max(len(row.prompt) for row in rows), max(len(y) for row in rows for y in row.responses)

    def batch(rows: list[Row]) -> Any:
        prompt, prompt_mask = padded([row.prompt for row in rows], most[0], left=True)
        parts = [padded([row.responses[n] for row in rows], most[1], left=False) for n in (0, 1)]
        return TrainingInput(
            prompt_ids=prompt,
            prompt_mask=prompt_mask,
            chosen_ids=parts[0][0],
            chosen_mask=parts[0][1],
            rejected_ids=parts[1][0],
            rejected_mask=parts[1][1],
        )

    model = model_of(task.model)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(task.learning_rate, weight_decay=0.0)
    )
    config = DPOTrainingConfig(beta=task.beta, eval_every_n_steps=10**9, max_steps=task.steps)
    trainer = DPOTrainer(model, nnx.clone(model), optimizer, config)
    trainer.with_training_hooks(watch)
    steps = [rows[k * task.batch : (k + 1) * task.batch] for k in range(task.steps)]
    # Of one device: its layers name these axes.
    axes = (jax.sharding.AxisType.Auto,) * 2
    with jax.set_mesh(jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=axes)):
        trainer.train(batch(step) for step in steps)
    first, last = watch.marks[task.warm - 1], watch.marks[-1]
    return {
        "marks": watch.marks,
        "losses": [float(loss) for loss in watch.losses],
        "written": [],
        "seconds": last - first - compiling.seconds(first, last),
        "reference_seconds": 0.0,
        "compile_seconds": compiling.seconds(),
        "memory": peak_memory(),
        "device": jax.devices()[0].device_kind,
    }


def padded(texts: list[np.ndarray], most: int, *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Texts as an array and its mask, padded at one end."""
    ids, mask = np.zeros((len(texts), most), np.int32), np.zeros((len(texts), most), bool)
    for row, text in enumerate(texts):
        here = slice(most - len(text), most) if left else slice(0, len(text))
        ids[row, here], mask[row, here] = text, True
    return ids, mask


def model_of(model: Model) -> Any:
    """A decoder of the task's shape."""
    from flax import nnx
    from tunix.models.llama3.model import Llama3, ModelConfig

    c = model.config
    config = ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        head_dim=c["hidden_size"] // c["num_attention_heads"],
        num_kv_heads=c["num_key_value_heads"],
        rope_theta=int(c["rope_theta"]),
        norm_eps=c["rms_norm_eps"],
        weight_tying=c["tie_word_embeddings"],
    )
    return Llama3(config, rngs=nnx.Rngs(0))


def main() -> None:
    """Do what the command line names."""
    task, compiling = read_task(Path(sys.argv[1])), Compiling()
    assert isinstance(task, TrainTask)
    print(json.dumps(train(task, compiling)))


if __name__ == "__main__":
    main()
