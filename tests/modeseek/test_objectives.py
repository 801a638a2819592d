"""The README's table is what the command prints, and every link in it leads to an equation."""

import re

from experiments.catalogue import ROOT
from modeseek.objectives import readme_table
from objectives import OBJECTIVES


def test_the_readme_shows_the_table_made_from_the_classes():
    assert readme_table() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_objective_is_one_link_away():
    links = dict(re.findall(r"\[(\w+)\]\((objectives/\w+\.py#L\d+)\)", readme_table()))
    assert set(links) == set(OBJECTIVES)
    for name, link in links.items():
        file, line = link.split("#L")
        shown = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1 :][:2]
        assert f"class {name}:" in "\n".join(shown)
