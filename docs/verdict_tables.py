"""The study's verdicts as pages show them: counted, grouped by experiment, with their figures.

A page writes ``<!-- verdicts: CLAIMS.md -->`` and gets every claim of that table, or
``<!-- counted: CLAIMS.md -->`` and gets how many held. The tables are those that ``make results``
wrote.
"""

import ast
import html
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mkdocs.structure.pages import Page

from experiments.catalogue import CATALOGUE, ROOT

RESULTS = ROOT / "experiments" / "results"
TABLES = ("CLAIMS.md", "CLAIMS-text.md", "CLAIMS-reviews.md")

MARK = re.compile(r"<!-- (verdicts|counted): (\S+) -->")
CONDITION = "held under this condition"
CLASSES = {"held": "held", CONDITION: "conditional", "did not hold": "not-held"}


class Claim(NamedTuple):
    """A row of a table of claims."""

    experiment: str
    claim: str
    outcome: str
    condition: str
    evidence: str


def cells(line: str) -> list[str]:
    """The cells of a row, with bars that belong to the text put back."""
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def claims_of(table: str) -> list[Claim]:
    """Every claim of one of the study's tables.

    Raises:
        ValueError: for a row that is no verdict.
    """
    text = (RESULTS / table).read_text(encoding="utf-8")
    claims = []
    for line in text.partition("\n## ")[0].splitlines()[2:]:
        if not line.startswith("|"):
            continue
        experiment, claim, verdict, evidence = cells(line)
        outcome, _, condition = verdict.partition(":")
        if outcome not in CLASSES:
            raise ValueError(f"{table}: {verdict!r} is none of {', '.join(CLASSES)}.")
        claims.append(Claim(experiment, claim, outcome, condition.strip(), evidence))
    return claims


def counted(claims: Iterable[Claim]) -> str:
    """How many claims held, in a phrase."""
    count = Counter(claim.outcome for claim in claims)
    return (
        f"of {count.total()} claims {count['held']} held, {count[CONDITION]} held under a "
        f"condition and {count['did not hold']} did not hold"
    )


def rows(claims: Iterable[Claim], folded: bool = False) -> str:
    """Claims as a table whose rows become paragraphs where the screen is narrow.

    Args:
        claims: in their order.
        folded: whether the evidence waits behind a click.
    """
    lines = []
    for claim in claims:
        words, condition = claim.outcome, html.escape(claim.condition)
        if claim.condition:
            words = f"held under this condition: {condition}"
        evidence = html.escape(claim.evidence)
        if folded:
            evidence = f"<details><summary>numbers</summary>{evidence}</details>"
        lines.append(
            f'<tr><td class="claim">{html.escape(claim.claim)}</td>'
            f'<td class="outcome {CLASSES[claim.outcome]}"><span>{words}</span></td>'
            f'<td class="evidence">{evidence}</td></tr>'
        )
    head = "<thead><tr><th>claim</th><th>verdict</th><th>evidence</th></tr></thead>"
    return f'<table class="verdicts">{head}<tbody>{"".join(lines)}</tbody></table>'


def caption_of(experiment: str) -> tuple[str, str]:
    """Title and caption of an experiment's figure, from the docstring of the file that draws it."""
    source = (ROOT / "figures" / f"{experiment}.py").read_text(encoding="utf-8")
    title, *rest = re.split(r"\n\n", ast.get_docstring(ast.parse(source)) or "")
    caption = next((part for part in rest if part.startswith("Caption: ")), "")
    caption = " ".join(caption.removeprefix("Caption: ").replace("``", "").split())
    return " ".join(title.split()), caption[:1].upper() + caption[1:]


def chapter(experiment: str, claims: list[Claim], page_uri: str) -> str:
    """One experiment: what its figure shows, and what came of its claims."""
    title, caption = caption_of(experiment)
    figure = posixpath.relpath(
        f"experiments/results/figures/{experiment}.svg",
        posixpath.join("docs/pages", posixpath.dirname(page_uri)),
    )
    words = html.escape(caption)
    return (
        f"### {CATALOGUE[experiment].question} {{ #{experiment} }}\n\n"
        f"`modeseek reproduce {experiment}`. {title}\n\n"
        f'<figure markdown="span">![{html.escape(title)}]({figure}){{ loading=lazy }}'
        f"<figcaption>{words}</figcaption></figure>\n\n{rows(claims)}\n"
    )


def verdicts(table: str, page_uri: str) -> str:
    """A whole table, experiment by experiment, and what stands beneath it in its file."""
    by_experiment: dict[str, list[Claim]] = {}
    for claim in claims_of(table):
        by_experiment.setdefault(claim.experiment, []).append(claim)
    parts = [chapter(name, claims, page_uri) for name, claims in by_experiment.items()]
    beneath = (RESULTS / table).read_text(encoding="utf-8").partition("\n## ")[2]
    if beneath:
        _, _, beneath = beneath.partition("\n")
        parts.append(f"### Ours beside the authors'\n\n{beneath.strip()}\n")
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put the tables where a page asks for them."""

    def asked(mark: re.Match[str]) -> str:
        if mark[1] == "counted":
            return counted(claims_of(mark[2]))
        return verdicts(mark[2], page.file.src_uri)

    return MARK.sub(asked, markdown)
