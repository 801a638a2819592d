"""The outer half of Algorithm 1 as a source of batches: collect, then serve T passes over it.

Two numbers say how far from on-policy a run is. B / M, the gradient steps in one pass over a
collection: the later ones learn from a policy that is no more. And T, the passes: how often the
same samples are used again. With both at 1 every step sees samples of the very policy it moves.
Where a collection is made while the steps on the one before it run, it is older by those steps.
"""

import time
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from llm.ahead import Ahead, GoOn, Stopped, left_behind
from llm.collection import Collector, Interrupted
from llm.data.declared import plan_within
from llm.data.order import Order
from llm.data.packing import Batch, Shape
from llm.data.plan import Plan
from llm.fresh_advantages import Carried, as_known
from llm.hosts import fetch, from_first
from llm.journal import Journal
from llm.progress import Bar
from llm.rollouts import Rollouts, path_of, read_rollouts
from llm.state import CHECKPOINTS, saved_steps
from llm.step import Put
from llm.train import Stop
from llm.update import Behind, Parameters, TrainState

DISAGREEMENT = {"float32": 1e-3, "bfloat16": 0.25}
"""Nats per token by which sampler and scorer may differ before it is worth a warning."""

LARGE = 10.0
"""Rewards from which on the critic of a fresh run has more to learn than the policy."""

Made: TypeAlias = tuple[Rollouts, dict[str, float | int]]
"""A collection, and what a watch has to say of making it."""


