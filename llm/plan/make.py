"""Does a run fit, how fast can it be, and what will it cost: asked of the compiler.

``llm.estimate`` counts; here the programs of a step are compiled for the devices they are meant
for, and memory, traffic and messages are read from what comes out. Two kinds of memory are told
apart by an estimate all the same, because the compiler knows no names: what the backward pass keeps
is what ``llm.footprint`` says it does, and the other temporaries are the rest of the compiler's
figure. Times are bounds, not forecasts: no program is faster than its roofline.
"""

import math
from dataclasses import replace

from llm.data.order import Order
from llm.flops import forward_flops, matrix_size, training_factor
from llm.footprint import GRADIENT, OPTIMIZER, WEIGHTS, Item, memory
from llm.model.architecture import Architecture
from llm.plan.abstract import Abstract, Question, abstract_run
from llm.plan.planned import ALWAYS, UNREAD, Held, Part, Planned
from llm.plan.programs import (
    Compiled,
    DoesNotFit,
    Learning,
    Writing,
    bytes_of,
    compile_judging,
    compile_learning,
    compile_start,
    compile_writing,
    expected_start,
)
from llm.plan.roofline import FORWARD, executed_flops, learning_passes, roofline
from llm.sampler.sizes import SHORTEST, bucket

READ = "model as it was read"
BATCH, KEPT, OTHER = "batch", "activations kept", "other temporaries"
COPY, CACHE = "weights to write with", "cache and what is written"


def plan(question: Question) -> Planned:
    """Compile the programs of a run and say what they take.

    Raises:
        ValueError: for what cannot be laid out; nothing has been compiled then.
    """
    run = abstract_run(question)
    found = outline(run, question.price)
    held: list[Held] = []
    parts: list[Part] = []
    try:
        try:
            begun = compile_start(run)
        except DoesNotFit:
            held += resident(run, expected_start(run))
            raise
        held += resident(run, begun)
        learning = compile_learning(run, begun)
        held += learning_memory(run, learning)
        parts += learning_parts(run, learning)
        if run.prepared.is_online:
            judge, writing = compile_judging(run), compile_writing(run)
            held += collecting_memory(run, judge, writing)
            parts += collecting_parts(run, judge, writing)
    except DoesNotFit as refusal:
        found = replace(found, refused=f"{refusal.program}: {refusal}", needs=refusal.needs)
    return replace(found, memory=tuple(held), parts=tuple(parts))


def outline(run: Abstract, price: float | None) -> Planned:
    """What is known of a run before its programs are compiled.

    Args:
        run: what would be compiled.
        price: US dollars per chip and hour; that of the topology when None.
    """
    prepared, topology, load = run.prepared, run.topology, run.load
    settings, recipe = prepared.settings, prepared.recipe
    fresh, reuse = prepared.is_online, recipe.reuse
    order = Order(load.prompts, settings.batch * (reuse.minibatches if fresh else 1), 0)
    group = load.group(recipe.collection.responses if fresh else max(load.responses, 1))
    forward = settings.batch * forward_flops(prepared.architecture, group)
    return Planned(
        recipe=prepared.name,
        topology=topology.name,
        chips=topology.chips,
        mesh=dict(run.mesh.shape),
        remat=settings.remat,
        rows=run.shape.rows,
        length=run.shape.length,
        micro_batches=run.micro_batches,
        batch=settings.batch,
        steps=settings.steps or order.steps(settings.epochs) * (reuse.steps if fresh else 1),
        tokens=settings.batch * group.length,
        flops=training_factor(run.loaded.lora is not None) * forward,
        peak_flops=topology.chips * topology.device.flops,
        usable=topology.generation.usable,
        price=topology.generation.price if price is None else price,
    )


def read_kind(run: Abstract) -> str:
    """What the weights are called that were read and stay as they are."""
    return READ + (", the reference" if run.prepared.reference == "model" else "")


def given_to(run: Abstract, name: str) -> tuple[str, ...]:
    """What of the memory that is always there is among the arguments of a program."""
    fixed = run.fixed.frozen or run.fixed.reference
    read = (read_kind(run),) if fixed or name == "judge" else ()
    return {
        "step": (WEIGHTS, OPTIMIZER, *read),
        "add": (WEIGHTS, GRADIENT, *read),
        "apply": (WEIGHTS, OPTIMIZER, GRADIENT),
        "measure": (WEIGHTS, *read),
        "judge": (WEIGHTS, *read),
    }.get(name, ())


def resident(run: Abstract, begun: Learning) -> list[Held]:
    """What is in memory whichever program runs, whether it is given to it or not."""
    read = run.loaded.values if run.stays else run.loaded.frozen
    held = [Held(read_kind(run), bytes_of(read), ALWAYS)] * bool(read) + [
        Held(WEIGHTS, bytes_of(begun.state.trainable), ALWAYS),
        Held(OPTIMIZER, bytes_of(begun.state.optimizer), ALWAYS),
    ]
    if begun.sums is not None:
        held.append(Held(GRADIENT, bytes_of(begun.sums.gradient), ALWAYS))
    return held


