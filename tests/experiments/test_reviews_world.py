"""The world of reviews learns from training reviews and is measured on others."""

import gzip
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from experiments.results import Size
from experiments.reviews import world as reviews
from experiments.reviews.world import Reviews
from llm.data.examples import DataSettings, Example
from llm.data.rendering import tokenize
from llm.embedded.pretrain import Pretraining
from llm.embedded.tokenizer import train_tokenizer
from llm.inputs import read_tokenizer
from llm.rewards.classifier import sentiment

TINY = Reviews(
    model=Pretraining(
        vocabulary=300, width=8, layers=1, heads=1, mlp_width=8, context=64, batch=4, steps=2
    ),
    length=16,
    beginnings=True,
    prompts=1000,
    held_out=3,
    judge=1000,
    small_judge=8,
)
EACH = 12
"""Reviews in a file."""


def written(split: str, number: int, positive: bool) -> str:
    """A review that says which split it is of, longer than a prompt's must be."""
    liking = "lovely warm clever" if positive else "dreadful dull clumsy"
    return f"{split}{number} says {liking} film.<br /><br />The  plot is {liking}. " * 6


@pytest.fixture
def imdb(tmp_path, monkeypatch):
    """A folder of reviews made up for the test, and a cache."""
    place = tmp_path / "imdb"
    place.mkdir()
    for name in (name for names in reviews.FILES.values() for name in names):
        split, kind = name.split("_")
        rows = [
            {
                "id": number,
                "rating": 0,
                "label": {"pos": 1, "neg": 0, "unsup": -1}[kind],
                "text": written("other" if kind == "unsup" else split, number, kind == "pos"),
            }
            for number in range(EACH)
        ]
        with gzip.open(place / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    monkeypatch.setenv(reviews.IMDB, str(place))
    monkeypatch.setenv("MODESEEK_CACHE", str(tmp_path / "cache"))
    return place


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def token_numbers(prompts, tokenizer):
    examples = [Example(prompt, (), (), prompt) for prompt in prompts]
    groups = tokenize(examples, tokenizer, DataSettings(), prompts_only=True)
    return [len(group.prompt) for group in groups]


def untouched(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_world_is_made_once_from_the_right_reviews(imdb, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(reviews, "finetune", spied(read, reviews.finetune))
    model = reviews.reference(TINY)
    files = [reviews.prompts_file(TINY), reviews.prompts_file(TINY, held_out=True)]
    judges = [reviews.judge(TINY), reviews.judge(TINY, small=True)]

    report = json.loads((model / reviews.REPORT).read_text())
    assert 0 < report["held_out_nats_per_token"] < 2 * np.log(300)
    assert report["texts"] == TINY.model.batch * TINY.model.steps
    assert sorted(path.name for path in model.parent.iterdir()) == sorted(
        ["model", *(file.name for file in files)]
    )

    (texts,) = read
    assert all("test" not in text and "<br" not in text for text in texts)
    training, held_out = ([row["prompt"] for row in lines(file)] for file in files)
    assert {prompt.rstrip("0123456789")[:3] for prompt in training} <= {"tra", "oth"}
    assert len(held_out) == TINY.held_out
    assert all(prompt.startswith("test") for prompt in held_out)
    # With BOS.
    numbers = token_numbers(training + held_out, read_tokenizer(model))
    assert min(numbers) >= 9 and max(numbers) <= 17

    assert [found.texts for found in judges] == [2 * EACH, 8]
    reward = sentiment("judge", str(judges[0].folder), whole=True).classifier
    assert reward.log_odds("a lovely film") > 0 > reward.log_odds("a dull film")
    assert judges[0].accuracy.value == judges[0].short_accuracy.value == 1.0
    assert judges[0].accuracy.units == 2 * EACH

    before = untouched(tmp_path / "cache")
    monkeypatch.setenv(reviews.IMDB, "no/such/folder")
    assert reviews.reference(TINY) == model
    assert [reviews.prompts_file(TINY), reviews.prompts_file(TINY, held_out=True)] == files
    assert [reviews.judge(TINY), reviews.judge(TINY, small=True)] == judges
    assert untouched(tmp_path / "cache") == before


def spied(read, finetune):
    """The trainer, noting what it is given to read."""

    def spying(name, recipe, settings, console):
        with open(settings.data, encoding="utf-8") as file:
            read.append([json.loads(line)["text"] for line in file])
        return finetune(name, recipe, settings, console)

    return spying


def test_what_a_killed_run_left_is_not_taken_for_whole(imdb, tmp_path, monkeypatch):
    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reviews, "finetune", killed)
        with pytest.raises(KeyboardInterrupt):
            reviews.reference(TINY)
        patch.setattr(reviews, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            reviews.judge(TINY)
    left = reviews.folder(TINY) / "unfinished"
    assert not (left.parent / "model").exists()
    begun = (left / "start" / "config.json").stat().st_mtime_ns

    with monkeypatch.context() as patch:
        # The report comes after the model: a run that ends between the two has no model either.
        patch.setattr(reviews, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            reviews.reference(TINY)
        assert not (left.parent / "model").exists()
        assert (left / "start" / "config.json").stat().st_mtime_ns == begun

    assert (reviews.reference(TINY) / reviews.REPORT).is_file()
    assert not left.exists()
    assert reviews.judge(TINY).accuracy.value == 1.0


def test_texts_are_whole_reviews_in_turn_or_their_beginnings():
    long, short = " ".join(f"w{n}" for n in range(40)), "only this"
    beginnings = reviews.texts_of(TINY, [long, short, ""])
    assert sorted(beginnings) == sorted([" ".join(long.split()[:16]), short])
    everything = reviews.texts_of(replace(TINY, beginnings=False), [long, short, ""])
    begins = {text.split()[0]: len(text.split()) for text in everything}
    assert begins == {"w0": 16, "w12": 16, "w24": 16, "w36": 4, "only": 2}


def test_prompts_whose_text_has_other_tokens_are_left_out():
    tokenizer = train_tokenizer([written(reviews.TRAIN, 0, True)], 300)
    strange = "\U0001f3ac" * 201  # four tokens each, so most cuts fall within one
    found = reviews.prompts_of([strange] * 64, tokenizer, 64)
    assert 0 < len(found) < 64
    assert set(token_numbers(found, tokenizer)) <= {9, 13, 17}


def test_every_size_and_every_number_of_reviews_has_a_place_of_its_own(imdb):
    sizes = [reviews.reviews_of(Size(name, 2)) for name in ("quick", "default", "full")]
    assert len({reviews.fingerprint(asdict(size)) for size in sizes}) == 3
    wider = replace(TINY, model=replace(TINY.model, width=16))
    assert reviews.judge(TINY) == reviews.judge(wider) != reviews.judge(replace(TINY, judge=9))


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="length is 65 and the model's context 64"):
        replace(TINY, length=65)


@pytest.mark.shared
def test_real_reviews_are_read_as_they_lie(shared, monkeypatch):
    monkeypatch.setenv(reviews.IMDB, str(shared / "data" / "imdb"))
    found = reviews.read_reviews(reviews.TEST)
    assert len(found) == 25_000 and sum(positive for _, positive in found) == 12_500
    assert not any("<br />" in text for text, _ in found)


def test_without_a_folder_the_reviews_are_those_of_the_hub(monkeypatch):
    monkeypatch.delenv(reviews.IMDB, raising=False)
    asked = []

    def rows(name, *, split):
        asked.append((name, split))
        return []

    monkeypatch.setattr(reviews, "read_rows", rows)
    reviews.read_split.cache_clear()
    assert reviews.read_reviews(reviews.UNLABELLED) == ()
    reviews.read_split.cache_clear()
    assert asked == [("stanfordnlp/imdb", "unsupervised")]
