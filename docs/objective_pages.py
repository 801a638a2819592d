"""A page for every objective, made from its class, so that the two cannot disagree.

Name, taxonomy, formula in words, hyper-parameters, source and differences are the class's own;
recipes are those of the catalogue; verdicts those of the study; the picture is drawn from the
gradient of the objective itself. Only the equation in LaTeX and the words about when it is used
stand beside the pages, in ``objectives/words.toml``.
"""

import dataclasses
import html
import inspect
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from forces import force_caption, force_of, recipes_of
from hooks import vector_picture
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from verdict_tables import TABLES, Claim, claims_of, rows

from experiments.catalogue import ROOT
from figures.force import draw
from figures.lecture import build
from figures.lecture.presets import PRESETS, RECIPE_OF
from objectives import OBJECTIVES, Recipe
from objectives.taxonomy import Row, cells, taxonomy_rows

WORDS = ROOT / "docs" / "pages" / "objectives" / "words.toml"
FOLDER = "objectives"
SECTIONS = ("Args", "Source", "Differs", "Raises")
ARGUMENT = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", re.DOTALL | re.MULTILINE)
SYMBOLS = (
    r"$S$ is the log-probability of a response, the sum over its $L$ scored tokens; $w$ and $l$ "
    r"are a preferred and a dispreferred response of one group, $r$ rewards, $\sigma$ the logistic "
    r"function."
)


@dataclass(frozen=True)
class Docstring:
    """What an objective says about itself.

    Attributes:
        summary: its first line, without the tag that the taxonomy repeats.
        formula: the paragraphs after it.
        args: meaning of each hyper-parameter.
        source: where it was published.
        differs: where the literature or its code differs; empty if nowhere.
    """

    summary: str
    formula: str
    args: dict[str, str]
    source: str
    differs: str


