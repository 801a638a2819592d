"""The least time a program can take is that of its slowest part."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from llm.data.packing import Shape
from llm.model import abstract_decoder
from llm.model.architecture import architecture_from_config
from llm.model.attention import attend_back, scored
from llm.plan.collectives import Collective
from llm.plan.roofline import (
    FORWARD,
    Passes,
    Roofline,
    executed_flops,
    learning_passes,
    pairs,
    roofline,
)
from llm.plan.topology import read_topology


class Chip:
    def __init__(self, *coords: int) -> None:
        self.coords = coords


def test_a_bound_is_the_slowest_of_three_and_adds_up_over_runs():
    slice_ = read_topology("v5e:2x2")
    chips = [Chip(x, y) for x in range(2) for y in range(2)]
    exchange = Collective("all-gather", 4e9, (0, 1), 3.0)
    found = roofline(197e12 * 4 * 0.5, 819e9 * 0.25, [exchange], slice_, chips)
    # Two neighbours in a row of two have one link of 50 GB/s; half of 4 GB is passed on, three
    # times.
    assert (found.arithmetic, found.memory) == (0.5, 0.25)
    assert found.messages == pytest.approx(3 * 2 / 50)
    assert found.seconds == 0.5 and found.limit == "arithmetic"
    assert found.times(4).seconds == 2.0
    slow = Roofline(messages=2.0, memory=1.0)
    assert (slow.seconds, slow.limit) == (2.0, "messages")


def test_a_group_along_two_dimensions_has_the_links_of_both():
    slice_ = read_topology("v5e:16x16")
    chips = [Chip(x, y) for x in range(16) for y in range(16)]
    row = Collective("all-gather", 16e9, tuple(range(16)), 1.0)
    whole = Collective("all-gather", 16e9, tuple(range(256)), 1.0)
    along, both = (roofline(0, 0, [one], slice_, chips).messages for one in (row, whole))
    assert along == pytest.approx(15e9 / (2 * 50e9))
    assert both == pytest.approx(16e9 * 255 / 256 / (4 * 50e9))


def test_pairs_are_those_of_the_blocks_that_attention_computes(monkeypatch):
    seen = []

    def one(query, key, *given):
        seen.append(query.shape[1] * key.shape[2])
        return scored(query, key, *given)

    monkeypatch.setattr("llm.model.attention.scored", one)
    for length in (64, 256, 1000, 1536):
        seen.clear()
        heads = jnp.zeros((1, length, 1, 1))
        keys = jnp.zeros((1, 1, length, 1))
        mask = jnp.ones((1, length, length), bool)
        attend_back(heads, keys, keys, mask, scale=1.0, softcap=None)
        assert sum(seen) == pairs(length)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_arithmetic_of_a_step_is_what_the_compiler_counts_where_no_loop_hides_it(remat):
    config = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_hidden_layers": 3,
        "max_position_embeddings": 1024,
        "vocab_size": 64,
    }
    architecture, rows, length = architecture_from_config(config), 2, 512

    def counted(layers: int) -> float:
        fewer = architecture_from_config(config | {"num_hidden_layers": layers})
        module = abstract_decoder(fewer, unroll=layers, remat=remat)
        graphdef, state = nnx.split(module)
        ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)

        def loss(state, tokens):
            ones = jnp.ones_like(tokens)
            places = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
            return jnp.sum(nnx.merge(graphdef, state)(tokens, places, ones, ones) ** 2)

        found = jax.jit(jax.grad(loss)).lower(state, ids).compile().cost_analysis()
        assert found is not None
        return found["flops"]

    passes = learning_passes(remat, adapters=False)
    layered = Passes(passes.blocks, passes.attention, 0)
    shape = Shape(rows, length, 1, 1, 1, 1)
    # What a layer adds, so that whatever there is besides cancels.
    each = executed_flops(architecture, shape, 1, layered) / 3
    assert each == pytest.approx(counted(3) - counted(2), rel=0.08)


def test_computing_again_costs_and_adapters_save():
    none, dots, full = (
        learning_passes(remat, adapters=False) for remat in ("none", "dots", "full")
    )
    assert none.blocks == dots.blocks == full.blocks - 1 == 3 * FORWARD.blocks
    assert none.attention < dots.attention == full.attention
    assert learning_passes("none", adapters=True).blocks == 2
