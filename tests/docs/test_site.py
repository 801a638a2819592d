"""The site builds strictly, without a network, and holds together: links, pictures, formulas.

It is built once, without what the code of the longer pages prints and draws: ``test_pages`` runs
that.
"""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, unquote, urldefrag, urlsplit

import numpy as np
import pytest

from experiments.catalogue import ROOT
from figures.lecture.presets import IDEALS, PRESETS, RECIPE_OF
from objectives import OBJECTIVES

pytest.importorskip("material", reason="MkDocs Material is not installed")
pytest.importorskip("latex2mathml")

PAGES = ROOT / "docs" / "pages"
UNRUN = ("guide.md", "glossary.md", *(f"extend/{path.name}" for path in PAGES.glob("extend/*.md")))
BUILD = """
import json, sys
from mkdocs.commands.build import build
from mkdocs.config import load_config

config = load_config(sys.argv[1], site_dir=sys.argv[2], strict=True)
config.extra["unrun"] = json.loads(sys.argv[3])
build(config)
"""
LOADS = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("image", "href"),
    ("use", "href"),
}
"""What a browser fetches without being asked, beside ``link``, which is asked for what it links."""


class Parsed(HTMLParser):
    """What a page's HTML holds that the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.headings = 0
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.anchors |= {about[name] or "" for name in ("id", "name") if name in about}
        self.headings += tag == "h1"
        self.formulas += tag == "math" and about.get("display") == "block"
        if tag == "a" and about.get("href"):
            self.links.append(about["href"] or "")
        if tag == "img":
            self.pictures.append(about)
        if tag == "link" and about.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(about.get("href") or "")
        self.loads += [about[name] or "" for name in about if (tag, name) in LOADS]


@dataclasses.dataclass(frozen=True)
class Site:
    """Where it is, and its pages by their address."""

    folder: Path
    pages: dict[str, Parsed]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    environment = {"NO_MKDOCS_2_WARNING": "1", "JAX_PLATFORMS": "cpu"}
    told = [str(ROOT / "docs" / "mkdocs.yml"), str(folder), json.dumps(UNRUN)]
    built = subprocess.run(
        [sys.executable, "-c", BUILD, *told],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {
        path.relative_to(folder).as_posix(): Parsed(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
    }
    return Site(folder, pages)


def test_every_page_of_the_folder_is_in_the_site(site):
    for path in PAGES.rglob("*.md"):
        assert path.relative_to(PAGES).with_suffix(".html").as_posix() in site.pages


def test_every_page_has_one_title(site):
    assert {name: page.headings for name, page in site.pages.items() if page.headings != 1} == {}


def test_no_link_or_anchor_is_dead(site):
    dead = []
    for name, page in site.pages.items():
        here = site.folder / name
        for link in page.links:
            if name == "404.html" or urlsplit(link).scheme in ("http", "https", "mailto"):
                continue
            address, fragment = urldefrag(link)
            path = Path(os.path.normpath(here.parent / unquote(address))) if address else here
            if path.is_dir():
                path /= "index.html"
            target = path.relative_to(site.folder).as_posix()
            if not path.is_file():
                dead.append(f"{name}: {link}")
            elif target == "lecture.html":
                dead += [f"{name}: {link}: {what}" for what in wrong_settings(fragment)]
            elif fragment and unquote(fragment) not in site.pages[target].anchors:
                dead.append(f"{name}: {link} has no such anchor")
    assert dead == []


def wrong_settings(fragment: str) -> Iterator[str]:
    """What the interactive page would not understand of an address."""
    said = parse_qs(fragment, keep_blank_values=True)
    for preset in said.get("preset", []):
        if preset not in {preset.id for preset in PRESETS}:
            yield f"no claim {preset}"
    for policy in said.get("a", []) + said.get("b", []):
        if policy.split(",")[0] not in {*RECIPE_OF, *IDEALS}:
            yield f"no objective {policy}"


def test_nothing_is_loaded_from_elsewhere(site):
    elsewhere = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
    loads = {f"{name}: {load}" for name, page in site.pages.items() for load in page.loads}
    assert {load for load in loads if elsewhere.match(load.partition(": ")[2])} == set()
    for path in site.folder.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        loads = re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']?([^\"';]+)", text)
        assert not [load for load in loads if elsewhere.match("".join(load))], path.name
    for path in site.folder.rglob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'(?:href|src)="(?!#|data:)[^"]+"', text), path.name


def test_every_picture_says_what_it_shows(site):
    silent = [
        f"{name}: {picture.get('src')}"
        for name, page in site.pages.items()
        for picture in page.pictures
        if not (picture.get("alt") or "").strip()
    ]
    assert silent == []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_has_its_page_with_equation_and_picture(name, site):
    page = site.pages[f"objectives/{name.lower()}.html"]
    assert page.formulas >= 1
    (picture,) = [one for one in page.pictures if f"force-{name}.svg" in (one.get("src") or "")]
    caption = picture.get("alt") or ""
    pushes = "pushes none" not in caption.partition(";")[0]
    assert pushes == OBJECTIVES[name].negative_gradient, caption
    assert f"{name.lower()}.html" in site.pages["objectives/index.html"].links


def test_code_is_followed_by_what_it_printed_and_drew(site):
    text = (site.folder / "ten_minutes.html").read_text(encoding="utf-8")
    source = (PAGES / "ten_minutes.md").read_text(encoding="utf-8")
    blocks = source.count("```python")
    assert blocks >= 12
    assert text.count('<div class="output') == blocks
    drawn = {one["src"] for one in site.pages["ten_minutes.html"].pictures}
    assert len({src for src in drawn if src and "pictures/ten_minutes" in src}) == source.count(
        "```python caption="
    )
    assert "$" not in re.sub(r"<(pre|code|script|style).*?</\1>", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The files that make the pages, as mkdocs imports them."""
    names = ("hooks", "verdict_tables", "forces", "objective_pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            del sys.modules[name]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_has_its_words(name, modules):
    pages = modules["objective_pages"]
    said = pages.words()[name]
    for formula in (said["equation"], said.get("definitions", "x")):
        assert modules["hooks"].mathml(None, formula).startswith("<math")
    assert all(2 <= len(said[key]) <= 4 for key in ("used", "not_used"))
    assert all(pages.claim_of(*claim) for claim in said["claims"])
    about = pages.docstring_of(OBJECTIVES[name])
    assert about.summary.endswith(".") and "*" not in about.summary
    assert set(about.args) == {field.name for field in dataclasses.fields(OBJECTIVES[name])}
    assert set(pages.words()) == set(OBJECTIVES)


@pytest.mark.parametrize("name", ["RWR", "DPO", "PPO"])
def test_a_velocity_is_the_push_and_what_the_softmax_takes(name, modules):
    force = modules["forces"].force_of(name)
    taken = force.policy * force.push.sum(axis=1, keepdims=True)
    scale = np.abs(force.push).max()
    np.testing.assert_allclose(
        force.velocity / scale, (force.push - taken) / scale, rtol=0, atol=3e-6
    )


def test_every_verdict_of_the_tables_is_counted(modules):
    tables = modules["verdict_tables"]
    for table in tables.TABLES:
        text = (tables.RESULTS / table).read_text(encoding="utf-8")
        claims = tables.claims_of(table)
        rows = re.findall(
            r"^\| \w+ \| .+ \| .+ \| .+ \|$", text.partition("\n## ")[0], re.MULTILINE
        )
        assert len(claims) == len(rows) - 1, "every row but the heading is a claim"
        assert f"of {len(claims)} claims" in tables.counted(claims)


def test_blocks_run_in_one_namespace_and_say_where_they_fail(modules):
    hooks = modules["hooks"]
    text = '```python\nx = 1\n```\n\n- a\n\n    ```python caption="c"\n    print(x + 1)\n    ```\n'
    blocks = hooks.blocks_of(text, "python")
    assert blocks == ["x = 1\n", "print(x + 1)\n"]
    assert [output.printed for output in hooks.run_python(blocks)] == ["", "2\n"]
    with pytest.raises(ZeroDivisionError) as failure:
        hooks.run_python(["x = 1", "x / 0"], "a page")
    assert "in block 2 of a page" in failure.value.__notes__[0]


def test_dollars_are_formulas_only_where_they_are(modules):
    markdown = importlib.import_module("markdown")
    convert = markdown.Markdown(extensions=[modules["hooks"].Formulas()]).convert
    assert "<math" in convert(r"so $\beta$ is") and 'display="block"' in convert("$$\na = b\n$$")
    for text in ("`$x$` is code", "it cost $5 and then $6", r"\$a\$"):
        assert "<math" not in convert(text)


def test_a_link_out_of_the_pages_must_lead_to_a_file(modules):
    outside = modules["hooks"].outside
    assert outside("extend/x.md", "../../../bandit/exact.py") == ROOT / "bandit" / "exact.py"
    assert outside("extend/x.md", "../verdicts.md") is None
    with pytest.raises(Exception, match="is no file of the repository"):
        outside("index.md", "../../bandit/nowhere.py")
