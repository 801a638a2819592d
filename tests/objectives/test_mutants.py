"""Do the tests have teeth? Each of many small mistakes must make at least one of them fail."""

import functools
import json
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
def tried_out() -> subprocess.CompletedProcess[str]:
    """All mutants, in one process."""
    script = "from tests.objectives import mutants; mutants.main()"
    numbers = [str(number) for number in range(len(MUTANTS))]
    return subprocess.run(
        [sys.executable, "-c", script, *numbers], cwd=ROOT, capture_output=True, text=True
    )


def survivors() -> list[int]:
    """The mutants that no test noticed, by number."""
    answer = tried_out()
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=lambda number: str(MUTANTS[number]))
def test_the_tests_notice(number):
    assert number not in survivors()
