"""Runs as tests need them: compiled in a third of a second, read as numpy, and watched from inside.

A ``Trace`` says what a policy became. What a run did on the way, which responses it collected and
which of them each gradient step saw, is reported by callbacks from inside the compiled program.
"""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from bandit import Policy, Problem, Tabular, Trace, simulate
from bandit.simulate import Collected
from objectives import Recipe, Responses, Terms
from objectives.pytrees import pytree, structure

# `from bandit import simulate` is the function: the package gives it the module's name.
SIMULATE = importlib.import_module("bandit.simulate")
SWEEP = importlib.import_module("bandit.sweep")


@functools.cache
def quick() -> dict[str, Any]:
    """The options that compile a small program fastest, of those this XLA knows."""
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    for more in (
        {"xla_cpu_use_fusion_emitters": False},
        {"xla_cpu_parallel_codegen_split_count": 1},
    ):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda x: x + 1, compiler_options=options | more)(0.0)
            options |= more
    return options


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=quick(), **options)


COUNTS = ("steps", "record_every", "contexts")
program = functools.cache(lambda: compiled(simulate, static_argnames=COUNTS))


def run(
    recipe: Recipe,
    problem: Problem,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    key: jax.Array | None = None,
    **options: Any,
) -> Trace:
    """One run, as numpy; of a table where no policy is given.

    Runs that differ in numbers alone share a compilation.
    """
    trained = Tabular() if policy is None else policy
    key = jax.random.key(seed) if key is None else key
    trace = program()(recipe, problem, trained, key, **options)
    return jax.tree.map(np.asarray, trace)


class Step(NamedTuple):
    """What the objective was given at one gradient step."""

    logp: np.ndarray
    responses: Responses


class Story(NamedTuple):
    """A run with everything it collected and every batch it took a gradient of."""

    trace: Trace
    collections: list[Collected]
    steps: list[Step]


@pytree
class Watched:
    """An objective that reports what it is given."""

    objective: Any
    report: Callable[..., None] = structure()

    def __call__(self, logp: jax.Array, responses: Responses) -> Terms:
        jax.debug.callback(self.report, logp, responses, ordered=True)
        return self.objective(logp, responses)


def watch(recipe: Recipe, problem: Problem, policy: Policy | None = None, **options: Any) -> Story:
    """As ``run``, with everything noted."""
    collections, steps = [], []
    collect = SIMULATE.collect

    def watched_collect(*given: Any) -> Any:
        collected, baseline = collect(*given)
        jax.debug.callback(lambda seen: collections.append(seen), collected, ordered=True)
        return collected, baseline

    def report(logp: Any, responses: Any) -> None:
        steps.append(Step(logp, responses))

    watched = dataclasses.replace(recipe, objective=Watched(recipe.objective, report))
    with mock.patch.object(SIMULATE, "collect", watched_collect):
        trace = run(watched, problem, policy, **options)
    jax.effects_barrier()
    return Story(trace, *jax.tree.map(np.asarray, (collections, steps)))
