"""Do the tests have teeth? Each of many small mistakes must make at least one of them fail."""

import functools
import json
import os
import subprocess
import sys

import pytest

from tests.objectives.mutants import MUTANTS, ROOT, occurrences


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutation_applies_exactly_once(mutant):
    # A mutation whose text has moved tests nothing: bring it up to date in mutants.py.
    assert occurrences(mutant) == 1
    assert mutant.old != mutant.new


@functools.cache
def survivors() -> frozenset[int]:
    """The mutants that no test noticed, by number; all are tried out, in a process per core."""
    script = "from tests.objectives import mutants; mutants.main()"
    numbers = [str(number) for number in range(len(MUTANTS))]
    count = min(4, os.cpu_count() or 1)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, *numbers[part::count]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in range(count)
    ]
    found: set[int] = set()
    for process, (shown, errors) in [(one, one.communicate()) for one in running]:
        assert process.returncode == 0, shown[-2000:] + errors[-2000:]
        found |= set(json.loads(shown.splitlines()[-1]))
    return frozenset(found)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=lambda number: str(MUTANTS[number]))
def test_the_tests_notice(number):
    assert number not in survivors()
