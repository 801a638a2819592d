"""The programs of a run, compiled from shapes alone: no weights, no data, no accelerator.

The very functions that training compiles are traced with shapes in place of numbers and handed to
the compiler of the devices that are meant. What comes back cannot run here, but it knows how much
memory it takes and what the devices say to each other.
"""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from llm.fresh_groundwork import side_by_side
from llm.groundwork import rule_of
from llm.mesh import sharding
from llm.model import parameters, with_parameters
from llm.plan.abstract import Abstract
from llm.plan.collectives import Collective, collectives
from llm.plan.hlo import read_program
from llm.plan.traffic import moved
from llm.sampler.draft import Stops, begin, grow, write
from llm.sampler.sizes import SHORTEST, bucket, rooms
from llm.sampler.weights import prepare
from llm.update import Fixed, Sums, TrainState

CHUNKED = ("step", "add", "measure", "judge")
"""Programs whose loops over chunks of logits end where the scored tokens do."""

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Of the sizes in the compiler's messages."""


class DoesNotFit(Exception):
    """A program that needs more memory than a chip has.

    Args:
        program: its name.
        needs: bytes, as far as the compiler says; None where it does not.
        said: what the compiler said.
    """

    def __init__(self, program: str, needs: float | None, said: str) -> None:
        super().__init__(said)
        self.program, self.needs, self.said = program, needs, said


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a compiled program says of itself; bytes are those of one device.

    Attributes:
        name: what it does.
        arguments: bytes it is given.
        outputs: bytes it returns.
        aliases: bytes of what it returns that take the place of arguments.
        temporaries: bytes it needs meanwhile.
        moved: bytes it reads from the main memory and writes to it.
        exchanges: what the devices say to each other.
        seconds: that compiling it took.
    """

    name: str
    arguments: int
    outputs: int
    aliases: int
    temporaries: int
    moved: float | int
    exchanges: tuple[Collective, ...]
    seconds: float

    @property
    def total(self) -> int:
        """Bytes of a device while it runs, by the compiler's account."""
        return self.arguments + self.made

    @property
    def made(self) -> int:
        """Bytes of those that are not there before."""
        return self.outputs - self.aliases + self.temporaries


@dataclass(frozen=True)
class Learning:
    """The programs that learn, and what they leave in memory between them.

    Attributes:
        state: what training changes.
        sums: what micro-batches add up to; None where a step is one micro-batch.
        programs: ``step``; or ``add`` for each micro-batch and ``apply``, and before them, for an
            objective that compares with a mean over the step, ``measure`` for each.
    """

    state: TrainState
    sums: Sums | None
    programs: tuple[Compiled, ...]


def compile_start(run: Abstract) -> Learning:
    """What a run has in memory before its first step, where the programs that make it leave it.

    Raises:
        DoesNotFit: if that needs more memory than a device has.
    """
    given = run.loaded.trainable, run.fixed, run.batch, run.objective
    start = jax.jit(run.trainer.start, donate_argnums=() if run.stays else 0)
    state = made_by(run, "start", start, *given)
    if run.micro_batches == 1:
        return Learning(state, None, ())
    return Learning(state, made_by(run, "nothing", jax.jit(run.trainer.nothing), *given), ())


def expected_start(run: Abstract) -> Learning:
    """The same where the table of ``llm.mesh`` would put it, for what does not even begin."""
    given = run.loaded.trainable, run.fixed, run.batch, run.objective

    def put(path: Any, x: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(run.mesh, name, x.shape))

    state = jax.tree_util.tree_map_with_path(put, jax.eval_shape(run.trainer.start, *given))
    return Learning(state, None, ())


def made_by(run: Abstract, name: str, jitted: Any, *given: Any) -> Any:
    """Shapes of what a function makes, at the places where its program leaves it."""
    return at(jax.eval_shape(jitted, *given), compiled(run, name, jitted, *given)[1])


def compile_learning(run: Abstract, begun: Learning) -> Learning:
    """Compile a step, as ``llm.train.Step`` does.

    Args:
        run: what learns.
        begun: from ``compile_start``.

    Raises:
        DoesNotFit: if a program needs more memory than a device has.
    """
    learner, state, sums = run.trainer, begun.state, begun.sums
    given = run.fixed, run.batch, run.objective
    if sums is None:
        stepping = jax.jit(learner.step, donate_argnums=0)
        return replace(begun, programs=(compiled(run, "step", stepping, state, *given)[0],))
    adding = jax.jit(learner.add, donate_argnums=0)
    applying = jax.jit(learner.apply, donate_argnums=(0, 1))
    found = [compiled(run, "add", adding, sums, state.trainable, *given)[0]]
    found += [compiled(run, "apply", applying, state, sums)[0]]
    if run.measures:
        measuring = jax.jit(learner.log_ratio)
        found += [compiled(run, "measure", measuring, state.trainable, *given[:2])[0]]
    return replace(begun, programs=tuple(found))


def compile_judging(run: Abstract) -> Compiled:
    """Compile the pass over fresh responses by policy, reference and critic.

    Raises:
        DoesNotFit: if it needs more memory than a device has.
    """
    fixed = Fixed(run.loaded.frozen, run.reference)
    judge = jax.jit(run.learner.judge)
    return compiled(run, "judge", judge, run.loaded.trainable, fixed, run.batch)[0]


