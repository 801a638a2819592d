"""The built-in data as examples: the harbour's language and the docstrings of this Python.

What a recipe learns from decides the form: demonstrations, several rated answers to a prompt, or
pairs. Held-out prompts are prompts that training never sees, by construction of the language and by
module of the library.
"""

from llm.data.examples import Example
from llm.data.schemas import reader
from llm.embedded import docstrings, language
from llm.embedded.pretrain import DOCSTRINGS, HELD_OUT_SEED

DEMONSTRATED = ("sft",)
"""Recipes that learn from one good answer to each prompt."""

RATED = ("best_of_n", "rwr", "awr", "unlikelihood_best_of_n")
"""Recipes that learn from several rated answers to each prompt; the others learn from pairs."""

SIZE, HELD_OUT_SIZE = 2000, 200
"""Groups of the harbour's language, which has no end, and of what is held out of either."""


def built_in(
    corpus: str,
    recipe: str,
    preference: str | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    held_out: bool = False,
) -> list[Example]:
    """Examples in the form a recipe learns from.

    Args:
        corpus: ``"harbour"`` or ``"docstrings"``.
        recipe: the name of the recipe.
        preference: what the answers are preferred for; the corpus's own default when None.
        seed: decides questions and answers.
        limit: groups, at most.
        held_out: whether the prompts are those that training never sees.

    Raises:
        ValueError: if the corpus knows no such preference.
    """
    seed += HELD_OUT_SEED if held_out else 0
    size = HELD_OUT_SIZE if held_out else limit
    if corpus == DOCSTRINGS:
        wanted = preference or docstrings.DEFAULT_PREFERENCE
        demonstrated = recipe in DEMONSTRATED
        rows = (
            docstrings.demonstrations(held_out)
            if demonstrated
            else docstrings.preferences(wanted, seed, held_out)
        )[:size]
        layout = "completion" if demonstrated else "preference"
    else:
        size, wanted = size or SIZE, preference or language.DEFAULT_PREFERENCE
        if recipe in DEMONSTRATED:
            layout, rows = "completion", language.demonstrations(seed, size, held_out)
        elif recipe in RATED:
            layout, rows = "rated", language.rated(wanted, seed, size, held_out)
        else:
            layout, rows = "preference", language.preferences(wanted, seed, size, held_out)
    read = reader(layout)
    return [read(row, f"{corpus}:{number}") for number, row in enumerate(rows, 1)]
