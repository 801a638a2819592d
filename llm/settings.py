"""What a training run is told: frozen values, every field a flag of ``modeseek train``.

A field's docstring is its help on the command line. What a field refuses it refuses here, before a
model is read, with the number and the remedy in the message.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm.data.examples import DataSettings
from llm.data.plan import PackingSettings
from objectives import AWR, CPO, DPO, KTO, RWR
from objectives.hyperparameters import require, require_nonnegative, require_positive
from objectives.recipes import OFFLINE, RECIPES, Recipe

REWARD_MODEL = "reward_model"

# What differs from the bandit's catalogue: on labelled data rewards are 1 and 0, so weights are
# capped as in the authors' language-model code and a response is desirable above 1/2. A reward
# model is Bradley-Terry, -log s(r_w - r_l): CPO with a score where it has a log-probability.
OFFLINE_RECIPES: dict[str, Recipe] = {
    name: recipe for name, recipe in RECIPES.items() if recipe.collection.source == "dataset"
} | {
    "rwr": Recipe(RWR(), OFFLINE),
    "awr": Recipe(AWR(), OFFLINE),
    "kto": Recipe(KTO(), OFFLINE),
    REWARD_MODEL: Recipe(CPO(beta=1.0, reg=0.0), OFFLINE),
}

NEEDS_REFERENCE = ("DPO", "IPO", "KTO")
"""Objectives whose value depends on the reference."""

# Full fine-tuning of a model of a billion parameters; adapters want ten times as much.
LEARNING_RATES = {"supervised": 2e-5, "contrastive": 1e-6, REWARD_MODEL: 1e-5}
ADAPTER_FACTOR = 10

# The embedded model is a thousand times smaller: it moves faster and is held back harder.
EMBEDDED_RECIPES = OFFLINE_RECIPES | {"dpo": Recipe(DPO(beta=0.5), OFFLINE)}
EMBEDDED_RATES = {"supervised": 5e-4, "contrastive": 2e-4, REWARD_MODEL: 5e-4}


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Low-rank adapters (LoRA) instead of the weights themselves."""

    rank: int = 0
    """Rank of the adapters; 0 trains the weights themselves."""
    alpha: float = 16.0
    """The adapters' output counts alpha / rank."""
    targets: tuple[str, ...] = ("query", "key", "value", "output")
    """Which matrices: query, key, value, output, gate, up, down."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, self, "rank", "0 (off) or a positive rank")
        require_positive(self, "alpha")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How a gradient becomes a step (optax)."""

    name: Literal["adamw", "lion", "adafactor", "sgd"] = "adamw"
    """The rule."""
    learning_rate: float | None = None
    """Peak learning rate; by recipe and model when not given (2e-5 supervised, 1e-6 contrastive,
    ten times that for adapters, and more for the embedded model)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up, to 0 at the last step."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors never decay."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    clip_norm: float = 1.0
    """Gradients longer than this are scaled down to it; inf for never."""

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            require_positive(self, "learning_rate")
        require(0 <= self.warmup < 1, self, "warmup", "a share in [0, 1)")
        require_nonnegative(self, "weight_decay")
        require_positive(self, "clip_norm")
        require(0 <= self.beta1 < 1, self, "beta1", "in [0, 1)")
        require(0 <= self.beta2 < 1, self, "beta2", "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """How the model and the batch are spread over devices."""

    data: int | None = None
    """Copies of the model that share the batch; what is left of the devices when not given."""
    fsdp: int = 1
    """Devices that share one copy of the parameters and the batch."""
    tensor: int = 1
    """Devices that share each layer's arithmetic."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            value = getattr(self, name)
            require(value is None or value >= 1, self, name, "a positive number of devices")


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Where numbers go besides the console and metrics.jsonl."""

    every: int = 1
    """Steps that one line of metrics sums up."""
    tensorboard: bool = False
    """Also write TensorBoard event files into the run's folder."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""

    def __post_init__(self) -> None:
        require(self.every >= 1, self, "every", "at least 1 step")


