"""The campaigns of active preference learning are the paper's, planned first, and rehearsed."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.llm.full_scale import active_imdb, active_tldr, campaign
from experiments.llm.full_scale.campaign import Options, Study, main, run, write_prompts
from experiments.llm.full_scale.campaign_plan import contests_of, plan, rounds_of
from llm.active import ACQUISITIONS, Active
from llm.active.pool import facts_of, pool_files
from llm.data.sources import Row
from llm.devices import DEVICES
from llm.inputs import read_tokenizer
from llm.journal import read_lines
from llm.model.architecture import architecture_from_config
from llm.rewards.classifier import Labelled, train_classifier
from tests.llm.tiny_runs import compilation_cache, write_model, write_rows

IMDB, TLDR = active_imdb.STUDY, active_tldr.STUDY
STUDIES = pytest.mark.parametrize("study", (IMDB, TLDR), ids=lambda study: study.name)

# Section and appendix of the paper, as its authors' scripts have them.
PAPER = {
    "model": ("edbeeching/gpt2-large-imdb", "pvduy/pythia-1B-sft-summarize-tldr"),
    "reward": ("judge:gpt-4-1106-preview", "judge:gpt-4-1106-preview"),
    "rewards.judge.temperature": (0.05, 0.05),
    "labels": (128, 128),
    "rounds": (6, 4),
    "epochs": (50, 70),
    "batch": (64, 64),
    "restart": (True, True),
    "learn": ("all", "all"),
    "objective.beta": (0.2, 0.2),
    "optimizer.name": ("adamw", "adamw"),
    "optimizer.weight_decay": (0, 0),
    "optimizer.learning_rate": (1e-6, 1e-6),
    "optimizer.schedule": ("constant", "constant"),
    "optimizer.warmup": (0, 0),
    "optimizer.clip_norm": (float("inf"), float("inf")),
    "adapters.rank": (0, 0),
    "pool.pairs": (32, 16),
    "pool.prompts": (8, 4),
    "pool.samples": (8, 8),
    "pool.temperature": (0.7, 0.7),
    "pool.shortest": (16, None),
    "sampling.max_new_tokens": (24, 128),
    "contest.prompts": (1024, 1024),
    "contest.temperature": (0.25, 0.25),
    "contest.every": (1, 1),
    "contest.against": ("initial", "dataset"),
}
ONLINE = {
    "reward": None,
    "labels": 64,
    "rounds": 200,
    "epochs": 1,
    "restart": False,
    "learn": "newest",
    "pool.pairs": 8,
    "contest.every": 10,
}


def value(settings: Active, path: str) -> object:
    """A field of settings by its path."""
    found = settings
    for name in path.split("."):
        found = getattr(found, name)
    return found


def review(row: int) -> str:
    """A review that is long enough."""
    return f"review {row}: " + "a film like no other. " * 12


def post(row: int, forum: str = "relationships") -> dict[str, str]:
    """A post that is neither short nor long, with a summary."""
    asked = f"SUBREDDIT: r/{forum}\nTITLE: {row}\nPOST: {'why. ' * 40}\nTL;DR:"
    return {"prompt": f"{asked}  ", "label": f" because {row} \n"}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A tiny model, both data sets under the last part of their Hub names, and a classifier."""
    folder = tmp_path_factory.mktemp("hub")
    write_model(folder / "model", max_position_embeddings=1024)
    for name in ("imdb", "openai_summarize_tldr"):
        (folder / "data" / name).mkdir(parents=True)
    for split, many in (("train", 20), ("test", 8)):
        reviews = [{"text": "short", "label": 0}, *({"text": review(r)} for r in range(many))]
        write_rows(folder / "data/imdb" / f"{split}.jsonl", reviews)
        posts = [post(0, "tifu"), *(post(row) for row in range(many))]
        write_rows(folder / "data/openai_summarize_tldr" / f"{split}.jsonl", posts)
    texts = [Labelled(f"{word} film", word == "good") for word in ("good", "bad") for _ in "1234"]
    train_classifier(texts, texts, folder / "classifier")
    return folder


def options(study: Study, here: Path, out: Path, **changes) -> Options:
    """Of a rehearsal with nothing of the network."""
    given = {
        "model": str(here / "model"),
        "data": here / "data",
        "out": out,
        "device": "cpu",
        "rehearse": True,
        "reward": "regex:[!-~]",
        "optimizer": dataclasses.replace(study.settings.optimizer, learning_rate=1e-2),
    }
    return dataclasses.replace(study.options(), **given | changes)


def said(study: Study, asked: Options) -> str:
    """What a run prints."""
    console = Console(width=200, record=True, highlight=False)
    run(study, asked, console)
    return console.export_text()