def prose(text: str) -> str:
    """Words of a docstring as Markdown that shows them as they are."""
    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    plain = [
        re.sub(r"([\\*_|\[\]])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]
    ]
    code = [part[1:-1] for part in parts[1::2]]
    return "".join(a + b for a, b in zip(plain, [*code, ""], strict=True))


def docstring_of(cls: type) -> Docstring:
    """Read a docstring of the house style.

    Raises:
        ValueError: if the class has none.
    """
    text = inspect.getdoc(cls)
    if not text:
        raise ValueError(f"{cls.__name__} has no docstring.")
    first, *rest = re.split(r"\n(?=\n)", text)
    sections: dict[str, str] = {}
    formula = []
    for paragraph in rest:
        name, colon, body = paragraph.strip().partition(":")
        if colon and name in SECTIONS:
            sections[name] = body
        elif not sections:
            formula.append(paragraph.strip())
    args = {found[1]: found[2] for found in ARGUMENT.finditer(sections.get("Args", ""))}
    return Docstring(
        summary=re.sub(r"\s*\*M[\w-]+\*.*", "", first).strip(),
        formula="\n\n".join(formula),
        args=args,
        source=sections.get("Source", ""),
        differs=sections.get("Differs", ""),
    )


def words() -> dict[str, dict[str, Any]]:
    """The hand-written part of every page."""
    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


class Claimed(NamedTuple):
    """A verdict and the table that it stands in."""

    table: str
    claim: Claim


def claim_of(experiment: str, beginning: str) -> Claimed:
    """The one claim of an experiment that begins so.

    Raises:
        ValueError: if there is none, or more than one.
    """
    found = [
        Claimed(table, claim)
        for table in TABLES
        for claim in claims_of(table)
        if claim.experiment == experiment and claim.claim.startswith(beginning)
    ]
    if len(found) != 1:
        raise ValueError(
            f"words.toml: {len(found)} claims of {experiment} begin with {beginning!r}; it must "
            "be one of experiments/results/CLAIMS*.md, and one only."
        )
    return found[0]


def badges(row: Row) -> str:
    """The taxonomy of an objective, as small coloured words."""
    _, family, gradient, mass, on_policy, *_ = cells(row)
    kinds = (
        (family, "family"),
        (gradient, "pushes" if row.negative_gradient else "pulls"),
        (mass, "seeks" if row.mode_seeking else "covers"),
        (f"on-policy data {on_policy}", "data"),
    )
    return " ".join(f'<span class="badge {kind}">{word}</span>' for word, kind in kinds)


def hyperparameters(value: Any) -> str:
    """A table of fields, defaults and meanings; and another of each field that has fields."""
    args = docstring_of(type(value)).args
    lines = ["| name | default | meaning |", "|---|---|---|"]
    inner = []
    for field in dataclasses.fields(value):
        default = getattr(value, field.name)
        shown = f"`{default!r}`"
        if dataclasses.is_dataclass(default):
            shown = f"`{type(default).__name__}`"
            inner.append(default)
        lines.append(f"| `{field.name}` | {shown} | {prose(args[field.name])} |")
    parts = ["\n".join(lines)]
    for default in inner:
        about = docstring_of(type(default))
        parts.append(
            f"`{type(default).__name__}` is {prose(about.summary)}\n\n{prose(about.formula)}\n\n"
            f"{hyperparameters(default)}"
        )
    return "\n\n".join(parts)


def recipe_lines(recipes: dict[str, Recipe]) -> str:
    """Every named recipe: where its data come from, how often they are used, how to run it."""
    lines = ["| recipe | responses of | steps on each | advantage | objective |", "|" + "---|" * 5]
    of = {"policy": "the policy", "reference": "the reference", "dataset": "a fixed data set"}
    for name, recipe in recipes.items():
        reused = str(recipe.reuse.steps) if recipe.on_policy else "all"
        lines.append(
            f"| `{name}` | {of[recipe.collection.source]} | {reused} | "
            f"{f'`{recipe.advantage}`' if recipe.advantage else ''} | `{changed(recipe)}` |"
        )
    first = next(iter(recipes))
    return (
        "\n".join(lines)
        + f"\n\n```bash\nmodeseek bandit {first} --problem R1   # a picture in seconds\n"
        + f"modeseek train {first}                 # the same function, on a language model\n```"
    )


def changed(recipe: Recipe) -> str:
    """The objective with the fields that are not at their defaults."""
    value = recipe.objective
    fields = [
        f"{field.name}={getattr(value, field.name)!r}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(fields)})"


def play_with(name: str) -> str:
    """Links to the interactive page: this objective on every claim that has it, or on its own."""
    if name not in RECIPE_OF:
        return (
            f"The [page that moves](../lecture.html) does not have {name}; "
            f"`modeseek bandit {next(iter(recipes_of(OBJECTIVES[name])))}` draws it."
        )
    items = [
        f"- [{preset.title}](../lecture.html#preset={preset.id})"
        for preset in PRESETS
        if name in (preset.a.name, preset.b.name)
    ]
    on_policy = int(OBJECTIVES[name].on_policy == "required")
    rival = "BestOfN" if name != "BestOfN" else "IPO"
    items.append(
        f"- [{name} beside {rival}](../lecture.html#peak=70&beta_star=0.1&rate=0.05"
        f"&a={name},,{on_policy},1,0&b={rival},,0,1,0), to change as you like"
    )
    return "\n".join(items)


def page_of(row: Row, said: dict[str, Any], caption: str) -> str:
    """The Markdown of an objective's page.

    Args:
        row: its place in the taxonomy.
        said: its part of ``words.toml``.
        caption: of its picture.
    """
    cls = OBJECTIVES[row.objective]
    about, recipes = docstring_of(cls), recipes_of(cls)
    file = Path(inspect.getfile(cls)).relative_to(ROOT).as_posix()
    source, line = inspect.getsourcelines(cls)
    claims = [claim_of(*claim).claim for claim in said["claims"]]
    code = "".join(f"    {text}" if text.strip() else "\n" for text in source)
    listed = {key: "\n".join(f"- {one}" for one in said[key]) for key in ("used", "not_used")}
    extra = f"\n$${said['definitions']}$$\n" if "definitions" in said else ""
    differs = f"\n**Differs.** {prose(about.differs)}\n" if about.differs else ""
    return f"""# {row.objective}

{prose(about.summary)}

{badges(row)}

$${said["equation"]}$$
{extra}
{said["where"]} {SYMBOLS}

In the words of the class: {prose(about.formula)}

## What it does to the bins

<figure markdown="span">![{caption}](../pictures/force-{row.objective}.svg)\
<figcaption markdown="span">{caption} Sizes compare within this picture only; \
[how to read it](index.md#how-to-read-the-pictures).</figcaption></figure>

## When it is used

{listed["used"]}

## When it is not

{listed["not_used"]}

## What the study found

{rows(claims, folded=True)}

All of them: [verdicts](../verdicts.md).

## Hyper-parameters

{hyperparameters(cls())}

## Recipes

{recipe_lines(recipes)}

## Play with it

{play_with(row.objective)}

## Source

{prose(about.source)}
{differs}
??? quote "The code: {file}"

    ```py
{code}    ```

[The whole file](../../../{file}#L{line})
"""


def overview(rows: list[Row]) -> str:
    """The taxonomy table, its names linked to their pages."""
    lines = [
        "| objective | family | gradient | mass | on-policy data | recipes |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        name, *others, recipes, _ = cells(row)
        named = ", ".join(f"`{one}`" for one in recipes.split(", "))
        lines.append(f"| [{name}]({name.lower()}.md) | {' | '.join(others)} | {named} |")
    return "\n".join(lines)


def presets() -> str:
    """The claims of the interactive page, each a link that opens it there."""
    return "\n\n".join(
        f"[{preset.title}](lecture.html#preset={preset.id})\n: {preset.claim}" for preset in PRESETS
    )


def on_config(config: MkDocsConfig) -> None:
    """Put the objectives where the navigation says that they go."""
    pages: list[Any] = [{"All of them": f"{FOLDER}/index.md"}]
    pages += [{name: f"{FOLDER}/{name.lower()}.md"} for name in OBJECTIVES]
    place = {"Objectives": f"{FOLDER}/"}
    nav: list[Any] = config.nav or []
    nav[nav.index(place)] = {"Objectives": pages}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Write the pages, their pictures, and the interactive page."""
    said = words()
    for row in taxonomy_rows():
        force = force_of(row.objective)
        caption = f"{force_caption(force)} {said[row.objective]['picture']}"
        page = page_of(row, said[row.objective], caption)
        files.append(File.generated(config, f"{FOLDER}/{row.objective.lower()}.md", content=page))
        picture = f"pictures/force-{row.objective}.svg"
        files.append(File.generated(config, picture, content=vector_picture(draw(force))))
    files.append(File.generated(config, "lecture.html", content=build.page()))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put tables that are made from the code where a page asks for them."""
    markdown = markdown.replace("<!-- taxonomy -->", overview(taxonomy_rows()))
    return markdown.replace("<!-- presets -->", presets())
