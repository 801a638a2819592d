"""How good a model is on prompts it was not trained on, with how sure one can be of it.

One pass over the data gives every response its log-probability, its exact divergences from a
reference, or the score of a reward model; ``llm.judgement`` makes estimates of them. A run is
measured on the groups that it held out, against the model that it began from.

Key to the axes: B groups, N responses, T response tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float
from rich.console import Console

from llm.checkpoints.folders import find_model, read_architecture, read_config
from llm.checkpoints.read import load_decoder
from llm.checkpoints.reward import is_reward_model, load_reward_model
from llm.data.examples import DataSettings, Group
from llm.data.holdout import key
from llm.data.order import InOrder
from llm.data.packing import Batch
from llm.data.plan import PackingSettings, make_plan
from llm.data.rendering import tokenize
from llm.hosts import HostSettings, fetch, spread
from llm.inputs import read_data, read_tokenizer
from llm.intervals import Estimate
from llm.judgement import Measured, PerResponse, judge, judge_rewards
from llm.loading import arithmetic, unrolled
from llm.mesh import batch_sharding, make_mesh
from llm.model import Decoder, RewardModel
from llm.preparation import prepare
from llm.progress import counted
from llm.reference import data_fingerprint
from llm.runs import Run, is_run, open_run
from llm.scoring import score, score_rewards
from llm.settings import ONLINE_RECIPES, TRAIN_RECIPES, Training
from llm.state import MODEL
from objectives.hyperparameters import require

Sums = dict[str, Float[Array, "B N"]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to measure a model on, and against what."""

    data: str | None = None
    """Hub name, folder or file of the data; for a run its held-out groups when not given, else the
    held-out part of the embedded language."""
    reference: str | None = None
    """Hub name or folder of the model to compare with; for a run the one that it began from when
    not given; `none` for none."""
    batch: int = 16
    """Prompts (groups) in one pass."""
    seed: int = 0
    """Of built-in data."""
    preference: str | None = None
    """What built-in data are preferred for, as in training."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic. auto: bfloat16 except on a CPU."""
    out: Path | None = None
    """File to write the numbers to, as JSON."""
    hosts: HostSettings = field(default_factory=HostSettings)
    reading: DataSettings = field(default_factory=DataSettings)
    packing: PackingSettings = field(default_factory=lambda: PackingSettings(shapes=1))

    def __post_init__(self) -> None:
        require(self.batch >= 1, self, "batch", "at least 1 group")


class Report(NamedTuple):
    """What was measured.

    Attributes:
        model: folder of the model.
        reference: of the reference; None without one.
        kind: ``"language model"`` or ``"reward model"``.
        data: where the groups come from, in words.
        groups: how many.
        prompts: distinct ones among them.
        numbers: estimates by name, in the order in which to show them.
    """

    model: str
    reference: str | None
    kind: str
    data: str
    groups: int
    prompts: int
    numbers: dict[str, Estimate]


def evaluate(name: str, settings: Evaluation, console: Console) -> Report:
    """Measure a model.

    Args:
        name: Hub name or folder of a model, or the folder of a run.
        settings: on what, and against what.
        console: where to say what happens.

    Raises:
        ValueError: for anything that does not fit together; nothing slow has begun then.
        OSError: if something cannot be read, or fetched.
    """
    say = console.print
    run = open_run(Path(name)) if is_run(Path(name)) else None
    folder = find_model(name) if run is None else model_of(run)
    config, architecture = read_config(folder), read_architecture(folder)
    rewards = is_reward_model(config)
    against = reference_of(run, settings, say, rewards)
    tokenizer = read_tokenizer(folder)
    if against is not None:
        check_reference(folder, against, tokenizer)
    if run is not None and settings.data is None:
        groups, where = held_out_of(run), f"held out by {run.folder}"
    else:
        wanted = Training(
            data=settings.data,
            reading=settings.reading,
            seed=settings.seed,
            preference=settings.preference,
        )
        if run is not None and settings.data == run.settings.data:
            say(
                "[yellow]the run was trained on most of these data[/]; leave --data out for the "
                "part that was held out"
            )
        examples, aside = read_data("dpo", wanted, say)
        where = settings.data or "the embedded language, held out"
        groups = tokenize(
            examples if aside is None or settings.reading.eval_source else aside,
            tokenizer,
            settings.reading,
            context=architecture.max_positions,
            vocab_size=architecture.vocab_size,
            pairs=rewards,
            say=say,
        )
    mesh = make_mesh() if jax.device_count() > 1 else None
    options: dict[str, Any] = {
        "dtype": arithmetic(settings.dtype),
        "mesh": mesh,
        "unroll": unrolled(architecture.layers),
    }
    model = (load_reward_model if rewards else load_decoder)(str(folder), **options)
    reference = None if against is None else load_decoder(str(against), **options)
    found = measure(model, reference, groups, settings, mesh, console)
    numbers = judge_rewards(found) if rewards else judge(found)
    return Report(
        model=str(folder),
        reference=None if against is None else str(against),
        kind="reward model" if rewards else "language model",
        data=where,
        groups=len(groups),
        prompts=len(np.unique(found.prompt)),
        numbers=numbers,
    )


