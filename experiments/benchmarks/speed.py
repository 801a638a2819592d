"""The headline: training and writing, ours beside the peers' and beside an earlier state of ours.

DPO learns from pairs, SFT from single demonstrations, RLOO from four fresh responses to each prompt
with a KL penalty, so that both have a reference to ask. Texts that are read are of uneven length. A
model of random weights hardly ever ends a response by itself, so fresh ones have equal lengths; one
case of writing has many words that end a response, and so uneven ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.numbers import HEADINGS, Line, Numbers, lines_of, trained, written
from experiments.benchmarks.report import Report
from experiments.benchmarks.rounds import (
    MODESEEK,
    TRANSFORMERS,
    TRL,
    Contestant,
    Notebook,
    Turn,
    as_before,
    in_turn,
)
from experiments.benchmarks.tasks import (
    Case,
    Lengths,
    Model,
    SampleTask,
    Task,
    TrainTask,
    llama,
    make_rows,
    save_rows,
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much there is to do.

    Attributes:
        width: D of the model.
        layers: L.
        words: V.
        longest: most tokens of a prompt with a response.
        text: median tokens of a prompt, and of a response.
        pairs: in a step of DPO; SFT sees twice as many demonstrations, RLOO as many prompts.
        new: tokens of a fresh response.
        steps: of a run.
        answers: prompts that are answered at a time, at most.
    """

    width: int = 256
    layers: int = 4
    words: int = 8192
    longest: int = 320
    text: int = 64
    pairs: int = 8
    new: int = 64
    steps: int = 10
    answers: int = 64


TINY = Sizes(width=64, layers=1, words=64, longest=48, text=8, pairs=2, new=4, steps=3, answers=2)
"""Only shows that everything works."""

RESPONSES, PENALTY = 4, 0.05
"""Fresh responses to a prompt, and the weight of their distance to the reference."""
LONGEST = 4
"""A response is cut after so many times its mean length, where it may end by itself."""

PADDING_FREE = Contestant(name="TRL, padding-free", module="trl_peer", needs=TRL.needs)
"""Lays rows end to end, where its trainer can."""
TUNIX = Contestant(name="tunix", module="tunix_peer")
"""Needs an environment of its own: it cannot be installed beside the versions that TRL needs."""


def written_down(folder: Path, model: Model) -> Model:
    """The same model with random weights, and a tokenizer, in a folder that everyone can read."""
    from flax import nnx

    from experiments.benchmarks.words import make_tokenizer
    from llm.checkpoints.write import save_model
    from llm.model import Decoder
    from llm.model.architecture import architecture_from_config, config_from_architecture

    architecture = architecture_from_config(model.config)
    config, tokenizer = config_from_architecture(architecture), make_tokenizer(model.words)
    decoder = Decoder(architecture, rngs=nnx.Rngs(0))
    save_model(folder, decoder, config=config, tokenizer=tokenizer)
    return replace(model, folder=str(folder))


