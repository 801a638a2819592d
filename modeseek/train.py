"""``modeseek train``: a recipe, a model and data in; a fine-tuned checkpoint out."""

import dataclasses
import os
from typing import Any

import tyro
from rich.console import Console

from experiments.catalogue import check_known


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    from llm.settings import OFFLINE_RECIPES

    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"name a recipe: {', '.join(OFFLINE_RECIPES)}.")
    if name is not None:
        check_known("recipe", name, OFFLINE_RECIPES)
    recipe, settings = parse(name or "dpo", arguments[1:] if name else arguments)
    from llm.finetune import finetune

    finetune(name or "dpo", recipe, settings, Console(highlight=False))


def quiet() -> None:
    """Keep libraries from talking between our lines: what matters is said by an error."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def parse(name: str, arguments: list[str]) -> tuple[Any, Any]:
    """Read flags for the run and for every field of the recipe's objective.

    Returns:
        The recipe and the settings.

    Raises:
        ValueError: for a number that the objective or the settings refuse.
    """
    from llm.settings import EMBEDDED_RECIPES, OFFLINE_RECIPES, Training
    from modeseek.options import mirror, unmirror

    embedded = not any(argument.split("=")[0] == "--model" for argument in arguments)
    recipe = (EMBEDDED_RECIPES if embedded else OFFLINE_RECIPES)[name]
    plain = mirror(recipe.objective)
    fields = [(f.name, f.type, f) for f in dataclasses.fields(Training)]
    made = dataclasses.make_dataclass(
        "Train",
        [("objective", type(plain), dataclasses.field(default=plain)), *fields],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": help_text(name, OFFLINE_RECIPES)},
    )
    options = tyro.cli(made, args=arguments, prog=f"modeseek train {name}")
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Training)}
    return dataclasses.replace(recipe, objective=unmirror(options.objective)), Training(**chosen)


def help_text(name: str, recipes: dict[str, Any]) -> str:
    """What the help says above the flags."""
    return (
        "Fine-tune a language model on data that already exist.\n\n"
        f"RECIPE is the first word of the line: {', '.join(recipes)}. Flags are shown for {name}."
        "\n\nWithout --model and --data a small model and a language of our own are trained first:"
        " no network is needed. The same command goes on where a killed run stopped."
    )
