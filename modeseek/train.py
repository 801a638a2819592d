"""``modeseek train``: a recipe, a model and data in; a fine-tuned checkpoint out."""

import dataclasses
import os
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.catalogue import check_known

NUMBERS = ("std_floor", "kl_in_reward")
"""Plain numbers of a recipe."""


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    from llm.settings import TRAIN_RECIPES

    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"name a recipe: {', '.join(TRAIN_RECIPES)}.")
    if name is not None:
        check_known("recipe", name, TRAIN_RECIPES)
    recipe, settings = parse(name or "dpo", arguments[1:] if name else arguments)
    from llm.finetune import finetune
    from llm.hosts import is_first, joined

    console = Console(highlight=False)
    with joined(settings.hosts, console.print):
        # All say the same, so one says it.
        quiet_unless_first = console if is_first() else Console(quiet=True)
        finetune(name or "dpo", recipe, settings, quiet_unless_first)


def quiet() -> None:
    """Keep libraries from talking between our lines, and compiled programs for the next command.

    What matters is said by an error. To be called before JAX is imported.
    """
    from llm.cache import program_folder

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(program_folder()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    # On a GPU JAX keeps a quarter of the memory to itself where nobody says otherwise.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def parse(name: str, arguments: list[str]) -> tuple[Any, Any]:
    """Read flags for the run and for every field of the recipe.

    Returns:
        The recipe and the settings.

    Raises:
        ValueError: for a number that the recipe or the settings refuse.
    """
    from llm.settings import EMBEDDED_RECIPES, ONLINE_RECIPES, TRAIN_RECIPES, Training
    from modeseek.options import unmirror

    embedded = not any(argument.split("=")[0] == "--model" for argument in arguments)
    recipe = (EMBEDDED_RECIPES if embedded else TRAIN_RECIPES)[name]
    method = method_flags(recipe, online=name in ONLINE_RECIPES)
    fields = [(f.name, f.type, f) for f in dataclasses.fields(Training)]
    made = dataclasses.make_dataclass(
        "Train",
        [
            *((key, kind, dataclasses.field(default=value)) for key, kind, value in method),
            *fields,
        ],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": help_text(name, TRAIN_RECIPES)},
    )
    options = tyro.cli(made, args=arguments, prog=f"modeseek train {name}")
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(Training)}
    changes = {key: unmirror(getattr(options, key)) for key, _, _ in method}
    if "reuse" in changes:
        # How many prompts a collection has follows from --batch; until then it is one for each.
        prompts = changes["reuse"].minibatches
        changes["collection"] = dataclasses.replace(changes["collection"], prompts=prompts)
    return dataclasses.replace(recipe, **changes), Training(**chosen)


def method_flags(recipe: Any, online: bool) -> list[tuple[str, Any, Any]]:
    """Name, type and default of the flags that change a method."""
    from modeseek.options import mirror
    from objectives.advantages import ADVANTAGES

    objective = mirror(recipe.objective)
    flags: list[tuple[str, Any, Any]] = [("objective", type(objective), objective)]
    if online:
        for name in ("collection", "reuse"):
            value = mirror(getattr(recipe, name), leave=("prompts",))
            flags.append((name, type(value), value))
        estimators: Any = Literal[tuple(ADVANTAGES)]  # pyright: ignore[reportInvalidTypeForm]
        flags.append(("advantage", estimators | None, recipe.advantage))
        flags += [(name, float, float(getattr(recipe, name))) for name in NUMBERS]
    return flags


def help_text(name: str, recipes: dict[str, Any]) -> str:
    """What the help says above the flags."""
    return (
        "Fine-tune a language model, on data that exist or on what it writes itself.\n\n"
        f"RECIPE is the first word of the line: {', '.join(recipes)}. Flags are shown for {name}."
        "\n\nWithout --model and --data a small model and a language of our own are trained first:"
        " no network is needed. The same command goes on where a killed run stopped."
    )