@pytest.fixture
def alone(monkeypatch) -> None:
    """No network and no key."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", PAPER)
def test_the_settings_are_the_papers(path):
    assert (value(IMDB.settings, path), value(TLDR.settings, path)) == PAPER[path]
    assert IMDB.online is not None and TLDR.online is None
    assert value(IMDB.online, path) == ONLINE.get(path, PAPER[path][0])


def test_the_sources_are_the_papers():
    assert (IMDB.data, TLDR.data) == ("stanfordnlp/imdb", "CarperAI/openai_summarize_tldr")
    cuts = active_imdb.CHARACTERS, active_imdb.SHORTEST, active_imdb.LONGEST
    assert cuts == (200, 8, 16)
    assert (active_tldr.SHORTER, active_tldr.LONGER) == (200, 1000)
    assert set(active_tldr.LEFT_OUT) == {"offmychest", "tifu"}


def test_the_command_line_changes_nothing_that_it_is_not_told(tmp_path):
    for study in (IMDB, TLDR):
        asked = dataclasses.replace(study.options(), out=tmp_path)
        found = campaign.settings_of(study, asked, campaign.place_of(study, asked))
        assert all(value(found, path) == value(study.settings, path) for path in PAPER)


@pytest.mark.parametrize(
    ("study", "name", "sizes"),
    [
        # prompts, responses for their entropy, pairs: over_generate and over_sample times 128
        (IMDB, "random", (128, 0, 128)),
        (IMDB, "certainty", (4096, 0, 4096)),
        (IMDB, "entropy", (1024, 8192, 128)),
        (IMDB, "hybrid", (32768, 262144, 4096)),
        (TLDR, "certainty", (2048, 0, 2048)),
        (TLDR, "entropy", (512, 4096, 128)),
        (TLDR, "hybrid", (8192, 65536, 2048)),
    ],
)
def test_pools_are_as_large_as_the_papers(study, name, sizes):
    rounds = rounds_of(name, study.settings)
    assert all((one.prompts, one.sampled, one.pairs) == sizes for one in rounds[1:])
    assert rounds[0].pairs == 128  # in the first round nobody believes anything
    assert [one.labels for one in rounds] == [128 * n for n in range(1, len(rounds) + 1)]
    assert [one.steps for one in rounds] == [
        round(study.settings.epochs) * one.labels // 64 for one in rounds
    ]


def test_contests_are_counted_as_they_are_held():
    online = IMDB.online
    assert online is not None
    assert (contests_of(IMDB.settings), contests_of(TLDR.settings)) == (7, 5)
    assert contests_of(online) == 21
    assert contests_of(dataclasses.replace(online, rounds=15)) == 3
    assert contests_of(dataclasses.replace(online, reward="person")) == 0


@STUDIES
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_dry_run_needs_no_network_and_writes_nothing(study, name, tmp_path, alone):
    asked = dataclasses.replace(
        study.options(), acquisition=name, dry_run=True, device="h100", out=tmp_path / "out"
    )
    text = said(study, asked)
    assert "1 x H100" in text and "is not there" not in text and "is assumed" in text
    assert f"{study.settings.model}, float32" in text and f"{name}: " in text
    assert study.settings.rewards.judge.criterion[:60] in text
    questions = study.settings.rounds * 128 + contests_of(study.settings) * 1024
    assert f"{questions:,} of about" in text and "price        not known" in text
    assert "peak memory" in text and "fits 1 x H100" in text
    assert "Before it can start" in text
    assert not (tmp_path / "out").exists()


def test_the_online_variant_wants_a_classifier(here, tmp_path, alone):
    asked = dataclasses.replace(
        IMDB.options(), online=True, device="h200", dry_run=True, out=tmp_path / "out"
    )
    text = said(IMDB, asked)
    assert "2 to 200, each" in text and "200 rounds of 64 labels" in text
    assert "nobody yet, 12,800 pairs" in text and "questions" not in text
    assert "Before it can start: the authors' oracle" in text
    judged = dataclasses.replace(asked, reward=f"classifier-whole:{here / 'classifier'}")
    assert "Before it can start" not in said(IMDB, judged)
    with pytest.raises(ValueError, match="modeseek classifier"):
        said(IMDB, dataclasses.replace(asked, dry_run=False))
    with pytest.raises(ValueError, match="variant of IMDB"):
        said(TLDR, dataclasses.replace(TLDR.options(), online=True, dry_run=True))


@STUDIES
def test_a_judge_without_key_or_cap_is_refused_at_once(study, tmp_path, alone, monkeypatch):
    asked = dataclasses.replace(study.options(), device="h200", out=tmp_path / "out")
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        said(study, asked)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(ValueError, match=r"--rewards\.judge\.max-cost with .*price-in"):
        said(study, asked)
    assert not (tmp_path / "out").exists()


def test_prices_make_a_price_and_caps_that_are_too_low_are_said(capsys, tmp_path, alone):
    line = ["--dry-run", "--device", "h200", "--out", str(tmp_path)]
    prices = ["--rewards.judge.price-in", "10", "--rewards.judge.price-out", "30"]
    main(IMDB, ["hybrid", *line, *prices, "--rewards.judge.max-cost", "5"])
    text = " ".join(capsys.readouterr().out.split())
    # 7,936 questions: 60 tokens of an answer are 14.28 dollars, what is read comes on top.
    price = float(text.split("price about ")[1].split(" dollars")[0])
    assert 14.28 + 7.936 < price < 14.28 + 7.936 * 4
    assert "--rewards.judge.max-cost 5 will stop it before" in text
    main(IMDB, [*line, *prices, "--rewards.judge.max-calls", "100"])
    assert "--rewards.judge.max-calls 100 will stop it" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["certainly"], "certainly.*certainty"),
        (["disagreement"], r"give --adapters\.rank"),
        (["--reward", "golden"], "no reward 'golden'"),
        (["--reward", "classifier-whole:nowhere"], "there is no nowhere"),
        (["--model", "nowhere"], "is no folder"),
    ],
)
def test_bad_input_is_one_red_line(line, message, capsys, tmp_path, alone):
    with pytest.raises(SystemExit, match="2"):
        main(IMDB, [*line, "--device", "h200", "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert told.startswith("active_imdb:") and len(told.splitlines()) == 1
    assert re.search(message, told)
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_is_refused_before_anything_is_read(tmp_path, alone):
    asked = dataclasses.replace(IMDB.options(), device="v5e", devices=1, dry_run=True, out=tmp_path)
    with pytest.raises(ValueError, match=r"needs \d+ GiB on each of 1 x TPU v5e"):
        said(IMDB, asked)


def test_fewer_prompts_than_a_contest_has_are_refused_once_they_are_counted(here, tmp_path):
    asked = options(IMDB, here, tmp_path, rehearse=False, device="h200")
    with pytest.raises(ValueError, match="20 prompts and 8 held out"):
        said(IMDB, asked)
    assert not list(tmp_path.glob("active_imdb/*/metrics.jsonl"))


def test_an_ensemble_learns_and_reads_as_often_as_it_has_members():
    architecture = architecture_from_config(IMDB.config)
    adapted = dataclasses.replace(
        IMDB.settings, adapters=dataclasses.replace(IMDB.settings.adapters, rank=8)
    )
    one, three = (
        plan(name, adapted, IMDB.assumed, architecture, DEVICES["h200"], 1)
        for name in ("certainty", "disagreement")
    )
    assert three.estimate.steps == 3 * one.estimate.steps
    assert [a.read for a in three.rounds[1:]] == [3 * b.read for b in one.rounds[1:]]


@pytest.mark.shared
def test_reviews_become_prompts_of_the_models_own_tokens(shared):
    tokenizer = read_tokenizer(shared / "tokenizers/gpt2")
    texts = [review(row) for row in range(900)] + ["x" * 200, "… “über” — naïve Œuvre 映画 " * 20]
    rows = [Row({"text": text}, f"row {n}") for n, text in enumerate(texts)]
    prompts = [row["prompt"] for row in active_imdb.prompts_of(rows, tokenizer)]
    assert 880 < len(prompts) <= 901 and not any(prompt.startswith("xx") for prompt in prompts)
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    assert set(lengths) == set(range(8, 17))
    assert np.mean(lengths) == pytest.approx(12, abs=0.4)
    assert prompts == [row["prompt"] for row in active_imdb.prompts_of(rows, tokenizer)]
    assert all(texts[n].startswith(prompt) for n, prompt in enumerate(prompts[:100]))


def test_posts_are_chosen_by_length_and_forum_and_end_without_a_space():
    made = [
        post(1),
        post(2, "TIFU"),
        post(3, "offmychest"),
        post(4) | {"prompt": "SUBREDDIT: r/a\n" + "x" * 185},  # 200 characters
        post(5) | {"prompt": "SUBREDDIT: r/a\n" + "x" * 186},
        post(6) | {"prompt": "SUBREDDIT: r/a\n" + "x" * 984},
        post(7) | {"prompt": "SUBREDDIT: r/a\n" + "x" * 985},  # 1,000
        post(8) | {"label": "  \n"},
    ]
    rows = [Row(dict(fields), f"row {n}") for n, fields in enumerate(made, 1)]
    found = active_tldr.prompts_of(rows, None)
    assert [row["completion"] for row in found] == [" because 1", " because 5", " because 6"]
    assert found[0]["prompt"] == made[0]["prompt"].rstrip(" ")
    with pytest.raises(ValueError, match=r"row 9 has no text in column 'label'; it has prompt"):
        active_tldr.prompts_of([Row({"prompt": "p"}, "row 9")], None)
    with pytest.raises(ValueError, match=r"row 1 has no text in column 'text'"):
        active_imdb.prompts_of(rows, None)


def test_prompts_are_written_measured_and_kept_to_their_model(here, tmp_path):
    asked = options(TLDR, here, tmp_path, rehearse=False)
    place = campaign.place_of(TLDR, asked)
    settings = dataclasses.replace(
        TLDR.settings, contest=dataclasses.replace(TLDR.settings.contest, prompts=5)
    )
    tokenizer = read_tokenizer(here / "model")
    facts = write_prompts(TLDR, settings, place, tokenizer, lambda _: None)
    assert facts == campaign.read_facts(TLDR, place) and facts.measured
    assert (facts.train, facts.held_out) == (20, 5)  # the post in r/tifu is left out
    rows = [
        json.loads(line)
        for name in ("prompts", "held_out")
        for line in (tmp_path / f"data/active_tldr/{name}.jsonl").read_text().splitlines()
    ]
    # One token per byte; a response has its end too.
    assert facts.longest == max(len(row["prompt"]) for row in rows)
    said = [len(row["completion"]) + 1 for row in rows[:20]]
    assert facts.response_tokens == pytest.approx(np.mean(said))
    other = dataclasses.replace(place, model="elsewhere")
    with pytest.raises(ValueError, match=r"were made with .*model of .*elsewhere.*another --out"):
        campaign.read_facts(TLDR, other)


def rehearse(study: Study, here: Path, out: Path, **changes) -> str:
    """Two small rounds, on this machine."""
    with compilation_cache(here / "compiled"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODESEEK_CACHE", str(here / "cache"))
        return said(study, options(study, here, out, **changes))


@pytest.mark.slow
def test_a_rehearsal_writes_what_its_plan_says_and_then_is_complete(here, tmp_path):
    asked = options(IMDB, here, tmp_path, acquisition="hybrid", seed=3)
    text = rehearse(IMDB, here, tmp_path, acquisition="hybrid", seed=3)
    folder = tmp_path / "rehearsal/active_imdb/hybrid-3"
    settings = campaign.settings_of(IMDB, asked, campaign.place_of(IMDB, asked))
    assert settings.out == folder and (folder / "model/config.json").is_file()
    assert "20 prompts of 21 rows of stanfordnlp/imdb, split train" in text
    first = {facts_of(path)["round"]: facts_of(path) for path in reversed(pool_files(folder))}
    for number, one in enumerate(rounds_of("hybrid", settings)):
        assert first[number]["prompts"] == one.prompts
        assert first[number]["written"] == one.sampled + 2 * one.pairs
    lines = read_lines(folder / "metrics.jsonl")
    rounds = [line for line in lines if line["kind"] == "round"]
    assert [line["labels"] for line in rounds] == [4, 8]
    steps = np.cumsum([one.steps for one in rounds_of("hybrid", settings)]).tolist()
    assert [line["step"] for line in rounds] == steps
    evals = [line for line in lines if line["kind"] == "eval"]
    assert len(evals) == contests_of(settings) == 3
    assert "This run is complete" in rehearse(IMDB, here, tmp_path, acquisition="hybrid", seed=3)


@pytest.mark.slow
def test_a_rehearsal_of_summaries_is_compared_with_peoples(here, tmp_path):
    text = rehearse(TLDR, here, tmp_path, acquisition="certainty", gold="min-length")
    assert "regex:[!-~], 8 pairs" in text and "min-length, 12 pairs at most" in text
    folder = tmp_path / "rehearsal/active_tldr/certainty-0"
    evals = [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "eval"]
    # People's summaries have more bytes than the eight that a rehearsal may write.
    assert [line["win_rate"] for line in evals] == [1.0, 1.0, 1.0]
    assert {line["rival_reward"] for line in evals} == {-float(len(" because 1"))}


def test_a_rehearsal_of_the_online_variant_uses_labels_once(here, tmp_path):
    reward = f"classifier-whole:{here / 'classifier'} + 0.001*regex:[!-~]"
    rehearse(IMDB, here, tmp_path, online=True, acquisition="random", reward=reward)
    folder = tmp_path / "rehearsal/active_imdb/online-random-0"
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "round"] == [2, 4]
