"""Many runs as one program: settings x seeds, compiled once.

Every number of a setting (a learning rate, a beta, a reward) is data to the compiled program, so a
sweep costs one compilation per *structure* and then grows with the number of runs in it. Runs go
through the program in chunks of fixed size; what a seed produces does not depend on its company.

Key to the axes: G settings, S seeds, R records.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from bandit.policies import Policy, Tabular
from bandit.problems import Problem
from bandit.simulate import Start, Trace, check_learning_rate, check_run, prepare, simulate
from bandit.transformer import TokenTransformer
from objectives import Recipe
from objectives.hyperparameters import Number
from objectives.pytrees import pytree

Keys = Key[Array, " S"]

COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}
"""Compile these small programs in half the time; they run as fast as at the default level."""


@pytree
class Setting:
    """One column of a sweep: everything about a run except its seed.

    Attributes:
        recipe: the method.
        problem: the world.
        learning_rate: Adam's.
    """

    recipe: Recipe
    problem: Problem
    learning_rate: Number


class Diverged(ValueError):
    """A run whose numbers are no longer finite."""


def chunk_size(policy: Policy) -> int:
    """How many runs share a chunk: enough to fill vector units, few enough to stay in cache."""
    if isinstance(policy, Tabular):
        return 32
    return 1 if isinstance(policy, TokenTransformer) else 4


def in_chunks(function: Callable[[Any], Any], inputs: Any, size: int) -> Any:
    """Map over the leading axis, ``size`` at a time, the last chunk filled up with repeats."""
    count = jax.tree.leaves(inputs)[0].shape[0]
    chunks = -(-count // size)
    rows = jnp.arange(chunks * size) % count
    chunked = jax.tree.map(lambda x: x[rows].reshape(chunks, size, *x.shape[1:]), inputs)
    outputs = jax.lax.map(jax.vmap(function), chunked)
    return jax.tree.map(lambda x: x.reshape(chunks * size, *x.shape[2:])[:count], outputs)


@functools.cache
def compiled_starts(policy: Policy, contexts: int) -> Callable[[Problem, Keys], Start]:
    """The program that prepares the start of every seed."""

    def starts(problem: Problem, keys: Keys) -> Start:
        def one(key: PRNGKeyArray) -> Start:
            return prepare(problem, policy, key, contexts)

        return in_chunks(one, keys, chunk_size(policy))

    return jax.jit(starts, compiler_options=COMPILER_OPTIONS)


@functools.cache
def compiled_runs(
    policy: Policy, steps: int, record_every: int, keep: tuple[str, ...]
) -> Callable[..., dict[str, Any]]:
    """The program that runs every (setting, seed) pair, one after another in chunks."""

    def runs(
        settings: Setting, starts: Start, keys: Keys, pairs: Any, beta_star: Number
    ) -> dict[str, Any]:
        def one(pair: Any) -> dict[str, Any]:
            column, seed = pair
            setting = jax.tree.map(lambda leaf: leaf[column], settings)
            trace: Trace = simulate(
                setting.recipe,
                setting.problem,
                policy,
                keys[seed],
                steps,
                learning_rate=setting.learning_rate,
                record_every=record_every,
                beta_star=beta_star,
                start=jax.tree.map(lambda leaf: leaf[seed], starts),
            )
            return {name: getattr(trace, name) for name in keep}

        return in_chunks(one, pairs, chunk_size(policy))

    return jax.jit(runs, compiler_options=COMPILER_OPTIONS)


def seed_keys(root: int, seeds: int) -> Keys:
    """One key per seed: seed s has the same key however many seeds there are."""
    key = jax.random.key(root)
    return jax.vmap(lambda seed: jax.random.fold_in(key, seed))(jnp.arange(seeds))


def sweep(
    settings: Sequence[Setting],
    policy: Policy,
    seeds: int,
    steps: int,
    *,
    record_every: int = 1,
    contexts: int | None = None,
    beta_star: Number = 0.1,
    keep: Sequence[str] = ("step", "samples", "reward"),
    root: int = 0,
) -> dict[str, np.ndarray]:
    """Run every setting with every seed.

    Args:
        settings: all of one structure: the same objective class and words, the same counts; their
            numbers may differ. Seed s starts from the same fitted policy in every setting.
        policy: what is trained.
        seeds: how many.
        steps: gradient steps of each run.
        record_every: gradient steps between records.
        contexts: number of distinct training prompts; the recipe's prompts when None.
        beta_star: which pi* the distance is measured to.
        keep: fields of ``Trace`` to return; nothing else is stored.
        root: seed of the seeds.

    Returns:
        Arrays ``[G, S, R, ...]`` by name.

    Raises:
        ValueError: if there is nothing to run, the settings differ in structure, or a number makes
            no
            sense, before anything runs.
        Diverged: if a run produced numbers that are not finite; names the setting.
    """
    if not settings or seeds < 1:
        raise ValueError(
            f"a sweep of {len(settings)} settings and {seeds} seeds has nothing to run"
        )
    fields = [field.name for field in dataclasses.fields(Trace)]
    unknown = sorted(set(keep) - set(fields))
    if unknown:
        raise ValueError(f"keep names {unknown}; a Trace has {', '.join(fields)}.")
    check_run(steps, record_every, contexts, beta_star)
    for setting in settings:
        check_learning_rate(setting.learning_rate)
    structures = [jax.tree.structure(setting) for setting in settings]
    for column, found in enumerate(structures):
        if found != structures[0]:
            raise ValueError(
                f"settings 0 and {column} differ in structure, not only in numbers, so one program "
                f"cannot run both; sweep them separately.\n0: {structures[0]}\n{column}: {found}"
            )
        if not np.array_equal(settings[column].problem.ref_logp, settings[0].problem.ref_logp):
            raise ValueError(
                f"settings 0 and {column} have different references, but a seed starts from one "
                "fitted policy in every setting; sweep them separately."
            )
    if "rejected_log_ratio" in keep and settings[0].recipe.collection.responses == 1:
        raise ValueError(
            "keep names rejected_log_ratio, but with collection.responses=1 every response is the "
            "best of its group; drop it or draw 2 or more."
        )
    # In floating point, for a whole number would be another program.
    stacked = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x, float) for x in xs]), *settings)
    recipe = settings[0].recipe
    contexts = recipe.collection.prompts if contexts is None else contexts
    keys = seed_keys(root, seeds)
    starts = compiled_starts(policy, contexts)(settings[0].problem, keys)
    columns, seed_of = jnp.divmod(jnp.arange(len(settings) * seeds), seeds)
    run = compiled_runs(policy, steps, record_every, tuple(keep))
    flat = run(stacked, starts, keys, (columns, seed_of), jnp.asarray(beta_star))
    traces = {
        name: np.asarray(value).reshape(len(settings), seeds, *value.shape[1:])
        for name, value in flat.items()
    }
    for name, value in traces.items():
        broken = ~np.isfinite(value).reshape(len(settings), -1).all(axis=1)
        if broken.any():
            setting = settings[int(np.argmax(broken))]
            raise Diverged(
                f"{name} is not finite after at most {steps} steps at learning_rate="
                f"{float(setting.learning_rate):g} with {setting.recipe.objective!r}; "
                "lower the learning rate."
            )
    return traces
