"""modeseek carries out a task, in a process of its own, from this checkout or from another.

Command: ``python -m experiments.benchmarks.ours TASK.json [CHECKOUT]``; the last line printed is
JSON, and of a sweep one line for every run. Training is the trainer's own story,
``llm.finetune.carry_out`` from the recipe to the last step, with everything that is packed, placed,
compiled, sampled, judged and logged on the way; only checkpoints and exports are left out, because
a peer is told to write none either. What is asked of ``llm`` is what a run is asked for, so an
earlier commit can be put on the same scale.
"""

import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from experiments.benchmarks.tasks import (
    Case,
    Model,
    SampleTask,
    SweepTask,
    TrainTask,
    load_rows,
    read_task,
)

BEGAN = "BENCHMARK_BEGAN"
"""Environment variable: when the process was started, seconds since the epoch."""

NEVER = 10**9
"""Steps between checkpoints that are not wanted."""


def since_began() -> float:
    """Seconds since the process was started, imports and all."""
    return time.time() - float(os.environ.get(BEGAN, IMPORTED))


IMPORTED = time.time()


class Compiling:
    """When this process was tracing, lowering or compiling; nested spells count once."""

    def __init__(self) -> None:
        import jax

        self.spells: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self)

    def __call__(self, event: str, duration_secs: float, **_: Any) -> None:
        """Hear of a spell that has just ended."""
        if event.startswith("/jax/core/compile/"):
            now = since_began()
            self.spells.append((now - duration_secs, now))

    def seconds(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """How long that was between two moments."""
        total, reached = 0.0, begin
        for first, last in sorted(self.spells):
            first, last = max(first, reached), min(last, end)
            if last > first:
                total, reached = total + last - first, last
        return total


def peak_host_memory() -> float:
    """Most memory this process ever held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_memory() -> float:
    """The same, of the device where it has memory of its own."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return peak_host_memory()
    return device.memory_stats()["peak_bytes_in_use"] / 2**30


class Watch:
    """Stands where a run keeps its journal, and looks at the clock at every line."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.losses: list[float] = []
        self.collecting: list[tuple[float, float]] = []
        self.written: list[int] = []
        self.memory = 0.0

    def write(
        self, step: int, kind: str, numbers: Mapping[str, Any], clock: Mapping[str, Any]
    ) -> None:
        """Take note of a line: ``train`` after every step, ``rollout`` after every collection."""
        if kind == "train":
            self.marks.append(since_began())
            self.losses.append(float(numbers["loss"]))
            self.memory = peak_memory()
        if kind == "rollout":
            took = sum(clock[name] for name in ("sampling", "rewards", "scoring"))
            self.collecting.append((since_began() - took, since_began()))
            self.written.append(int(clock["tokens"]))

    def close(self) -> None:
        """There is nothing to finish."""


class Unsaved:
    """Stands where a run keeps its checkpoints, and keeps none."""

    def __init__(self, folder: Path, *_: Any, **__: Any) -> None:
        self.folder = folder

    def restore(self, *_: Any, **__: Any) -> None:
        """There is nothing to go on from."""

    def save(self, *_: Any, **__: Any) -> None:
        """Nothing is wanted."""

    def close(self) -> None:
        """Nothing was begun."""


class Even:
    """Worth of a response: the share of its tokens whose id is even. Exact, and costs nothing."""

    name = "even"

    def __call__(self, groups: Sequence[Sequence[Any]]) -> list[np.ndarray]:
        """See ``llm.rewards.Reward``."""
        return [np.array([np.mean(y.tokens % 2 == 0) for y in group]) for group in groups]


def train(task: TrainTask, compiling: Compiling) -> dict[str, Any]:
    """Train as ``modeseek train`` does.

    Returns:
        ``marks``, seconds since the process began at the end of each step; ``written``, tokens of
        each collection of fresh responses; ``seconds`` of the timed steps without compilation,
        ``collecting_seconds`` of them that went into fresh responses; and what else it took.
    """
    import jax
    from rich.console import Console

    from llm import finetune

    watch, refer = Watch(), finetune.with_reference
    compiled, spent = compiling.seconds(), 0.0

    def with_reference(*given: Any, **named: Any) -> Any:
        nonlocal spent
        began = since_began()
        found = refer(*given, **named)
        spent = since_began() - began - compiling.seconds(began)  # compilation is reported apart
        return found

    with tempfile.TemporaryDirectory() as folder, ExitStack() as changed:
        os.environ["MODESEEK_CACHE"] = folder
        prepared = prepare(task, Path(folder) / "run")
        replaced: dict[str, Any] = {
            "Saver": Unsaved,
            "Journal": lambda *_, **__: watch,
            "with_reference": with_reference,
            **dict.fromkeys(("export", "compare", "conclude"), lambda *_, **__: None),
        }
        if task.model.folder is None:
            replaced["load"] = made_on_device
        for name, value in replaced.items():
            changed.enter_context(mock.patch.object(finetune, name, value))
        finetune.carry_out(prepared, Console(quiet=True))
    first, last = watch.marks[task.warm - 1], watch.marks[-1]
    # A collection ends before the first step that learns from it does.
    apart = [spell for spell in watch.collecting if spell[1] > first]
    seconds = last - first - compiling.seconds(first, last)
    collecting = sum(end - begin - compiling.seconds(begin, end) for begin, end in apart)
    return {
        "marks": watch.marks,
        "losses": watch.losses,
        "written": watch.written,
        "seconds": seconds,
        "collecting_seconds": collecting,
        "reference_seconds": spent,
        "compile_seconds": compiling.seconds() - compiled,
        "memory": watch.memory,
        "device": jax.devices()[0].device_kind,
    }


def prepare(task: TrainTask, out: Path) -> Any:
    """What ``llm.preparation.prepare`` makes of flags, made of a task: data are not read here."""
    from dataclasses import replace

    from llm.data.examples import Group
    from llm.data.order import Order
    from llm.data.plan import PackingSettings
    from llm.model.architecture import architecture_from_config
    from llm.preparation import Prepared
    from llm.settings import (
        TRAIN_RECIPES,
        AdapterSettings,
        OptimizerSettings,
        SamplingSettings,
        SaveSettings,
        Training,
    )

    recipe = TRAIN_RECIPES[task.recipe]
    if task.responses:
        visit = task.batch * recipe.reuse.minibatches
        recipe = recipe.with_collection(prompts=visit, responses=task.responses)
        kl = getattr(recipe.objective, "kl", None)
        if not recipe.kl_in_reward and not (kl is not None and kl.beta):
            recipe = replace(recipe, kl_in_reward=task.beta)
    settings = Training(
        model=task.model.folder or "random",
        out=out,
        steps=task.steps,
        batch=task.batch,
        dtype=task.dtype,  # pyright: ignore[reportArgumentType]
        remat=task.remat,  # pyright: ignore[reportArgumentType]
        show=0,
        adapters=AdapterSettings(rank=task.rank),
        optimizer=OptimizerSettings(
            learning_rate=task.learning_rate, schedule="constant", warmup=0.0
        ),
        packing=PackingSettings(max_tokens=task.max_tokens),
        sampling=SamplingSettings(max_new_tokens=task.max_new_tokens),
        save=SaveSettings(every=NEVER),
    )
    rows = load_rows(task.rows)
    order = Order(len(rows), task.batch, settings.seed)
    # A run sees its data in an order of its own; laid out like this, that is the order of the file.
    groups: list[Any] = [None] * len(rows)
    for row, place in zip(rows, order.rows(0, len(rows)).tolist(), strict=True):
        rewards = np.linspace(1, 0, len(row.responses) or 1)[: len(row.responses)]
        where = f"row {place}"
        groups[place] = Group(row.prompt, row.responses, rewards.astype(np.float32), where)
    out.mkdir(parents=True)
    return Prepared(
        name=task.recipe,
        recipe=recipe,
        settings=settings,
        model=Path(task.model.folder or "random"),
        config=task.model.config,
        architecture=architecture_from_config(task.model.config),
        tokenizer=tokenizer_of(task.model),
        groups=groups,
        held_out=[],
        out=out,
        record={"fingerprints": dict.fromkeys(("model", "data", "held_out"), "benchmark")},
        reward=Even() if task.responses else None,
    )


def tokenizer_of(model: Model) -> Any:
    """The one beside the weights, or one made for them."""
    from experiments.benchmarks.words import make_tokenizer

    if model.folder is None:
        return make_tokenizer(model.words)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.folder)


def made_on_device(
    folder: Path, architecture: Any, settings: Any, reward: bool, critic: bool = False, **_: Any
) -> Any:
    """A model of random weights in the place of one that is read; for one device."""
    import jax
    from flax import nnx

    from llm.loading import Loaded, arithmetic, does_train, unrolled
    from llm.model import ActorCritic, Decoder, RewardModel, parameters
    from llm.model.lora import LoRA

    lora = LoRA(rank=settings.adapters.rank) if settings.adapters.rank else None

    def model() -> Any:
        decoder = Decoder(
            architecture,
            rngs=nnx.Rngs(settings.seed),
            dtype=arithmetic(settings.dtype),
            remat=settings.remat,
            unroll=unrolled(architecture.layers),
            lora=lora,
        )
        if reward:
            decoder.head = None
            return RewardModel(decoder)
        return ActorCritic(decoder) if critic else decoder

    values = jax.jit(lambda: parameters(model()))()
    trains = frozenset(path for path in values if does_train(path, settings))
    return Loaded(nnx.eval_shape(model), values, trains, lora, None)


def write(task: SampleTask, compiling: Compiling) -> dict[str, Any]:
    """Answer prompts as training does."""
    import jax

    from llm.sampler import Sampling, sample

    decoder = decoder_of(task)
    prompts = [row.prompt for row in load_rows(task.rows)]

    def answer(case: Case, seed: int) -> int:
        settings = Sampling(
            responses=case.responses,
            max_new_tokens=case.max_new_tokens,
            stop=tuple(task.stop) if case.stops else (),
            seed=seed,
        )
        rows = case.prompts * case.responses
        groups = sample(decoder, prompts[: case.prompts], settings, rows=rows)
        return sum(len(response.tokens) for group in groups for response in group)

    found = time_cases(task, answer)
    return {
        "cases": found,
        "compile_seconds": compiling.seconds(),
        "memory": peak_memory(),
        "device": jax.devices()[0].device_kind,
    }


def decoder_of(task: SampleTask) -> Any:
    """The model that writes; its weights are kept in the dtype of its arithmetic."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from llm.checkpoints.read import load_decoder
    from llm.loading import unrolled
    from llm.model import Decoder, abstract_decoder, parameters, with_parameters
    from llm.model.architecture import architecture_from_config

    architecture = architecture_from_config(task.model.config)
    dtype, unroll = jnp.dtype(task.dtype), unrolled(architecture.layers)
    if task.model.folder is not None and task.dtype == "float32":
        return load_decoder(task.model.folder, dtype=dtype, unroll=unroll)
    kinds = {"param_dtype": dtype, "dtype": dtype, "unroll": unroll}

    def values() -> dict[str, Any]:
        return parameters(Decoder(architecture, rngs=nnx.Rngs(0), **kinds))

    return with_parameters(abstract_decoder(architecture, **kinds), jax.jit(values)())


def time_cases(task: SampleTask, answer: Callable[[Case, int], int]) -> dict[str, Any]:
    """Every case a few times.

    Args:
        task: what to write.
        answer: writes a case with a seed, and returns how many tokens that were.

    Returns:
        Of each case by name the seconds of the first call, those of the others, and the tokens
        that each of those wrote.
    """
    found: dict[str, Any] = {}
    for case in task.cases:
        seconds, tokens = [], []
        for seed in range(task.calls + 1):
            began = time.perf_counter()
            tokens.append(answer(case, seed))
            seconds.append(time.perf_counter() - began)
        found[case.name] = {"first": seconds[0], "seconds": seconds[1:], "tokens": tokens[1:]}
    return found


def sweep(task: SweepTask, compiling: Compiling) -> None:
    """Runs one after the other, each printed as it ends; one that fails leaves the others alone."""
    for run in task.runs:
        try:
            found = train(run, compiling)
        except Exception as error:  # whatever it is, it is this run's answer
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
            if task.until_one_fails:
                print(json.dumps(found), flush=True)
                return
        print(json.dumps(found), flush=True)
        gc.collect()


def main() -> None:
    """Do what the command line names, with the ``llm`` of the checkout that it names."""
    path, *checkout = sys.argv[1:]
    if checkout:
        sys.path.insert(0, checkout[0])
    import llm

    assert not checkout or Path(llm.__file__).is_relative_to(Path(checkout[0]).resolve())
    task, compiling = read_task(Path(path)), Compiling()
    if isinstance(task, SweepTask):
        sweep(task, compiling)
    else:
        does: Any = train if isinstance(task, TrainTask) else write
        print(json.dumps(does(task, compiling)))


if __name__ == "__main__":
    main()
