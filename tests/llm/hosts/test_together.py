"""What processes do together: with one it is the identity, with three it is the same for all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm import hosts
from llm.hosts import together
from tests.llm.hosts.processes import ROOT, free_port

COMPANY = """
import json, sys
from pathlib import Path
from llm import hosts
from llm.hosts import folder, joining
from llm.hosts.places import Place
from llm.rewards import RewardError

folder.PATIENCE = 0.2
port, index, home = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
line, _ = joining.connect(Place("127.0.0.1", port, 3, index), 60.0, lambda said: None)
mine = home / str(index)
mine.mkdir()
made, touched = [], []

def refuse(*given):
    raise RewardError("no answer")

class Odd(Exception):
    pass

def odd(own):
    if hosts.index() == 0 and own and own[0] == 4:  # alone, whoever it is
        raise Odd("of its own kind")
    return own

def told(do):
    try:
        return do()
    except Exception as error:
        return [type(error).__name__, str(error), hosts.is_shared(error)]

found = {
    "index": [hosts.index(), hosts.count(), hosts.is_first()],
    "gather": hosts.gather(index * 10),
    "share": hosts.share(index + 5),
    "agree": [hosts.agree(index == 2), hosts.agree(False)],
    "own": hosts.each_own(list(range(7)), lambda own: [[n, len(own)] for n in own]),
    "few": hosts.each_own(["a"], lambda own: [text * 2 for text in own]),
    "first": hosts.from_first(lambda: made.append(index) or "made"),
    "made": made,
    "turn": hosts.in_turn(lambda: touched.append(index) or index),
    "touched": touched,
    "refused": told(lambda: hosts.from_first(refuse)),
    "failed": told(lambda: hosts.each_own([1, 2, 3], refuse if index == 1 else list)),
    "odd": told(lambda: hosts.each_own([0, 1, 2, 3, 4, 5], odd)),
    "same": told(lambda: hosts.check_same("run", {"a": 1, "b": [2]})),
    "other": told(lambda: hosts.check_same("run", {"a": 1, "b": [2], "c": index == 1})),
    "nested": hosts.each_own([1, 2, 3], lambda own: [hosts.share(n) + hosts.count() for n in own]),
    "one": told(lambda: hosts.check_one_folder(home)),
    "several": told(lambda: hosts.check_one_folder(mine)),
    "after": hosts.gather("still together"),
}
line.part()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> list[dict[str, Any]]:
    """What three processes found."""
    home, port = tmp_path_factory.mktemp("company"), str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", COMPANY, port, str(index), str(home)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(3)
    ]
    found = []
    for process in started:
        text, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors
        found.append(json.loads(text.splitlines()[-1]))
    assert not [entry for entry in home.iterdir() if entry.name.startswith(".seen")]
    return found


def test_each_knows_its_place(company):
    assert [found["index"] for found in company] == [
        [0, 3, True],
        [1, 3, False],
        [2, 3, False],
    ]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("gather", [0, 10, 20]),
        ("share", 5),
        ("agree", [True, False]),
        ("own", [[0, 2], [1, 2], [2, 2], [3, 2], [4, 3], [5, 3], [6, 3]]),
        ("few", ["aa"]),
        ("first", "made"),
        ("nested", [2, 3, 4]),
        ("same", None),
        ("one", None),
        ("after", ["still together"] * 3),
    ],
)
def test_all_find_the_same(company, what, value):
    assert [found[what] for found in company] == [value] * 3


def test_what_the_first_makes_no_other_makes(company):
    assert [found["made"] for found in company] == [[0], [], []]


def test_in_turn_each_makes_its_own(company):
    assert [found["turn"] for found in company] == [0, 1, 2]
    assert [found["touched"] for found in company] == [[0], [1], [2]]


def test_an_error_of_one_is_met_by_all_and_says_whose_it_was(company):
    first = [found["refused"] for found in company]
    assert first[0] == ["RewardError", "no answer", True]
    assert first[1] == first[2] == ["RewardError", "process 0 of 3: no answer", True]
    failed = [found["failed"] for found in company]
    assert failed[1] == ["RewardError", "no answer", True]
    assert failed[0] == failed[2] == ["RewardError", "process 1 of 3: no answer", True]


def test_an_error_that_is_known_in_one_place_alone_is_put_in_words(company):
    assert company[0]["odd"] == ["RuntimeError", "process 2 of 3: Odd: of its own kind", True]


def test_a_difference_is_named(company):
    for found in company:
        kind, text, _ = found["other"]
        assert kind == "ValueError" and "the same run: c: False and True" in text


def test_a_folder_that_some_do_not_see_is_refused(company):
    for found in company:
        kind, text, shared = found["several"]
        assert kind == "ValueError" and shared
        assert "process 1 on " in text and "process 2 on " in text and "process 0 on " in text
        assert "Give a folder on a disk that every host has" in text


def test_alone_everything_is_what_it_is_given(tmp_path):
    def fail() -> None:
        raise KeyError("x")

    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.gather(3) == [3] and hosts.share("a") == "a"
    assert hosts.agree(True) and not hosts.agree(False)
    assert hosts.each_own([1, 2], lambda own: [n + 1 for n in own]) == [2, 3]
    assert hosts.in_turn(lambda: 4) == 4
    hosts.check_same("run", {"a": 1})
    hosts.check_one_folder(tmp_path / "nowhere")
    with pytest.raises(KeyError) as met:
        hosts.from_first(fail)
    assert hosts.is_shared(met.value)


def test_processes_that_have_come_apart_are_told():
    one, other = together.Said("share, number 3", 1), "each_own, number 3"
    with pytest.raises(
        RuntimeError, match="come apart: this one is at each_own, number 3, process 2"
    ):
        together.check(2, one, other)


def test_nothing_of_llm_is_asked_of_a_device_before_the_processes_have_met():
    code = (
        "import llm.finetune, llm.evaluate, modeseek.train, jax\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    line = [sys.executable, "-c", code]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split()[-1] == "False"


def test_this_folder_is_the_root_of_the_clone():
    assert (Path(ROOT) / "pyproject.toml").exists()
