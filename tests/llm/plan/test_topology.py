"""Slices by name, what a compiler for them needs, and over which links chips talk."""

import importlib.util

import pytest

from llm.plan.compilers import EXTRA, check_compiler, prepare_environment
from llm.plan.topology import GENERATIONS, devices_of, read_topology
from llm.simulated import simulated


def test_a_slice_is_known_by_its_name():
    slice_ = read_topology("v5p:2x4x4")
    assert slice_.shape == (2, 4, 4) and slice_.chips == 32 and slice_.device.name == "TPU v5p"
    assert read_topology("cpu:8").chips == 8


@pytest.mark.parametrize("name", ["v5e", "v5e:3x3", "v9:2x2", "h100:8", "", "v5e:16x16x16"])
def test_another_name_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"there are v5e:2x2\|2x4\|.*v5p:.*v6e:.*cpu:N"):
        read_topology(name)


@pytest.mark.parametrize("name", ["cpu:0", "cpu:", "cpu:x", "cpu:-1"])
def test_simulated_devices_are_counted(name):
    with pytest.raises(ValueError, match="give a number of simulated devices, as in cpu:8"):
        read_topology(name)


def test_every_chip_has_a_price_a_memory_and_neighbours():
    for generation in GENERATIONS.values():
        assert 0 < generation.usable <= 1.1 * generation.device.memory
        assert 1e10 < generation.link < 1e12 and generation.price > 0
        sizes = [
            read_topology(f"{name}:{shape}")
            for name, one in GENERATIONS.items()
            for shape in one.shapes
            if one is generation
        ]
        assert max(one.chips for one in sizes) >= 256


def test_links_are_those_of_the_dimensions_a_group_stands_along():
    whole, part = read_topology("v5e:16x16"), read_topology("v5e:4x4")
    row = [(0, y) for y in range(16)]
    # A whole dimension closes to a ring: two ways around. A part of one has one.
    assert whole.links(row) == 2
    assert whole.links(row[:8]) == 1
    assert whole.links([(x, y) for x in range(16) for y in range(16)]) == 4
    assert part.links([(x, y) for x in range(4) for y in range(4)]) == 2
    assert part.links([(0, 0)]) == 1
    deep = read_topology("v5p:2x2x4")
    assert deep.links([(0, 0, z) for z in range(4)]) == 2


def test_the_environment_of_a_compiler_is_set_before_jax_and_does_not_override():
    environment = {"TPU_MIN_LOG_LEVEL": "0"}
    prepare_environment("v5e:4x4", environment)
    assert environment["TPU_MIN_LOG_LEVEL"] == "0" and environment["JAX_PLATFORMS"] == "cpu"
    assert environment["TPU_SKIP_MDS_QUERY"] == "1"
    here: dict[str, str] = {}
    prepare_environment("cpu:8", here)
    assert here == simulated(8) and here["JAX_NUM_CPU_DEVICES"] == "8"
    nothing: dict[str, str] = {}
    prepare_environment("cpu:many", nothing)
    assert nothing == {}


def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_compiler("cpu:8")
    with pytest.raises(ValueError, match=rf"libtpu.*v5e:4x4.*\.\[{EXTRA}\]"):
        check_compiler("v5e:4x4")
    with pytest.raises(ValueError, match="libtpu"):
        devices_of(read_topology("v5e:4x4"))


def test_simulated_devices_have_to_be_there():
    with pytest.raises(ValueError, match="JAX_NUM_CPU_DEVICES=4096"):
        devices_of(read_topology("cpu:4096"))
