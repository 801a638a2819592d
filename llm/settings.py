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
from llm.hosts.settings import HostSettings
from llm.rewards.settings import RewardSettings
from objectives import AWR, CPO, DPO, GSPO, KTO, PPO, REINFORCE, RWR
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


def fresh(name: str, responses: int, **changes: Any) -> Recipe:
    """A recipe of the catalogue on so many fresh samples of each prompt."""
    recipe = RECIPES[name].with_collection(responses=responses)
    return dataclasses.replace(recipe, **changes)


# Fresh samples of a prompt: as many as the authors' language-model code draws (PPO, REINFORCE and
# RWR one, online DPO a pair, best-of-N four). Weights are capped as there, a constant divisor is
# the most tokens a response may have, and PPO has a critic, so its own baseline is not read.
ONLINE_RECIPES: dict[str, Recipe] = {
    "online_best_of_n": fresh("online_best_of_n", 4),
    "online_rwr": fresh("online_rwr", 1, objective=RWR()),
    "online_awr": fresh("online_awr", 4, objective=AWR()),
    "online_dpo": fresh("online_dpo", 2),
    "online_ipo": fresh("online_ipo", 2),
    "online_slic": fresh("online_slic", 2),
    "reinforce": fresh("reinforce", 1),
    "rloo": fresh("rloo", 4),
    "ppo": fresh("ppo", 1, advantage="batch_mean", std_floor=0.0, kl_in_reward=0.05),
    "grpo": fresh("grpo", 4),
    "dr_grpo": fresh("dr_grpo", 4, objective=PPO(normalize=("constant", 128))),
    "dapo": fresh("dapo", 4),
    "gspo": fresh("gspo", 4),
}
"""Recipes that learn from what the policy itself writes."""

TRAIN_RECIPES = OFFLINE_RECIPES | ONLINE_RECIPES
"""Every recipe of ``modeseek train``."""

WITH_CRITIC = ("ppo",)
"""Recipes whose advantages are those of a critic (GAE), not of their estimator."""

NEEDS_REFERENCE = ("DPO", "IPO", "KTO")
"""Objectives whose value depends on the reference."""

# Full fine-tuning of a model of a billion parameters; adapters want ten times as much.
LEARNING_RATES = {"supervised": 2e-5, "contrastive": 1e-6, REWARD_MODEL: 1e-5, "gradient": 1e-6}
ADAPTER_FACTOR = 10

