"""Plans made in a process of their own, because a compiler may die of a program it does not like.

libtpu ends its process where it finds itself at fault. A run on such a mesh would end the same way,
so this is an answer like any other, and the next mesh is another question.
"""

import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from llm.plan.abstract import Question, abstract_run
from llm.plan.compilers import hushed
from llm.plan.make import outline, plan
from llm.plan.planned import Planned

Planner: TypeAlias = Callable[[Question], Planned]
"""``llm.plan.make.plan``, or something that stands for it."""


@contextmanager
def apart() -> Iterator[Planner]:
    """Within the block, plans are made in another process, and in a fresh one if that dies."""
    with tempfile.TemporaryDirectory() as folder:
        complaints = Path(folder) / "stderr"
        pools: list[ProcessPoolExecutor] = []

        def made(question: Question) -> Planned:
            if not pools:
                fresh = multiprocessing.get_context("spawn")
                pools.append(
                    ProcessPoolExecutor(
                        1, mp_context=fresh, initializer=listen, initargs=(str(complaints),)
                    )
                )
            try:
                with hushed():  # until it listens; it is started here
                    answer = pools[0].submit(plan, question)
                return answer.result()
            except BrokenProcessPool:
                pools.clear()
                found = outline(abstract_run(question), question.price)
                return replace(found, refused=f"the compiler ended: {last_words(complaints)}")

        try:
            yield made
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)


def listen(file: str) -> None:
    """Let what a process complains of go to a file, from the beginning of it."""
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 2)


def last_words(file: Path) -> str:
    """Why a process ended, if it said so."""
    said = file.read_text(errors="replace") if file.exists() else ""
    found = re.search(r"Check failed: (.*)", said)
    return f"Check failed: {found[1].strip()}" if found else "it does not say why."