def training(sizes: Sizes, model: Model, folder: Path) -> dict[str, list[Turn]]:
    """Who trains what, by the name of the method."""
    uneven = Lengths(prompt=sizes.text, response=sizes.text, longest=sizes.longest)
    short = Lengths(prompt=sizes.text // 2, response=1, longest=sizes.text)

    def task(recipe: str, batch: int, held: int, lengths: Lengths, **more: Any) -> TrainTask:
        path = folder / f"{recipe}.npz"
        save_rows(path, make_rows(batch * sizes.steps, held, lengths, model.words, 0))
        given = {"model": model, "rows": str(path), "batch": batch, "steps": sizes.steps}
        return TrainTask(recipe=recipe, **given | more)

    dpo, sft = task("dpo", sizes.pairs, 2, uneven), task("sft", 2 * sizes.pairs, 1, uneven)
    fresh = {"responses": RESPONSES, "max_new_tokens": sizes.new, "beta": PENALTY}
    rloo = task("rloo", sizes.pairs, 0, short, **fresh)
    return {
        "DPO": [Turn(who=MODESEEK, task=dpo), Turn(who=TRL, task=dpo)],
        "SFT": [
            Turn(who=MODESEEK, task=sft),
            Turn(who=TRL, task=sft),
            Turn(who=PADDING_FREE, task=replace(sft, padding_free=True)),
        ],
        "RLOO": [Turn(who=MODESEEK, task=rloo), Turn(who=TRL, task=rloo)],
    }


def writing(sizes: Sizes, model: Model, folder: Path) -> list[Turn]:
    """Who writes what: one prompt at a time, a few, many, and several responses to each."""
    path = folder / "prompts.npz"
    lengths = Lengths(prompt=sizes.text // 2, response=1, longest=sizes.text)
    save_rows(path, make_rows(sizes.answers, 0, lengths, model.words, 1))
    few, many, new = min(8, sizes.answers), sizes.answers, sizes.new

    def case(prompts: int, responses: int) -> Case:
        name = f"writing {prompts} × {responses}"
        return Case(name=name, prompts=prompts, responses=responses, max_new_tokens=new)

    # With so many words that end a response, a random model ends one after `new` tokens or so.
    uneven = replace(
        case(many // RESPONSES or 1, RESPONSES), max_new_tokens=LONGEST * new, stops=True
    )
    uneven = replace(uneven, name=f"{uneven.name}, uneven")
    task = SampleTask(
        model=model,
        rows=str(path),
        cases=[case(1, 1), case(few, 1), case(many, 1), case(few, few), uneven],
        stop=list(range(max(model.words // new, 1))),
    )
    return [Turn(who=MODESEEK, task=task), Turn(who=TRANSFORMERS, task=task)]


def present(turns: Sequence[Turn], peers: bool, tunix: str | None) -> list[Turn]:
    """Those who are here, and wanted; tunix trains what DPO is given."""
    found = [t for t in turns if t.who == MODESEEK or (peers and not t.who.missing)]
    if tunix is not None and getattr(turns[0].task, "recipe", "") == "dpo":
        found.append(Turn(who=replace(TUNIX, python=tunix), task=turns[0].task))
    return found


def speed(
    sizes: Sizes,
    folder: Path,
    *,
    parts: Sequence[str],
    rounds: int,
    peers: bool,
    tunix: str | None = None,
    before: Contestant | None,
    peak: float,
    notebook: Notebook,
) -> Iterator[str | Report]:
    """Make the table.

    Args:
        sizes: how much there is to do.
        folder: for data and model.
        parts: ``train``, ``sample`` or both.
        rounds: times that everyone runs everything.
        peers: whether others run too.
        tunix: the interpreter of an environment that has it; None where there is none.
        before: an earlier state of ours, if that is to run too.
        peak: FLOP/s of the machine.
        notebook: gets every run as it ends.

    Yields:
        What is being done, now and then; at last the report.
    """
    model = written_down(folder / "model", llama(sizes.width, sizes.layers, sizes.words, 512))
    tables = training(sizes, model, folder) if "train" in parts else {}
    if "sample" in parts:
        tables |= {"writing": writing(sizes, model, folder)}
    lines: list[Line] = []
    for name, asked in tables.items():
        turns = as_before(present(asked, peers, tunix), before)
        found: list[dict[str, dict[str, Numbers | str]]] = []
        for number, results in enumerate(in_turn(turns, rounds, "cpu"), 1):
            yield f"{name}, round {number} of {rounds}"
            notebook.write(name, round=number, results=results)
            found.append({turn.who.name: read(turn.task, results, turn, peak) for turn in turns})
        for part in next(iter(found[0].values())):
            each = [{who: numbers[part] for who, numbers in one.items()} for one in found]
            lines += lines_of(part or name, each)
    about = f"{sizes.layers} layers, width {sizes.width}, vocabulary {sizes.words:,}, float32"
    yield Report(
        title=f"Speed on a CPU, medians of {rounds} rounds ({about})",
        headings=HEADINGS,
        rows=[line.cells for line in lines],
        record={"sizes": asdict(sizes), "lines": [asdict(line) for line in lines]},
    )


def read(task: Task, results: dict[str, Any], turn: Turn, peak: float) -> dict[str, Numbers | str]:
    """What a contestant's results say, case by case; training has one, without a name."""
    found = results[turn.who.name]
    names = [case.name for case in task.cases] if isinstance(task, SampleTask) else [""]
    if "error" in found:
        return {name: str(found["error"]) for name in names}
    if isinstance(task, SampleTask):
        return {name: written(task, name, found) for name in names}
    assert isinstance(task, TrainTask)
    return {"": trained(task, found, peak)}
