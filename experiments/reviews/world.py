"""The world of film reviews: a decoder that has read IMDB, and judges of sentiment.

Active Preference Learning begins from a model that continues reviews, and its oracle says which of
two continuations is the more positive. Both are made here from the reviews alone, so the experiment
needs neither a network nor anybody's weights: a small decoder is pre-trained on the reviews by
supervised fine-tuning from random weights, and a linear classifier of the labelled ones is the
oracle. Because it was trained on people's verdicts and costs nothing to ask, it can judge every
pair, and a *small* one that has read few reviews is a judge with systematic mistakes.

Whatever a number is measured on comes from the test reviews, whatever is learned from does not.

Source: Muldrew et al. 2024, arXiv:2402.08114. Reviews: Maas et al. 2011.
Differs: the model is not gpt2-large-imdb (774M) but made here. Each ``<br />`` and each run of
white space is one space. The judge is not GPT-4 but the classifier's log-odds. Where more prompts
are asked for than there are labelled training reviews, they come from the unlabelled ones as well.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments.llm.study import keep, kept, statements
from experiments.results import Size, atomically
from llm.cache import cache_folder
from llm.checkpoints.folders import open_weights
from llm.checkpoints.write import save_model
from llm.data.examples import DataSettings, Example, PackingSettings
from llm.data.rendering import encode, tokenize
from llm.data.sources import read_rows
from llm.embedded.pretrain import Pretraining, architecture_of, initial_decoder
from llm.embedded.tokenizer import train_tokenizer
from llm.finetune import finetune
from llm.inputs import read_tokenizer
from llm.intervals import Estimate, share
from llm.journal import METRICS, read_lines
from llm.model.architecture import config_from_architecture
from llm.rewards.classifier import ClassifierSettings, Labelled, train_classifier
from llm.rewards.classifier import read as read_classifier
from llm.settings import OFFLINE_RECIPES, LogSettings, OptimizerSettings, SaveSettings, Training
from llm.state import MODEL

IMDB, HUB = "MODESEEK_IMDB", "stanfordnlp/imdb"
"""The environment variable that names a folder of reviews, and where they are without it."""

TRAIN, TEST, UNLABELLED = "train", "test", "unsupervised"
FILES = {
    TRAIN: ("train_pos", "train_neg"),
    TEST: ("test_pos", "test_neg"),
    UNLABELLED: ("train_unsup",),
}
"""Names of the files of each split, in a folder."""

CHARACTERS = 200
"""A review that a prompt is taken from is longer than this."""
SHORTEST, LONGEST = 8, 16
"""Tokens of a prompt, without BOS: uniform between these, both included."""

TOKENIZER_REVIEWS = 10_000
"""Reviews that the vocabulary is learned from."""
HELD_OUT_TEXTS = 1024
"""Texts of test reviews that the model's loss is measured on."""
STRIDE = 0.75
"""Words from where one text of a review begins to where the next does, per token that is read:
English takes about 1.4 tokens a word with the largest vocabulary here, so hardly a word is
missed."""

SHORT = 32
"""Words of the beginnings that judges are also measured on: about as many as a prompt with its
completion has."""

JUDGE = ClassifierSettings(inverse_penalty=2.0)
"""How a judge is trained: on each review whole and in pieces of ``SHORT`` words, which have its
label. With 25,000 reviews it is right on 90.7 % of the test reviews and on 76.7 % of their first 32
words; trained on whole reviews alone, by the usual settings, on 90.9 % and 74.7 %; on reviews whole
and their first 32 words, on 90.1 % and 75.4 %."""

# Seeds of draws that have nothing to do with each other.
TOKENIZER_SEED, TEXTS_SEED, PROMPTS_SEED, JUDGE_SEED = 1, 2, 3, 4

REPORT, JUDGED = "report.json", "judged.json"
"""In a model's folder, how it was made and how good it is; in a judge's, how often it is right."""


