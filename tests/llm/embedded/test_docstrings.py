"""Descriptions read from source files: cleaned, in order, never imported, pairs judged exactly."""

import pytest

from llm.embedded import docstrings
from llm.embedded.docstrings import demonstrations, entries, first_sentence, preferences

SOURCE = '''
"""A module."""
raise RuntimeError("nobody imports this")

def area(width: float, *, height=1.0) -> float:
    """Multiply two sides. The result is
    an area, e.g. of a wall.

    Sides are positive.

        >>> area(2)
    """

class Wall:
    """Bricks."""

    async def paint(self, colour):
        """Make it as red
        as can be."""

    def _hidden(self):
        """Nobody sees this one."""

def silent():
    pass

def terse():
    """Short."""

def odd():
    """returns {1: 2}"""
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "walls.py").write_text(SOURCE)
    (tmp_path / "house" / "again.py").write_text(SOURCE.replace("area(width", "surface(width"))
    (tmp_path / "house" / "broken.py").write_text("def broken(:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "late.py").write_text(SOURCE.replace("sides", "edges"))
    return tmp_path


def test_a_function_becomes_a_signature_and_its_prose(folder):
    surface, paint = entries(folder)
    assert surface.signature == "house.again.surface(width: float, *, height=1.0) -> float"
    assert surface.sentence == "Multiply two sides."
    assert surface.description == (
        "Multiply two sides. The result is an area, e.g. of a wall. Sides are positive."
    )
    assert surface.where == "house/again.py:5"
    assert paint.signature == "house.again.Wall.paint(self, colour)"
    assert paint.description == "Make it as red as can be."


def test_a_description_counts_once_wherever_it_is_repeated(folder):
    assert {entry.where.partition(":")[0] for entry in entries(folder)} == {"house/again.py"}


def test_a_folder_without_descriptions_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"no documented Python function.*--data"):
        entries(tmp_path)


def test_a_sentence_ends_where_the_next_one_begins():
    assert first_sentence("Read it, e.g. twice. Then stop.") == "Read it, e.g. twice."
    assert first_sentence("Is it? Yes.") == "Is it?"
    assert first_sentence("Only one.") == "Only one."


@pytest.fixture
def part_of_the_library(monkeypatch):
    """One package of it, because all of it takes seconds to read."""
    folder = docstrings.library() / "email"
    monkeypatch.setattr(docstrings, "library", lambda: folder)
    forget()
    yield
    forget()


def forget():
    docstrings.entries.cache_clear()
    docstrings.split.cache_clear()


@pytest.mark.slow
def test_this_python_has_a_data_set():
    assert len(demonstrations()) > 5 * len(demonstrations(held_out=True)) > 500
    assert len(preferences("concise", seed=0)) > 500


@pytest.mark.usefixtures("part_of_the_library")
def test_modules_are_held_out_as_a_whole():
    training, held_out = demonstrations(), demonstrations(held_out=True)
    assert len(training) > len(held_out) > 5
    assert all(row["prompt"].find("\n") == len(row["prompt"]) - 1 for row in training)
    modules = [{row["prompt"].split(".")[0] for row in rows} for rows in (training, held_out)]
    assert not modules[0] & modules[1]


@pytest.mark.usefixtures("part_of_the_library")
@pytest.mark.parametrize("name", docstrings.PREFERENCES)
def test_pairs_are_what_the_preference_says(name):
    own = {row["prompt"]: row["completion"] for row in demonstrations()}
    rows = preferences(name, seed=0)
    assert rows == preferences(name, seed=0)
    assert len(rows) > 20
    for row in rows:
        assert own[row["prompt"]].startswith(row["chosen"])
        if name == "concise":
            assert row["rejected"].startswith(row["chosen"])
            assert len(row["rejected"]) > len(row["chosen"])
        else:
            assert not own[row["prompt"]].startswith(row["rejected"])


@pytest.mark.usefixtures("part_of_the_library")
def test_an_unknown_preference_is_refused():
    with pytest.raises(ValueError, match=r"no preference 'kind'.*concise, relevant"):
        preferences("kind", seed=0)
