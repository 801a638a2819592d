"""``modeseek plan``: what cannot be planned is refused at once, and what can is said in full."""

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from llm.plan.tables import from_json
from modeseek.plan import Load, architecture_of, main, value_of
from tests.llm.plan.test_plan import made
from tests.llm.tiny_runs import CONFIG

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command sets for its own process is not set for that of the tests."""
    monkeypatch.setattr("modeseek.plan.prepare_environment", lambda *given: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a config and no weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "name a recipe: .*dpo"),
        ("dqo --topology cpu:8", "unknown recipe 'dqo'. Did you mean dpo"),
        ("dpo --topology v5e:3x3 --model llama-3-8b", "no topology 'v5e:3x3'; there are v5e:2x2"),
        ("dpo --topology cpu:8", "--model is missing: .*llama-3-70b"),
        ("dpo --topology cpu:8 --model nowhere", "no folder nowhere: .*config.json"),
        ("dpo --topology cpu:1 --model llama-3-8b --mesh.tensor 3", "cannot be laid out"),
        ("grpo --topology cpu:8 --model llama-3-8b --ahead --sweep", "--ahead is for one device"),
        ("grpo --topology cpu:1 --model llama-3-8b --ahead", "--ahead writes while steps are"),
        ("dpo --topology cpu:1 --model llama-3-8b --ahead", "data that exist: leave it out"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_slow(line, said):
    with pytest.raises(ValueError, match=said):
        main(line.split())


def test_a_slice_without_its_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu.*\[tpu-plan\]"):
        main(["dpo", "--topology", "v5e:2x2", "--model", "llama-3-8b"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dpo --topology cpu:8 --bogus 1", "--bogus"),
        ("dpo --model llama-3-8b", "--topology"),
        ("dpo --topology cpu:8 --load.longest 9", "load.longest is 9"),
        ("dpo --topology cpu:8 --load.prompts 0", "load.prompts is 0"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_answered_with_a_remedy(line, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_a_flag_is_found_before_it_is_parsed():
    assert value_of("--topology", ["dpo", "--topology", "cpu:8"]) == "cpu:8"
    assert value_of("--topology", ["dpo", "--topology=v5e:2x2", "--quick"]) == "v5e:2x2"
    assert value_of("--topology", ["dpo", "--topology"]) == ""


def test_data_are_described_by_their_means(model):
    load = Load(prompt_tokens=10, response_tokens=5, responses=3).workload()
    assert load.longest == 25 and load.group(3).length == 25
    assert architecture_of(str(model)).width == CONFIG["hidden_size"]
    assert architecture_of("llama-3-70b").layers == 80


def test_what_the_compiler_says_is_printed_and_kept(model, tmp_path, monkeypatch, capsys):
    asked = []

    def plan(question):
        asked.append(question)
        remat = question.settings.remat
        return made(peak=8 if remat == "full" else 17, remat=remat)

    monkeypatch.setattr("llm.plan.apart.apart", lambda: nullcontext(plan))
    out = tmp_path / "plans" / "dpo.json"
    line = f"dpo --topology cpu:8 --model {model} --sweep --price 2 --out {out} --batch 64"
    monkeypatch.setattr("modeseek.plan.Console", lambda **options: Console(width=120))
    main(line.split())
    said = capsys.readouterr().out
    for word in ("best", "large", "temporaries", "all-gather", "tokens per second", "dpo.json"):
        assert word in said
    assert "kinds are 100.0%" in said
    kept = json.loads(out.read_text())
    assert from_json(kept["plan"]).fits and len(kept["sweep"]) == len(asked) - 1
    # The comparison is quick; what it recommends is compiled as it will run.
    assert [question.quick for question in asked] == [True] * (len(asked) - 1) + [False]
    assert asked[-1].settings.remat == "full" and all(question.price == 2 for question in asked)


def test_a_run_that_does_not_fit_says_why(model, monkeypatch, capsys):
    refused = replace(made(), refused="step: Used 33.2G of 15.75G hbm", parts=(), needs=33.2e9)
    plan = lambda *given, **options: refused  # noqa: E731
    # Shapes stand where the annotations of a run, which tests enforce, say arrays.
    monkeypatch.setattr(
        "llm.plan.abstract.abstract_run", lambda *given: SimpleNamespace(shape=True)
    )
    monkeypatch.setattr("llm.plan.apart.apart", lambda: nullcontext(plan))
    main(f"dpo --topology cpu:8 --model {model}".split())
    assert "does not fit: step: Used 33.2G" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no way to lay out dpo fits cpu:8: give more chips"):
        main(f"dpo --topology cpu:8 --model {model} --sweep".split())


def run(*line: str, fails: bool = False, timeout: float = 300) -> str:
    """What the command prints, in a process of its own; its error where it is to fail."""
    done = subprocess.run(
        [sys.executable, "-m", "modeseek", "plan", *line],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("JAX_NUM")},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == (2 if fails else 0), done.stderr[-3000:]
    return done.stderr if fails else done.stdout


SMALL = (
    *("--batch", "16", "--load.prompt-tokens", "32", "--load.response-tokens", "16"),
    *("--sampling.max-new-tokens", "16", "--packing.max-tokens", "256"),
)


@pytest.mark.slow
def test_simulated_devices_are_planned_for_from_the_line_alone(model, tmp_path):
    out = tmp_path / "plan.json"
    said = run(
        *("rloo", "--topology", "cpu:4", "--model", str(model), "--mesh.fsdp", "4"),
        *(*SMALL, "--largest", "--out", str(out)),
    )
    assert "fits" in said and "at least" in said
    found = from_json(json.loads(out.read_text())["plan"])
    assert found.mesh == {"data": 1, "fsdp": 4, "tensor": 1} and found.fits
    assert {part.name for part in found.parts} >= {"step", "judge", "begin", "write"}


@pytest.mark.slow
def test_a_row_that_is_too_short_is_refused(model):
    line = ("dpo", "--topology", "cpu:1", "--model", str(model), "--packing.row-length", "64")
    assert "more than a row of 64" in " ".join(run(*line, fails=True).split())


@pytest.mark.slow
def test_a_tpu_slice_is_compiled_for_without_one(model, tmp_path):
    pytest.importorskip("libtpu", reason="libtpu is not installed (extra tpu-plan)")
    out = tmp_path / "plan.json"
    line = ("sft", "--topology", "v5e:2x4", "--model", str(model), "--mesh.fsdp", "8", *SMALL)
    run(*line, "--quick", "--out", str(out))
    found = from_json(json.loads(out.read_text())["plan"])
    assert found.fits and found.chips == 8 and found.dollars > 0
    [step] = found.parts
    assert found.counted(step) == pytest.approx(step.total, rel=0.05)
    assert step.exchanges["all-gather"][1] > 0


@pytest.mark.slow
def test_gpus_of_two_hosts_are_compiled_for_without_one(model, tmp_path):
    pytest.importorskip("jax_cuda12_plugin", reason="no plugin for CUDA (extra gpu-plan)")
    out = tmp_path / "plan.json"
    line = ("sft", "--topology", "h100:2x8", "--model", str(model), "--mesh.fsdp", "8", *SMALL)
    said = run(*line, "--out", str(out))
    assert "GB/s to other hosts" in " ".join(said.split()) and "cuDNN" in said
    found = from_json(json.loads(out.read_text())["plan"])
    assert found.fits and found.mesh == {"data": 2, "fsdp": 8, "tensor": 1}
    [step] = found.parts
    assert found.counted(step) == pytest.approx(step.total, rel=0.05)
    assert step.exchanges["all-gather"][1] > 0 and step.exchanges["all-reduce"][1] > 0


@pytest.mark.slow
def test_what_a_tpu_cannot_hold_its_compiler_refuses_and_the_plan_says_so():
    pytest.importorskip("libtpu", reason="libtpu is not installed (extra tpu-plan)")
    said = run("sft", "--topology", "v5e:2x2", "--model", "llama-3-8b", "--mesh.fsdp", "4")
    assert "does not fit" in said and "15.75 GiB" in said
