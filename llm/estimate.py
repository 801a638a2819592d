"""What a run will take, before it is paid for: memory by kind, tokens, arithmetic, time.

Most of this is counting: memory in ``llm.footprint``, arithmetic as ``llm.flops`` counts it for a
run that is on its way, tokens from what the data are like. Only two numbers are opinions, and they
are stated: which share of a device's peak the training reaches, and which share of its bandwidth
the writing of fresh responses.
"""

import math
import re
from dataclasses import dataclass, replace

from rich.table import Table

from llm.data.order import Order
from llm.devices import USABLE, Device
from llm.flops import forward_flops, training_factor
from llm.footprint import (
    GRADIENT,
    MASTER,
    OPTIMIZER,
    WEIGHTS,
    Item,
    cache_bytes,
    dtype_of,
    lora_of,
    memory,
    total,
    writing_rows,
)
from llm.loading import does_train, sizes_for
from llm.model import abstract_decoder, parameters
from llm.model.architecture import Architecture
from llm.settings import Training, is_online, keeps_start, reference_kind
from llm.workload import Workload
from objectives.recipes import Recipe

GIB = 2**30

REWARD_MODELS = r"(?:^|[\s*-])model:"
"""How a reward's spec names a trained one, alone or in a sum."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Attributes:
        device: what it was estimated for.
        devices: how many of them.
        parameters: of the policy.
        trainable: those that train.
        memory: on one device, by kind.
        steps: of the optimizer.
        collections: times that fresh responses are written; 0 offline.
        generated: tokens the policy writes.
        trained: positions that a training step sees, each as often as it does.
        training_flops: of all training steps.
        judging_flops: of passes without a gradient: reference, fresh responses, reward models.
        sampling_flops: of writing.
        training_seconds: of all training steps.
        judging_seconds: of the passes without a gradient.
        sampling_seconds: of writing.
    """

    device: Device
    devices: int
    parameters: int
    trainable: int
    memory: tuple[Item, ...]
    steps: int
    collections: int
    generated: float
    trained: int
    training_flops: float
    judging_flops: float
    sampling_flops: float
    training_seconds: float
    judging_seconds: float
    sampling_seconds: float

    @property
    def peak(self) -> float:
        """Bytes on one device when it holds most."""
        held = {when: 0.0 for when in ("always", "training", "sampling")}
        for item in self.memory:
            held[item.when] += item.bytes
        return held["always"] + max(held["training"], held["sampling"])

    @property
    def fits(self) -> bool:
        """Whether that is less than what a program gets of the device."""
        return self.peak <= USABLE * self.device.memory

    @property
    def seconds(self) -> float:
        """Of the whole run, without compilation."""
        return self.training_seconds + self.judging_seconds + self.sampling_seconds

    def table(self) -> Table:
        """Everything there is to say, a line each."""
        d = self.device
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for column in ("left", "right"):
            table.add_column(justify=column, no_wrap=column == "left")  # pyright: ignore[reportArgumentType]
        table.add_column()
        table.add_row("parameters", f"{self.parameters:,}", f"{self.trainable:,} train")
        for item in self.memory:
            table.add_row(item.what, f"{item.bytes / GIB:,.2f} GiB", f"{item.when}, each device")
        verdict = "fits" if self.fits else "[red]does not fit[/]"
        table.add_row(
            "[bold]peak memory[/]",
            f"{self.peak / GIB:,.2f} GiB",
            f"{verdict} {self.devices} x {d.name} of {d.memory / GIB:,.0f} GiB",
        )
        table.add_row("optimizer steps", f"{self.steps:,}", "")
        table.add_row("tokens trained on", f"{self.trained:,.0f}", "with repetitions")
        if self.collections:
            table.add_row(
                "tokens written", f"{self.generated:,.0f}", f"in {self.collections:,} collections"
            )
        for what, flops, seconds in (
            ("training", self.training_flops, self.training_seconds),
            ("writing", self.sampling_flops, self.sampling_seconds),
            ("judging", self.judging_flops, self.judging_seconds),
        ):
            if flops:
                table.add_row(what, f"{flops:.2e} FLOP", duration(seconds))
        table.add_row(
            "[bold]time[/]",
            duration(self.seconds),
            f"if training reaches {d.mfu:.0%} of {d.flops / 1e12:,.3g} TFLOP/s and writing "
            f"{d.streaming:.0%} of {d.bandwidth / 1e12:,.2g} TB/s",
        )
        return table


