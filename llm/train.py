"""The inner half of Algorithm 1: step after step, whatever the batches come from.

A source hands over the batches of each step. Those of a fixed data set are built while the step
before them runs; those of a policy that learns from its own samples cannot exist before the policy
does. Numbers are read one step late so that the device never waits. A run can be killed at any
moment: it goes on, bit for bit, from its last checkpoint.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from llm.data.loader import Loader
from llm.data.packing import Batch
from llm.data.plan import Plan
from llm.flops import forward_flops, peak_flops, training_factor
from llm.hosts import Vote, fetch, gather, is_shared
from llm.journal import Journal
from llm.preparation import Prepared
from llm.progress import Bar
from llm.state import Saver
from llm.step import Put, Step
from llm.update import Parameters, Report, TrainState

NAMED = 5
"""Rows or parameters that an error lists at most."""

Evaluate: TypeAlias = Callable[[Parameters], dict[str, float]]
"""Measures the held-out groups."""


@runtime_checkable
class Source(Protocol):
    """Where the batches of each step come from; steps are counted from 1."""

    @property
    def stalls(self) -> int:
        """How often a step had to wait for its batches though they could have been ready."""
        ...

    def waits(self, number: int) -> bool:
        """Whether the batches of a step are made from the state before it."""
        ...

    def take(self, number: int, state: TrainState, stop: "Stop") -> list[Batch] | None:
        """The batches of a step, on the devices; None if the run was stopped meanwhile."""
        ...

    def plan_at(self, number: int) -> tuple[Plan, int]:
        """The plan a step belongs to, and which of its steps that is, counted from 0."""
        ...

    def to_save(self, state: TrainState) -> TrainState:
        """A state with what else a run that goes on from it has to know."""
        ...

    def close(self) -> None:
        """Let go of whatever works ahead."""
        ...


class Stored:
    """The batches of data that exist, made ready ahead.

    Args:
        plan: of all steps.
        begin: steps taken before.
        put: places a batch on the devices.
        before: steps of the run before the first of the plan.
    """

    def __init__(self, plan: Plan, begin: int, put: Put, before: int = 0) -> None:
        self.plan, self.before = plan, before
        self.loader = Loader(plan, begin - before, put)

    @property
    def stalls(self) -> int:
        """How often the next step was not ready."""
        return self.loader.stalls

    def waits(self, number: int) -> bool:
        """Never: data are data."""
        return False

    def take(self, number: int, state: TrainState, stop: "Stop") -> list[Batch] | None:
        """The batches of the next step."""
        return next(self.loader)

    def plan_at(self, number: int) -> tuple[Plan, int]:
        """There is one plan."""
        return self.plan, number - 1 - self.before

    def to_save(self, state: TrainState) -> TrainState:
        """There is nothing else: data are data."""
        return state

    def close(self) -> None:
        """End the loader's thread."""
        self.loader.close()


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        state: after the last step taken.
        step: how many were taken.
        signal: what ended it early; None if it is complete.
    """

    state: TrainState
    step: int
    signal: int | None


def run(
    prepared: Prepared,
    source: Source,
    step: Step,
    state: TrainState,
    evaluate: Evaluate,
    *,
    steps: int,
    put: Put,
    saver: Saver,
    journal: Journal,
    bar: Bar,
    save_end: bool = True,
) -> Finished:
    """Take the steps that are left.

    Args:
        prepared: what is being run.
        source: of the batches of every step; closed at the end.
        step: the compiled step.
        state: where to begin; its buffers are used up.
        evaluate: measures the held-out groups.
        steps: of the run.
        put: places a batch on the devices.
        saver: of checkpoints.
        journal: of metrics.
        bar: of progress.
        save_end: whether the last step is worth a checkpoint wherever it falls.

    Raises:
        FloatingPointError: if a loss or gradient is not finite; names what was the first to go. The
            state before that step is saved.
    """
    settings, number = prepared.settings, int(fetch(state.step))
    clock, requests = Clock(prepared), Vote()
    pending: tuple[int, Report] | None = None
    asked: int | None = None

    def read(step: int, report: Report) -> None:
        totals, finite = fetch(report)
        if not finite:
            raise NotFinite(step)
        numbers, times = means(totals), clock.line() | {"stalls": source.stalls}
        if is_multiple(step, settings.log.every) or step == steps:
            journal.write(step, "train", numbers, times)
        bar.show(step, numbers, times["tokens_per_second"])

    with closing(source), stop_requests() as stop, jax.transfer_guard("disallow"):
        try:
            while number < steps and asked is None:
                if pending is not None and source.waits(number + 1):
                    read(*pending)
                    pending = None
                try:
                    batches = source.take(number + 1, state, stop)
                except Exception as error:
                    # A reward that cannot answer must not cost the steps before it. What only one
                    # process has met ends the run: the others will not come to save.
                    if is_shared(error):
                        saver.save(number, source.to_save(state))
                    raise
                if batches is None:
                    asked = stop.common
                    saver.save(number, source.to_save(state))
                    break
                number += 1
                state, report = step(state, batches)
                clock.tick(*source.plan_at(number))
                if pending is not None:
                    read(*pending)
                pending = (number, report)
                end = number == steps
                look = end or is_multiple(number, settings.evaluate_every)
                # Once: what comes later waits for the next step. Of several processes each hears
                # a step later what any was asked, and so all of them after the same step.
                asked = requests(stop.signal or 0) or None
                due = asked is not None or is_multiple(number, settings.save.every)
                if look or due:
                    read(*pending)
                    pending = None
                    # A checkpoint of a step is saved last: what it stands for has been written.
                    found = evaluate(state.trainable) if look else {}
                    if found:
                        journal.write(number, "eval", found, clock.line())
                    if due or save_end or not end:
                        saver.save(number, source.to_save(state))
        except NotFinite as found:
            state = replace(state, finite=step.everywhere(np.ones((), bool)))
            saver.save(found.step - 1, source.to_save(state))
            saver.close()
            reason = explain(step, state, source, found.step, put)
            raise FloatingPointError(
                f"step {found.step}: {reason} The state after step {found.step - 1} is kept in "
                f"{saver.folder}. A lower --optimizer.learning-rate usually helps; give it with "
                "another --out."
            ) from None
    return Finished(state, number, None if number == steps else asked)


def is_multiple(number: int, every: int) -> bool:
    """Whether something that happens every so many steps, or never if 0, happens after a step."""
    return every > 0 and number % every == 0


class NotFinite(Exception):
    """A step whose loss or gradient is not finite.

    Args:
        step: its number, counted from 1.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def explain(step: Step, state: TrainState, source: Source, number: int, put: Put) -> str:
    """Do a failed step again, piece by piece, and say what was the first to be not finite."""
    plan, place = source.plan_at(number)
    plan = replace(plan, mine=None)  # every process says the same
    with jax.transfer_guard("allow"):
        for batch in plan.micro_batches(place):
            given = state.trainable, step.fixed, put(batch)
            seen = step.learner.look(*given)
            logp, ref_logp = fetch((seen.logp, seen.responses.ref_logp))
            for who, said in (("model", logp), ("reference", ref_logp)):
                rows = np.asarray(batch.example)[~np.isfinite(said).all(axis=(1, 2))]
                if len(rows):
                    where = ", ".join(plan.groups[row].where for row in rows[:NAMED])
                    return f"what the {who} says of {where} is not finite."
            sums = step.learner.sums(*given, step.objective)
            if not np.isfinite(fetch(sums.loss[0])):
                return "the loss is not finite, though all that it is made of is."
            finite = fetch({k: jnp.isfinite(v).all() for k, v in sums.gradient.items()})
            bad = [path for path, good in finite.items() if not good]
            if bad:
                return f"the gradient of {', '.join(bad[:NAMED])} is not finite."
    return "the gradient, or the step the optimizer makes of it, is too long for float32."


