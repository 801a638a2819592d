"""How large the study on text is, and where what it computes is kept.

One size of everything is shared by all experiments, so that a run which two of them need is the
same run. What is computed is kept in the cache folder under a name made of the size and of the code
it depends on: comments and docstrings may change, statements may not.
"""

import ast
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from experiments.results import Size, atomically
from llm.cache import cache_folder, program_folder
from llm.embedded.pretrain import Pretraining

ROOT = Path(__file__).parents[2]
RUNS, INIT = Path("experiments", "llm", "runs.py"), "__init__.py"
PACKAGES = ("experiments", "llm", "objectives")

TINY = Pretraining(width=32, layers=1, heads=2, mlp_width=64, steps=200)
SMALL = Pretraining(width=64, layers=2, heads=2, mlp_width=176)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The size of the study.

    Attributes:
        model: how the reference is made.
        data_prompts: prompts in a data set.
        responses: N, to each prompt, in the data set and of every collection.
        batch: M, prompts in a gradient step.
        steps: gradient steps of a policy.
        proxy_batch: prompts in a gradient step of a proxy.
        proxy_steps: gradient steps of a proxy.
        evaluate_every: gradient steps between evaluations.
        evaluate_prompts: held-out prompts answered at each.
        max_new_tokens: a response is cut after this many tokens.
        samples: responses of the reference from which its typical length is found.
    """

    model: Pretraining = field(default_factory=lambda: SMALL)
    data_prompts: int = 512
    responses: int = 4
    batch: int = 8
    steps: int = 48
    proxy_batch: int = 16
    proxy_steps: int = 64
    evaluate_every: int = 8
    evaluate_prompts: int = 96
    max_new_tokens: int = 96
    samples: int = 4096


def study_of(size: Size) -> Study:
    """The study at a size: quick to see that it works, full with the embedded model itself."""
    quick = Study(
        model=TINY,
        data_prompts=64,
        batch=4,
        steps=16,
        proxy_steps=8,
        evaluate_prompts=16,
        max_new_tokens=48,
        samples=256,
    )
    return size.choose(quick, Study(), Study(model=Pretraining(), steps=128))


def folder(study: Study) -> Path:
    """Where everything of a study of this size and this code is kept."""
    return cache_folder() / "study" / digest(study)


def place(size: Size) -> Path:
    """Where everything of a study of this size and this code is kept."""
    return folder(study_of(size))


def mark(size: Size) -> str:
    """What tells a study from one of another size or code."""
    return digest(study_of(size))


@cache
def digest(study: Study) -> str:
    """What tells one study from another."""
    found = hashlib.sha256(json.dumps(asdict(study), sort_keys=True).encode())
    found.update(code_digest(ROOT).encode())
    return found.hexdigest()[:16]


@cache
def code_digest(root: Path, start: Path = RUNS) -> str:
    """A digest of the statements that runs of a study depend on.

    Args:
        root: of the repository.
        start: the module that makes the runs.
    """
    found = hashlib.sha256()
    for path in sources(root, start):
        found.update(path.relative_to(root).as_posix().encode())
        text = path.read_text(encoding="utf-8")
        found.update((statements(text) if path.suffix == ".py" else text).encode())
    return found.hexdigest()


def sources(root: Path, start: Path = RUNS) -> list[Path]:
    """The files that runs of a study depend on: all that their module imports, and its imports.

    A package's ``__init__`` counts with every module of it, as it does for Python. The grammar of
    the embedded language is no module, and counts too.
    """
    waiting, found = [root / start], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in imports(path.read_text(encoding="utf-8")):
            parts = name.split(".")
            if parts[0] in PACKAGES:
                steps = [root.joinpath(*parts[:many]) for many in range(1, len(parts) + 1)]
                files = [p for step in steps for p in (step.with_suffix(".py"), step / INIT)]
                waiting += [file for file in files if file.is_file()]
    return sorted(found | set((root / "llm").rglob("*.grammar")))


def imports(source: str) -> set[str]:
    """Full names of what a module imports, wherever in it; some of them may be no modules."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def statements(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            node.body = body[1:]
    return ast.dump(tree)


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def kept(path: Path) -> Any | None:
    """What a JSON file of the cache holds; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(path: Path, value: Any) -> None:
    """Write a JSON file of the cache, whole or not at all."""
    text = json.dumps(value) + "\n"
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def quiet_process() -> None:
    """Set this process up for many small runs side by side with others.

    One thread each, because two runs share two cores better than their threads do; programs are
    kept on disk, because every run compiles nearly the same ones.
    """
    import jax

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    jax.config.update("jax_compilation_cache_dir", str(program_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