@dataclass(frozen=True, kw_only=True)
class SaveSettings:
    """What is kept so that a killed run goes on where it was."""

    every: int = 50
    """Steps between checkpoints; saving happens beside the training."""
    keep: int = 2
    """How many of the latest checkpoints to keep."""

    def __post_init__(self) -> None:
        require(self.every >= 1, self, "every", "at least 1 step")
        require(self.keep >= 1, self, "keep", "at least 1 checkpoint")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run, whatever its recipe."""

    model: str | None = None
    """Hub name or folder of a Hugging Face model; the embedded one when not given."""
    data: str | None = None
    """Hub name, folder or file of the data; the embedded language when not given; `docstrings` for
    those of this Python installation."""
    out: Path | None = None
    """Folder of the run; runs/RECIPE when not given. The same command goes on where it stopped."""
    epochs: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Optimizer steps; counts instead of `epochs` when given."""
    batch: int = 32
    """Prompts (groups) in one optimizer step."""
    seed: int = 0
    """Root of all randomness: order of the data, initial adapters."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic; master weights stay float32. auto: bfloat16 except on a CPU."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass computes again instead of keeping: nothing, all but matrix products,
    or everything."""
    freeze_embedding: bool = False
    """Leave the embedding and the output matrix as they are."""
    reference: Literal["auto", "cache", "model", "none"] = "auto"
    """Reference log-probabilities from one pass kept on disk (cache), or from a frozen copy or the
    base of a LoRA policy in every step (model), which also gives exact KLs. auto: model for the
    embedded model, else cache where the objective needs a reference, else none."""
    preference: str | None = None
    """What the built-in data are preferred for: kind, grumpy, short, long, typical, vivid or
    faithful; concise or relevant for docstrings."""
    show: int | None = None
    """Held-out prompts answered before and after, to be read; when not given, none, or for the
    built-in language the three whose score gains most, middling and least."""
    evaluate_every: int = 0
    """Steps between looks at the held-out groups; 0 for only before and after."""
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    reading: DataSettings = field(default_factory=DataSettings)
    packing: PackingSettings = field(default_factory=PackingSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    log: LogSettings = field(default_factory=LogSettings)
    save: SaveSettings = field(default_factory=SaveSettings)

    def __post_init__(self) -> None:
        require_positive(self, "epochs")
        require(self.steps is None or self.steps >= 1, self, "steps", "at least 1")
        require(self.batch >= 1, self, "batch", "at least 1 group")
        require(self.show is None or self.show >= 0, self, "show", "0 or a number of prompts")
        require(self.evaluate_every >= 0, self, "evaluate_every", "0 or a number of steps")


def learning_rate(settings: Training, name: str, recipe: Recipe) -> float:
    """The peak learning rate of a run: the one given, or the recipe's usual one."""
    if settings.optimizer.learning_rate is not None:
        return settings.optimizer.learning_rate
    kind = "contrastive" if recipe.objective.negative_gradient else "supervised"
    rates = LEARNING_RATES if settings.model is not None else EMBEDDED_RATES
    usual = rates[REWARD_MODEL if name == REWARD_MODEL else kind]
    return usual * (ADAPTER_FACTOR if settings.adapters.rank else 1)


def reference_kind(settings: Training, name: str, recipe: Recipe) -> str:
    """Where the reference's log-probabilities come from: ``cache``, ``model`` or ``none``."""
    if name == REWARD_MODEL:
        return "none"
    if settings.reference != "auto":
        return settings.reference
    if settings.model is None:
        return "model"
    return "cache" if type(recipe.objective).__name__ in NEEDS_REFERENCE else "none"


def as_record(value: Any) -> Any:
    """A settings value as plain JSON, for the run's folder and to compare runs by."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: as_record(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [as_record(item) for item in value]
    return str(value) if isinstance(value, Path) else value
