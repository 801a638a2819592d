"""A plan declares a run's shapes beforehand, and every step fits them with little padding."""

import numpy as np
import pytest

from llm.data.cutting import cut
from llm.data.examples import Group
from llm.data.order import InOrder, Order
from llm.data.plan import PackingSettings, make_plan
from tests.llm.data.unpacking import unpack


def shape_of(batch, shards: int = 1) -> tuple[int, int]:
    return batch.tokens.shape[0] // shards, batch.tokens.shape[1]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("max_tokens", [512, 4096])
def test_the_micro_batches_of_a_step_hold_exactly_its_groups(
    random_groups, shards, share, max_tokens
):
    groups = random_groups(60, responses=3)
    settings = PackingSettings(max_tokens=max_tokens, share_prompt=share)
    plan = make_plan(groups, Order(60, 16, 0), settings, steps=6, shards=shards, width=64)
    for step in range(6):
        batches = plan.micro_batches(step)
        seen = np.concatenate([batch.example for batch in batches])
        assert sorted(seen[seen >= 0]) == sorted(plan.step_groups(step))
        for batch in batches:
            rows = batch.example[batch.example >= 0]
            for (prompt, responses), row in zip(unpack(batch), rows, strict=True):
                assert np.array_equal(prompt, groups[row].prompt)
                for one, other in zip(responses, groups[row].responses, strict=True):
                    assert np.array_equal(one, other)


@pytest.mark.parametrize("max_tokens", [512, 1024, 100_000])
def test_no_step_has_a_shape_that_was_not_declared(random_groups, max_tokens):
    groups = random_groups(200)
    plan = make_plan(
        groups, Order(200, 16, 0), PackingSettings(max_tokens=max_tokens), steps=40, width=64
    )
    assert len(plan.shapes) <= 4
    whole = {shape_of(batch) for batch in plan.examples(cut=False)}
    parts = {shape_of(batch) for batch in plan.examples(cut=True)}
    used_whole, used_parts = set(), set()
    for step in range(40):
        batches = plan.micro_batches(step)
        (used_whole if len(batches) == 1 else used_parts).update(map(shape_of, batches))
        assert all(batch.tokens.size <= max_tokens for batch in batches)
    assert used_whole == whole
    assert used_parts == parts


def test_an_empty_example_has_the_structure_of_a_real_batch(random_groups):
    import jax

    groups = random_groups(40)
    plan = make_plan(groups, Order(40, 8, 0), PackingSettings(shapes=1), steps=5, shards=2)
    zeros = [np.zeros(g.scored, np.float32) for g in groups]
    drawn = plan.with_known(old_logp=zeros).with_known(advantage=zeros, ref_logp=zeros)
    for known in (plan, plan.with_known(ref_logp=zeros), drawn):
        example = (known.examples(cut=False) + known.examples(cut=True))[0]
        real = known.micro_batches(0)[0]
        assert jax.tree.structure(example) == jax.tree.structure(real)
        for one, other in zip(jax.tree.leaves(example), jax.tree.leaves(real), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert not example.valid.any() and not example.count.any()


def test_the_padding_that_is_reported_is_the_padding_there_is(random_groups):
    plan = make_plan(random_groups(90), Order(90, 8, 0), steps=11, shards=2, width=64)
    batches = [batch for step in range(11) for batch in plan.micro_batches(step)]
    empty = sum(int((batch.segments == 0).sum()) for batch in batches)
    assert plan.padding == pytest.approx(empty / sum(batch.tokens.size for batch in batches))
    assert plan.micro_batches_per_step == len(batches) / 11


def test_a_run_long_enough_to_pay_for_its_compilations_has_little_padding(
    random_groups, monkeypatch
):
    monkeypatch.setattr("llm.data.plan.COMPILATION", 1000)
    plan = make_plan(random_groups(1000), Order(1000, 64, 0), steps=16, width=256)
    assert plan.padding < 0.1


def test_a_short_run_does_not_pay_for_many_compilations(random_groups):
    plan = make_plan(random_groups(200), Order(200, 8, 0), steps=20, width=256)
    assert len(plan.shapes) == 1
    assert bool(plan.whole) != bool(plan.pieces)


def test_where_one_more_batch_costs_little_a_step_is_cut_to_hold_less_padding(
    random_groups, monkeypatch
):
    groups, order = random_groups(200), Order(200, 8, 0)
    plans = {}
    for overhead in (16, 512):
        monkeypatch.setattr("llm.data.cutting.CPU_OVERHEAD", overhead)
        plans[overhead] = make_plan(groups, order, steps=20, width=256)
    assert plans[16].pieces and not plans[16].whole
    assert plans[512].whole and not plans[512].pieces
    assert plans[16].padding < plans[512].padding


def test_a_step_of_one_pass_may_be_short(random_groups):
    groups = random_groups(11)
    plan = make_plan(groups, InOrder(11, 4), steps=3)
    seen = [row for step in range(3) for b in plan.micro_batches(step) for row in b.example]
    assert sorted(row for row in seen if row >= 0) == list(range(11))


def test_a_group_that_fits_no_batch_is_refused_by_name():
    long = Group(np.zeros(900, np.int32), (np.zeros(9, np.int32),), np.ones(1, np.float32), "a:7")
    with pytest.raises(ValueError, match=r"a:7 takes 909.*960.*512.*--packing.max-tokens"):
        make_plan([long], Order(1, 1, 0), PackingSettings(max_tokens=512), steps=1)
    with pytest.raises(ValueError, match=r"a:7 takes 909.*row of 128.*--packing.row-length"):
        make_plan([long], Order(1, 1, 0), PackingSettings(row_length=128), steps=1)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="no group"):
        make_plan([], Order(1, 1, 0), steps=1)
    with pytest.raises(ValueError, match="0 steps"):
        make_plan(
            [Group(np.zeros(1, np.int32), (np.zeros(1, np.int32),), np.ones(1, np.float32), "a")],
            Order(1, 1, 0),
            steps=0,
        )
    with pytest.raises(ValueError, match="shapes is 0"):
        PackingSettings(shapes=0)


def test_the_row_length_asked_for_is_the_one_used(random_groups):
    plan = make_plan(
        random_groups(50), Order(50, 8, 0), PackingSettings(row_length=320), steps=6, width=64
    )
    assert {shape.length for shape in plan.shapes} == {320}


def test_a_group_longer_than_every_row_is_named_and_not_waited_for():
    with pytest.raises(ValueError, match=r"takes 70 positions, and no batch of \[\(2, 64\)\]"):
        cut([0, 1], np.array([10, 70]), [(2, 64)], shards=1, width=64)