class Stop:
    """Remembers that somebody asked the run to stop; a second Ctrl-C stops it at once.

    Attributes:
        signal: what this process was asked by; None if it was not.
        common: what any process was asked by when all last compared.
        at_once: whether it was asked a second time, and will not wait for anything.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.common: int | None = None
        self.at_once = False

    def compare(self) -> bool:
        """Whether any process was asked; each waits here for the others."""
        self.common = max(gather(self.signal or 0)) or None
        return self.common is not None

    def __call__(self, number: int, frame: object) -> None:
        """Receive a signal."""
        if self.signal is not None and number == signal.SIGINT:
            self.at_once = True
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_requests() -> Iterator[Stop]:
    """Until the end of the block, SIGTERM and Ctrl-C wait for the step at hand and its save."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Clock:
    """Speed since the first step, without compilation.

    Args:
        prepared: what is being run.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.architecture = prepared.architecture
        self.peak = peak_flops(jax.devices())
        self.factor = training_factor(prepared.settings.adapters.rank > 0)
        self.began = time.monotonic()
        self.tokens, self.flops = 0, 0.0

    def tick(self, plan: Plan, step: int) -> None:
        """Count a step of a plan that was dispatched."""
        rows = plan.step_groups(step)
        self.tokens += int(plan.lengths[rows].sum())
        if self.peak is not None:
            groups = [plan.groups[row] for row in rows]
            forward = sum(forward_flops(self.architecture, group) for group in groups)
            self.flops += self.factor * forward

    def line(self) -> dict[str, float]:
        """What a watch has to say: seconds since the start, positions trained on per second, MFU.

        Padding is neither a position nor arithmetic here.
        """
        seconds = time.monotonic() - self.began
        line = {"seconds": round(seconds, 3), "tokens_per_second": round(self.tokens / seconds, 1)}
        if self.peak is not None:
            line["mfu"] = self.flops / seconds / self.peak
        return line


def means(totals: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """Sums divided at last; a metric that nothing counted for is left out."""
    return {name: float(total / weight) for name, (total, weight) in totals.items() if weight > 0}