@dataclass(frozen=True, kw_only=True)
class Reviews:
    """The size of the world of reviews.

    Attributes:
        model: the decoder and how it is pre-trained; its batch counts texts.
        length: tokens of a text that the model reads at a time, BOS included.
        beginnings: whether only beginnings of reviews are read, which is all a small model has the
            time for, or all of each, a text after the other.
        prompts: for training; fewer where there are fewer.
        held_out: prompts for evaluation.
        judge: labelled reviews that the judge has read.
        small_judge: labelled reviews that the small judge has read.
    """

    model: Pretraining
    length: int
    beginnings: bool
    prompts: int
    held_out: int
    judge: int = 25_000
    small_judge: int = 1_000

    def __post_init__(self) -> None:
        if not 2 <= self.length <= self.model.context:
            raise ValueError(
                f"length is {self.length} and the model's context {self.model.context}; a text "
                "needs 2 tokens or more, and at most as many as the context."
            )


QUICK = Reviews(
    model=Pretraining(
        vocabulary=1024, width=32, layers=1, heads=2, mlp_width=88, context=64, steps=120
    ),
    length=48,
    beginnings=True,
    prompts=512,
    held_out=64,
    judge=2_000,
    small_judge=500,
)
DEFAULT = Reviews(
    model=Pretraining(
        vocabulary=2048, width=96, layers=3, heads=4, mlp_width=256, context=64, steps=2200
    ),
    length=48,
    beginnings=True,
    prompts=25_000,
    held_out=512,
)
FULL = Reviews(
    model=Pretraining(
        vocabulary=4096, width=128, layers=4, heads=4, mlp_width=352, context=64, steps=2200
    ),
    length=48,
    beginnings=True,
    prompts=75_000,
    held_out=1024,
)


@dataclass(frozen=True)
class Judge:
    """A classifier that says how positive a text is.

    Attributes:
        folder: of the classifier, for the reward ``classifier:FOLDER``.
        accuracy: share of the test reviews whose label it finds.
        short_accuracy: the same where it is shown only the first 32 words of each.
        texts: labelled reviews that it has read.
    """

    folder: Path
    accuracy: Estimate
    short_accuracy: Estimate
    texts: int


def reviews_of(size: Size) -> Reviews:
    """The world at a size: quick to see that it works, full for a GPU."""
    return size.choose(QUICK, DEFAULT, FULL)


def source() -> str:
    """Where the reviews are: the folder that the environment names, else a data set of the Hub."""
    return os.environ.get(IMDB) or HUB


def read_reviews(split: str) -> Sequence[Labelled]:
    """All reviews of a split, in an order that does not depend on where they come from.

    Raises:
        OSError: if they cannot be read.
    """
    return read_split(source(), split)


@cache
def read_split(place: str, split: str) -> tuple[Labelled, ...]:
    """The same from a folder or the Hub; kept, because a world asks for its reviews repeatedly."""
    path = Path(place).expanduser()
    if path.is_dir():
        files = [path / f"{name}.jsonl.gz" for name in FILES[split]]
        rows = [row for file in files for row in read_rows(str(file))]
    else:
        rows = read_rows(place, split=split)
    found = (Labelled(plain(r.fields["text"]), r.fields["label"] == 1) for r in rows)
    return tuple(sorted(found))


def plain(text: str) -> str:
    """A review without its line breaks."""
    return " ".join(text.replace("<br />", " ").split())


def folder(reviews: Reviews) -> Path:
    """Where everything of a world of this size and this code is kept."""
    return cache_folder() / "study" / "reviews" / fingerprint(asdict(reviews))


