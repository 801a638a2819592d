"""``modeseek active``: prompts and a judge in; a model that asked for few labels out."""

import dataclasses
from typing import Any

import tyro
from rich.console import Console

from experiments.catalogue import check_known
from modeseek.train import quiet


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    from llm.active import ACQUISITIONS, active
    from llm.hosts import check_alone

    check_alone("active")

    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"name an acquisition function: {', '.join(ACQUISITIONS)}.")
    if name is not None:
        check_known("acquisition function", name, ACQUISITIONS)
    settings = parse(name or "ACQUISITION", arguments[1:] if name else arguments)
    active(name or "", settings, Console(highlight=False))


def parse(name: str, arguments: list[str]) -> Any:
    """Read flags for every field of a campaign.

    Raises:
        ValueError: for a number that the campaign refuses.
    """
    from llm.active import EMBEDDED, Active
    from modeseek.options import mirror, unmirror

    embedded = not any(argument.split("=")[0] == "--model" for argument in arguments)
    default = EMBEDDED if embedded else Active()
    objective = mirror(default.objective)
    # A subclass, so that the help of every other flag is found where the field is.
    made = dataclasses.make_dataclass(
        "Campaign", [("objective", type(objective))], bases=(Active,), frozen=True, kw_only=True
    )
    values = {f.name: getattr(default, f.name) for f in dataclasses.fields(Active)}
    options = tyro.cli(
        made,
        args=arguments,
        default=made(**values | {"objective": objective}),
        prog=f"modeseek active {name}",
        description=help_text(),
    )
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(Active)}
    return Active(**values | {"objective": unmirror(options.objective)})


def help_text() -> str:
    """What the help says above the flags."""
    from llm.active import ACQUISITIONS

    listed = "\n\n".join(f"{name}: {one.meaning}" for name, one in ACQUISITIONS.items())
    return (
        "Choose which pairs of a model's own responses are labelled, learn from the labels with "
        "DPO, and choose again (Muldrew et al. 2024, arXiv:2402.08114).\n\n"
        f"ACQUISITION is the first word of the line:\n\n{listed}\n\n"
        "Labels come from --reward, or from you with --reward person and `modeseek label`. The "
        "same command goes on where a killed one stopped, and asks for no label twice."
    )
