"""From the numbers a run has trained to a folder that others load.

What trains is a part of the model: adapters, or everything but the embeddings. Put back into the
model that the run began from, with adapters added to the weights they correct, it is a model like
any other. The last checkpoint of a run is exported when the run ends; this is also how any other
of its checkpoints is, while it still trains or after it was stopped.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from llm.checkpoints.adapters import save_adapter
from llm.checkpoints.folders import read_architecture, read_config
from llm.checkpoints.reward import save_reward_model
from llm.checkpoints.write import save_model
from llm.inputs import read_tokenizer
from llm.loading import Loaded, load
from llm.model import RewardModel, with_parameters
from llm.model.lora import merge
from llm.runs import Run
from llm.settings import REWARD_MODEL
from llm.state import ADAPTER, MODEL
from llm.update import Parameters


def export_model(
    loaded: Loaded,
    trainable: Parameters,
    path: Path,
    *,
    source: Path,
    config: Mapping[str, Any],
    tokenizer: Any,
    dtype: DTypeLike | None = None,
    overwrite: bool = True,
) -> None:
    """Write a model whole, with its adapters merged.

    A reward model is written with its head, a policy without its critic.

    Args:
        loaded: the model that the run began from.
        trainable: what was trained, by path.
        path: the folder to make.
        source: folder of the model that the run began from.
        config: its config.json.
        tokenizer: of the model.
        dtype: of the weights; as in ``source`` if None.
        overwrite: replace what is at ``path``.
    """
    options: dict[str, Any] = {
        "config": config,
        "tokenizer": tokenizer,
        "source": source,
        "dtype": dtype,
        "overwrite": overwrite,
    }
    if isinstance(loaded.module, RewardModel):
        model = with_parameters(loaded.module, loaded.frozen | trainable)
        save_reward_model(path, merge(model), **options)
    else:
        save_model(path, merge(loaded.policy(trainable)), **options)


def export_adapter(
    loaded: Loaded, trainable: Parameters, path: Path, *, source: Path, overwrite: bool = True
) -> None:
    """Write the adapters alone, in PEFT's format.

    Args:
        loaded: the model that the run began from, with adapters.
        trainable: what was trained, by path.
        path: the folder to make.
        source: folder of the model that the run began from; the adapters name it.
        overwrite: replace what is at ``path``.

    Raises:
        ValueError: if it was not adapters that trained, or not only.
    """
    if loaded.lora is None:
        raise ValueError("This run trained the weights themselves: leave --adapter-only out.")
    if isinstance(loaded.module, RewardModel):
        raise ValueError(
            "A reward model is its adapters and its head, and an adapter folder has no place for "
            "the second: leave --adapter-only out to write both, merged."
        )
    policy = loaded.policy(trainable)
    save_adapter(path, policy, loaded.lora, str(source), overwrite=overwrite)


def export_checkpoint(
    run: Run,
    say: Callable[[str], None],
    *,
    step: int | None = None,
    out: Path | None = None,
    dtype: DTypeLike | None = None,
    adapter_only: bool = False,
) -> Path:
    """Write the model of a run as it was after some step.

    Args:
        run: finished or not.
        say: told what is worth knowing, a sentence at a time.
        step: of which there is a checkpoint; the latest if None.
        out: the folder to make; ``model-STEP`` or ``adapter-STEP`` in the run's if None.
        dtype: of the weights; as in the model that the run began from if None.
        adapter_only: write the adapters alone.

    Returns:
        The folder.

    Raises:
        ValueError: if there is no such checkpoint, if the model that the run began from is another
            by now, if adapters are asked for that do not exist, or if the folder holds something.
        OSError: if something cannot be read or written.
    """
    step = run.find_step(step)
    path = out or run.folder / f"{ADAPTER if adapter_only else MODEL}-{step}"
    if path.exists() and any(path.iterdir()):
        raise ValueError(f"{path} is not empty: choose another --out.")
    source = run.source(say)
    loaded = load(source, read_architecture(source), run.settings, run.name == REWARD_MODEL)
    restored = run.restore(step, loaded.trainable)
    if adapter_only:
        export_adapter(loaded, restored, path, source=source, overwrite=False)
    else:
        export_model(
            loaded,
            restored,
            path,
            source=source,
            config=read_config(source),
            tokenizer=read_tokenizer(source),
            dtype=dtype,
            overwrite=False,
        )
    say(f"{'adapters' if adapter_only else 'model'} after step {step} of {run.name}: {path}")
    return path
