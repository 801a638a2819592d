"""A classifier read back says what scikit-learn's says, and is nothing but numbers and words."""

import json
import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from llm.rewards import identity
from llm.rewards.classifier import (
    ClassifierSettings,
    Labelled,
    fit,
    read,
    read_labelled,
    terms_of,
    train_classifier,
)
from tests.llm.rewards.written import numbers, reward, written
from tests.llm.tiny_runs import write_rows

sklearn = pytest.importorskip("sklearn")

GOOD, BAD = ("lovely", "warm", "bright", "not bad"), ("grim", "cold", "dull", "bad")
SMALL = ClassifierSettings(least_texts=2)


def texts(number, seed):
    """Sentences with words that tell and words that do not."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        positive = bool(rng.integers(2))
        telling = rng.choice(GOOD if positive else BAD, 2)
        filling = rng.choice(["The", "day", "was", "it's", "!"], 4)
        found.append(Labelled(" ".join(rng.permutation([*telling, *filling])), positive))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "made"
    return train_classifier(texts(200, 0), texts(100, 1), folder, SMALL)


def test_a_classifier_is_right_about_texts_it_has_not_seen(trained):
    assert trained.accuracy.value > 0.95
    assert trained.accuracy.low is not None and trained.accuracy.low < trained.accuracy.value
    assert trained.texts == 200 and trained.accuracy.units == 100


def test_the_log_odds_are_those_of_scikit_learn(trained):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    training, others = texts(200, 0), [text for text, _ in texts(30, 2)]
    others += ["", "nothing of it is known", "bad bad bad bad", "NOT BAD!"]
    analyzer: Any = partial(terms_of, longest=2)
    vectorizer = TfidfVectorizer(analyzer=analyzer, min_df=2, sublinear_tf=True)
    features = vectorizer.fit_transform([text for text, _ in training])
    model = LogisticRegression(C=SMALL.inverse_penalty, solver="liblinear", random_state=0)
    model.fit(features, [positive for _, positive in training])
    expected = model.decision_function(vectorizer.transform(others))
    classifier = read(trained.folder)
    np.testing.assert_allclose([classifier.log_odds(text) for text in others], expected, atol=1e-12)
    assert classifier.intercept == expected[-4] != expected[0]


def test_a_log_odds_is_a_sum_of_weights_that_can_be_read(trained):
    classifier = read(trained.folder)
    weights = dict(zip(classifier.terms, classifier.weight, strict=True))
    assert weights["lovely"] > 0 > weights["grim"]
    assert weights["not bad"] > 0 > weights["bad"]
    both = ("grim", "grim grim")  # one term alone has the whole length, however often it occurs
    assert classifier.log_odds(both[0]) == pytest.approx(classifier.intercept + weights["grim"])
    pairs = ["it's not", "not bad", "bad !"]
    assert terms_of("It's NOT, bad!", 2) == ["it's", "not", "bad", "!", *pairs]


def test_the_same_texts_give_the_same_classifier_to_the_bit(trained):
    again = fit(texts(200, 0), SMALL)
    before = read(trained.folder)
    assert again.terms == before.terms and again.intercept == before.intercept
    np.testing.assert_array_equal(again.weight, before.weight)


def test_the_reward_is_the_log_odds_of_the_response(trained):
    found = numbers(f"classifier:{trained.folder}", "lovely day", "grim day", "")
    classifier = read(trained.folder)
    assert found == [classifier.log_odds(text) for text in ("lovely day", "grim day", "")]
    assert found[0] > found[2] == classifier.intercept > found[1]


def test_the_prompt_may_be_part_of_the_text(trained):
    asked = [[written("lovely", "The day was "), written("lovely", "grim cold ")]]
    (alone,) = reward(f"classifier:{trained.folder}")(asked)
    (whole,) = reward(f"classifier-whole:{trained.folder}")(asked)
    assert alone[0] == alone[1]
    classifier = read(trained.folder)
    assert whole.tolist() == [classifier.log_odds(w.prompt + w.response) for w in asked[0]]


def test_nothing_that_is_kept_can_hold_code(trained):
    assert sorted(path.name for path in trained.folder.iterdir()) == [
        "classifier.json",
        "weights.npz",
    ]
    with np.load(trained.folder / "weights.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype for name in stored.files} == {np.dtype(np.float64)}
    about = json.loads((trained.folder / "classifier.json").read_text())
    assert about["accuracy"]["value"] == trained.accuracy.value
    assert about["settings"]["inverse_penalty"] == SMALL.inverse_penalty
    assert math.isfinite(about["intercept"])


def test_half_of_one_training_and_half_of_another_are_refused(trained, tmp_path):
    other = train_classifier(texts(60, 5), texts(10, 6), tmp_path / "other", SMALL)
    before = identity(f"classifier:{other.folder}")
    (other.folder / "weights.npz").write_bytes((trained.folder / "weights.npz").read_bytes())
    with pytest.raises(ValueError, match=r"belongs to another training.*train it again"):
        reward(f"classifier:{other.folder}")
    assert identity(f"classifier:{other.folder}") != before


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no classifier\.json with weights\.npz"):
        reward(f"classifier:{tmp_path}")


@pytest.mark.parametrize(
    ("training", "held_out", "complaint"),
    [
        ([Labelled("a b", True)] * 3, [Labelled("a", True)], "all of one class"),
        ([], [Labelled("a", True)], "all of one class"),
        ([Labelled("a", True), Labelled("b", False)], [], "no held-out text"),
        ([Labelled("a", True), Labelled("b", False)], [Labelled("a", True)], "no term occurs in 2"),
    ],
)
def test_texts_that_teach_nothing_are_refused(training, held_out, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        train_classifier(training, held_out, tmp_path, SMALL)


def test_labelled_texts_are_read_from_rows(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "", "label": 0}, {"text": "b", "label": True}]
    file = str(write_rows(tmp_path / "a.jsonl", rows))
    assert read_labelled([file, file])[2:5] == [("b", True), ("a", True), ("", False)]
    other = str(write_rows(tmp_path / "b.jsonl", [{"text": "a", "label": "pos"}]))
    with pytest.raises(ValueError, match=r"b\.jsonl:1 has no text .* it has text, label"):
        read_labelled([other])


@pytest.mark.shared
def test_reviews_of_films_are_read_as_they_lie(shared):
    found = read_labelled([str(shared / "data" / "imdb" / "test_neg.jsonl.gz")])
    assert len(found) == 12500 and not any(positive for _, positive in found)
