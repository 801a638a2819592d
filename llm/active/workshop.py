"""What a campaign works with: who writes, who reads, who compares, what a step is.

Everything is made from the campaign's inputs once, most of it when it is first needed.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import jax
import numpy as np

from llm.active.contest import Contest
from llm.active.pool import Chooser
from llm.active.settings import Active
from llm.active.writing import Scribe
from llm.data.declared import declare_shapes, examples_of
from llm.data.order import Order
from llm.data.packing import Batch, Shape
from llm.fresh_groundwork import bounds_of
from llm.groundwork import learner_of, policy_values
from llm.loading import load
from llm.preparation import Prepared
from llm.rescoring import Rescorer
from llm.rewards import Person, Reward
from llm.sampler import LocalEngine, Rule, Sampling, stop_tokens
from llm.step import Step
from llm.update import Fixed, Parameters, TrainState

CURIOUS, CONTEST, RIVAL = 2**29, 2**31, 2**30
"""Added to a run's seed where entropies are estimated, and where both sides of a contest write."""


def judge_of(prepared: Prepared) -> Reward | None:
    """Who decides contests; None where only a person could."""
    judge = prepared.gold or prepared.reward
    return None if isinstance(judge, Person) else judge


class Workshop:
    """A campaign's tools on their devices.

    Args:
        name: of the acquisition function.
        settings: of the campaign.
        prepared: its inputs.
    """

    def __init__(self, name: str, settings: Active, prepared: Prepared) -> None:
        self.name, self.settings, self.prepared = name, settings, prepared
        self.loaded = load(prepared.model, prepared.architecture, prepared.settings, reward=False)
        learner = learner_of(prepared, self.loaded, steps=1)
        # Pairs are drawn at one temperature and learned from at another, 1, where implicit
        # rewards are; what the reference says of them comes with the batch.
        self.learner = replace(learner, rule=Rule(), base=False)
        self.fixed = Fixed(self.loaded.frozen, None)

    def scribe(self, temperature: float, seed: int) -> Scribe:
        """Somebody who writes at a temperature, with the parameters of the reference at first."""
        sampling = Sampling(
            max_new_tokens=self.prepared.settings.sampling.max_new_tokens,
            temperature=temperature,
            seed=seed % 2**32,
            stop=stop_tokens(self.prepared.model, self.prepared.tokenizer.eos_token_id),
            stop_strings=self.prepared.settings.sampling.stop_strings,
        )
        tokenizer = self.prepared.tokenizer
        engine = LocalEngine(
            self.loaded.policy(self.loaded.values),
            rows=self.settings.sampling.rows,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            gather=self.prepared.settings.sampling.gather,
        )
        return Scribe(engine, tokenizer, sampling, self.settings.pool.shortest, self.settings.seed)

    @cached_property
    def chooser(self) -> Chooser:
        """Makes the pools."""
        settings, groups = self.settings, self.prepared.groups
        return Chooser(
            name=self.name,
            settings=settings.pool,
            groups=groups,
            order=Order(len(groups), 1, settings.seed),
            policy=self.scribe(settings.pool.temperature, settings.seed),
            reference=self.scribe(settings.pool.temperature, settings.seed),
            curious=self.scribe(1.0, settings.seed ^ CURIOUS),
            rescorer=self.rescorer,
            initial=self.loaded.trainable,
            beta=float(settings.objective.beta),
            embedding=lambda: np.asarray(self.loaded.values["embedding/matrix"], np.float32),
            seed=settings.seed,
            folder=self.prepared.out,
        )

    @cached_property
    def rescorer(self) -> Rescorer:
        """What a set of parameters makes of given pairs."""
        prepared, loaded = self.prepared, self.loaded
        return Rescorer(
            self.learner,
            self.fixed,
            self.shapes,
            prepared.settings.packing,
            groups=self.settings.batch,
            shards=loaded.shards,
            width=prepared.architecture.width,
            put=loaded.put,
        )

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """All batch shapes there will be."""
        bounds = bounds_of(self.prepared)
        return declare_shapes(bounds, self.prepared.settings.packing, self.loaded.shards)

    @cached_property
    def contest(self) -> Contest | None:
        """How the policy is compared; None where nobody can judge."""
        prepared, settings = self.prepared, self.settings
        judge = judge_of(prepared)
        if judge is None:
            return None
        seed, temperature = settings.seed, settings.contest.temperature
        rival = None
        if settings.contest.against == "initial":
            rival = self.scribe(temperature, seed ^ RIVAL)
        return Contest(
            groups=prepared.held_out[: settings.contest.prompts],
            policy=self.scribe(temperature, seed ^ CONTEST),
            rival=rival,
            judge=judge,
            values=lambda trainable: policy_values(self.loaded, trainable),
        )

    def initial(self, member: int) -> Parameters:
        """What a member begins from: adapters of its own on the shared base."""
        root = jax.random.fold_in(jax.random.key(self.settings.seed), member)

        def own(path: str, value: jax.Array) -> jax.Array:
            # The first matrix of an adapter is drawn entry by entry, so any order is as likely.
            if not member or not path.endswith("lora_a"):
                return value
            key = jax.random.fold_in(root, zlib.crc32(path.encode()))
            flat = jax.random.permutation(key, value.reshape(-1))
            return jax.device_put(flat.reshape(value.shape), value.sharding)

        return {path: own(path, value) for path, value in self.loaded.trainable.items()}

    def start(self, trainable: Parameters) -> TrainState:
        """Parameters, and an optimizer that has seen nothing."""
        return self.starting(trainable)

    @cached_property
    def starting(self) -> Callable[[Parameters], TrainState]:
        """Makes a state."""
        batch, objective = self.loaded.put(self.examples[0]), self.settings.objective
        program = jax.jit(self.learner.start)
        return lambda trainable: program(trainable, self.fixed, batch, objective)

    @cached_property
    def examples(self) -> list[Batch]:
        """An empty batch of each shape."""
        return examples_of(self.shapes, self.loaded.shards, ("ref_logp",))

    def step(self, state: TrainState) -> Step:
        """The optimizer step, compiled for states like this one."""
        return Step(
            self.learner,
            self.fixed,
            self.settings.objective,
            state,
            self.examples,
            self.examples,
            put=self.loaded.put,
            ahead=False,
        )