def learning_memory(run: Abstract, learning: Learning) -> list[Held]:
    """What comes and goes while a step learns."""
    held = []
    for program in learning.programs:
        made = float(program.made)
        if program.name in ("step", "add"):
            kept = activations_kept(run)
            held.append(Held(KEPT, kept, program.name))
            made -= kept
        if program.name != "apply":
            held.append(Held(BATCH, bytes_of(run.batch), program.name))
        held.append(Held(OTHER, made, program.name))
    return held


def activations_kept(run: Abstract) -> float | int:
    """What the backward pass of a micro-batch finds, by the account of ``llm.footprint``."""
    return next(item.bytes for item in estimated(run) if item.what == KEPT)


def estimated(run: Abstract) -> list[Item]:
    """The same memory as it is counted without a compiler."""
    prepared, shape = run.prepared, run.shape
    settings = replace(
        prepared.settings,
        packing=replace(
            prepared.settings.packing,
            row_length=shape.length,
            max_tokens=shape.rows * shape.length,
        ),
        mesh=replace(
            prepared.settings.mesh, fsdp=run.mesh.shape["fsdp"], data=run.mesh.shape["data"]
        ),
    )
    values, trainable = run.loaded.values, run.loaded.trainable
    device = run.topology.device
    given = prepared.architecture, settings, prepared.recipe, run.load, device, values, trainable
    return memory(*given, scored_by=0, stays=run.stays)


def learning_parts(run: Abstract, learning: Learning) -> list[Part]:
    """The programs that learn, as often as a step runs them."""
    many = run.prepared.architecture, run.shape, run.loaded.shards
    passes = learning_passes(run.prepared.settings.remat, run.loaded.lora is not None)
    forward = executed_flops(*many, FORWARD)
    read = run.fixed.reference is not None or run.trainer.base
    flops = executed_flops(*many, passes) + read * forward
    each = {"step": flops, "add": flops, "measure": (1 + read) * forward, "apply": 0.0}
    return [
        part(run, program, 1 if program.name == "apply" else run.micro_batches, each[program.name])
        for program in learning.programs
    ]


def collecting_memory(run: Abstract, judge: Compiled, writing: Writing) -> list[Held]:
    """What comes and goes while responses are written and read."""
    weights, draft = bytes_of(writing.weights), bytes_of(writing.draft)
    held = [Held(BATCH, bytes_of(run.batch), judge.name), Held(OTHER, judge.made, judge.name)]
    for program in writing.programs:
        # Room for what is yet to be written is made by copying what there is, and prompts are read
        # without the output matrix: what a program is not given is there all the same.
        given = {"begin": 0, "grow": program.arguments, "write": draft}[program.name]
        read = min(weights, program.arguments - given)
        kinds = {COPY: read, UNREAD: weights - read, CACHE: given, OTHER: program.made}
        held += [Held(what, size, program.name) for what, size in kinds.items() if size]
    return held


def collecting_parts(run: Abstract, judge: Compiled, writing: Writing) -> list[Part]:
    """The programs that write and judge, as often as a step needs them."""
    prepared, architecture = run.prepared, run.prepared.architecture
    settings, recipe = prepared.settings, prepared.recipe
    # A collection serves so many steps.
    share = recipe.reuse.minibatches / recipe.reuse.steps
    responses = settings.batch * recipe.collection.responses * (1 - settings.offline)
    batches = share * math.ceil(responses / writing.rows)
    readers = 1 + (run.prepared.reference == "model")
    judging = executed_flops(architecture, run.shape, run.loaded.shards, FORWARD)
    found = [part(run, judge, share * run.micro_batches, readers * judging)]
    S = bucket(len(prepared.groups[0].prompt), SHORTEST)
    prompts, T = writing.rows / recipe.collection.responses, settings.sampling.max_new_tokens
    flops = {
        "begin": prompts * token_flops(architecture, S, S),
        "write": writing.rows * token_flops(architecture, 1, S + T, head=True),
    }
    # The batch goes on until its longest response ends, which may be as long as one can be.
    runs = {"begin": batches, "grow": batches, "write": batches * T}
    found += [part(run, p, runs[p.name], flops.get(p.name, 0.0)) for p in writing.programs]
    return found


def token_flops(architecture: Architecture, tokens: int, seen: int, *, head: bool = False) -> float:
    """Matrix products of so many tokens of a row, each of which looks at so many positions."""
    a = architecture
    attention = 4.0 * seen * a.heads * a.head_width * a.layers
    output = 2.0 * a.width * a.vocab_size * head
    return tokens * (2.0 * matrix_size(a) + attention + output)


def part(run: Abstract, program: Compiled, runs: float | int, flops: float | int) -> Part:
    """A program as often as a step runs it.

    Args:
        run: what it belongs to.
        program: compiled.
        runs: times in a step.
        flops: of one of them, on all devices.
    """
    devices = list(run.mesh.devices.flat)
    once = roofline(flops, program.moved, program.exchanges, run.topology, devices)
    sent: dict[str, tuple[float, float]] = {}
    for exchange in program.exchanges:
        times, size = sent.get(exchange.kind, (0.0, 0.0))
        more = runs * exchange.times
        sent[exchange.kind] = times + more, size + more * exchange.sent
    return Part(
        name=program.name,
        runs=runs,
        flops=runs * flops,
        bound=once.times(runs),
        exchanges=sent,
        moved=runs * program.moved,
        total=program.total,
        given=given_to(run, program.name),
        seconds=program.seconds,
    )