def fingerprint(value: Any) -> str:
    """What tells one thing made here from another: its size, and the statements of this file."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    digest.update(statements(Path(__file__).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a file of JSON lines, whole or not at all."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomically(path, lambda temporary: temporary.write_text(lines, encoding="utf-8"))


def reference(reviews: Reviews, *, show: bool = False) -> Path:
    """The model that has read the reviews, pre-trained if there is none yet.

    A run that was killed goes on where it was, and the model has its name only once it is whole.

    Args:
        reviews: the size of everything.
        show: whether to say on the console how it goes.

    Returns:
        A Hugging Face folder with weights, config, tokenizer and ``report.json``: nats per token
        on texts of test reviews, parameters, texts it has read, seconds it took (since the last
        start, if it was killed in between).
    """
    place = folder(reviews)
    model, unfinished = place / "model", place / "unfinished"
    if not model.exists():
        os.replace(pretrain(reviews, unfinished, show=show), model)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    return model


def pretrain(reviews: Reviews, place: Path, *, show: bool) -> Path:
    """Train a tokenizer and a decoder from nothing.

    Args:
        reviews: the size of everything.
        place: folder for all that the run needs and leaves.
        show: whether to say on the console how it goes.

    Returns:
        The model's folder, inside.
    """
    began = time.monotonic()
    start, texts, held_out = place / "start", place / "texts.jsonl", place / "held-out.jsonl"
    if not start.exists():  # it is made last
        tested = texts_of(reviews, [review.text for review in read_reviews(TEST)])
        write_rows(held_out, ({"text": text} for text in tested[:HELD_OUT_TEXTS]))
        read = [review.text for split in (TRAIN, UNLABELLED) for review in read_reviews(split)]
        many = reviews.model.batch * reviews.model.steps
        write_rows(texts, ({"text": text} for text in texts_of(reviews, read)[:many]))
        write_initial(reviews.model, read, start)
    out = finetune("sft", OFFLINE_RECIPES["sft"], training(reviews, place), Console(quiet=not show))
    looks = [line for line in read_lines(out / METRICS) if line["kind"] == "eval"]
    tensors = open_weights(out / MODEL)[0]
    with texts.open(encoding="utf-8") as lines:
        different = sum(1 for _ in lines)
    report = {
        "held_out_nats_per_token": looks[-1]["loss"],
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "texts": different,
        "seconds": round(time.monotonic() - began, 1),
    }
    keep(out / MODEL / REPORT, report)
    return out / MODEL


def training(reviews: Reviews, place: Path) -> Training:
    """The run that reads the texts.

    Texts longer than the model reads at a time lose their end, and with it EOS: only where a review
    ends does its text.
    """
    how = reviews.model
    return Training(
        model=str(place / "start"),
        data=str(place / "texts.jsonl"),
        out=place / "run",
        steps=how.steps,
        batch=how.batch,
        seed=how.seed,
        show=0,
        optimizer=OptimizerSettings(
            learning_rate=how.learning_rate, warmup=how.warmup, schedule="linear", beta2=0.99
        ),
        reading=DataSettings(max_length=reviews.length, eval_source=str(place / "held-out.jsonl")),
        # Rows that one text fills, and as many as a step has texts: no padding, and no step is cut.
        packing=PackingSettings(
            max_tokens=how.batch * reviews.length, row_length=reviews.length, shapes=1
        ),
        log=LogSettings(every=max(how.steps // 20, 1)),
        save=SaveSettings(every=max(how.steps // 4, 1), keep=1),
    )


def texts_of(reviews: Reviews, read: Sequence[str]) -> list[str]:
    """What the model can read of reviews, a text at a time, shuffled.

    A text has as many words as the model reads tokens, so it ends early, and is ended by EOS, only
    where its review does.
    """
    stride = round(STRIDE * reviews.length)
    found = []
    for review in read:
        words = review.split()
        starts = range(0, 1 if reviews.beginnings else len(words), stride)
        found += [" ".join(words[start : start + reviews.length]) for start in starts if words]
    order = np.random.default_rng(TEXTS_SEED).permutation(len(found))
    return [found[i] for i in order.tolist()]


def write_initial(how: Pretraining, read: Sequence[str], path: Path) -> None:
    """A tokenizer learned from some of the reviews, and a decoder with random weights.

    Args:
        how: the model's size and seed.
        read: the reviews.
        path: the folder to make, whole or not at all.
    """
    generator = np.random.default_rng(TOKENIZER_SEED)
    order: list[int] = generator.permutation(len(read))[:TOKENIZER_REVIEWS].tolist()
    tokenizer = train_tokenizer((read[i] for i in order), how.vocabulary)
    architecture = architecture_of(how, len(tokenizer))
    config = config_from_architecture(architecture) | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    decoder = initial_decoder(architecture, how)
    save_model(path, decoder, config=config, tokenizer=tokenizer, overwrite=True)


def prompts_file(reviews: Reviews, held_out: bool = False) -> Path:
    """Beginnings of reviews for a policy to continue, one a line; made if they are missing.

    Args:
        reviews: the size of everything.
        held_out: whether those of test reviews, to evaluate with.
    """
    path = folder(reviews) / ("held-out-prompts.jsonl" if held_out else "prompts.jsonl")
    if not path.exists():
        tokenizer = read_tokenizer(reference(reviews))
        many = reviews.held_out if held_out else reviews.prompts
        found = read_reviews(TEST if held_out else TRAIN)
        if not held_out and many > len(found):
            found = [*found, *read_reviews(UNLABELLED)]
        prompts = prompts_of([review.text for review in found], tokenizer, many)
        write_rows(path, ({"prompt": prompt} for prompt in prompts))
    return path


def prompts_of(found: Sequence[str], tokenizer: Any, many: int) -> list[str]:
    """The beginnings of reviews, in random order, each of 8 to 16 tokens.

    A beginning whose text has other tokens, because it was cut within a character or where the
    tokenizer would not have cut, is left out: the policy is given the text.

    Args:
        found: the reviews.
        tokenizer: the model's.
        many: how many at most.
    """
    generator = np.random.default_rng(PROMPTS_SEED)
    order: list[int] = generator.permutation(len(found)).tolist()
    begun = [found[i][:CHARACTERS] for i in order if len(found[i]) > CHARACTERS]
    begun = begun[: 2 * many]  # hardly one in a thousand is left out below
    lengths = generator.integers(SHORTEST, LONGEST, size=len(begun), endpoint=True)
    cut = [
        ids[:length]
        for ids, length in zip(encode(tokenizer, begun), lengths.tolist(), strict=True)
        if len(ids) >= length
    ]
    texts = tokenizer.batch_decode(cut, clean_up_tokenization_spaces=False)
    examples = [Example(text, (), (), f"prompt {number}") for number, text in enumerate(texts)]
    groups = tokenize(examples, tokenizer, DataSettings(), prompts_only=True)
    bos = tokenizer.bos_token_id
    same = [
        text
        for text, ids, group in zip(texts, cut, groups, strict=True)
        if group.prompt.tolist() == [bos, *ids]
    ]
    return same[:many]


def judge(reviews: Reviews, small: bool = False) -> Judge:
    """A judge of sentiment, trained if there is none yet.

    Args:
        reviews: the size of everything; of it a judge depends on its own number of reviews alone.
        small: whether the one that has read few.
    """
    many = reviews.small_judge if small else reviews.judge
    place = cache_folder() / "study" / "reviews" / "judges" / fingerprint(many)
    found = kept(place / JUDGED)
    if found is None:
        found = train_judge(many, place)
        keep(place / JUDGED, found)
    accuracies = {name: Estimate(**found[name]) for name in ("accuracy", "short_accuracy")}
    return Judge(folder=place, texts=found["texts"], **accuracies)


def train_judge(many: int, place: Path) -> dict[str, Any]:
    """Train a judge and measure how often it is right.

    Args:
        many: labelled reviews to read; fewer where there are fewer.
        place: folder to write the classifier to.
    """
    labelled, test = read_reviews(TRAIN), read_reviews(TEST)
    order = np.random.default_rng(JUDGE_SEED).permutation(len(labelled))[:many]
    read = [
        Labelled(text, labelled[i].positive)
        for i in order
        for text in (labelled[i].text, *pieces(labelled[i].text))
    ]
    trained = train_classifier(read, test, place, JUDGE)
    classifier = read_classifier(place)
    right = [(classifier.log_odds(pieces(text)[0]) > 0) == positive for text, positive in test]
    short_accuracy = share(np.array(right, np.float64), np.arange(len(right)))
    return {
        "accuracy": trained.accuracy._asdict(),
        "short_accuracy": short_accuracy._asdict(),
        "texts": len(order),
    }


def pieces(text: str) -> list[str]:
    """A review in pieces of as many words as the judge will be shown, the last one shorter."""
    words = text.split()
    return [" ".join(words[at : at + SHORT]) for at in range(0, len(words), SHORT)] or [""]
