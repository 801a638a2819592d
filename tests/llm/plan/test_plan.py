"""A plan is held against the compiler: its kinds of memory add up, its messages are those sent."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.footprint import total as count
from llm.model import abstract_decoder, parameters
from llm.model.architecture import architecture_from_config
from llm.plan.abstract import groups_of
from llm.plan.choices import guess, largest, meshes, recommended, sweep, with_rows
from llm.plan.planned import ALWAYS, Held, Part, Planned
from llm.plan.programs import needed
from llm.plan.public import PUBLIC
from llm.plan.roofline import Roofline
from llm.plan.tables import as_json, from_json, memory_table, size, sweep_table
from llm.plan.topology import GIB, read_topology
from llm.settings import TRAIN_RECIPES, MeshSettings, Training
from tests.llm.plan.planned_on_meshes import ARCHITECTURE, CASES, LOAD
from tests.simulated import on_devices

QUICK = ("pieces",)


def found_by(folder: Path, cases: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Plans, from a process with eight devices."""
    file = folder / "plans.json"
    on_devices(8, "-m", "tests.llm.plan.planned_on_meshes", str(file), *cases)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return found_by(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return found_by(tmp_path_factory.mktemp("others"), tuple(set(CASES) - set(QUICK)))


def adds_up(plan: dict[str, Any]) -> None:
    """Kinds of memory against the compiler, to 5%; the count without one, to two fifths above.

    It takes the largest of every kind to be there at once, which weighs in models as small as this:
    for those of billions of parameters it is right to a tenth.
    """
    parts = {part["name"]: part for part in plan["parts"]}
    learning = {"step", "add", "apply", "measure", "judge"} & set(parts)
    assert {"step"} <= learning or {"add", "apply"} <= learning
    for name in parts:
        assert plan["counted"][name] == pytest.approx(parts[name]["total"], rel=0.05), name
    # What is left over after what the backward pass keeps is never less than nothing.
    assert all(item["bytes"] >= 0 for item in plan["memory"])
    held = max(plan["held"][name] for name in {"step", "add", "apply"} & set(parts))
    count = plan["estimated"]["always"] + plan["estimated"]["training"]
    assert 0.9 * held <= count <= 1.4 * held


def test_kinds_of_memory_add_up_to_the_compilers_figure(quick):
    adds_up(quick["pieces"])


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(CASES) - set(QUICK)))
def test_kinds_of_memory_add_up_on_other_meshes_and_for_other_recipes(others, case):
    adds_up(others[case])


def sent(plan: dict[str, Any], kind: str) -> float:
    """Bytes a device sends in a step by one kind of collective."""
    return sum(part["exchanges"].get(kind, (0, 0))[1] for part in plan["parts"])


def test_weights_in_pieces_are_put_together_twice_and_their_gradients_summed_once(quick):
    plan = quick["pieces"]
    assert plan["micro_batches"] == 2
    a = ARCHITECTURE
    layer = a.width * a.head_width * (2 * a.heads + 2 * a.kv_heads) + 3 * a.width * a.mlp_width
    weights = 4 * a.layers * layer * 7 / 8  # float32 on a CPU; a device has an eighth
    # Forward and backward, for each micro-batch, and the matrices of the vocabulary besides.
    assert 2 * 2 * weights <= sent(plan, "all-gather") <= 1.5 * 2 * 2 * weights
    summed = sent(plan, "reduce-scatter") + sent(plan, "all-reduce")
    assert 2 * weights <= summed <= 2 * 2 * 2 * weights


@pytest.mark.slow
def test_copies_exchange_gradients_alone(others):
    plan = others["copies"]
    weights = 4 * count(parameters(abstract_decoder(ARCHITECTURE)))
    assert sent(plan, "all-gather") <= 0.1 * weights
    assert sent(plan, "all-reduce") >= plan["micro_batches"] * 2 * weights * 7 / 8


@pytest.mark.slow
def test_an_online_run_plans_writing_too_and_a_reference_that_is_there_anyway(others):
    plan = others["critic"]
    runs = {part["name"]: part["runs"] for part in plan["parts"]}
    # 16 prompts with a response each, 16 at a time, of up to 48 tokens; for two steps each.
    assert (runs["begin"], runs["write"]) == (0.5, 24)
    assert {"judge", "add", "apply", "grow"} <= set(runs)
    kinds = {item["what"] for item in plan["memory"] if item["when"] in (ALWAYS, "write")}
    assert "model as it was read, the reference" in kinds
    assert {"weights to write with", "cache and what is written"} <= kinds


def made(rows: int = 1, peak: float = 8.0, **changes: Any) -> Planned:
    """A plan whose numbers are round."""
    part = Part(
        name="step",
        runs=1,
        flops=2e12,
        bound=Roofline(arithmetic=0.5, memory=0.25, messages=0.1),
        exchanges={"all-gather": (3.0, 1e9)},
        moved=1e9,
        total=int(6 * GIB),
        given=("weights",),
        seconds=1.0,
    )
    plan = Planned(
        recipe="dpo",
        topology="v5e:2x4",
        chips=8,
        mesh={"data": 1, "fsdp": 8, "tensor": 1},
        remat="none",
        rows=rows,
        length=1024,
        micro_batches=1,
        batch=64,
        steps=10,
        tokens=1e6,
        flops=1e15,
        peak_flops=8e15,
        memory=(
            Held("weights", 2 * GIB, ALWAYS),
            Held("unused", 2 * GIB, ALWAYS),
            Held("temporaries", (peak - 4) * GIB, "step"),
        ),
        usable=16.0 * GIB,
        parts=(part,),
        price=1.0,
    )
    return replace(plan, **changes)


def test_time_and_money_follow_from_the_bounds():
    plan = made()
    assert plan.step_seconds == 0.5 and plan.tokens_per_second == 2e6
    assert plan.mfu == 0.25
    assert plan.dollars_per_step == pytest.approx(8 * 0.5 / 3600)
    assert plan.dollars_per_million_tokens == pytest.approx(8 * 0.5 / 3600)
    assert plan.dollars == pytest.approx(10 * 8 * 0.5 / 3600)


def test_a_run_fits_if_what_is_always_there_and_the_fullest_program_do():
    plan = made(peak=8)
    assert plan.fullest == "step" and plan.peak == 8 * GIB and plan.fits
    assert plan.counted(plan.parts[0]) == 6 * GIB
    assert not made(peak=17).fits
    refused = made(refused="step: too much", needs=20.0 * GIB)
    assert not refused.fits and refused.peak == 20 * GIB
    assert not made(refused="step: too much", memory=()).fits


def test_what_a_plan_says_is_kept_as_it_is():
    plan = made()
    kept = json.loads(json.dumps(as_json(plan)))
    assert from_json(kept) == plan
    assert kept["step_seconds"] == 0.5 and kept["fits"] and kept["peak"] == 8 * GIB
    refused = made(refused="no", parts=())
    assert "step_seconds" not in as_json(refused) and from_json(as_json(refused)) == refused
    assert memory_table(plan).row_count and sweep_table([plan, refused], plan).row_count == 2
    assert (size(3 * GIB), size(2**20), size(512)) == ("3.00 GiB", "1.00 MiB", "0.50 KiB")


@pytest.mark.parametrize(
    ("said", "bytes_"),
    [
        ("Used 33.21G of 15.75G hbm. Exceeded hbm capacity by 17.46G.", 33.21 * GIB),
        ("HLO temporaries (256.00G) exceeds available HBM (15.75G).", 256 * GIB),
        ("something else", None),
    ],
)
def test_what_a_refused_program_needs_is_read_from_the_refusal(said, bytes_):
    assert needed(said) == (None if bytes_ is None else pytest.approx(bytes_))


@pytest.mark.parametrize("most", [0, 1, 5, 8, 100])
def test_the_largest_micro_batch_is_found_in_few_compilations(most):
    tried: list[int] = []

    def plan(settings: Training) -> Planned:
        rows = settings.packing.max_tokens // (settings.packing.row_length or 1024)
        tried.append(rows)
        # 4 GiB whatever there is, and what makes `most` rows just fit; far beyond, a refusal.
        peak = 4 + rows * 12 / (most + 0.5)
        if peak > 40:
            return made(rows, refused="too much", parts=(), memory=())
        return made(rows, peak)

    start = with_rows(Training(model="x", batch=64), 2, 1024)
    found = largest(plan, start)
    # 64 groups on 8 shards are 8 rows each at most.
    assert found.rows == max(min(most, 8), 1) and found.fits == (most > 0)
    assert len(tried) == len(set(tried)) <= 5


def test_a_guess_goes_by_what_a_row_takes():
    assert guess([made(1, 6), made(2, 8)]) == 6
    assert guess([made(4, refused="too much")]) == 2
    assert guess([made(4, 8)]) == 8


def test_a_sweep_tries_meshes_that_divide_and_keeps_what_it_can():
    architecture = architecture_from_config(PUBLIC["llama-3-8b"])
    slice_, training = read_topology("v5e:8x8"), Training(model="x", batch=64)
    laid = list(meshes(architecture, training, slice_))
    for mesh in laid:
        assert (mesh.data or 1) * (mesh.fsdp or 1) * mesh.tensor == 64
        assert architecture.kv_heads % mesh.tensor == 0
    assert {mesh.tensor for mesh in laid} == {1, 2, 4, 8}
    # All along fsdp; and pieces as wide as the lanes of a register.
    assert {MeshSettings(data=1, fsdp=64), MeshSettings(data=2, fsdp=32)} <= set(laid)

    def plan(settings: Training) -> Planned:
        fits = settings.remat == "full" and settings.mesh.tensor > 1
        held = 8.0 if fits else 17.0
        return made(peak=held, remat=settings.remat, mesh=dataclasses.asdict(settings.mesh))

    found = list(sweep(plan, architecture, training, slice_))
    assert [one.remat for one in found[:3]] == ["none", "dots", "full"]
    assert all(one.fits == (one.remat == "full" and one.mesh["tensor"] > 1) for one in found)
    best = recommended(found)
    assert best is not None and best.fits
    assert recommended([made(peak=17)]) is None
    # Of two that are as fast, the one with more room.
    roomy, tight = made(peak=6), made(peak=9)
    assert recommended([tight, roomy]) is roomy


def test_fresh_responses_are_no_longer_than_they_may_be():
    recipe = TRAIN_RECIPES["rloo"].with_collection(prompts=4)
    groups = groups_of(recipe, Training(model="x", batch=4), LOAD)
    assert [len(group.responses) for group in groups] == [4] * 4
    pairs = groups_of(TRAIN_RECIPES["dpo"], Training(model="x", batch=4), LOAD)
    assert pairs[0].length == 128 and pairs[1].length == 128
    longer = groups_of(
        TRAIN_RECIPES["dpo"], Training(model="x", batch=4), replace(LOAD, longest=200)
    )
    assert [group.length for group in longer] == [200, 128, 128, 128]


def test_public_models_have_the_sizes_they_are_known_by():
    sizes = {
        name: count(parameters(abstract_decoder(architecture_from_config(config))))
        for name, config in PUBLIC.items()
    }
    assert sizes == {
        "pythia-1.4b": 1_414_647_808,
        "llama-3-8b": 8_030_261_248,
        "mistral-7b": 7_241_732_096,
        "llama-3-70b": 70_553_706_496,
    }