@dataclass(frozen=True)
class Writing:
    """The programs that write responses, and what they work on.

    Attributes:
        weights: rounded and put together, by path.
        draft: as large as it gets.
        rows: responses that are written side by side.
        programs: ``begin`` reads the prompts, ``grow`` gives responses their last room, ``write``
            goes on to the end; what it moves and says is that of one token.
    """

    weights: dict[str, Any]
    draft: Any
    rows: int
    programs: tuple[Compiled, ...]


def compile_writing(run: Abstract) -> Writing:
    """Compile the writing of responses, at the most rows and the longest responses.

    Raises:
        DoesNotFit: if a program needs more memory than a device has.
    """
    settings, N = run.prepared.settings, run.prepared.recipe.collection.responses
    decoder = run.loaded.policy(run.loaded.trainable)
    rounding = {"dtype": decoder.dtype, "mesh": run.mesh if settings.sampling.gather else None}
    weights = parameters(decoder)
    _, places = compiled(run, "prepare", prepare, weights, **rounding)
    weights = at(jax.eval_shape(partial(prepare, **rounding), weights), places)
    graphdef, state = nnx.split(with_parameters(decoder, weights))
    rows, spaces = side_by_side(run.prepared), rooms(settings.sampling.max_new_tokens)
    B, S = rows // N, bucket(len(run.prepared.groups[0].prompt), SHORTEST)
    ids = np.zeros((B, S), np.int32)
    inputs = run.everywhere((ids, ids, np.zeros(B, np.uint32), np.zeros((), np.uint32)))
    first = {"responses": N, "room": spaces[0]}
    reading, places = compiled(run, "begin", begin, graphdef, state, *inputs, **first)

    def draft(room: int) -> Any:
        shapes = jax.eval_shape(
            lambda *given: begin(graphdef, *given, responses=N, room=room), state, *inputs
        )
        return at(shapes, places)

    found = [reading]
    if len(spaces) > 1:
        more = spaces[-1] - spaces[-2]
        found += [compiled(run, "grow", grow, draft(spaces[-2]), slots=more)[0]]
    largest = draft(spaces[-1])
    stops = Stops(*run.everywhere((np.zeros(1, np.int32), np.int32(0), np.int32(0))))
    rule = rule_of(run.prepared)
    writing, _ = compiled(run, "write", write, graphdef, state, largest, stops, rule=rule)
    return Writing(weights, largest, rows, (*found, writing))


def at(shapes: Any, places: Any) -> Any:
    """Shapes with the places that a program leaves its results at."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def compiled(
    run: Abstract, name: str, function: Any, *given: Any, **static: Any
) -> tuple[Compiled, Any]:
    """Compile a function for the devices of a run.

    With little effort it takes a fifth of the time. The program is another one then: it talks to
    other devices as much and takes as much memory to a tenth, but reads and writes it more often
    than it would have to, so of that only a lower bound is given: what comes in and goes out once,
    and temporaries twice. So it is for GPUs, where attention is cuDNN's and cannot be compiled
    without one: what is compiled for them is attention in blocks.

    Args:
        run: whose devices.
        name: of the program.
        function: from ``jax.jit``.
        given: its arguments, as shapes with places.
        static: those it is compiled for.

    Returns:
        What the program says of itself, and where it leaves its results.

    Raises:
        DoesNotFit: if it needs more memory than a device has.
    """
    began = time.monotonic()
    platform = run.mesh.devices.flat[0].platform
    gpu = platform == "gpu"
    lowered = function.trace(*given, **static).lower(
        lowering_platforms=("cuda" if gpu else platform,)
    )
    try:
        with effort(LITTLE if run.quick else USUAL):
            program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(name, needed(str(error)), str(error)) from None
    read = read_program(program.as_text(), float(run.trips) if name in CHUNKED else 1.0)
    found = program.memory_analysis()
    inside = found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
    return Compiled(
        name=name,
        arguments=inside[0],
        outputs=inside[1],
        aliases=found.alias_size_in_bytes,
        temporaries=inside[2],
        moved=inside[0] + inside[1] + 2 * inside[2] if run.quick or gpu else moved(read),
        exchanges=tuple(collectives(read)),
        seconds=time.monotonic() - began,
    ), program.output_shardings


USUAL, LITTLE = 0.0, -1.0
"""Efforts of the compiler, as it counts them."""


@contextmanager
def effort(much: float) -> Iterator[None]:
    """Within the block programs are compiled with so much effort."""
    before = jax.config.values["jax_exec_time_optimization_effort"]
    jax.config.update("jax_exec_time_optimization_effort", much)
    try:
        yield
    finally:
        jax.config.update("jax_exec_time_optimization_effort", before)


def needed(said: str) -> float | None:
    """Bytes that a program would need, from the message that refuses it."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)B?\) exceeds", said)
    if found is None:
        return None
    number, unit = (part for part in found.groups() if part is not None)
    return float(number) * UNITS[unit]


def bytes_of(tree: Any) -> int:
    """Bytes of arrays on one of the devices they are spread over."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