def duration(seconds: float) -> str:
    """A time people can compare: ``2.5 h``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def estimate(
    architecture: Architecture,
    name: str,
    recipe: Recipe,
    settings: Training,
    load: Workload,
    device: Device,
    devices: int = 1,
) -> Estimate:
    """What a run will take on some devices.

    A reward that is a model is taken to be as large as the policy.

    Args:
        architecture: of the policy.
        name: of the recipe.
        recipe: the method.
        settings: of the run.
        load: what the data are like.
        device: one of them.
        devices: how many share the run, laid out as ``settings.mesh`` says.
    """
    online = is_online(recipe)
    responses = recipe.collection.responses if online else max(load.responses, 1)
    reference = reference_kind(settings, name, recipe)
    lora = lora_of(settings.adapters)
    shapes = parameters(abstract_decoder(architecture, lora=lora))
    trains = {path: leaf for path, leaf in shapes.items() if does_train(path, settings)}
    size, trainable = total(shapes), total(trains)

    reuse = recipe.reuse
    order = Order(load.prompts, settings.batch * (reuse.minibatches if online else 1), 0)
    steps = settings.steps or order.steps(settings.epochs) * (reuse.steps if online else 1)
    group = load.group(responses)
    forward = forward_flops(architecture, group)
    training = steps * settings.batch * training_factor(lora is not None) * forward
    again = {"none": 1.0, "dots": 1.0, "full": 1 + 1 / training_factor(lora is not None)}
    collections = math.ceil(steps / reuse.steps) if online else 0
    fresh = collections * settings.batch * reuse.minibatches * (1 - settings.offline)
    scored = [s for s in (settings.reward, settings.gold) if re.search(REWARD_MODELS, s or "")]
    # The fresh responses are read again by the policy, and by whoever else has a say.
    readers = 1 + (reference == "model") + len(scored)
    judging = fresh * readers * forward if online else 0.0
    if reference == "model" and not online:
        judging = steps * settings.batch * forward
    if reference == "cache":
        judging = load.prompts * forward
    written = fresh * responses * load.response_tokens
    writing = sampling_seconds(architecture, settings, recipe, load, device, devices, collections)
    peak = device.flops * device.mfu * devices
    laid = sizes_for(architecture, settings, devices, device.memory)
    rest = max(devices // laid.tensor, 1)
    fsdp = laid.fsdp or max(rest // (laid.data or 1), 1)
    mesh = replace(laid, fsdp=fsdp, data=laid.data or max(rest // fsdp, 1))
    settings = replace(settings, mesh=mesh)
    stays = keeps_start(settings, name, recipe)
    about = architecture, settings, recipe, load, device, shapes, trains, len(scored), stays
    held = tuple(memory(*about))
    # A small batch is done before the optimizer has read and written what it moves.
    moved = 2 * sum(item.bytes for item in held if item.what in (WEIGHTS, OPTIMIZER, GRADIENT))
    moving = steps * moved / (device.bandwidth * device.streaming)
    return Estimate(
        device=device,
        devices=devices,
        parameters=size,
        trainable=trainable,
        memory=held,
        steps=steps,
        collections=collections,
        generated=written,
        trained=steps * settings.batch * group.length,
        training_flops=training,
        judging_flops=judging,
        sampling_flops=fresh * forward,
        training_seconds=training * again[settings.remat] / peak + moving,
        judging_seconds=judging / peak,
        sampling_seconds=writing,
    )


def sampling_seconds(
    architecture: Architecture,
    settings: Training,
    recipe: Recipe,
    load: Workload,
    device: Device,
    devices: int,
    collections: int,
) -> float:
    """How long writing takes: a token of all rows reads all weights, as they are kept, once.

    A batch goes on until its longest response ends, which is taken to be cut at the most tokens
    there may be; rows that end before are taken out, so only those that still write are read.
    """
    if not collections:
        return 0.0
    dtype = dtype_of(settings, device)
    shapes = parameters(abstract_decoder(architecture))
    each = settings.batch * recipe.reuse.minibatches * recipe.collection.responses
    rows = writing_rows(settings, recipe)
    batches = math.ceil(each * (1 - settings.offline) / rows)
    weights = MASTER * total(shapes) * settings.sampling.max_new_tokens * batches
    middle = load.prompt_tokens + load.response_tokens / 2
    caches = each * load.response_tokens * middle * cache_bytes(architecture, dtype)
    reading = (weights + caches) / (device.bandwidth * device.streaming)
    products = each * load.response_tokens * 2 * total(shapes) / (device.flops * device.mfu)
    return collections * max(reading, products) / devices
