"""Arrays to and from the devices; what a host fills in of a batch and what it leaves out."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm.data.packing import Place, Shape, pack
from llm.hosts import Vote, fetch, repeat, spread
from tests.llm.tiny_runs import in_pieces, make_groups


def test_with_one_process_nothing_is_more_than_a_transfer():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    tree = {"x": np.arange(6.0, dtype=np.float32), "y": (np.float32(2), np.ones((2, 2)))}
    with jax.transfer_guard("disallow"):
        there = spread(tree, NamedSharding(mesh, PartitionSpec()))
        back = fetch(there)
        assert repeat(3.0, mesh).weak_type and repeat(3.0, None).weak_type
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(back))


def test_with_one_process_a_request_is_heard_at_once():
    vote = Vote()
    assert [vote(number) for number in (0, 15, 0)] == [0, 15, 0]


def test_a_host_fills_in_its_own_shards_and_together_they_are_the_batch():
    groups = make_groups((3, 2, 4), (5, 1, 1), (2, 6, 3), (4, 2, 2))
    shards = [[Place(0, 0, 0), Place(1, 0, 16)], [Place(2, 0, 0)], [Place(3, 0, 8)], []]
    shape = Shape(rows=1, length=64, scored=16, groups=2, responses=2, tokens=6)
    known = {"ref_logp": [np.arange(g.scored, dtype=np.float32) + 1 for g in groups]}
    whole, first, second = (
        pack(groups, shards, shape, known=known, mine=mine) for mine in (None, {0, 1}, {2, 3})
    )
    for leaf, one, two in zip(*map(jax.tree.leaves, (whole, first, second)), strict=True):
        half = len(leaf) // 2
        np.testing.assert_array_equal(leaf[:half], one[:half])
        np.testing.assert_array_equal(leaf[half:], two[half:])
    assert (first.tokens[2:] == 0).all() and (second.tokens[:2] == 0).all()


@pytest.mark.parametrize("mine", [None, frozenset({0})])
def test_a_plan_hands_on_which_shards_are_its_hosts(mine):
    from dataclasses import replace

    plan = replace(in_pieces(make_groups((3, 2, 4), (5, 1, 1))), mine=mine)
    assert (plan.micro_batches(0)[0].example >= 0).any()
    nothing = replace(plan, mine=frozenset({1})).micro_batches(0)[0]
    assert (nothing.example == -1).all()
