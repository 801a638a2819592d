"""How fast is it, against whom, and in how much memory? One table, paired in one run.

Command: ``python -m experiments.benchmarks`` (after ``make parity``, for the peers): DPO, SFT and
RLOO against TRL's trainers and writing against ``generate`` of transformers, about ten minutes on
two idle cores. Everyone trains the same random weights on the same token ids in the same order with
the same optimizer and arithmetic, with all threads, in a process of its own; they take turns.
``--before COMMIT`` also runs an earlier state of this repository in the same rounds and prints how
many times as fast this one is. ``--only recipes`` times every recipe against SFT, and ``--only
scaling`` ours alone as batch, length, vocabulary, model and devices grow. What every run had to say
is kept as it comes, in JSON lines beside the table; ``gpu.py`` is the same for a GPU.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from experiments.benchmarks.recipes import recipes
from experiments.benchmarks.report import Report, save
from experiments.benchmarks.rounds import Notebook, checked_out, machine, peak_of_cpu
from experiments.benchmarks.scaling import scaling
from experiments.benchmarks.speed import TINY, Sizes, speed

Part = Literal["train", "sample", "recipes", "scaling"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time training and writing, paired."""

    only: tuple[Part, ...] = ("train", "sample")
    """What to time."""
    before: str | None = None
    """A commit, or a folder with another state of this repository, to run in the same rounds."""
    peers: bool = True
    """Whether TRL and transformers run too, where they are installed."""
    tunix: Path | None = None
    """Interpreter of an environment with google-tunix, jax and flax, if it is to train too."""
    rounds: int = 3
    """Times that everyone runs everything."""
    recipes: tuple[str, ...] = ()
    """Which recipes to time beside SFT; all when empty."""
    tiny: bool = False
    """Sizes that only show that everything works."""
    out: Path = Path("reproduced/benchmarks/speed.json")
    """Where the figures go; the table beside it as .md, every run as .jsonl."""


def main() -> None:
    """Time, print, save."""
    options, console = tyro.cli(Options, description=__doc__), Console()
    sizes = TINY if options.tiny else Sizes()
    notebook = Notebook(options.out.with_suffix(".jsonl"))
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
        folder, before = Path(temporary), None
        if options.before is not None:
            before = opened.enter_context(checked_out(options.before))
        about, peak = machine(), peak_of_cpu()
        notebook.write("machine", **about, peak_flops=peak)
        makers = {}
        if {"train", "sample"} & set(options.only):
            makers["speed"] = speed(
                sizes,
                folder,
                parts=options.only,
                rounds=options.rounds,
                peers=options.peers,
                # Absolute, and not resolved: a link to an interpreter says which environment it is.
                tunix=None if options.tunix is None else str(options.tunix.absolute()),
                before=before,
                peak=peak,
                notebook=notebook,
            )
        if "recipes" in options.only:
            makers["recipes"] = recipes(sizes, folder, options.rounds, notebook, options.recipes)
        if "scaling" in options.only:
            makers["scaling"] = scaling(options.tiny, folder, peak, notebook)
        with console.status("") as status:
            for name, maker in makers.items():
                for said in maker:
                    if isinstance(said, Report):
                        reports[name] = said
                    else:
                        status.update(said)
    about |= {"peak_flops": peak, "load_after": machine()["load"]}
    save(options.out, about, reports)
    for report in reports.values():
        print(report.markdown)
    print(f"every number: {options.out}")


if __name__ == "__main__":
    main()
