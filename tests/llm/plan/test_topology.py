"""Slices by name, what a compiler for them needs, and over which links chips talk."""

import importlib.util
import os

import pytest

from llm.plan.collectives import Collective
from llm.plan.compilers import (
    GPU_COMPILER,
    GPUS,
    TPU_COMPILER,
    UNTIMED,
    check_compiler,
    hushed,
    prepare_environment,
)
from llm.plan.gpus import SILICON, target_config
from llm.plan.topology import GENERATIONS, devices_of, read_topology
from llm.simulated import simulated


def test_a_slice_is_known_by_its_name():
    slice_ = read_topology("v5p:2x4x4")
    assert slice_.shape == (2, 4, 4) and slice_.chips == 32 and slice_.device.name == "TPU v5p"
    assert read_topology("cpu:8").chips == 8


@pytest.mark.parametrize(
    "name", ["v5e", "v5e:3x3", "v9:2x2", "h100:16", "h100:2x4", "", "v5e:16x16x16"]
)
def test_another_name_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"there are v5e:2x2\|2x4\|.*v5p:.*h100:1\|2.*cpu:N"):
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


def test_what_leaves_a_host_of_gpus_is_shared_by_its_cards():
    hosts = read_topology("h100:4x8")
    assert hosts.chips == 32 and hosts.device.name == "H100 SXM"
    link, card = hosts.generation.link, hosts.generation.network
    assert card is not None and card < link

    def seconds(kind, places):
        exchange = Collective(kind, 1e9, tuple(range(len(places))), 1.0)
        return hosts.seconds(exchange, places)

    inside = [(0, 0, x) for x in range(8)]
    everyone = [(0, host, x) for host in range(4) for x in range(8)]
    one_each = [(0, host, 0) for host in range(4)]
    assert seconds("all-gather", inside) == pytest.approx(7 / 8 * 1e9 / link)
    # Three quarters of the whole come into every host, over the cards of those that ask.
    two_each = [place for place in everyone if place[2] < 2]
    assert seconds("all-gather", two_each) == pytest.approx(3 / 4 * 1e9 / 2 / card)
    # Eight cards together are nearly what a link is, and a link passes nearly all on.
    assert seconds("all-gather", everyone) == pytest.approx(31 / 32 * 1e9 / link)
    assert seconds("all-reduce", one_each) == pytest.approx(2 * 3 / 4 * 1e9 / card)
    # Of 32 pieces that a chip sends 24 leave its host.
    assert seconds("all-to-all", everyone) == pytest.approx(24 / 32 * 1e9 / card)
    # Who passes on to whom is not known, so nobody is taken to leave a host.
    assert seconds("collective-permute", everyone) == pytest.approx(1e9 / link)


def test_what_is_told_of_a_gpu_is_its_own():
    kinds = {name: one.device for name, one in GENERATIONS.items() if one.device.kind == "gpu"}
    assert tuple(kinds) == GPUS
    gpus = list(kinds.values())
    assert {one.name for one in gpus} == set(SILICON)
    told = [target_config(one) for one in gpus]
    assert len(set(told)) == len(told)
    for device, text in zip(gpus, told, strict=True):
        assert f"device_memory_size: {device.memory:.0f}\n" in text


def test_the_environment_of_a_compiler_is_set_before_jax_and_does_not_override():
    environment = {"TPU_MIN_LOG_LEVEL": "0"}
    prepare_environment("v5e:4x4", environment)
    assert environment["TPU_MIN_LOG_LEVEL"] == "0" and environment["JAX_PLATFORMS"] == "cpu"
    assert environment["TPU_SKIP_MDS_QUERY"] == "1"
    here: dict[str, str] = {}
    prepare_environment("cpu:8", here)
    assert here == simulated(8) and here["JAX_NUM_CPU_DEVICES"] == "8"
    gpu = {"XLA_FLAGS": "--xla_dump_to=there"}
    prepare_environment("h100:8", gpu)
    assert gpu["XLA_FLAGS"] == f"--xla_dump_to=there {UNTIMED}" and gpu["JAX_PLATFORMS"] == "cpu"
    nothing: dict[str, str] = {}
    prepare_environment("cpu:many", nothing)
    assert nothing == {}


def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_compiler("cpu:8")
    for name, compiler in (("v5e:4x4", TPU_COMPILER), ("h100:8", GPU_COMPILER)):
        with pytest.raises(ValueError, match=rf"{compiler.name}.*{name}.*\.\[{compiler.extra}\]"):
            check_compiler(name)
    with pytest.raises(ValueError, match="libtpu"):
        devices_of(read_topology("v5e:4x4"))


def test_simulated_devices_have_to_be_there():
    with pytest.raises(ValueError, match="JAX_NUM_CPU_DEVICES=4096"):
        devices_of(read_topology("cpu:4096"))


def test_what_a_library_writes_meanwhile_is_not_seen(capfd):
    with hushed():
        os.write(2, b"no drivers")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
