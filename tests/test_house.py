"""Rules no single package can keep alone: layers, names, a command line that answers at once."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("objectives", "bandit", "llm", "experiments", "figures", "modeseek")


def files_of_the_repository() -> list[Path]:
    """Every file git tracks, or would if asked to add everything."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout, so there is no telling which files belong to it")
    names = (name for name in listing.stdout.split("\0") if name)
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def modules() -> list[Path]:
    return [path for path in files_of_the_repository() if path.suffix == ".py"]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_imported_from_this_repository(name):
    # `bandit` and `llm` are also on the registry under those names.
    package = importlib.import_module(name)
    assert package.__file__ is not None
    assert Path(package.__file__).resolve() == ROOT / name / "__init__.py"


def test_nothing_else_is_a_top_level_package():
    holding_code = {path.relative_to(ROOT).parts[0] for path in modules() if path.parent != ROOT}
    # The docs' code is what mkdocs runs when it builds them; nothing imports it.
    assert holding_code <= {*PACKAGES, "docs", "tests"}


def test_each_floor_imports_only_the_floors_below():
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_objectives_import_only_jax():
    # numpy is JAX's own dependency; on the host it reads the numbers that are not traced.
    allowed = {"objectives", "jax", "jaxtyping", "numpy"} | sys.stdlib_module_names
    offenders = [
        f"{named(path)}:{node.lineno} imports {name}"
        for path in modules()
        if path.is_relative_to(ROOT / "objectives")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported_names(node)
        if name.partition(".")[0] not in allowed
    ]
    assert not offenders


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


def test_help_answers_without_importing_jax():
    # The script's own entry, in a process where no test has imported anything.
    script = """
import sys
from modeseek.cli import main
sys.argv = ["modeseek", "--help"]
try:
    status = main()
except SystemExit as stop:
    status = stop.code
assert not status, f"exit status {status!r}"
heavy = {"jax", "optax", "numpy", "matplotlib", "torch"} & set(sys.modules)
assert not heavy, f"--help imported {sorted(heavy)}"
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "reproduce" in answer.stdout


def test_every_module_says_what_it_is_for():
    silent = [
        named(path)
        for path in modules()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_a_module_is_named_for_an_idea_and_not_for_a_role():
    roles = {"utils", "util", "helpers", "common", "misc", "base", "core", "manager"}
    offenders = [
        named(path)
        for path in modules()
        if roles & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert not offenders


# A path that exists on one machine, or the address of a package registry or of a mirror of one.
MACHINE_PATH = re.compile(r"(?<![\w.<{}*~-])/(?:root|home|Users|work|opt|mnt|srv)/[A-Za-z0-9_.]")
REGISTRY = re.compile(
    r"file:/{2}|py[p]i\.org/simple|python[h]osted\.org|download\.pytorch\.org|registry\.[n]pmjs"
)


def test_no_file_names_one_machine_or_a_registry():
    offenders = []
    for path in files_of_the_repository():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image
            continue
        offenders += [
            f"{named(path)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if MACHINE_PATH.search(line) or REGISTRY.search(line)
        ]
    assert not offenders


def test_every_version_is_pinned_by_name_and_number_alone():
    pin = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; .+)?")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []
