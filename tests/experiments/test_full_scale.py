"""The paper's own runs are planned without a network, and rehearsed from end to end."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.llm.full_scale import alpacafarm, authors, lengths, ultrafeedback
from experiments.llm.full_scale.command import Options, main, run
from experiments.llm.full_scale.stages import Place, Study, choose
from llm.data.examples import Example
from llm.data.sources import read_examples
from tests.llm.tiny_runs import compilation_cache, write_model, write_rows

STUDIES = (alpacafarm.STUDY, lengths.STUDY, ultrafeedback.STUDY)
ASKED = "<|prompter|>do 0<|endoftext|><|assistant|>"


def farm(rows: int) -> list[dict[str, str]]:
    """Rows in AlpacaFarm's layout."""
    return [
        {"instruction": f"do {row}", "input": "x" * (row % 3), "output": "done " * (1 + row % 4)}
        for row in range(rows)
    ]


def labelled(rows: int, target: int | None = None) -> list[dict[str, str | float]]:
    """Rows in the layout of the authors' labels; with a target, the closer length is preferred."""
    rng, found = np.random.default_rng(0), []
    for row in range(rows):
        prompt = f"<|prompter|>do {row}<|endoftext|><|assistant|>"
        sizes = rng.choice(np.arange(2, 40), 2, replace=False).tolist()
        if target is not None:
            sizes.sort(key=lambda size: abs(size - target))
        first, second = (f"{prompt}{'a' * size}<|endoftext|>" for size in sizes)
        found.append(
            {"prompt": prompt, "y_ref": first, "y_1": second, "y_2": first, "y_w": first}
            | {"y_l": second, "y_w_score": 1.0, "y_l_score": 0.5, "score_diff": 0.5}
        )
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A tiny model, and the data sets under the last part of their Hub names."""
    folder = tmp_path_factory.mktemp("hub")
    write_model(folder / "model")
    data = folder / "data"
    for split, rows in (("sft", 12), ("unlabeled", 12), ("val", 8)):
        (data / "alpaca_farm").mkdir(parents=True, exist_ok=True)
        write_rows(data / "alpaca_farm" / f"{split}.jsonl", farm(rows))
    for task, name in authors.PAIRS.items():
        under = data / name.split("/")[-1]
        under.mkdir()
        target = {"mode": 17, "min": 0}.get(task)
        write_rows(under / "train.jsonl", [*labelled(20, target), labelled(1)[0] | {"y_w": ASKED}])
        write_rows(under / "test.jsonl", labelled(8, target))
    talk = [
        [{"role": "user", "content": f"do {row}"}, {"role": "assistant", "content": "ok" * row}]
        for row in range(1, 13)
    ]
    for name, splits, rows in (
        ("ultrachat_200k", ("train_sft", "test_sft"), [{"messages": turns} for turns in talk]),
        (
            "ultrafeedback_binarized",
            ("train_prefs", "test_prefs"),
            [
                {"chosen": t, "rejected": [t[0], {"role": "assistant", "content": "no"}]}
                for t in talk
            ],
        ),
    ):
        (data / name).mkdir()
        for split in splits:
            write_rows(data / name / f"{split}.jsonl", rows)
    return folder


def options(here: Path, out: Path, **changes) -> Options:
    given = {"model": str(here / "model"), "data": here / "data", "out": out, "device": "h200"}
    return Options(**given | changes)


def said(study: Study, asked: Options) -> str:
    """What a run prints."""
    console = Console(width=160, record=True, highlight=False)
    run(study, asked, console)
    return console.export_text()


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_dry_run_needs_no_network_and_writes_nothing(study, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    text = said(study, Options(dry_run=True, device="h200", devices=8, out=tmp_path / "out"))
    assert "8 x H200" in text and "the authors'" in text and "is assumed" in text
    assert "peak memory" in text and "to run" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_stages_have_names_of_their_own_and_read_only_earlier_ones(study, tmp_path):
    place = Place(model="m", data=None, out=tmp_path)
    before: set[str] = set()
    for stage in study.stages(place, study.assumed):
        assert stage.name not in before and set(stage.needs) <= before, stage.name
        assert stage.settings.out == tmp_path / stage.name
        before.add(stage.name)


def test_the_main_line_leaves_ablations_out_and_a_pattern_asks_for_them(tmp_path):
    place = Place(model="m", data=None, out=tmp_path)
    stages = alpacafarm.stages(place, alpacafarm.ASSUMED)
    names = [stage.name for stage in choose(stages, ())]
    assert names[:4] == ["sft", "alpaca/reward_model", "alpaca/pref_ft", "alpaca/dpo"]
    assert "alpaca/ppo" in names and not any("seed" in name for name in names)
    for stage in choose(stages, ("alpaca/batch/online_rwr/*",)):
        size = int(stage.name.split("/B")[1].split("-")[0])
        assert stage.recipe.collection.prompts == size
        assert stage.settings.batch * stage.recipe.reuse.minibatches == size
    passes = {s.recipe.reuse.inner_steps for s in choose(stages, ("alpaca/reuse/ppo/*",))}
    assert passes == {1, 2, 4, 8}
    with pytest.raises(ValueError, match=r"no stage 'dpo'; there are sft, alpaca/reward_model"):
        choose(stages, ("dpo",))


def test_a_stage_whose_model_nobody_makes_is_refused(here, tmp_path):
    with pytest.raises(ValueError, match=r"alpaca/dpo reads the model of sft.* --stage sft"):
        said(alpacafarm.STUDY, options(here, tmp_path / "out", stage=("alpaca/dpo",)))
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_is_refused_before_anything_is_read(tmp_path):
    asked = Options(device="h200", devices=1, dry_run=True, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"ultra/sft needs \d+ GiB on each of 1 x H200"):
        said(ultrafeedback.STUDY, asked)


def test_fewer_rows_than_a_step_takes_are_refused_once_they_are_counted(here, tmp_path):
    asked = options(here, tmp_path / "out", stage=("sft", "min/reward_model"))
    with pytest.raises(ValueError, match=r"min/reward_model takes steps of 32 prompts.* are 20"):
        said(lengths.STUDY, asked)
    assert not (tmp_path / "out" / "sft").exists()


def test_other_devices_than_those_here_are_for_plans_only(here, tmp_path):
    with pytest.raises(ValueError, match="--devices is 64, and a run uses all"):
        said(alpacafarm.STUDY, options(here, tmp_path, devices=64))


def test_a_gold_reward_that_is_none_is_refused_at_once(here, tmp_path):
    with pytest.raises(ValueError, match="golden"):
        said(alpacafarm.STUDY, options(here, tmp_path, gold="golden"))


def test_a_line_may_name_several_stages(capsys, tmp_path):
    line = ["--dry-run", "--device", "h200", "--out", str(tmp_path), "--stage", "sft"]
    main(alpacafarm.STUDY, [*line, "--stage", "alpaca/*_model"])
    assert "2 to run" in capsys.readouterr().out


def test_bad_input_is_one_red_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(alpacafarm.STUDY, ["--dry-run", "--device", "abacus"])
    assert capsys.readouterr().err.startswith("alpacafarm: there is no device 'abacus'")


def test_data_are_written_as_the_authors_write_a_conversation(here, tmp_path):
    place = Place(model=str(here / "model"), data=here / "data", out=tmp_path)
    facts = alpacafarm.write_data(place, lambda _: None)
    rows = [json.loads(line) for line in (tmp_path / "data/sft.jsonl").read_text().splitlines()]
    assert rows[0] == {"prompt": ASKED, "completion": "done "}
    assert rows[1]["prompt"] == "<|prompter|>do 1\nx<|endoftext|><|assistant|>"
    # One row has a blank response, and is left out as the authors do.
    assert (facts.demonstrations, facts.pairs, facts.prompts) == (12, 20, 12)
    pairs = read_examples(str(tmp_path / "data/alpaca/train.jsonl"))
    assert pairs[0].prompt == ASKED and set("".join(map(str, pairs[0].responses))) == {"a"}
    # One token per byte: mean prompt, and the mean response with its end.
    assert facts.prompt_tokens == np.mean([len(str(pair.prompt)) for pair in pairs])
    sizes = [len(str(response)) for pair in pairs for response in pair.responses]
    assert facts.response_tokens == pytest.approx(np.mean(sizes) + 1)


def test_the_preferred_length_is_read_off_the_labels(here):
    place = Place(model=str(here / "model"), data=None, out=here)
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(400):
        sizes = sorted(rng.integers(5, 60, 2).tolist(), key=lambda size: abs(size - 23))
        first, second = ("b" * size for size in sizes)
        pairs.append(Example("p", (first, second), (1.0, 0.0), "a"))
    target, agreement = authors.preferred_length(place, pairs)
    assert abs(target - 23) <= 1 and agreement > 0.98
    alike = [dataclasses.replace(pairs[0], responses=("aa", "bb"))]
    with pytest.raises(ValueError, match="equally long"):
        authors.preferred_length(place, alike)


def test_a_row_of_another_data_set_is_named(here, tmp_path):
    folder = tmp_path / "data" / "alpaca_farm"
    folder.mkdir(parents=True)
    write_rows(folder / "sft.jsonl", [{"prompt": "p"}])
    place = Place(model=str(here / "model"), data=tmp_path / "data", out=tmp_path)
    with pytest.raises(ValueError, match=r"sft\.jsonl:1 has no column 'instruction'"):
        authors.write_farm(place, lambda _: None)


def rehearse(study: Study, here: Path, out: Path, *stages: str) -> str:
    """Two small steps of some stages, on this machine."""
    asked = options(here, out, rehearse=True, device="cpu", stage=stages)
    with compilation_cache(here / "compiled"):
        return said(study, asked)


@pytest.mark.slow
def test_a_rehearsal_runs_every_stage_of_the_main_line_and_then_has_nothing_to_do(here, tmp_path):
    stages = ("sft", "min/reward_model", "min/pref_ft", "min/dpo", "min/online_dpo", "min/ppo")
    text = rehearse(lengths.STUDY, here, tmp_path, *stages)
    assert "lengths is complete" in text and "6 to run" in text
    for name in stages:
        assert (tmp_path / "rehearsal" / name / "model" / "config.json").is_file(), name
    assert "0 to run" in rehearse(lengths.STUDY, here, tmp_path, *stages)


@pytest.mark.slow
def test_a_rehearsal_of_ultrafeedback_uses_its_own_chat_template(here, tmp_path):
    assert "ultrafeedback is complete" in rehearse(ultrafeedback.STUDY, here, tmp_path)


def test_a_rehearsal_runs_a_stage_and_the_length_of_the_mode_is_measured(here, tmp_path):
    text = rehearse(lengths.STUDY, here, tmp_path, "sft")
    facts = json.loads((tmp_path / "rehearsal/data/lengths/facts.json").read_text())
    assert abs(facts["target"] - 17) <= 3 and facts["agreement"] > 0.9
    assert f"preferred length: {facts['target']} tokens" in text
    assert (tmp_path / "rehearsal/sft/model/config.json").is_file()