@dataclass(eq=False)
class Fresh:
    """Batches of what the policy writes while it learns.

    Attributes:
        collector: makes a collection.
        shapes: all that batches will have.
        shards: data shards of the mesh.
        width: of the model.
        put: places a batch on the devices.
        journal: gets a line for each collection.
        bar: tells how far one is.
        begin: steps taken before; a collection they end in the middle of is on disk.
        dtype: of the arithmetic.
        mine: shards of a batch whose devices are this host's; all of them if None.
        steps_in_all: of the run; no collection is made for later ones.
        behind: who writes the next collection while the steps on one run; None where the policy
            writes it afterwards.
        stalls: how often such a collection was not ready when it was needed.
    """

    collector: Collector
    shapes: tuple[Shape, ...]
    shards: int
    width: int
    put: Put
    journal: Journal
    bar: Bar
    begin: int
    dtype: str
    mine: frozenset[int] | None = None
    steps_in_all: int = 0
    behind: Behind | None = None
    stalls: int = 0
    plan: Plan | None = field(default=None, init=False)
    iteration: int = field(default=-1, init=False)
    carried: Carried = field(init=False)
    ahead: Ahead[Made] | None = field(default=None, init=False)
    stop: Stop | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        steps, recipe = self.collector.recipe.reuse.steps, self.collector.recipe
        self.carried = Carried(0.0, 0.0, float(recipe.kl_in_reward))
        iteration, within = divmod(self.begin, steps)
        if within:
            # The policy that wrote it is gone: what is on disk is all there is.
            self.serve(self.read(iteration))
        elif iteration:
            self.carried = Carried(**self.read(iteration - 1).facts["carried"])

    def read(self, iteration: int) -> Rollouts:
        """A collection that the run cannot go on without.

        Raises:
            OSError: if it is gone or damaged; names the checkpoints that need it.
        """
        folder = self.collector.folder
        try:
            return from_first(lambda: read_rollouts(path_of(folder, iteration)))
        except OSError as error:
            steps = saved_steps(folder)
            before = [step for step in steps if step <= iteration * self.steps]
            later = ", ".join(str(folder / CHECKPOINTS / str(s)) for s in steps if s not in before)
            then = f"goes on after step {before[-1]}" if before else "begins anew"
            raise OSError(
                f"{error} The run needs them to go on after step {self.begin}: put the file back, "
                f"or delete {later}, and the same command {then}."
            ) from None

    @property
    def steps(self) -> int:
        """Gradient steps from one collection to the next."""
        return self.collector.recipe.reuse.steps

    def waits(self, number: int) -> bool:
        """Whether a step is the first on a collection."""
        return (number - 1) // self.steps != self.iteration

    def take(self, number: int, state: TrainState, stop: Stop) -> list[Batch] | None:
        """The batches of a step; for the first on a collection, that is made before."""
        self.stop = stop
        if self.waits(number):
            try:
                self.collect(number, state, stop)
            except (Interrupted, Stopped):
                return None
            if self.behind is not None:
                self.behind = left_behind(state, self.behind)
        if self.behind is not None and self.ahead is None:
            self.look_ahead(self.iteration + 1, self.behind)
        plan, place = self.plan_at(number)
        return [self.put(batch) for batch in plan.micro_batches(place)]

    def plan_at(self, number: int) -> tuple[Plan, int]:
        """The plan of the collection at hand."""
        assert self.plan is not None
        return self.plan, (number - 1) % self.steps

    def to_save(self, state: TrainState) -> TrainState:
        """A state with whoever writes the next collection, who could not be had otherwise."""
        return replace(state, behind=self.behind)

    def collect(self, number: int, state: TrainState, stop: Stop) -> None:
        """Make the collection that a step is the first to learn from."""

        def go_on(share: float) -> bool:
            self.bar.say(f"collecting {share:.0%}")
            return not stop.compare()

        self.bar.say("collecting")
        iteration = (number - 1) // self.steps
        if self.behind is None:
            collected, clock = self.make(iteration, state.trainable, go_on)
        else:
            collected, clock = self.made_ahead(iteration, self.behind, go_on)
        self.serve(collected)
        numbers = {
            "iteration": iteration,
            "policy_step": self.written_after(iteration),
            **collected.facts["numbers"],
        }
        # A line belongs to the first step that learns from it: a resumed run takes it back with it.
        self.journal.write(number, "rollout", numbers, clock)
        self.bar.keep(reward=numbers["reward"])
        self.tell_scale(number, numbers["reward"])
        gap = numbers.get("sampler_gap")
        if gap is not None:
            self.tell(number, gap)

    def written_after(self, iteration: int) -> int:
        """Steps that the policy had taken which a collection is written by."""
        return self.steps * (iteration if self.behind is None else max(iteration - 1, 0))

    def make(self, iteration: int, trainable: Parameters, go_on: GoOn) -> Made:
        """A collection by a policy with these numbers, and what a watch has to say of it."""
        import jax

        # Text and rewards are made on the host, piece by piece.
        with jax.transfer_guard("allow"):
            return self.collector.collect(iteration, trainable, self.carried, go_on)

    def look_ahead(self, iteration: int, behind: Behind) -> None:
        """Begin to make a collection beside the steps, if there will be a step to learn from it."""
        if iteration * self.steps < self.steps_in_all:
            self.ahead = Ahead(lambda go_on: self.make(iteration, behind.trainable, go_on))

    def made_ahead(self, iteration: int, behind: Behind, go_on: GoOn) -> Made:
        """A collection that was begun beside the steps, or the first, for which nothing waits."""
        began = time.monotonic()
        if 0 < iteration * self.steps == int(fetch(behind.step)):
            # Saved when this collection was complete, because its first step was no good, and who
            # wrote it had been forgotten.
            return self.read(iteration), {}
        if self.ahead is None:
            self.look_ahead(iteration, behind)
        else:
            self.stalls += not self.ahead.is_ready
        assert self.ahead is not None
        collected, clock = self.ahead.wait(go_on)
        self.ahead = None
        return collected, {**clock, "waited": time.monotonic() - began}

    def tell_scale(self, number: int, reward: float) -> None:
        """Say, once, how rewards are measured for a critic, or that they are too large for one."""
        critic = self.collector.critic
        if number > 1 or critic is None:
            return
        if critic.normalize:
            self.bar.print(
                f"the critic is told rewards from {self.carried.centre:.3g}, in units of "
                f"{self.carried.unit:.3g}: mean and deviation of the first collection"
            )
        elif abs(reward) > LARGE:
            self.bar.print(
                f"[yellow]rewards are about {reward:.3g}[/], and the critic, which shares the "
                "policy's layers, begins at 0: its loss may rule the first steps. Leave out "
                "--critic.no-normalize, or scale them"
            )

    def tell(self, number: int, gap: float) -> None:
        """Say whether sampler and scorer agree: once, and whenever they do not."""
        worst = DISAGREEMENT.get(self.dtype, 1e-3)
        if gap > worst:
            self.bar.print(
                f"[yellow]step {number}: sampler and scorer differ by {gap:.2g} nats on a token[/];"
                " importance ratios begin that far from 1"
            )
        elif number == 1:
            self.bar.print(
                f"sampler and scorer agree: on no token do they differ by more than {gap:.1g} nats"
            )

    def serve(self, collected: Rollouts) -> None:
        """Cut a collection into the steps that learn from it, each pass in an order of its own."""
        recipe, settings = self.collector.recipe, self.collector.settings
        groups = [rollout.group for rollout in collected.rollouts]
        seed = int(
            np.random.SeedSequence([settings.seed, collected.iteration]).generate_state(1)[0]
        )
        self.plan = plan_within(
            self.shapes,
            groups,
            Order(len(groups), len(groups) // recipe.reuse.minibatches, seed),
            settings.packing,
            steps=self.steps,
            shards=self.shards,
            width=self.width,
            known=as_known(collected.rollouts),
            mine=self.mine,
        )
        self.iteration = collected.iteration
        self.carried = Carried(**collected.facts["carried"])

    def close(self) -> None:
        """End what works ahead, after the part it is at."""
        if self.ahead is not None:
            self.ahead.close(at_once=self.stop is not None and self.stop.at_once)
