"""Algorithm 1 on a language model: what is collected when, used how often, and never lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from llm import collection, preparation, responses
from llm.data.order import Order
from llm.data.packing import Batch
from llm.journal import read_lines
from llm.online import Fresh
from llm.rewards import RewardError
from llm.rollouts import Rollouts, read_rollouts
from llm.settings import ONLINE_RECIPES
from llm.state import Saver, saved_steps
from llm.step import Step
from modeseek import cli
from tests.llm.tiny_runs import compilation_cache, pairs, write_model, write_rows

PROMPTS, STEPS, SAVE_EVERY = 4, 10, 3
MINIBATCHES, INNER = 2, 2
WRITTEN = 8

Start = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A model, prompts with responses, and one cache of compiled programs for all runs here."""
    folder = tmp_path_factory.mktemp("online")
    write_model(folder / "model")
    # Prompts of one size class: a program of the sampler for each would be compiled.
    write_rows(folder / "pairs.jsonl", [row | {"prompt": row["prompt"][:14]} for row in pairs()])
    with compilation_cache(folder / "programs"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODESEEK_CACHE", str(folder / "cache"))
        yield folder


def command(place: Path, out: Path, recipe: str = "online_dpo", **flags: Any) -> list[str]:
    """The line of a small run, as a user types it: three collections of two parts each."""
    given = {
        "model": place / "model",
        "data": place / "pairs.jsonl",
        "out": out,
        "reward": "regex:[!-~]",
        "gold": "max-length",
        "batch": PROMPTS // MINIBATCHES,
        "reuse.minibatches": MINIBATCHES,
        "reuse.inner_steps": INNER,
        "collection.responses": 2,
        "sampling.max_new_tokens": WRITTEN,
        "sampling.rows": 4,
        "steps": STEPS,
        "save.every": SAVE_EVERY,
        "save.keep": 3,
        "evaluate_every": 5,
        "packing.shapes": 1,
        "optimizer.learning_rate": 1e-2,
        "optimizer.warmup": 0.0,
        "reading.eval_share": 0.2,
        "evaluate_prompts": 4,
    } | {name.replace("__", "."): value for name, value in flags.items()}
    line = [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return ["modeseek", "train", recipe, *line]


@pytest.fixture
def start(place, monkeypatch) -> Start:
    """Give the command of the run."""

    def given(out: Path, recipe: str = "online_dpo", **flags: Any) -> Path:
        monkeypatch.setattr(sys, "argv", command(place, out, recipe, **flags))
        cli.main()
        return out

    return given


class Served(NamedTuple):
    """What one step learned from: which rows of the collection, and who had drawn them how."""

    number: int
    rows: list[int]
    old_logp: dict[int, bytes]


class Straight(NamedTuple):
    """A run that nothing disturbed, copies of its folder at some moments, and its batches."""

    folder: Path
    moments: dict[str, Path]
    served: list[Served]


def served(number: int, batches: list[Batch]) -> Served:
    found: dict[int, bytes] = {}
    for batch in jax.device_get(batches):
        for b, row in enumerate(batch.example.tolist()):
            if row >= 0:
                found[row] = batch.old_logp[b][batch.mask[b]].tobytes()
    return Served(number, list(found), found)


@pytest.fixture(scope="module")
def straight(place) -> Straight:
    out, moments, seen, savers = place / "straight", {}, [], []
    write, save, take = collection.write_rollouts, Saver.save, Fresh.take

    def keep(moment: str) -> None:
        for saver in savers:  # a folder that is being written to cannot be copied
            saver.checkpointer.wait()
        moments[moment] = shutil.copytree(out, place / moment)

    def written(path: Path, found: Rollouts) -> None:
        write(path, found)
        if found.iteration == 1 and path.name == "000000.parquet":
            keep("between two parts")
        if path.name == "000001.parquet":
            keep("after a collection")

    def saved(self, step, state):
        if step == 9:
            keep("before the save of step 9")
        save(self, step, state)
        savers[:] = [self]
        if step == 6:
            keep("between inner steps")

    def taken(self, number, state, stop):
        batches = take(self, number, state, stop)
        assert batches is not None
        seen.append(served(number, batches))
        return batches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "write_rollouts", written)
        patch.setattr(Saver, "save", saved)
        patch.setattr(Fresh, "take", taken)
        patch.setattr(sys, "argv", command(place, out))
        cli.main()
    return Straight(out, moments, seen)


@pytest.fixture(scope="module")
def trained_on(place) -> list[str]:
    """Where each prompt that is trained on stands, in the order of the data set."""
    with pytest.MonkeyPatch.context() as patch:
        found = []
        patch.setattr(preparation, "check_prompts", found.extend)
        patch.setattr(sys, "argv", command(place, place / "straight"))
        cli.main()
    return [group.where for group in found]


def lines_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == kind]


