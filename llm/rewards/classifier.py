"""A linear classifier of texts as reward: exact to compute, and every weight can be read.

A text becomes the words and neighbouring pairs of words in it, each weighted by how rare it is
among texts (tf-idf); logistic regression gives each a weight, and the reward is their sum, the
log-odds of the positive class. scikit-learn does the training. What it finds is kept as plain
numbers and a list of terms, and reading it back needs nothing but NumPy.

Key to the axes: N responses of a prompt.
"""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from llm.data.sources import read_rows
from llm.intervals import Estimate, share
from llm.rewards.contract import PerResponse, Written, one_by_one
from objectives.hyperparameters import require, require_positive

ABOUT, WEIGHTS = "classifier.json", "weights.npz"
"""What it is and its terms; a weight and a rarity for each."""

WORD = re.compile(r"\w+(?:['’]\w+)*|[!?]")


class Labelled(NamedTuple):
    """A text and whether it is of the positive class."""

    text: str
    positive: bool


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """How a classifier is trained."""

    longest: int = 2
    """Words of the longest term."""
    least_texts: int = 3
    """Texts that a term must occur in to count."""
    inverse_penalty: float = 20.0
    """C of the logistic regression: larger fits the training texts more closely."""

    def __post_init__(self) -> None:
        require(self.longest >= 1, self, "longest", "at least 1 word")
        require(self.least_texts >= 1, self, "least_texts", "at least 1 text")
        require_positive(self, "inverse_penalty")


@dataclass(frozen=True, eq=False)
class Classifier:
    """Weights of terms.

    Attributes:
        terms: words, and pairs of words with a space between.
        rarity: of each term, log((1 + texts) / (1 + texts with it)) + 1.
        weight: of each term.
        intercept: log-odds of a text without any of them.
        longest: words of the longest term.
    """

    terms: tuple[str, ...]
    rarity: Float64[np.ndarray, " terms"]
    weight: Float64[np.ndarray, " terms"]
    intercept: float
    longest: int

    @cached_property
    def number(self) -> dict[str, int]:
        """Where each term is."""
        return {term: number for number, term in enumerate(self.terms)}

    def log_odds(self, text: str) -> float:
        """Log p(positive) / p(negative), nats.

        A term that occurs k times counts (1 + log k) * rarity, and the whole text has length 1.
        """
        counted = Counter(
            self.number[term] for term in terms_of(text, self.longest) if term in self.number
        )
        if not counted:
            return self.intercept
        at = np.fromiter(counted.keys(), np.int64)
        often = np.fromiter(counted.values(), np.float64)
        values = (1 + np.log(often)) * self.rarity[at]
        return self.intercept + float(values @ self.weight[at]) / math.sqrt(float(values @ values))


@dataclass(frozen=True)
class Sentiment:
    """A classifier's log-odds as reward.

    Attributes:
        name: what it was asked for as.
        classifier: the weights.
        whole: whether the prompt is part of the text that is classified.
    """

    name: str
    classifier: Classifier
    whole: bool

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """Log p(positive) / p(negative) of every text, nats."""
        return one_by_one(
            groups, lambda w: self.classifier.log_odds(w.prompt * self.whole + w.response)
        )


def terms_of(text: str, longest: int) -> list[str]:
    """Words of a text in lower case, and its runs of up to ``longest`` words."""
    said = WORD.findall(text.lower())
    return [
        " ".join(said[start : start + size])
        for size in range(1, longest + 1)
        for start in range(len(said) - size + 1)
    ]


class Trained(NamedTuple):
    """What came of a training.

    Attributes:
        folder: where it is kept.
        accuracy: on texts it was not trained on.
        terms: how many there are.
        texts: trained on.
    """

    folder: Path
    accuracy: Estimate
    terms: int
    texts: int


def train_classifier(
    training: Sequence[Labelled],
    held_out: Sequence[Labelled],
    folder: Path,
    settings: ClassifierSettings | None = None,
) -> Trained:
    """Train on labelled texts, measure on others, and keep what was found.

    Args:
        training: texts of both classes.
        held_out: texts to measure the accuracy on.
        folder: to write to; an earlier classifier in it is replaced.
        settings: the usual ones if None.

    Raises:
        ValueError: if scikit-learn is missing, if a class is, or if no term occurs often enough.
        OSError: if the folder cannot be written.
    """
    settings = settings or ClassifierSettings()
    if not held_out:
        raise ValueError("there is no held-out text to measure the accuracy on: give some.")
    if len({example.positive for example in training}) < 2:
        raise ValueError("the training texts are all of one class: give texts of both.")
    classifier = fit(training, settings)
    right = [(classifier.log_odds(text) > 0) == positive for text, positive in held_out]
    accuracy = share(np.array(right, np.float64), np.arange(len(right)))
    write(classifier, folder, {"settings": asdict(settings), "accuracy": accuracy._asdict()})
    return Trained(folder, accuracy, len(classifier.terms), len(training))