# The embedded model is a thousand times smaller: it moves faster and is held back harder.
EMBEDDED_RECIPES = TRAIN_RECIPES | {
    "dpo": Recipe(DPO(beta=0.5), OFFLINE),
    "online_dpo": fresh("online_dpo", 2, objective=DPO(beta=0.5)),
}
EMBEDDED_RATES = {"supervised": 5e-4, "contrastive": 2e-4, REWARD_MODEL: 5e-4, "gradient": 2e-4}


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
    fsdp: int | None = None
    """Devices that share one copy of the parameters and the batch; as few as it fits in when not
    given, or with --mesh.data what that leaves."""
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
class SamplingSettings:
    """How fresh responses are written; how many and how random is the recipe's collection."""

    max_new_tokens: int = 128
    """A response is cut after this many tokens."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 for all. What is trained is the same distribution."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together reach this probability, after top_k."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a response, besides the model's own end tokens."""
    rows: int = 256
    """Responses written side by side; bounds the memory of their caches."""
    gather: bool = True
    """Put weights that are kept in pieces together before writing; without it a layer at a time,
    for every token, which is for models that do not fit a device."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, self, "max_new_tokens", "at least 1")
        require(self.top_k >= 0, self, "top_k", "0 for all, or a number of tokens")
        require(0 < self.top_p <= 1, self, "top_p", "a probability above 0")
        require(self.rows >= 1, self, "rows", "at least 1")


@dataclass(frozen=True, kw_only=True)
class CriticSettings:
    """The critic of PPO: a value head on the policy, and what becomes of its estimates."""

    gamma: float = 1.0
    """Discount of the reward per token."""
    lambda_: float = 0.95
    """Of GAE: 0 trusts the critic, 1 the rewards."""
    coefficient: float = 0.1
    """Weight of the critic's loss beside the policy's."""
    clip: float = 0.2
    """How far a value may move from the one at sampling before its gradient stops."""
    whiten: bool = True
    """Scale the advantages of a collection to mean 0 and deviation 1."""
    normalize: bool = True
    """Measure rewards from the mean of the first collection, in its standard deviations, because a
    critic begins by expecting 0. A KL penalty in the reward is in these units too."""

    def __post_init__(self) -> None:
        for name in ("gamma", "lambda_"):
            require(0 <= getattr(self, name) <= 1, self, name, "in [0, 1]")
        require_nonnegative(self, "coefficient")
        require_positive(self, "clip")


@dataclass(frozen=True, kw_only=True)
class KLSettings:
    """What becomes of the recipe's KL penalty in the reward while a run goes on."""

    target: float | None = None
    """KL to the reference to steer to, in nats per response; the penalty stays when not given."""
    horizon: int = 10000
    """Responses after which the penalty may have changed by a fifth of itself."""

    def __post_init__(self) -> None:
        if self.target is not None:
            require_positive(self, "target")
        require(self.horizon >= 1, self, "horizon", "at least 1 response")


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
    evaluate_prompts: int = 64
    """Held-out prompts that are answered at such a look, where there is a reward to judge by."""
    reward: str | None = None
    """What fresh responses are rewarded by: kind, min-length, mode-length:23, regex:PATTERN,
    lexicon:FILE, model:FOLDER, classifier:FOLDER, python:MODULE:FUNCTION or judge:MODEL; weights
    and sums such as 0.5*kind + -0.1*min-length. One that begins with a minus needs --reward=."""
    gold: str | None = None
    """A second reward, which is measured and never trained on: shows over-optimisation."""
    offline: float = 0.0
    """Share of the prompts of a collection whose responses are those of the data set."""
    missing_eos: float = 0.0
    """Taken off the reward of a response that was cut before it ended."""
    ahead: bool = False
    """Write and judge the next collection while the steps on one run, by the policy as it was
    before them: what is learned from is one collection older. On one device only."""
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    reading: DataSettings = field(default_factory=DataSettings)
    packing: PackingSettings = field(default_factory=PackingSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    hosts: HostSettings = field(default_factory=HostSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    kl: KLSettings = field(default_factory=KLSettings)
    log: LogSettings = field(default_factory=LogSettings)
    save: SaveSettings = field(default_factory=SaveSettings)

    def __post_init__(self) -> None:
        require_positive(self, "epochs")
        require(self.steps is None or self.steps >= 1, self, "steps", "at least 1")
        require(self.batch >= 1, self, "batch", "at least 1 group")
        require(self.show is None or self.show >= 0, self, "show", "0 or a number of prompts")
        require(self.evaluate_every >= 0, self, "evaluate_every", "0 or a number of steps")
        require(self.evaluate_prompts >= 1, self, "evaluate_prompts", "at least 1")
        require(0 <= self.offline < 1, self, "offline", "a share in [0, 1)")
        require_nonnegative(self, "missing_eos")


def is_online(recipe: Recipe) -> bool:
    """Whether responses are written while a run goes on."""
    return recipe.collection.source != "dataset"


def offline_prompts(settings: Training, recipe: Recipe) -> int:
    """Prompts of a collection whose responses are those of the data set."""
    return round(settings.offline * recipe.collection.prompts)


def learning_rate(settings: Training, name: str, recipe: Recipe) -> float:
    """The peak learning rate of a run: the one given, or the recipe's usual one."""
    if settings.optimizer.learning_rate is not None:
        return settings.optimizer.learning_rate
    kind = "contrastive" if recipe.objective.negative_gradient else "supervised"
    if isinstance(recipe.objective, (REINFORCE, PPO, GSPO)):
        kind = "gradient"
    rates = LEARNING_RATES if settings.model is not None else EMBEDDED_RATES
    usual = rates[REWARD_MODEL if name == REWARD_MODEL else kind]
    return usual * (ADAPTER_FACTOR if settings.adapters.rank else 1)


def reference_kind(settings: Training, name: str, recipe: Recipe) -> str:
    """Where the reference's log-probabilities come from: ``cache``, ``model`` or ``none``."""
    if name == REWARD_MODEL:
        return "none"
    if settings.reference != "auto":
        return settings.reference
    if settings.model is None or is_online(recipe):
        return "model"
    return "cache" if type(recipe.objective).__name__ in NEEDS_REFERENCE else "none"


def keeps_start(settings: Training, name: str, recipe: Recipe) -> bool:
    """Whether a run needs the model that it began from until its end.

    As its reference, to write what is judged or compared, or to begin to write with; else what
    trains takes its place.
    """
    judged = settings.reward is not None or settings.gold is not None
    return is_online(recipe) or judged or reference_kind(settings, name, recipe) == "model"


def as_record(value: Any) -> Any:
    """A settings value as plain JSON, for the run's folder and to compare runs by."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: as_record(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"": type(value).__name__, **fields}
    if isinstance(value, (list, tuple)):
        return [as_record(item) for item in value]
    return str(value) if isinstance(value, Path) else value
