"""What the site's pages say is done: their Python runs, their commands exist, their names are real.

A command of a page that ends in seconds is run, in a folder of its own. Any other is followed to
the point where it would begin: by then its line has been read by the command's own parser and
checked by the settings themselves, so that a flag or a word that does not exist fails here.
"""

import dataclasses
import importlib
import importlib.util
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.catalogue import ROOT
from modeseek import cli
from objectives import OBJECTIVES

PAGES = ROOT / "docs" / "pages"
TEXTS = {
    page.relative_to(PAGES).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(PAGES.rglob("*.md"))
}
OURS = ("guide.md", "extend/objective.md", "extend/problem.md", "extend/family.md")
OURS += ("extend/acquisition.md", "glossary.md")
LONG = ("extend/objective.md", "extend/problem.md", "extend/acquisition.md")
"""Pages whose Python takes a while; `make docs` runs that of every page."""
WITH_PYTHON = [
    pytest.param(page, marks=[pytest.mark.slow] if page in LONG else [])
    for page in OURS
    if "```python" in TEXTS[page]
]
SHELL = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The file that runs the pages' Python when the site is built."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("pages_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # What it asks of a compiler is for its own process, and not for those of other tests.
        patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
        patch.setitem(sys.modules, "pages_hooks", module)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs(page, hooks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = hooks.blocks_of(TEXTS[page], "python")
    outputs = hooks.run_python(blocks, page)
    assert any(output.printed for output in outputs)
    captioned = len(re.findall(r'^```python caption="', TEXTS[page], re.MULTILINE))
    assert sum(output.figure is not None for output in outputs) == captioned
    assert not list(tmp_path.iterdir()), "a page leaves nothing behind"


class Begun(BaseException):
    """A command has read its line and would begin."""


BEGINS = {
    "active": "llm.active.active",
    "bandit": "modeseek.bandit.simulate_and_show",
    "chat": "modeseek.chat.begin",
    "classifier": "modeseek.classifier.read_labelled",
    "evaluate": "llm.hosts.joined",
    "export": "llm.runs.open_run",
    "inspect-data": "modeseek.inspect_data.inspect",
    "label": "modeseek.label.label",
    "lecture": "figures.lecture.build.write",
    "plan": "modeseek.plan.say",
    "plot": "modeseek.plot.curves",
    "reproduce": "modeseek.reproduce.check_writable",
    "rollouts": "modeseek.rollouts.show",
    "sample": "llm.writing.write_responses",
    "train": "llm.hosts.joined",
}
"""What each command calls first when its line has been read."""

STEPS, SEEDS = 100, 4
"""What a bandit may have and still end in seconds."""


def ends_in_seconds(words: list[str]) -> bool:
    """Whether a command is quick enough to be run."""
    told = dict(itertools.pairwise(words))
    if words[0] == "bandit":
        few = int(told.get("--steps", 200)) <= STEPS and int(told.get("--seeds", 10)) <= SEEDS
        return few and "--policy" not in words
    return words[0] == "objectives" or (words[0] == "launch" and "--dry-run" in words)


def lines_of(text: str) -> Iterator[list[str]]:
    """The words of every line of every shell block, without comments."""
    for block in SHELL.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def arguments_of(words: list[str]) -> list[str]:
    """What stands behind the program's name, which another program may be given."""
    program = next((word for word in words if Path(word).name == "modeseek"), None)
    assert program, f"{shlex.join(words)}: this test knows no such program"
    return words[words.index(program) + 1 :]


def follow(words: list[str], run: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command, or read its line up to where it would begin.

    Raises:
        AssertionError: if the command refuses the line.
    """
    if "--" in words:  # what is started on every host
        follow(words[words.index("--") + 1 :], False, monkeypatch)
    said = shlex.join(words)
    assert words[0] in cli.COMMANDS, said

    def begin(*_: Any, **__: Any) -> None:
        raise Begun

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["modeseek", *words])
        # Libraries are told things that way, and other tests are not to hear of it.
        patch.setattr(os, "environ", dict(os.environ))
        if not run:
            patch.setattr("modeseek.plan.prepare_environment", lambda *_: None)
            patch.setattr(BEGINS[words[0]], begin)
        try:
            cli.main()
        except Begun:
            return
        except SystemExit as stopped:
            assert not stopped.code, f"modeseek {said}: ends with {stopped.code}"
    assert run, f"modeseek {said}: was to be read, and has been run"


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if SHELL.search(text)])
def test_the_commands_of_a_page_are_run_or_read(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in lines_of(TEXTS[page]):
        if line[0] == "make":
            assert all(re.search(f"^{target}:", makefile, re.MULTILINE) for target in line[1:])
            continue
        words = arguments_of(line)
        follow(words, ends_in_seconds(words), monkeypatch)


def test_the_commands_of_the_readme_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\.venv/bin/(modeseek .*)$", readme, re.MULTILINE)
    assert len(shown) > 15
    for line in lines_of("```bash\n" + "\n".join(shown) + "\n```"):
        words = arguments_of(line)
        follow(words, words[0] == "launch", monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "train dpo --objective.bta 0.1",
        "train dpo --objective.beta -1",
        "train dpoo",
        "bandit ipo --problem R3",
        "plan dpo --topology h100:1 --model llama-3-8b --longest 3",
        "launch slurm --dry-run -- train dpo --stepz 3",
    ],
)
def test_a_wrong_command_would_be_noticed(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="ends with 2"):
        follow(line.split(), "--dry-run" in line, monkeypatch)


def test_no_link_of_a_page_is_dead():
    made = {f"objectives/{name.lower()}.md" for name in OBJECTIVES}
    for page in (*OURS, *(name for name in TEXTS if name.startswith("launch/"))):
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"(?s)```.*?```", "", TEXTS[page]))
        for link in links:
            if not link.startswith("http"):
                path = (PAGES / page).parent / link
                name = os.path.relpath(path, PAGES)
                assert path.exists() or name in made, f"{page}: {link}"


# The glossary.

WORLD = ("objectives", "objectives.contrastive", "objectives.hyperparameters", "objectives.labels")
WORLD += ("objectives.policy_gradient", "bandit", "bandit.policies", "bandit.active")
WORLD += ("llm.settings", "llm.active", "llm.model", "llm.model.architecture")
WORLD += ("llm.model.families", "llm.data.examples", "llm.logprobs", "llm.rollouts")
"""The modules whose names the glossary explains."""


def named_in(glossary: str) -> list[str]:
    """Every name between ticks in the second column of its tables."""
    rows = [line.split(" | ") for line in glossary.splitlines() if line.startswith("| ")]
    assert all(len(row) == 4 for row in rows), "a bar inside a cell?"
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[1])]


def has(owner: Any, name: str) -> bool:
    """Whether a class or a module has an attribute or a field."""
    fields = [field.name for field in dataclasses.fields(owner)] if is_values(owner) else []
    return hasattr(owner, name) or name in fields


def is_values(owner: Any) -> bool:
    """Whether it is the class of a dataclass."""
    return isinstance(owner, type) and dataclasses.is_dataclass(owner)


def test_every_name_of_the_glossary_exists():
    modules = [importlib.import_module(name) for name in WORLD]
    names = named_in(TEXTS["glossary.md"])
    assert len(names) > 100
    packages = ("objectives", "bandit", "llm", "figures")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    metrics = set(re.findall(r'"([a-z_]+)"', "".join(path.read_text() for path in sources)))
    for name in names:
        owner, _, member = name.partition(".")
        homes = [module for module in modules if hasattr(module, owner)]
        if not homes and not member and name.islower():
            assert name in metrics, f"{name} is neither a name of the code nor a metric"
            continue
        assert homes, f"{name}: there is no {owner}"
        assert not member or any(has(getattr(home, owner), member) for home in homes), name