def fit(training: Sequence[Labelled], settings: ClassifierSettings) -> Classifier:
    """The weights that scikit-learn finds, always the same for the same texts."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ValueError(
            "training a classifier needs scikit-learn: install it with `pip install scikit-learn`."
        ) from None
    options: dict[str, Any] = {
        "analyzer": lambda text: terms_of(text, settings.longest),
        "min_df": settings.least_texts,
        "sublinear_tf": True,
    }
    vectorizer = TfidfVectorizer(**options)
    try:
        features = vectorizer.fit_transform([example.text for example in training])
    except ValueError:
        raise ValueError(
            f"no term occurs in {settings.least_texts} of the {len(training)} training texts: give "
            "more texts, or a smaller least_texts."
        ) from None
    model = LogisticRegression(C=settings.inverse_penalty, solver="liblinear", random_state=0)
    model.fit(features, [example.positive for example in training])
    return Classifier(
        terms=tuple(vectorizer.get_feature_names_out().tolist()),
        rarity=np.asarray(vectorizer.idf_, np.float64),
        weight=np.asarray(model.coef_, np.float64)[0],
        intercept=float(np.asarray(model.intercept_)[0]),
        longest=settings.longest,
    )


def write(classifier: Classifier, folder: Path, record: dict[str, object]) -> None:
    """Keep a classifier as a JSON and an npz file, neither of which can hold code."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS}"
    with partial.open("wb") as file:
        np.savez(file, rarity=classifier.rarity, weight=classifier.weight)
    about = record | {
        "weights": sha(partial),
        "intercept": classifier.intercept,
        "longest": classifier.longest,
        "terms": classifier.terms,
    }
    text = json.dumps(about, ensure_ascii=False)
    (folder / f".{ABOUT}").write_text(text, encoding="utf-8")
    # The list of terms last: a kill in between leaves weights that do not belong to it, which
    # reading finds out.
    os.replace(partial, folder / WEIGHTS)
    os.replace(folder / f".{ABOUT}", folder / ABOUT)


def sha(path: Path) -> str:
    """What tells one file from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read(folder: Path) -> Classifier:
    """Read a classifier that ``train_classifier`` has written.

    Raises:
        ValueError: if the folder does not hold one, or not all of it.
        OSError: if a file cannot be read.
    """
    folder = folder.expanduser()
    if not (folder / ABOUT).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} holds no {ABOUT} with {WEIGHTS}: give a folder that `modeseek classifier` "
            "has written."
        )
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["weights"] != sha(folder / WEIGHTS):
            raise ValueError(f"{WEIGHTS} belongs to another training than {ABOUT}")
        with np.load(folder / WEIGHTS, allow_pickle=False) as stored:
            rarity, weight = stored["rarity"], stored["weight"]
        return Classifier(
            tuple(about["terms"]), rarity, weight, float(about["intercept"]), int(about["longest"])
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The classifier in {folder} cannot be read ({error}): train it again."
        ) from None


def read_labelled(
    sources: Iterable[str], text: str = "text", label: str = "label"
) -> list[Labelled]:
    """Labelled texts from files, folders or the Hub, as training data are given.

    Args:
        sources: JSONL or parquet files, gzipped or not, folders, or names on the Hub.
        text: column with the text.
        label: column with 1 or true for the positive class, 0 or false for the other.

    Raises:
        ValueError: if a row lacks a column, or has another label.
        OSError: if a source cannot be read.
    """
    found = []
    for source in sources:
        for row in read_rows(source):
            value = row.fields.get(label)
            if not isinstance(row.fields.get(text), str) or value not in (0, 1):
                raise ValueError(
                    f"{row.where} has no text in column {text!r} or no label 0 or 1 in column "
                    f"{label!r}; it has {', '.join(row.fields)}. Name the columns."
                )
            found.append(Labelled(row.fields[text], bool(value)))
    return found


def sentiment(name: str, folder: str, *, whole: bool) -> Sentiment:
    """A classifier as reward.

    Args:
        name: of the reward.
        folder: that ``train_classifier`` has written.
        whole: whether the prompt is part of the text that is classified.

    Raises:
        ValueError: if the folder does not hold one.
        OSError: if a file cannot be read.
    """
    return Sentiment(name, read(Path(folder)), whole)
