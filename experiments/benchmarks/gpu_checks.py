"""Two things that only a GPU can show to work, before anything is timed on one.

Command: ``python -m experiments.benchmarks.gpu_checks TASK.json``; prints a line of JSON. The fused
attention of half precision must give finite gradients where rows hold padding, and the numbers of
plain float32 where they do not. And a run must come to its checkpoints and go on from them, since
saving moves arrays while the step forbids it.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.ours import prepare
from experiments.benchmarks.speed import written_down
from experiments.benchmarks.tasks import TrainTask, llama, read_task

FAR = 0.05
"""Largest difference of hidden states of size 1, bfloat16 against float32, that is rounding."""


def attention() -> dict[str, Any]:
    """Gradients of a decoder over rows of two examples, padding, and a row of nothing else."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from llm.model import Decoder, parameters, with_parameters
    from llm.model.architecture import architecture_from_config

    R, S = 3, 256
    tokens = np.random.default_rng(0).integers(3, 500, (R, S)).astype(np.int32)
    segments = np.zeros((R, S), np.int32)
    segments[0, :100], segments[0, 100:201], segments[1, :37] = 1, 2, 1
    positions = np.zeros((R, S), np.int32)
    for row in range(R):
        for example in (1, 2):
            here = segments[row] == example
            positions[row, here] = np.arange(here.sum())
    given = [jnp.asarray(x) for x in (tokens, positions, segments, np.zeros_like(segments))]
    real = (segments > 0)[..., None]
    architecture = architecture_from_config(llama(256, 2, 512, 512).config)

    def outcome(dtype: str) -> tuple[Any, Any, bool]:
        decoder = Decoder(architecture, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype))

        def total(values: Any) -> Any:
            hidden = with_parameters(decoder, values)(*given).astype(jnp.float32)
            return jnp.sum(jnp.where(real, hidden, 0) ** 2), hidden

        program = jax.jit(jax.value_and_grad(total, has_aux=True)).lower(parameters(decoder))
        compiled = program.compile()
        (_, hidden), gradient = compiled(parameters(decoder))
        return np.asarray(hidden), jax.device_get(gradient), "fmha" in (compiled.as_text() or "")

    half, gradient, fused = outcome("bfloat16")
    full, _, _ = outcome("float32")
    apart = float(np.abs(np.where(real, half - full, 0)).max() / np.abs(full[real[..., 0]]).max())
    finite = all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    return {"ok": finite and apart < FAR, "finite": finite, "apart": apart, "fused": fused}


def saving(task: TrainTask) -> dict[str, Any]:
    """A run that saves at every step, and a longer one that goes on from there."""
    from rich.console import Console

    from llm.finetune import carry_out
    from llm.journal import METRICS, read_lines
    from llm.settings import SaveSettings
    from llm.state import saved_steps

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        task = replace(task, model=written_down(folder / "model", task.model))
        prepared = prepare(task, folder / "run")
        for steps in (task.steps - 1, task.steps):
            settings = replace(prepared.settings, steps=steps, save=SaveSettings(every=1))
            carry_out(replace(prepared, settings=settings), Console(quiet=True))
        saved = saved_steps(folder / "run")
        lines = [line for line in read_lines(folder / "run" / METRICS) if line["kind"] == "train"]
        losses = [line["loss"] for line in lines]
    ok = saved[-1] == task.steps and len(losses) == task.steps and np.isfinite(losses).all()
    return {"ok": bool(ok), "saved": saved, "losses": losses}


def main() -> None:
    """Check, and print what was found."""
    import jax

    task = read_task(Path(sys.argv[1]))
    assert isinstance(task, TrainTask)
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind}
    for name, check in (("attention", attention), ("saving", lambda: saving(task))):
        try:
            found[name] = check()
        except Exception as error:  # the others are worth knowing all the same
            found[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:1000]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
