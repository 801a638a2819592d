"""What a campaign of active preference learning is told: frozen values, every field a flag.

The defaults are the paper's for IMDB (Muldrew et al. 2024, arXiv:2402.08114). What a field refuses
it refuses here, before a model is read.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llm.data.examples import DataSettings
from llm.data.plan import PackingSettings
from llm.rewards.settings import RewardSettings
from llm.settings import (
    AdapterSettings,
    LogSettings,
    MeshSettings,
    OptimizerSettings,
    SamplingSettings,
    SaveSettings,
    Training,
)
from objectives import DPO
from objectives.hyperparameters import require, require_nonnegative, require_positive

STEADY = OptimizerSettings(schedule="constant", warmup=0.0)
"""A schedule would begin anew in every round."""

PAIR = 2
"""Responses that are compared."""


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """What the pairs to be labelled are chosen from."""

    pairs: int = 32
    """Pairs written for each that is chosen by its score (the paper's over-generation)."""
    prompts: int = 8
    """Prompts whose entropy is estimated for each one that is kept."""
    samples: int = 8
    """Responses, at temperature 1, that the entropy of a prompt is estimated from."""
    temperature: float = 0.7
    """At which pairs are written."""
    shortest: int | None = None
    """Cut both responses of a pair after a number of tokens drawn evenly from this to
    --sampling.max-new-tokens; when not given, only after the latter."""
    prune: float = 0.0
    """Share of the pairs, those with the response that surprises the reference most per token,
    that is never asked about."""
    shortlist: float = 4.0
    """Times as many pairs as are chosen, the most certain ones, that `diverse` chooses from."""
    members: int = 3
    """Sets of adapters that `disagreement` trains; the first is the policy."""

    def __post_init__(self) -> None:
        require_positive(self, "pairs", "prompts", "samples", "temperature")
        least = self.shortest
        require(least is None or least >= 1, self, "shortest", "at least 1 token, or left out")
        require(0 <= self.prune < 1, self, "prune", "a share in [0, 1)")
        require(self.shortlist >= 1, self, "shortlist", "1 or more")
        require(self.members >= 2, self, "members", "at least 2, or nobody could disagree")


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """How the policy is compared with what it began from."""

    prompts: int = 256
    """Held-out prompts that both answer."""
    temperature: float = 0.25
    """At which they do."""
    every: int = 1
    """Rounds between two contests; there is one before the first round and one after the last."""
    against: Literal["initial", "dataset"] = "initial"
    """Whom the policy must beat: the model it began from, or the data set's own responses."""

    def __post_init__(self) -> None:
        require_positive(self, "prompts", "every")
        require_nonnegative(self, "temperature")


@dataclass(frozen=True, kw_only=True)
class Active:
    """A campaign: rounds of choosing pairs, having them labelled, and learning from the labels."""

    model: str | None = None
    """Hub name or folder of a Hugging Face model; the embedded one when not given."""
    data: str | None = None
    """Hub name, folder or file of prompts; the embedded language when not given."""
    out: Path | None = None
    """Folder of the run; runs/active_ACQUISITION when not given. The same command goes on."""
    reward: str | None = None
    """Who labels: a reward or a judge as in `modeseek train`, or `person`, who is asked by
    `modeseek label`."""
    gold: str | None = None
    """Who decides contests; whoever labels when not given. With `person` and no gold there are
    none."""
    rounds: int = 6
    """Times that labels are acquired and learned from."""
    labels: int = 128
    """Labels acquired in a round."""
    objective: DPO = field(default_factory=lambda: DPO(beta=0.2))
    epochs: float = 50.0
    """Passes over the labels in a round."""
    batch: int = 64
    """Pairs in one optimizer step."""
    restart: bool = True
    """Learn from the reference anew in every round instead of going on from the last."""
    learn: Literal["all", "newest"] = "all"
    """From all labels so far, or from those of the round alone."""
    seed: int = 0
    """Root of all randomness."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic; master weights stay float32. auto: bfloat16 except on a CPU."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass computes again instead of keeping."""
    preference: str | None = None
    """What the built-in data are labelled for, as in `modeseek train`."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    contest: ContestSettings = field(default_factory=ContestSettings)
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = STEADY
    reading: DataSettings = field(default_factory=DataSettings)
    packing: PackingSettings = field(default_factory=PackingSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    log: LogSettings = field(default_factory=LogSettings)
    save: SaveSettings = field(default_factory=SaveSettings)

    def __post_init__(self) -> None:
        require_positive(self, "rounds", "labels", "epochs", "batch")
        steady = self.optimizer.schedule == "constant" and not self.optimizer.warmup
        if not steady:
            raise ValueError(
                f"--optimizer.schedule is {self.optimizer.schedule} with a warm-up of "
                f"{self.optimizer.warmup:g}, and every round begins with a fresh optimizer: give "
                "--optimizer.schedule constant and --optimizer.warmup 0."
            )
        least, most = self.pool.shortest, self.sampling.max_new_tokens
        if least is not None and least > most:
            raise ValueError(
                f"--pool.shortest is {least}, and no response is longer than "
                f"--sampling.max-new-tokens {most}: lower the first."
            )
        if self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError(
                "--sampling.top-k and top-p leave out responses that the policy is to be judged "
                "by: leave them out, and give --pool.temperature."
            )

    def training(self, out: Path) -> Training:
        """The part that a campaign has in common with any other run.

        Args:
            out: folder of the run.
        """
        return Training(
            model=self.model,
            data=self.data,
            out=out,
            reward=self.reward,
            gold=self.gold,
            epochs=self.epochs,
            batch=self.batch,
            seed=self.seed,
            dtype=self.dtype,
            remat=self.remat,
            preference=self.preference,
            show=0,
            evaluate_prompts=self.contest.prompts,
            adapters=self.adapters,
            optimizer=self.optimizer,
            reading=self.reading,
            packing=self.packing,
            mesh=self.mesh,
            sampling=self.sampling,
            rewards=self.rewards,
            log=self.log,
            save=self.save,
        )


EMBEDDED = Active(
    rounds=4,
    labels=32,
    epochs=8.0,
    batch=32,
    objective=DPO(beta=0.5),
    pool=PoolSettings(pairs=8, prompts=4, samples=4),
    contest=ContestSettings(prompts=128),
    sampling=replace(SamplingSettings(), max_new_tokens=96),
)
"""A campaign of minutes on a laptop with the embedded model, which moves faster."""
