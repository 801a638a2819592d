"""Every layout people have becomes the same kind of example."""

import pytest

from llm.data.schemas import ASSISTANT, SCHEMAS, RowError, detect, reader

USER = {"role": "user", "content": "hi"}
GOOD = {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}
ASKED = "<|prompter|>i<|endoftext|><|assistant|>"
TALK = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:"

ROWS = [
    # (layout, row, prompt, responses, rewards)
    (
        "preference",
        {"prompt": "p", "chosen": "c", "rejected": "r", "score": 3},
        *("p", ("c", "r"), (1.0, 0.0)),
    ),
    (
        "preference",
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        *([USER], ([GOOD], [BAD]), (1.0, 0.0)),
    ),
    (
        "preference",
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        *([USER], ([GOOD], [BAD]), (1.0, 0.0)),
    ),
    (
        "preference",
        {"prompt": [USER], "chosen": "good", "rejected": "bad"},
        *([USER], ([GOOD], [BAD]), (1.0, 0.0)),
    ),
    (
        "preference",
        {"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        *([USER], ([GOOD], [BAD]), (1.0, 0.0)),
    ),
    (
        "preference",
        {"prompt": "hi", "chosen": [GOOD], "rejected": [BAD]},
        *([USER], ([GOOD], [BAD]), (1.0, 0.0)),
    ),
    (
        "preference",
        {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, USER, BAD]},
        *([USER, GOOD, USER], ([GOOD], [BAD]), (1.0, 0.0)),
    ),
    (
        "preference",  # the linter, not the reader, minds that they are the same
        {"chosen": [USER, GOOD], "rejected": [USER, GOOD]},
        *([USER], ([GOOD], [GOOD]), (1.0, 0.0)),
    ),
    (
        "transcript",
        {"chosen": TALK + " one", "rejected": TALK + " two"},
        *(TALK, (" one", " two"), (1.0, 0.0)),
    ),
    (
        "transcript",  # a common beginning of the answers stays in the answers
        {"chosen": TALK + " the one", "rejected": TALK + " the other"},
        *(TALK, (" the one", " the other"), (1.0, 0.0)),
    ),
    ("completion", {"prompt": "p", "completion": "c"}, "p", ("c",), (1.0,)),
    ("completion", {"prompt": [USER], "completion": [GOOD]}, [USER], ([GOOD],), (1.0,)),
    ("completion", {"prompt": "p", "response": "c"}, "p", ("c",), (1.0,)),
    ("kto", {"prompt": "p", "completion": "c", "label": False}, "p", ("c",), (0.0,)),
    ("kto", {"prompt": "p", "completion": "c", "label": 1}, "p", ("c",), (1.0,)),
    ("messages", {"messages": [USER, BAD, USER, GOOD]}, [USER, BAD, USER], ([GOOD],), (1.0,)),
    (
        "rated",
        {"prompt": "p", "responses": ["a", "b", "c"], "rewards": [0.5, 2, -1]},
        *("p", ("a", "b", "c"), (0.5, 2.0, -1.0)),
    ),
    ("rated", {"prompt": "p", "completions": ["a"], "scores": [4]}, "p", ("a",), (4.0,)),
    (
        "rated",
        {"prompt": "p", "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 0.5}]},
        *("p", ("a", "b"), (1.0, 0.5)),
    ),
    ("rated", {"prompt": [USER], "responses": ["good"], "rewards": [1]}, [USER], ([GOOD],), (1.0,)),
    ("instruction", {"instruction": "i", "input": "", "output": "o"}, "i\n\n", ("o",), (1.0,)),
    (
        "instruction_preference",
        {"instruction": "i", "input": "x", "output": "o", "chosen": "c", "rejected": "r"},
        *("i\n\nx\n\n", ("c", "r"), (1.0, 0.0)),
    ),
    ("text", {"text": "t", "src": "s"}, "", ("t",), (1.0,)),
    (
        "relabeled_alpacafarm",
        {"prompt": ASKED, "y_w": f"{ASKED}c<|endoftext|>", "y_l": f"{ASKED}r", "y_ref": "?"},
        *(ASKED, ("c", "r"), (1.0, 0.0)),
    ),
    (
        "relabeled_alpacafarm",  # the tokenizer that wrote the text spelled its prompt otherwise
        {"prompt": ASKED, "y_w": f" {ASKED}c<|endoftext|><|endoftext|>", "y_l": f"<x> {ASKED}r"},
        *(ASKED, ("c", "r"), (1.0, 0.0)),
    ),
    ("prompt", {"prompt": "p", "source": "s"}, "p", (), ()),
    ("prompt", {"prompt": [USER]}, [USER], (), ()),
    ("prompt", {"instruction": "i", "input": "x"}, "i\n\nx\n\n", (), ()),
]


@pytest.mark.parametrize(("name", "row", "prompt", "responses", "rewards"), ROWS)
def test_a_row_is_recognised_and_read(name, row, prompt, responses, rewards):
    assert detect(row, "a:1") == name
    example = reader(name)(row, "a:1")
    assert (example.prompt, example.responses, example.rewards) == (prompt, responses, rewards)
    assert example.where == "a:1"


def test_every_layout_has_a_row_here():
    assert {name for name, *_ in ROWS} == set(SCHEMAS)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("preference", {"prompt": "p", "chosen": "c"}, "'rejected' is missing"),
        ("preference", {"chosen": "c", "rejected": "r"}, "'prompt' is missing"),
        ("preference", {"prompt": "p", "chosen": 1, "rejected": "r"}, "'chosen' is a int"),
        ("preference", {"prompt": [USER], "chosen": [{"role": "x"}], "rejected": "r"}, "message 1"),
        ("preference", {"chosen": [GOOD], "rejected": [BAD]}, "share no first message"),
        (
            "preference",
            {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]},
            "'chosen' adds to the prompt must be turns of the assistant",
        ),
        ("transcript", {"chosen": "one", "rejected": "two"}, "no common beginning"),
        (
            "transcript",
            {"chosen": TALK + " one\n\nHuman: x", "rejected": TALK + " two"},
            "'chosen' goes on with a `Human:`",
        ),
        ("kto", {"prompt": "p", "completion": "c", "label": "yes"}, "true or false"),
        ("messages", {"messages": [USER]}, "before the assistant's last"),
        ("messages", {"messages": [GOOD, USER]}, "must be turns of the assistant"),
        ("messages", {"messages": "hi"}, "it must be chat messages"),
        ("rated", {"prompt": "p", "responses": [], "rewards": []}, "at least one"),
        ("rated", {"prompt": "p", "responses": ["a"], "rewards": [1, 2]}, "one number for each"),
        ("rated", {"prompt": "p", "responses": ["a"]}, "'rewards' must hold one number"),
        ("rated", {"prompt": "p", "responses": ["a"], "rewards": [float("nan")]}, "finite"),
        ("rated", {"prompt": "p", "responses": ["a"], "rewards": ["x"]}, "finite"),
        ("rated", {"prompt": "p", "responses": [1], "rewards": [1]}, "'responses' is a int"),
        ("text", {"text": None}, "'text' is missing"),
        ("prompt", {"prompt": 3}, "'prompt' is a int"),
        ("prompt", {}, "'prompt' is missing"),
        ("relabeled_alpacafarm", {"prompt": "p", "y_w": "c"}, "'y_l' is missing"),
    ],
)
def test_a_row_that_breaks_its_layout_names_the_field(name, row, message):
    with pytest.raises(RowError, match=message):
        reader(name)(row, "a:1")


def test_unknown_columns_are_answered_with_the_known_layouts():
    with pytest.raises(ValueError, match=r"a:1 has the columns answer, question.*prompt, chosen"):
        detect({"question": "q", "answer": "a"}, "a:1")


def test_an_unknown_layout_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'dpo'; there are auto, preference"):
        reader("dpo")


def test_a_transcripts_prompt_ends_where_the_assistant_begins():
    example = reader("transcript")({"chosen": TALK + " a", "rejected": TALK + " b"}, "a:1")
    assert isinstance(example.prompt, str) and example.prompt.endswith(ASSISTANT)