def collections(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").glob("0*.parquet"))


def assert_same_run(folder: Path, other: Path) -> None:
    """Metrics but for what was timed, every collection, and the weights: all to the byte."""
    one, two = (
        [
            json.dumps({k: v for k, v in line.items() if k != "clock"})
            for line in read_lines(run / "metrics.jsonl")
        ]
        for run in (folder, other)
    )
    assert one == two
    for mine, theirs in zip(collections(folder), collections(other), strict=True):
        assert mine.read_bytes() == theirs.read_bytes(), mine.name
    assert not [entry for entry in (folder / "rollouts").iterdir() if entry.is_dir()]
    weights = Path("model") / "model.safetensors"
    assert (folder / weights).read_bytes() == (other / weights).read_bytes()


def test_a_line_for_each_collection_stands_before_the_first_step_that_learns_from_it(straight):
    lines = read_lines(straight.folder / "metrics.jsonl")
    order = [(line["step"], line["kind"]) for line in lines]
    assert [step for step, kind in order if kind == "rollout"] == [1, 5, 9]
    for step in (1, 5, 9):
        assert order.index((step, "rollout")) == order.index((step, "train")) - 1
    assert [line["iteration"] for line in lines if line["kind"] == "rollout"] == [0, 1, 2]
    assert [step for step, kind in order if kind == "eval"] == [0, 5, 10]


def test_before_the_first_update_every_divergence_is_exactly_zero(straight):
    for line in (lines_of(straight.folder, "eval")[0], lines_of(straight.folder, "rollout")[0]):
        assert line["forward_kl"] == 0 and line["reverse_kl"] == 0
    last = lines_of(straight.folder, "eval")[-1]
    assert last["forward_kl"] > 0 and last["reverse_kl"] > 0


def test_the_first_step_on_a_collection_is_on_policy_and_later_ones_are_not(straight):
    trained = {
        line["step"]: line["off_policy_per_token"] for line in lines_of(straight.folder, "train")
    }
    assert max(trained[step] for step in (1, 5, 9)) < 1e-4
    assert min(trained[step] for step in (3, 4, 7, 8)) > 1e-3
    for line in lines_of(straight.folder, "rollout"):
        assert line["sampler_gap"] < 1e-4


def test_every_step_sees_the_minibatch_that_algorithm_1_says(straight):
    for one in range(0, STEPS, MINIBATCHES * INNER):
        steps = [set(step.rows) for step in straight.served[one : one + MINIBATCHES * INNER]]
        passes = [steps[at : at + MINIBATCHES] for at in range(0, len(steps), MINIBATCHES)]
        for halves in passes:
            if len(halves) == MINIBATCHES:
                assert sorted(row for half in halves for row in half) == list(range(PROMPTS))


def test_a_response_keeps_the_probability_it_was_drawn_with(straight):
    for step in straight.served:
        path = collections(straight.folder)[(step.number - 1) // (MINIBATCHES * INNER)]
        rollouts = read_rollouts(path).rollouts
        for row, old in step.old_logp.items():
            assert old == rollouts[row].known["old_logp"].tobytes()


def test_prompts_come_in_the_order_of_the_seed_each_once_per_epoch(straight, trained_on):
    found = [read_rollouts(path) for path in collections(straight.folder)]
    where = [rollout.where for one in found for rollout in one.rollouts]
    assert len(set(where)) == len(where) == 3 * PROMPTS
    ids = [rollout.prompt_id for one in found for rollout in one.rollouts]
    assert ids == list(range(3 * PROMPTS))
    rows = [row for number in range(3) for row in Order(len(trained_on), PROMPTS, 0).batch(number)]
    assert where == [trained_on[row] for row in rows]


def test_the_reward_is_what_the_text_is_worth_and_gold_is_only_measured(straight):
    last: list[np.ndarray] = []
    for path in collections(straight.folder):
        found = read_rollouts(path)
        last = [rollout.reward for rollout in found.rollouts]
        for rollout in found.rollouts:
            worth = [sum("!" <= c <= "~" for c in y.response) for y in rollout.responses]
            assert rollout.reward.tolist() == worth
            assert rollout.gold is not None
            assert (rollout.gold >= 1).all() and (rollout.gold <= WRITTEN).all()
    line = lines_of(straight.folder, "rollout")[-1]
    assert line["reward"] == pytest.approx(np.concatenate(last).mean())


@pytest.mark.parametrize(
    "moment",
    [
        "between inner steps",
        pytest.param("between two parts", marks=pytest.mark.slow),
        pytest.param("after a collection", marks=pytest.mark.slow),
        pytest.param("before the save of step 9", marks=pytest.mark.slow),
    ],
)
def test_what_a_kill_leaves_behind_goes_on_as_if_nothing_had_happened(
    straight, start, tmp_path, moment
):
    out = shutil.copytree(straight.moments[moment], tmp_path / "run")
    (out / "rollouts" / ".000001.parquet.partial").write_bytes(b"half a file")
    assert_same_run(start(out), straight.folder)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_the_middle_of_a_collection_keeps_what_is_written(
    straight, start, tmp_path, monkeypatch, capsys, number, status
):
    write, out = collection.write_rollouts, tmp_path / "run"

    def ring(path: Path, found: Rollouts) -> None:
        write(path, found)
        if found.iteration == 1 and path.name == "000000.parquet":
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(collection, "write_rollouts", ring)
        with pytest.raises(SystemExit) as stopped:
            start(out)
    assert stopped.value.code == status
    assert "saved after step 4 of 10" in capsys.readouterr().out
    assert saved_steps(out)[-1] == 4
    assert [p.name for p in (out / "rollouts" / "000001.parts").iterdir()] == ["000000.parquet"]
    write_again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            collection,
            "write_rollouts",
            lambda path, found: (
                write_again.append(path.parent.name + "/" + path.name),
                write(path, found),
            ),
        )
        assert_same_run(start(out), straight.folder)
    assert "000001.parts/000000.parquet" not in write_again


def test_a_reward_that_cannot_answer_costs_no_step_and_no_sample(
    straight, start, tmp_path, monkeypatch, capsys
):
    judge, calls, out = responses.Judges.__call__, [], tmp_path / "run"

    def down(self, written):
        calls.append(len(written))
        if len(calls) == 3:  # the first answers held-out prompts, the second a collection
            raise RewardError("the judge is down. Give the same command again.")
        return judge(self, written)

    with monkeypatch.context() as patch:
        patch.setattr(responses.Judges, "__call__", down)
        assert "the judge is down" in refused(start, capsys, out)
    assert saved_steps(out)[-1] == 4
    assert len(list((out / "rollouts" / "000001.parts").iterdir())) == 2
    with monkeypatch.context() as patch:
        first = []
        patch.setattr(
            responses.Writer,
            "write",
            lambda self, engine, groups, ids, source: (
                first.append(ids[0]),
                WRITE(self, engine, groups, ids, source),
            )[1],
        )
        assert_same_run(start(out), straight.folder)
    assert not {4, 6} & set(first), "what was written is not written again"


WRITE = responses.Writer.write


def refused(start: Start, capsys, out: Path, *args: str, **flags: Any) -> str:
    """What a command answers that is not to run, on one red line or several."""
    with pytest.raises(SystemExit) as stopped:
        start(out, *args, **flags)
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        ("online_dpo", {"reward": "shrt"}, ["There is no reward 'shrt'", "min-length"]),
        ("online_dpo", {"reward": None, "gold": None}, ["--reward is missing", "min-length"]),
        ("online_dpo", {"collection__responses": 1}, ["--collection.responses 1", "2 or more"]),
        ("online_best_of_n", {"collection__responses": 1}, ["--collection.responses 1"]),
        ("online_dpo", {"batch": 20}, ["--batch 20 times --reuse.minibatches 2", "40 prompts"]),
        ("online_dpo", {"collection__temperature": 0}, ["temperature", "0"]),
        ("rloo", {"reference": "none", "kl_in_reward": 0.1}, ["--reference none", "penalty"]),
        ("online_dpo", {"reference": "none"}, ["--reference none", "DPO"]),
        ("online_dpo", {"reference": "cache"}, ["--reference cache", "choose model"]),
        ("ppo", {"objective__normalize": "response"}, ["--objective.normalize token"]),
        ("online_dpo", {"sampling__max_new_tokens": 128}, ["--sampling.max-new-tokens is 128"]),
        ("online_dpo", {"collection__source": "dataset"}, ["--offline", "such as dpo"]),
        ("reinforce", {"collection__source": "dataset"}, ["--collection.source dataset"]),
        ("online_dpo", {"offline": 0.1}, ["--offline 0.1 of the 4 prompts", "is 0"]),
        ("online_dpo", {"offline": 0.9}, ["--offline 0.9 of the 4 prompts", "is 4"]),
        ("online_dpo", {"kl__target": 1.0}, ["--kl.target 1.0", "--kl-in-reward"]),
        ("online_dpo", {"seed": -1}, ["--seed is -1"]),
        ("online_dpo", {"packing__row_length": 16}, ["--packing.row-length 16"]),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value),
)
def test_what_cannot_be_trained_is_refused_with_its_remedy(
    place, start, tmp_path, capsys, recipe, flags, said
):
    text = refused(start, capsys, tmp_path / "run", recipe, **flags)
    for part in said:
        assert part in text, text
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_collection_of_other_settings_in_the_same_folder_is_not_taken_for_ones_own(
    straight, start, tmp_path
):
    """Killed before its first checkpoint was whole, a run leaves its folder to another."""
    out = shutil.copytree(straight.folder, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    shutil.rmtree(out / "model")
    start(out, steps=1, reward="min-length", evaluate_every=0)
    found = read_rollouts(collections(out)[0])
    assert all((rollout.reward <= 0).all() for rollout in found.rollouts)


@pytest.mark.slow
def test_a_damaged_collection_is_made_again_where_the_policy_is_there(straight, start, tmp_path):
    out = shutil.copytree(straight.moments["after a collection"], tmp_path / "run")
    path = collections(out)[1]
    path.write_bytes(path.read_bytes()[:-100])
    shutil.rmtree(out / "rollouts" / "000001.parts", ignore_errors=True)
    assert_same_run(start(out), straight.folder)


@pytest.mark.slow
def test_a_damaged_collection_that_nobody_can_make_again_says_what_to_delete(
    straight, start, tmp_path, capsys
):
    out = shutil.copytree(straight.moments["between inner steps"], tmp_path / "run")
    path = collections(out)[1]
    path.write_bytes(path.read_bytes()[:-100])
    text = refused(start, capsys, out)
    assert str(path) in text and "cannot be read" in text
    assert saved_steps(out) == [3, 5, 6]
    later = [out / "checkpoints" / step for step in ("5", "6")]
    assert f"delete {later[0]}, {later[1]}, and the same command goes on after step 3" in text
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    assert_same_run(start(out), straight.folder)


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "online_dpo": ("online_dpo", {}),
    "ppo": ("ppo", {"kl__target": 0.5, "kl__horizon": 50}),
    "reinforce": ("reinforce", {"collection__responses": 1, "sampling__rows": 2}),
    "grpo": ("grpo", {}),
    "adapters": ("rloo", {"adapters__rank": 2, "kl_in_reward": 0.1}),
    "offline": ("online_ipo", {"offline": 0.5, "sampling__rows": 2}),
}
"""Runs that carry something from one collection to the next, or have something of their own."""

KILL = """
import os, signal, sys
from pathlib import Path
moment, number = sys.argv.pop(1), int(sys.argv.pop(1))
from llm import collection, responses, rollouts
from llm.state import Saver
from llm.step import Step

calls = []

def dying(function, when=lambda *given: True, before=False):
    def called(*given, **options):
        counts = when(*given)
        calls.extend([None] * counts)
        dies = counts and len(calls) == number
        if dies and before:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*given, **options)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return called

def is_part(path, *rest):
    return path.parent.suffix == ".parts"

write = collection.write_rollouts
if moment == "while a part is written":
    responses.Writer.write = dying(responses.Writer.write, lambda *given: given[-1] == "policy")
elif moment == "while a file is written":
    rollouts.os.replace = dying(os.replace, lambda a, b: "rollouts" in str(b), before=True)
elif moment == "after a part":
    collection.write_rollouts = dying(write, is_part)
elif moment == "after a collection":
    collection.write_rollouts = dying(write, lambda *given: not is_part(*given))
elif moment == "after a step":
    Step.__call__ = dying(Step.__call__)
elif moment == "during a save":
    Saver.save = dying(Saver.save)
from modeseek.cli import main
main()
"""

MOMENTS = (
    ("while a part is written", 4),  # the first is the evaluation's
    ("while a file is written", 4),
    ("after a part", 3),
    ("after a collection", 2),
    ("after a step", 6),
    ("during a save", 3),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "ppo" else pytest.mark.exhaustive) for name in RUNS],
)
def test_kill_9_at_any_moment_and_the_same_command_again(place, start, tmp_path, name):
    recipe, flags = RUNS[name]
    undisturbed = start(tmp_path / "undisturbed", recipe, **flags)
    root = Path(__file__).parents[2]
    # One run that is killed at every moment, each time on its way to the next.
    for moment, number in MOMENTS:
        out = tmp_path / moment
        line = command(place, out, recipe, **flags)
        found = subprocess.run(
            [sys.executable, "-c", KILL, moment, str(number), *line[1:]],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == -signal.SIGKILL, (moment, found.stderr)
        assert not (out / "model").exists()
        assert_same_run(start(out, recipe, **flags), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONLINE_RECIPES)
def test_every_recipe_begins_at_its_reference_and_on_policy(start, tmp_path, name):
    responses = max(ONLINE_RECIPES[name].collection.responses, 1)
    out = start(tmp_path / "run", name, collection__responses=responses, steps=5)
    assert_begins_on_policy(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["online_dpo", "grpo", "ppo"])
@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(
            {"collection__temperature": 0.7}, id="temperature", marks=pytest.mark.exhaustive
        ),
        pytest.param(
            {"collection__temperature": 0.7, "sampling__top_k": 20, "sampling__top_p": 0.8},
            id="truncated",
        ),
    ],
)
def test_so_does_one_that_draws_from_a_distribution_of_its_own(start, tmp_path, name, rule):
    out = start(tmp_path / "run", name, steps=5, **rule)
    assert_begins_on_policy(out)


def assert_begins_on_policy(out: Path) -> None:
    rollouts, trained = lines_of(out, "rollout"), lines_of(out, "train")
    assert [line["step"] for line in rollouts] == [1, 5]
    assert rollouts[0]["forward_kl"] == 0 and rollouts[0]["reverse_kl"] == 0
    assert rollouts[1]["reverse_kl"] > 0
    for line in rollouts:
        assert line["sampler_gap"] < 1e-4
    for line in trained:
        assert np.isfinite(
            [value for key, value in line.items() if key not in ("kind", "clock")]
        ).all()
    for step in (0, 4):
        first = trained[step]
        assert first["off_policy_per_token"] < 1e-4
        for name, value in {"ratio": 1.0, "clip_fraction": 0.0, "clipped": 0.0}.items():
            if name in first:
                assert first[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.slow
def test_what_the_reference_writes_does_not_change_while_the_policy_moves(start, tmp_path):
    slow, fast = (
        start(
            tmp_path / str(rate),
            collection__source="reference",
            optimizer__learning_rate=rate,
            steps=5,
        )
        for rate in (1e-3, 3e-2)
    )
    for one, other in zip(collections(slow), collections(fast), strict=True):
        for a, b in zip(read_rollouts(one).rollouts, read_rollouts(other).rollouts, strict=True):
            assert a.source == "reference"
            assert [y.response for y in a.responses] == [y.response for y in b.responses]
    assert lines_of(fast, "rollout")[1]["reverse_kl"] > lines_of(slow, "rollout")[1]["reverse_kl"]


@pytest.mark.slow
def test_a_critic_is_told_rewards_on_one_scale_throughout(start, tmp_path, capsys):
    out = start(tmp_path / "run", "ppo", steps=5, kl_in_reward=0.0)
    assert "the critic is told rewards from" in " ".join(capsys.readouterr().out.split())
    first, second = (read_rollouts(path) for path in collections(out))
    scale = first.facts["carried"]
    reward = np.concatenate([rollout.reward for rollout in first.rollouts])
    assert (scale["centre"], scale["unit"]) == pytest.approx((reward.mean(), reward.std()))
    for rollout in [*first.rollouts, *second.rollouts]:
        wanted = (rollout.reward - scale["centre"]) / scale["unit"]
        np.testing.assert_allclose(rollout.worth, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_share_of_the_prompts_keeps_the_responses_of_the_data_set(place, start, tmp_path):
    out = start(tmp_path / "run", offline=0.5, steps=5)
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    given = {(row["prompt"], row["chosen"].strip()) for row in rows}
    for path in collections(out):
        rollouts = read_rollouts(path).rollouts
        assert [r.source for r in rollouts] == ["dataset"] * 2 + ["policy"] * 2
        for rollout in rollouts[:2]:
            first = rollout.responses[0]
            assert (first.prompt, first.response.strip()) in given
            # Whoever wrote them, they are taken to come from the reference.
            assert (rollout.known["old_logp"] == rollout.known["ref_logp"]).all()
    assert lines_of(out, "rollout")[0]["sampler_gap"] < 1e-4


@pytest.mark.slow
def test_the_programs_of_a_run_are_bounded_beforehand(place, tmp_path, monkeypatch, capsys):
    steps, make = [], Step.__init__

    def made(self, *args, **options):
        make(self, *args, **options)
        steps.append(self)

    monkeypatch.setattr(Step, "__init__", made)
    line = command(place, tmp_path / "run", packing__shapes=3, batch=4, steps=8)
    monkeypatch.setattr(sys, "argv", line)
    cli.main()
    [step] = steps
    assert len(step.whole.shapes) <= 3
    compiled = sum(len(p.compiled) for p in (step.whole, step.add, step.apply, step.nothing))
    assert 0 < compiled <= step.compilations
    assert "at most" in capsys.readouterr().out


@pytest.mark.slow
def test_numbers_of_a_step_that_is_not_finite_name_what_was_written(start, tmp_path, capsys):
    out = tmp_path / "run"
    text = refused(start, capsys, out, "rloo", optimizer__learning_rate=1e18, optimizer__name="sgd")
    assert "not finite" in text
