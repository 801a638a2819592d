"""The taxonomy of preference fine-tuning as a table, made from the objectives and the recipes.

Where do responses come from, are they used more than once, is anything pushed down? The classes
answer for themselves, so the table in the README, the one on the command line and the picture
cannot disagree with the code.
"""

from typing import NamedTuple

from objectives import OBJECTIVES, RECIPES


class Row(NamedTuple):
    """One objective in the taxonomy.

    Attributes:
        objective: name of the class.
        family: file it lives in: supervised, contrastive or policy_gradient.
        negative_gradient: whether it pushes some responses down.
        mode_seeking: whether it concentrates mass (True) or covers (False).
        on_policy: ``"required"`` or ``"optional"``.
        offline: recipes that use it on a fixed data set.
        online: recipes that use it on the policy's own samples.
        reused: those of ``online`` that use a sample more than once.
        source: where it was published.
    """

    objective: str
    family: str
    negative_gradient: bool
    mode_seeking: bool
    on_policy: str
    offline: tuple[str, ...]
    online: tuple[str, ...]
    reused: tuple[str, ...]
    source: str


def taxonomy_rows() -> list[Row]:
    """One row per objective class, in the order of ``OBJECTIVES``."""
    rows = []
    for name, cls in OBJECTIVES.items():
        recipes = {key: r for key, r in RECIPES.items() if type(r.objective) is cls}
        online = {key: recipe for key, recipe in recipes.items() if recipe.on_policy}
        rows.append(
            Row(
                objective=name,
                family=cls.__module__.rpartition(".")[2],
                negative_gradient=cls.negative_gradient,
                mode_seeking=cls.mode_seeking,
                on_policy=cls.on_policy,
                offline=tuple(key for key in recipes if key not in online),
                online=tuple(online),
                reused=tuple(key for key, r in online.items() if r.reuse.inner_steps > 1),
                source=cls.source,
            )
        )
    return rows


def cells(row: Row) -> tuple[str, ...]:
    """A row as words, one for each of ``HEADINGS``."""
    return (
        row.objective,
        row.family.replace("_", " "),
        "pulls and pushes" if row.negative_gradient else "pulls",
        "seeks modes" if row.mode_seeking else "covers",
        row.on_policy,
        ", ".join((*row.offline, *row.online)),
        row.source,
    )


HEADINGS = ("objective", "family", "gradient", "mass", "on-policy data", "recipes", "source")


def taxonomy_markdown() -> str:
    """The table in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(cells(row) for row in taxonomy_rows())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
