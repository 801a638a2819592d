"""The command line of a campaign of active preference learning: plan it, then carry it out.

Before anything runs, the whole plan is printed for the devices at hand or for others. Then the
prompts are written, the plan is made again with what was measured on them, and ``llm.active`` does
the rest. Prompts are shared by all acquisition functions and seeds; each of these is a run with a
folder of its own.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from experiments.catalogue import check_known
from experiments.llm.full_scale.authors import count, write
from experiments.llm.full_scale.campaign_plan import JUDGE, Prompts, check, plan
from experiments.llm.full_scale.campaign_told import show
from experiments.llm.full_scale.command import (
    FACTS,
    architecture_of,
    bad_input_is_one_line,
    devices_of,
    program,
)
from experiments.llm.full_scale.stages import DATA, ROWS, Place
from llm.active import ACQUISITIONS, Active, active
from llm.checkpoints.folders import find_model, open_weights
from llm.data.examples import DataSettings, PackingSettings
from llm.data.sources import Row, read_rows
from llm.inputs import read_tokenizer
from llm.rewards.asking import make_client
from llm.rewards.settings import RewardSettings
from llm.rewards.specs import parse
from llm.settings import AdapterSettings, OptimizerSettings, SamplingSettings, as_record

TRAIN, TEST = "train", "test"
FILES = {TRAIN: "prompts.jsonl", TEST: "held_out.jsonl"}
"""Splits of the data sets, and where their prompts are written."""

TEST_SEED = 20240213
"""Which prompts are held out is the same for every seed of a run."""

CERTAINTY = "certainty"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plan or carry out a campaign of the paper."""

    acquisition: tyro.conf.Positional[str] = CERTAINTY
    """How pairs are chosen; any acquisition function of `modeseek active`."""
    online: bool = False
    """The authors' variant without a data set: fresh labels and one gradient step in each of many
    phases (IMDB)."""
    dry_run: bool = False
    """Print the plan and stop; nothing is fetched or written."""
    rehearse: bool = False
    """Two small rounds on a few rows, in a folder beside the study's."""
    model: str | None = None
    """Folder of a model in place of the authors', which comes from the Hub."""
    data: Path | None = None
    """Folder that holds the data set under the last part of its Hub name."""
    reward: str | None = None
    """Who labels, in place of the authors' judge: judge:MODEL, classifier-whole:FOLDER, person, or
    any reward of `modeseek active`."""
    gold: str | None = None
    """Who decides contests; whoever labels when not given."""
    out: Path = Path("runs/full_scale")
    """Folder of the studies; the same command goes on where it stopped."""
    seed: int = 0
    """Root of all randomness."""
    device: str | None = None
    """Plan for h200, h100, a100, v5e, v5p or cpu; for the devices at hand when not given."""
    devices: int | None = None
    """How many of them; as many as are at hand when not given."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the arithmetic; auto: bfloat16 except on a CPU."""
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    packing: PackingSettings = field(default_factory=PackingSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A campaign of the paper.

    Attributes:
        name: of its file.
        title: one line for the help.
        data: Hub name of the data set.
        config: what a plan needs of the model's config.json, so that planning takes no network.
        settings: the authors', but for what is known only when it runs.
        online: those of their variant without a data set; None where there is none.
        assumed: of the prompts, before they are read.
        prompts_of: rows of a data set as prompts, with the data set's response where one is to be
            beaten; given the tokenizer of the model.
    """

    name: str
    title: str
    data: str
    config: Mapping[str, Any]
    settings: Active
    online: Active | None = None
    assumed: Prompts
    prompts_of: Callable[[Sequence[Row], Any], list[dict[str, str]]]

    def options(self) -> Options:
        """What the command line has where nothing is given."""
        s = self.settings
        return Options(
            dtype=s.dtype,
            optimizer=s.optimizer,
            packing=s.packing,
            sampling=s.sampling,
            rewards=s.rewards,
        )


def main(study: Study, arguments: Sequence[str] | None = None) -> None:
    """Parse a line and do it; exit with 2 for bad input."""
    with bad_input_is_one_line(study.name):
        options = tyro.cli(
            Options,
            args=sys.argv[1:] if arguments is None else list(arguments),
            default=study.options(),
            prog=program(study.name),
            description=study.title,
        )
        run(study, options, Console(highlight=False))


def run(study: Study, options: Options, console: Console) -> None:
    """Plan a campaign, and carry it out unless it is a dry run.

    Raises:
        ValueError: for a campaign that cannot work or does not fit the devices; before anything
            is fetched or written.
        OSError: if something cannot be read, fetched or judged.
    """
    check_known("acquisition function", options.acquisition, ACQUISITIONS)
    device, many = devices_of(options.device, options.devices, dry_run=options.dry_run)
    name, place = options.acquisition, place_of(study, options)
    settings = settings_of(study, options, place)
    architecture = architecture_of(place.model, study.settings.model or "", study.config)

    def planned(facts: Prompts | None) -> None:
        made = plan(name, settings, facts or study.assumed, architecture, device, many)
        show(study.title, made, console)
        if facts is not None or not options.rehearse:
            check(made)

    facts = read_facts(study, place)
    planned(facts)
    if options.dry_run:
        try:
            check_before(name, settings)
        except ValueError as error:
            console.print(f"[yellow]Before it can start:[/] {escape(str(error))}", soft_wrap=True)
        return
    check_before(name, settings)
    folder = find_model(place.model).resolve()
    open_weights(folder)  # weights that are not safe to open are refused before any work
    if facts is None:
        console.rule(DATA)
        facts = write_prompts(study, settings, place, read_tokenizer(folder), console.print)
        planned(facts)
    console.rule(name)
    active(name, dataclasses.replace(settings, model=str(folder)), console)


def place_of(study: Study, options: Options) -> Place:
    """Where it happens."""
    return Place(
        model=options.model or study.settings.model or "",
        data=options.data,
        out=options.out / "rehearsal" if options.rehearse else options.out,
        seed=options.seed,
        limit=ROWS if options.rehearse else None,
    )


def settings_of(study: Study, options: Options, place: Place) -> Active:
    """What ``llm.active`` is told.

    Raises:
        ValueError: for a variant that there is not, or a number that a campaign refuses.
    """
    usual = study.online if options.online else study.settings
    if usual is None:
        raise ValueError("--online is the authors' variant of IMDB: leave it out.")
    variant = "online-" if options.online else ""
    found = dataclasses.replace(
        usual,
        model=place.model,
        data=str(prompts_file(study, place, TRAIN)),
        out=place.out / study.name / f"{variant}{options.acquisition}-{options.seed}",
        reward=options.reward or usual.reward,
        gold=options.gold,
        seed=options.seed,
        dtype=options.dtype,
        adapters=options.adapters,
        optimizer=options.optimizer,
        reading=DataSettings(eval_source=str(prompts_file(study, place, TEST))),
        packing=options.packing,
        sampling=options.sampling,
        rewards=options.rewards,
    )
    return rehearsed(found) if options.rehearse else found


def rehearsed(settings: Active) -> Active:
    """The same campaign, two small rounds of it."""
    pool = dataclasses.replace(
        settings.pool,
        pairs=2,
        prompts=2,
        samples=2,
        shortest=None if settings.pool.shortest is None else 4,
    )
    return dataclasses.replace(
        settings,
        rounds=2,
        labels=4,
        epochs=1.0,
        batch=2,
        pool=pool,
        contest=dataclasses.replace(settings.contest, prompts=4, every=1),
        packing=dataclasses.replace(settings.packing, max_tokens=2048),
        sampling=dataclasses.replace(settings.sampling, max_new_tokens=8, rows=8),
    )


def check_before(name: str, settings: Active) -> None:
    """Raise ValueError for what a campaign would refuse after its model and data were fetched."""
    if ACQUISITIONS[name].members and not settings.adapters.rank:
        raise ValueError(f"{name} asks several sets of adapters: give --adapters.rank, such as 8.")
    if settings.reward is None:
        raise ValueError(
            "the authors' oracle of this variant is a classifier of sentiment: make one with "
            "`modeseek classifier stanfordnlp/imdb --out FOLDER`, and give --reward "
            "classifier-whole:FOLDER."
        )
    for spec in filter(None, (settings.reward, settings.gold)):
        for term in parse(spec):
            if term.name.startswith(JUDGE):
                make_client(settings.rewards.judge)
            elif term.kind.depends_on is Path and not Path(term.argument).expanduser().exists():
                raise ValueError(f"{term.name}: there is no {term.argument}; check the path.")


def prompts_file(study: Study, place: Place, split: str) -> Path:
    """Where the prompts of a split are written."""
    return place.file(f"{study.name}/{FILES[split]}")


def write_prompts(
    study: Study, settings: Active, place: Place, tokenizer: Any, say: Callable[[str], None]
) -> Prompts:
    """Fetch the data set, write its prompts, and measure them.

    Args:
        study: whose they are.
        settings: of the campaign.
        place: where they are written.
        tokenizer: of the model.
        say: told what was written.

    Raises:
        ValueError: if there are none, or rows are of another data set.
        OSError: if the data set cannot be read.
    """
    written: dict[str, list[dict[str, str]]] = {}
    for split in (TRAIN, TEST):
        rows = read_rows(place.source(study.data), split=split, limit=place.limit)
        found = study.prompts_of(rows, tokenizer)
        if not found:
            raise ValueError(f"no row of {study.data}, split {split}, is left to make a prompt of.")
        if split == TEST:
            order = np.random.default_rng(TEST_SEED).permutation(len(found))
            found = [found[i] for i in order[: settings.contest.prompts].tolist()]
        path = prompts_file(study, place, split)
        write(path, found)
        say(f"{path}: {len(found):,} prompts of {len(rows):,} rows of {study.data}, split {split}")
        written[split] = found
    lengths = count(tokenizer, [row["prompt"] for rows in written.values() for row in rows])
    said = [row["completion"] for row in written[TRAIN] if "completion" in row]
    response = study.assumed.response_tokens
    facts = Prompts(
        measured=True,
        train=len(written[TRAIN]),
        held_out=len(written[TEST]),
        prompt_tokens=float(lengths.mean()),
        longest=int(lengths.max()),
        # The reference was trained to write as the data set does.
        response_tokens=float(count(tokenizer, said).mean()) + 1 if said else response,
    )
    record = as_record(facts) | {"of": origin(study, place)}
    del record[""]
    facts_file(study, place).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return facts


def origin(study: Study, place: Place) -> dict[str, str]:
    """What prompts depend on."""
    return {"model": place.model, "data": place.source(study.data)}


def facts_file(study: Study, place: Place) -> Path:
    """Where the facts of a study's prompts are kept; written last, so it stands for all of them."""
    return place.file(f"{study.name}/{FACTS}")


def read_facts(study: Study, place: Place) -> Prompts | None:
    """What is known of the prompts; None before they are written.

    Raises:
        ValueError: if they were made with another model or of other data.
    """
    path = facts_file(study, place)
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    made, wanted = found.pop("of"), origin(study, place)
    if made != wanted:
        raise ValueError(
            f"the prompts in {path.parent} were made with {made['model']} of {made['data']}, and "
            f"this run is told {wanted['model']} and {wanted['data']}: give another --out."
        )
    return Prompts(**found)


def text_of(row: Row, column: str, data: str) -> str:
    """A column of a row that must be text.

    Args:
        row: of the data set.
        column: that is wanted.
        data: name of the data set.

    Raises:
        ValueError: if it is not.
    """
    found = row.fields.get(column)
    if not isinstance(found, str):
        raise ValueError(
            f"{row.where} has no text in column {column!r}; it has {', '.join(row.fields)}. A row "
            f"of {data} has."
        )
    return found