def model_of(run: Run) -> Path:
    """The fine-tuned model of a run.

    Raises:
        ValueError: if the run has not got that far.
    """
    folder = run.folder / MODEL
    if not folder.is_dir():
        raise ValueError(
            f"{run.folder} holds no {MODEL}: the run is not finished. Write one of its checkpoints "
            f"with `modeseek export {run.folder}`, and evaluate that folder."
        )
    return folder


def reference_of(
    run: Run | None, settings: Evaluation, say: Callable[[str], None], rewards: bool
) -> Path | None:
    """Folder of the model to compare with."""
    if settings.reference == "none" or (rewards and settings.reference is None):
        return None
    if rewards:
        raise ValueError(
            "a reward model gives no probabilities that a reference could be compared by: leave "
            "--reference out."
        )
    if settings.reference is not None:
        return find_model(settings.reference)
    return None if run is None else run.source(say)


def check_reference(folder: Path, reference: Path, tokenizer: Any) -> None:
    """Raise ValueError unless two models mean the same by a token id."""
    sizes = [read_architecture(path).vocab_size for path in (folder, reference)]
    if sizes[0] != sizes[1] or read_tokenizer(reference).get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"{folder} and {reference} do not share a vocabulary ({sizes[0]} and {sizes[1]} "
            "entries), so their probabilities of a token cannot be compared: give the model that "
            "this one was trained from."
        )


def held_out_of(run: Run) -> list[Group]:
    """The groups that a run held out, read again.

    Raises:
        ValueError: if there are none, or if the data have changed since.
    """
    if run.name in ONLINE_RECIPES:
        raise ValueError(
            f"{run.folder} learned from what it wrote itself, and held out prompts alone: give "
            "--data with labelled responses. What it made of those prompts is in metrics.jsonl; "
            "`modeseek plot` draws it."
        )
    prepared = prepare(run.name, TRAIN_RECIPES[run.name], run.settings, lambda line: None)
    if not prepared.held_out:
        raise ValueError(f"{run.folder} held nothing out: give --data.")
    if data_fingerprint(prepared.held_out) != run.record["fingerprints"]["held_out"]:
        raise ValueError(
            f"the data of {run.folder} have changed since, so what it held out is not known any "
            "more: give --data."
        )
    return prepared.held_out


def measure(
    model: Decoder | RewardModel,
    reference: Decoder | None,
    groups: Sequence[Group],
    settings: Evaluation,
    mesh: Mesh | None,
    console: Console,
) -> Measured:
    """Go once over the data.

    Args:
        model: what is judged.
        reference: what it is compared with.
        groups: the data.
        settings: how many groups at a time, in which layout.
        mesh: the devices the models are spread over.
        console: where the bar is drawn.
    """
    order = InOrder(len(groups), settings.batch)
    shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    plan = make_plan(groups, order, settings.packing, steps=order.steps, shards=shards)
    structure, numbers = nnx.split((model, reference))

    @jax.jit
    def sums(numbers: Any, batch: Batch) -> Sums:
        model, reference = nnx.merge(structure, numbers)
        return response_sums(model, reference, batch, mesh)

    place = None if mesh is None else batch_sharding(mesh)
    found: dict[int, dict[str, np.ndarray]] = {}
    batches = (batch for step in range(plan.steps) for batch in plan.micro_batches(step))
    total = round(plan.steps * plan.micro_batches_per_step)
    for batch in counted(console, "evaluate", batches, total):
        values = fetch(sums(numbers, spread(batch, place)))
        for b, example in enumerate(batch.example):
            found[int(example)] = {name: value[b] for name, value in values.items()}
    keys = [key(group, 0) for group in groups]
    number = {name: n for n, name in enumerate(sorted(set(keys)))}
    many = [len(group.responses) for group in groups]

    def flat(name: str) -> PerResponse:
        rows = (found[g][name][:n] for g, n in enumerate(many))
        return np.concatenate([row.astype(np.float64) for row in rows])

    return Measured(
        group=np.repeat(np.arange(len(groups)), many),
        prompt=np.repeat(np.array([number[name] for name in keys]), many),
        reward=np.concatenate([group.rewards.astype(np.float64) for group in groups]),
        length=flat("length"),
        sums={name: flat(name) for name in found[0] if name != "length"},
    )


def response_sums(
    model: Decoder | RewardModel, reference: Decoder | None, batch: Batch, mesh: Mesh | None
) -> Sums:
    """What a batch says about each response, summed over its tokens; 0 where there is none."""
    length = {"length": jnp.sum(batch.mask.astype(jnp.float32), axis=-1)}
    if isinstance(model, RewardModel):
        return length | {"score": score_rewards(model, batch)[0][..., 0]}
    scores = score(model, batch, reference=reference, entropy=True, mesh=mesh)
    return length | {
        name: jnp.sum(values, axis=-1)
        for name, values in scores._asdict().items()
        if values is not None
    }
