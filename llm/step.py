"""One optimizer step as programs: compiled for the shapes a run will meet and for no other.

A step on one batch is one program. One that is cut takes a program that adds a micro-batch to what
has been added up, and one that moves the parameters; the sums come to be with the first such step.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import jax

from llm.data.packing import Batch
from llm.hosts import fetch, repeat
from llm.update import Fixed, Learner, Report, Sums, TrainState
from objectives import KTO

Put: TypeAlias = Callable[[Batch], Batch]
"""Places a batch on the devices."""


class Programs:
    """A function compiled for the shapes it will meet, each at most once.

    Args:
        function: under ``jax.jit``.
        shapes: names of all it may meet.
    """

    def __init__(self, function: Any, shapes: Iterable[Any]) -> None:
        self.function, self.shapes = function, frozenset(shapes)
        self.compiled: dict[Any, Any] = {}

    def prepare(self, name: Any, *given: Any) -> Any:
        """The program for a shape, compiled if it is not yet."""
        if name not in self.compiled:
            assert name in self.shapes
            with jax.transfer_guard("allow"):
                self.compiled[name] = self.function.lower(*given).compile()
        return self.compiled[name]

    def __call__(self, name: Any, *given: Any) -> Any:
        """Run it."""
        return self.prepare(name, *given)(*given)


class Step:
    """The programs of a step, and what is added up between them.

    Args:
        learner: the pure functions.
        fixed: the rest of the model, and the reference.
        objective: what is minimised.
        state: an example of a state.
        whole: an example of each shape that may hold all of a step.
        pieces: of each shape that may hold a part of one.
        put: places a batch on the devices.
        ahead: whether everything is compiled at once; else a program is when it is needed.
    """

    def __init__(
        self,
        learner: Learner,
        fixed: Fixed,
        objective: Any,
        state: TrainState,
        whole: Sequence[Batch],
        pieces: Sequence[Batch],
        *,
        put: Put,
        ahead: bool = True,
    ) -> None:
        self.learner, self.fixed, self.asked = learner, fixed, objective
        self.everywhere = partial(repeat, mesh=learner.mesh)
        self.objective = self.everywhere(objective)
        # KTO compares every response with a mean over the whole step: one more pass where steps
        # are cut, before.
        self.two_passes = isinstance(objective, KTO) and objective.reference_point is None
        parts = [shape(batch) for batch in pieces]
        self.whole = Programs(jax.jit(learner.step, donate_argnums=0), map(shape, whole))
        self.add = Programs(jax.jit(learner.add, donate_argnums=0), parts)
        self.measure = Programs(jax.jit(learner.log_ratio), parts if self.two_passes else ())
        self.apply = Programs(jax.jit(learner.apply, donate_argnums=(0, 1)), [()] * bool(parts))
        self.nothing = Programs(jax.jit(learner.nothing), parts[:1])
        self.sums: Sums | None = None
        if not ahead:
            return
        for batch in whole:
            self.whole.prepare(shape(batch), state, fixed, put(batch), self.objective)
        for batch in pieces:
            placed, name = put(batch), shape(batch)
            sums = self.empty(state, placed)
            if self.two_passes:
                self.measure.prepare(name, state.trainable, fixed, placed)
            self.add.prepare(name, sums, state.trainable, fixed, placed, self.adding)
            self.apply.prepare((), state, sums)

    @property
    def compilations(self) -> int:
        """Programs there are, or may come to be."""
        kinds = self.whole, self.add, self.measure, self.apply, self.nothing
        return sum(len(kind.shapes) for kind in kinds)

    @property
    def adding(self) -> Any:
        """The objective of a piece of a step, for its structure."""
        return self.relative_to(0.0) if self.two_passes else self.objective

    def empty(self, state: TrainState, batch: Batch) -> Sums:
        """Sums of nothing; they come to be with the first step that is cut."""
        sums = self.sums
        if sums is None:
            name = next(iter(self.nothing.shapes))
            sums = self.sums = self.nothing(name, state.trainable, self.fixed, batch, self.adding)
        return sums

    def __call__(self, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, Report]:
        """Take a step on the micro-batches of a batch; the buffers of ``state`` are used up."""
        if len(batches) == 1:
            [batch] = batches
            return self.whole(shape(batch), state, self.fixed, batch, self.objective)
        objective = self.objective
        if self.two_passes:
            objective = self.relative_to(self.reference_point(state, batches))
        sums = self.empty(state, batches[0])
        for batch in batches:
            given = sums, state.trainable, self.fixed, batch, objective
            sums = self.add(shape(batch), *given)
        state, self.sums, report = self.apply((), state, sums)
        return state, report

    def relative_to(self, z: float) -> KTO:
        """The objective with its reference point given, on the device."""
        return self.everywhere(replace(self.asked, reference_point=z))

    def reference_point(self, state: TrainState, batches: Sequence[Batch]) -> float:
        """KTO's z: beta times the mean log-ratio of all responses of the step, at least 0."""
        found = [
            self.measure(shape(batch), state.trainable, self.fixed, batch) for batch in batches
        ]
        total, number = fetch(found[0])
        for more, count in fetch(found[1:]):
            total, number = total + more, number + count
        return float(self.asked.beta * max(0, total / max(number, 1)))


def shape(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """What tells one compiled program from another."""
    return tuple(leaf.shape for leaf in jax.tree.leaves(batch))
