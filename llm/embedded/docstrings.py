"""Real text without a network: what Python's own library says its functions do.

Every Python installation carries thousands of signatures with a description beside them. They are
read from the source files as syntax, so nothing is imported and nothing runs. A prompt is a
signature; a response is its description, whole or only its first sentence, or that of another
function: pairs of these can be judged exactly, because which is which is known.
"""

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# Tests describe themselves, the others are tables, copies of other projects or other languages.
SKIPPED = {
    *("test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "encodings"),
    *("lib2to3", "pydoc_data", "ensurepip", "turtledemo", "_vendor", "__pycache__"),
}
LONGEST = 80  # words of a description; what goes on is left out

PREFERENCES = {
    "concise": "the first sentence, rather than the whole description",
    "relevant": "the function's own description, rather than another function's",
}
DEFAULT_PREFERENCE = "concise"


@dataclass(frozen=True)
class Entry:
    """A documented function.

    Attributes:
        signature: "textwrap.wrap(text, width=70, **kwargs)".
        description: the paragraphs of prose with which its docstring begins, on one line.
        sentence: the first sentence of that.
        where: "textwrap.py:378".
    """

    signature: str
    description: str
    sentence: str
    where: str


def library() -> Path:
    """Where this Python keeps its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def entries(folder: Path | None = None) -> tuple[Entry, ...]:
    """Every documented function under a folder, in the order of files and lines.

    A description or a signature that occurred before is left out.

    Args:
        folder: where to look; the standard library when None.

    Raises:
        ValueError: if there is no documented function in it.
    """
    folder = library() if folder is None else folder
    found: list[Entry] = []
    signatures: set[str] = set()
    sentences: set[str] = set()
    for path in sources(folder):
        for entry in documented(path, path.relative_to(folder)):
            if entry.signature not in signatures and entry.sentence not in sentences:
                signatures.add(entry.signature)
                sentences.add(entry.sentence)
                found.append(entry)
    if not found:
        raise ValueError(
            f"{folder} has no documented Python function; some installations keep only compiled "
            "files. Use --data with a file of your own, or leave it out for the embedded language."
        )
    return tuple(found)


def sources(folder: Path) -> list[Path]:
    """The Python files under a folder that are worth reading, in alphabetical order."""
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not SKIPPED & set(path.relative_to(folder).parts[:-1])
        and not path.name.startswith(("test_", "_test"))
    )


def documented(path: Path, name: Path) -> Iterator[Entry]:
    """The documented functions and methods of one file; none if it is not Python.

    Args:
        path: the file.
        name: what to call it.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return  # the library ships deliberately broken files
    module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
    for owner, node in functions(tree, module):
        description = prose(ast.get_docstring(node) or "")
        returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
        signature = f"{owner}.{node.name}({ast.unparse(node.args)}){returns}"
        public = not node.name.startswith("_")
        if public and len(signature) <= 120 and len(description.split()) >= 3:
            where = f"{name.as_posix()}:{node.lineno}"
            yield Entry(signature, description, first_sentence(description), where)


def functions(
    tree: ast.Module | ast.ClassDef, owner: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions of a module and the methods of its classes, each with what it belongs to."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{owner}.{node.name}")


def prose(docstring: str) -> str:
    """The paragraphs with which a docstring begins, as long as they are prose and not too many."""
    text = ""
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        longer = " ".join((text + " " + paragraph).split())
        if not is_prose(" ".join(paragraph.split())) or len(longer.split()) > LONGEST:
            break
        text = longer
    return text


def first_sentence(text: str) -> str:
    """The text up to the first full stop that a capital, or nothing, follows."""
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text, maxsplit=1)[0]


def is_prose(text: str) -> bool:
    """Whether a text is a sentence: plain characters, a capital first, a full stop last."""
    plain = text.isascii() and not set(text) & set("|<>{}\\=*`")
    return plain and text[:1].isupper() and text[-1] in ".!?"


def demonstrations(held_out: bool = False) -> list[dict[str, str]]:
    """Rows of ``prompt`` (a signature and a line break) and ``completion`` (its description).

    Args:
        held_out: whether the modules are those that training never sees.
    """
    return [
        {"prompt": f"{entry.signature}\n", "completion": entry.description}
        for entry in split(held_out)
    ]


def preferences(preference: str, seed: int, held_out: bool = False) -> list[dict[str, str]]:
    """Pairs of descriptions for every signature that has two different ones.

    Args:
        preference: a name in ``PREFERENCES``.
        seed: decides which other function's description stands in.
        held_out: whether the modules are those that training never sees.

    Returns:
        Rows of ``prompt``, ``chosen``, ``rejected``, in the order of ``entries``.

    Raises:
        ValueError: if there is no preference of that name.
    """
    if preference not in PREFERENCES:
        known = ", ".join(PREFERENCES)
        raise ValueError(f"docstrings have no preference {preference!r}; choose of {known}.")
    among = split(held_out)
    if preference == "concise":
        pairs = [(entry, entry.sentence, entry.description) for entry in among]
    else:
        # A step of at least 1 around a circle never lands on itself.
        steps = np.random.default_rng(seed).integers(1, len(among), len(among))
        others = [among[(i + step) % len(among)] for i, step in enumerate(steps.tolist())]
        pairs = [(e, e.sentence, o.sentence) for e, o in zip(among, others, strict=True)]
    return [
        {"prompt": f"{entry.signature}\n", "chosen": chosen, "rejected": rejected}
        for entry, chosen, rejected in pairs
        if chosen != rejected
    ]


@cache
def split(held_out: bool) -> tuple[Entry, ...]:
    """The entries of training or of evaluation: every tenth module is held out."""
    modules = sorted({entry.where.partition(":")[0] for entry in entries()})
    apart = frozenset(modules[::10])
    return tuple(e for e in entries() if (e.where.partition(":")[0] in apart) == held_out)
