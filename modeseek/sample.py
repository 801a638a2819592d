"""``modeseek sample``: prompts in, responses out, as JSON lines."""

import tyro
from rich.console import Console

from modeseek.train import quiet

HELP = (
    "Write responses to prompts.\n\nMODEL is the first word of the line: a Hub name, its folder, "
    "or the folder of a run; the embedded model when there is none. Each line of --data holds a "
    "prompt, each line of --out the prompt with its responses. With --reward they are rated, and "
    "the file can be trained on."
)


def main(arguments: list[str]) -> None:
    """Parse the line and do it."""
    quiet()
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    from llm.writing import Writing, write_responses

    settings = tyro.cli(
        Writing,
        args=arguments[1:] if name else arguments,
        prog="modeseek sample MODEL",
        description=HELP,
    )
    write_responses(name, settings, Console(highlight=False))
