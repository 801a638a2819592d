"""Shapes that were declared before the data existed hold all the data that may come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.declared import Bounds, declare_shapes, examples_of, plan_within
from llm.data.examples import Group, PackingSettings
from llm.data.order import InOrder
from tests.llm.data.unpacking import unpack


def group_of(prompt: int, lengths: list[int]) -> Group:
    rng = np.random.default_rng((prompt, *lengths))
    return Group(
        prompt=rng.integers(2, 99, prompt, dtype=np.int32),
        responses=tuple(rng.integers(2, 99, length, dtype=np.int32) for length in lengths),
        rewards=np.zeros(len(lengths), np.float32),
        where="here",
    )


@st.composite
def runs(draw):
    """Bounds, settings, and lengths anywhere within the bounds, many of them at one."""
    shortest = draw(st.integers(1, 20))
    bounds = {
        "prompt": shortest + draw(st.integers(0, 40)),
        "shortest": shortest,
        "responses": draw(st.integers(1, 4)),
        "tokens": draw(st.integers(1, 50)),
        "groups": draw(st.integers(1, 9)),
    }
    settings = {
        "max_tokens": draw(st.sampled_from([384, 1024, 4096])),
        "shapes": draw(st.integers(1, 5)),
        "share_prompt": draw(st.booleans()),
    }

    def within(low, high):
        return st.one_of(st.just(low), st.just(high), st.integers(low, high))

    several = st.lists(within(1, bounds["tokens"]), min_size=1, max_size=bounds["responses"])
    group = st.tuples(within(shortest, bounds["prompt"]), several)
    groups = draw(st.lists(group, min_size=1, max_size=3 * bounds["groups"]))
    return bounds, settings, groups, draw(st.sampled_from([1, 2]))


@given(runs())
def test_whatever_is_written_within_the_bounds_fits_and_nothing_of_it_is_lost(run):
    bounds, settings = Bounds(**run[0]), PackingSettings(**run[1])
    groups, shards = [group_of(*lengths) for lengths in run[2]], run[3]
    try:
        shapes = declare_shapes(bounds, settings, shards)
    except ValueError as error:
        assert "--packing.max-tokens" in str(error)
        return
    assert 1 <= len(shapes) <= settings.shapes
    assert all(shape.rows * shape.length <= settings.max_tokens for shape in shapes)
    order = InOrder(len(groups), bounds.groups)
    known = {"old_logp": [np.arange(g.scored, dtype=np.float32) for g in groups]}
    plan = plan_within(
        shapes, groups, order, settings, steps=order.steps, shards=shards, known=known
    )
    allowed = {example.mask.shape for example in examples_of(shapes, shards, ("old_logp",))}
    for step in range(plan.steps):
        found = {}
        for batch in plan.micro_batches(step):
            assert batch.mask.shape in allowed and batch.old_logp is not None
            here = [row for row in batch.example.tolist() if row >= 0]
            found.update(zip(here, unpack(batch), strict=True))
            for b, row in enumerate(batch.example.tolist()):
                if row >= 0:
                    numbers = batch.old_logp[b][batch.mask[b]]
                    np.testing.assert_array_equal(numbers, np.arange(groups[row].scored))
        assert sorted(found) == plan.step_groups(step)
        for row, (prompt, responses) in found.items():
            np.testing.assert_array_equal(prompt, groups[row].prompt)
            for one, other in zip(responses, groups[row].responses, strict=True):
                np.testing.assert_array_equal(one, other)


def test_the_largest_shape_holds_a_whole_step_where_the_budget_does():
    bounds = Bounds(prompt=20, shortest=4, responses=2, tokens=30, groups=8)
    first, *others = declare_shapes(bounds, PackingSettings(max_tokens=4096))
    assert (first.rows, first.length) == (8, 128)
    assert [shape.rows for shape in others] == [4, 2, 1]
    (small,) = declare_shapes(bounds, PackingSettings(max_tokens=300, shapes=1))
    assert small.rows == 2


def test_what_no_batch_can_hold_is_refused_with_every_number_and_the_remedy():
    bounds = Bounds(prompt=20, shortest=4, responses=2, tokens=30, groups=8)
    with pytest.raises(ValueError, match="takes 80 positions") as raised:
        declare_shapes(bounds, PackingSettings(row_length=64))
    for part in ("--packing.row-length 64", "--sampling.max-new-tokens", "--collection.responses"):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match=r"--packing\.max-tokens 100 of a batch"):
        declare_shapes(bounds, PackingSettings(max_tokens=100))
    apart = PackingSettings(row_length=80, share_prompt=False)
    with pytest.raises(ValueError, match="takes 100 positions"):
        declare_shapes(bounds, apart)
