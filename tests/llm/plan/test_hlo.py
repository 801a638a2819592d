"""A compiled program read back: how often its loops turn, what its devices say, what it moves."""

import jax
import jax.numpy as jnp
import pytest

from llm.plan.collectives import Collective, collectives, group_of
from llm.plan.hlo import Program, read_instruction, read_program
from llm.plan.traffic import moved, passed_on

TPU = """HloModule jit_f, is_scheduled=true

%cond.1 (p.1: (s32[], bf16[4,8])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %end = s32[]{:T(128)} constant(24)
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %end), direction=LT
}

%start.1 (q.1: bf16[1,8]) -> (bf16[1,8], bf16[4,8]) {
  %q.1 = bf16[1,8]{1,0} parameter(0)
  %ag.1 = bf16[4,8]{1,0:T(8,128)(2,1)} all-gather(%q.1), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, use_global_device_ids=true, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %t.1 = (bf16[1,8]{1,0}, bf16[4,8]{1,0}) custom-call(%ag.1), \
custom_call_target="AsyncCollectiveStart"
}

%piece.1 (q.2: bf16[1,8]) -> bf16[4,8] {
  %q.2 = bf16[1,8]{1,0} parameter(0)
  ROOT %ag.2 = bf16[4,8]{1,0} all-gather(%q.2), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
}

%update.1 (u.1: f32[24,64], u.2: f32[1,64], u.3: s32[]) -> f32[24,64] {
  %u.1 = f32[24,64]{1,0} parameter(0)
  %u.2 = f32[1,64]{1,0} parameter(1)
  %u.3 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %dus = f32[24,64]{1,0} dynamic-update-slice(%u.1, %u.2, %u.3, %zero)
}

%body.1 (p.2: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.2 = (s32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %x = bf16[1,8]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %f.1 = (bf16[1,8]{1,0}, bf16[4,8]{1,0}) fusion(%x), kind=kCustom, \
output_to_operand_aliasing={{0}: (0, {})}, calls=%start.1
  %f.2 = bf16[4,8]{1,0} fusion(%x), kind=kLoop, calls=%piece.1
  %stack = f32[24,64]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %row = f32[1,64]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %f.3 = f32[24,64]{1,0} fusion(%stack, %row, %n), kind=kLoop, calls=%update.1
  ROOT %r = (s32[]{:T(128)}, bf16[4,8]{1,0}) tuple(%n, %f.2)
}

ENTRY %main.1 (a.1: bf16[4,8]) -> bf16[4,8] {
  %a.1 = bf16[4,8]{1,0} parameter(0)
  %four = s32[]{:T(128)} constant(4)
  %t.2 = (s32[]{:T(128)}, bf16[4,8]{1,0}) tuple(%four, %a.1)
  %w.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}) while(%t.2), condition=%cond.1, body=%body.1
  %s.1 = (bf16[4,8]{1,0}, bf16[4,8]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%a.1)
  ROOT %g.1 = bf16[4,8]{1,0} get-tuple-element(%w.1), index=1
}
"""


@pytest.fixture(scope="module")
def program() -> Program:
    return read_program(TPU)


def test_a_loop_turns_as_often_as_its_condition_says(program):
    assert program.entry == "main.1"
    assert program.times == {"main.1": 1, "body.1": 20, "cond.1": 20}


def test_a_collective_in_pieces_counts_once_for_every_turn(program):
    [found] = collectives(program)
    assert found == Collective("all-gather", 64.0, (0, 1, 2, 3), 20.0)
    assert found.sent == 64 * 3 / 4


def test_traffic_counts_parts_of_stacks_and_nothing_beside_the_arithmetic(program):
    # A turn writes the 64 numbers of a row into the stack and reads them, writes what the two
    # gathers make (of the first what it was given is handed on), and reads an index; its condition
    # reads two numbers and writes a truth.
    turn = 2 * 64 * 4 + 2 * 4 * 8 * 2 + 4 + 9
    assert moved(program) == 20 * turn + 4 * 8 * 2


@pytest.mark.parametrize(
    ("said", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, x", (0, 1, 4, 5)),
        # A part of an axis: the last two of its eight.
        ("replica_groups=mesh['a'=8] {'a':(4)2}, x", (0, 1)),
        ("replica_groups=mesh['a'=8] {'a':(1)4}, x", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, x", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=4], device_ids=(3,1,2,0) {'a'}, x", (3, 1, 2, 0)),
        ("source_target_pairs={{0,1},{1,2},{2,3},{3,0}}, x", (0, 1, 2, 3)),
    ],
)
def test_the_devices_of_a_group_are_read_however_they_are_printed(said, group):
    assert group_of(said) == group


def test_what_is_no_group_is_an_error():
    with pytest.raises(ValueError, match="no group of devices"):
        group_of("replica_groups=nobody")
    with pytest.raises(ValueError, match="no ENTRY"):
        read_program("%f (x: f32[]) -> f32[] {\n}\n")


def test_bytes_that_a_device_sends_are_those_of_the_shortest_way():
    ring = (0, 1, 2, 3)
    sent = {
        kind: Collective(kind, 100.0, ring, 1.0).sent
        for kind in ("all-gather", "reduce-scatter", "all-reduce", "collective-permute")
    }
    assert sent == {
        "all-gather": 75.0,
        "reduce-scatter": 75.0,
        "all-reduce": 150.0,
        "collective-permute": 100.0,
    }


def test_a_tuple_of_shapes_and_its_operands_are_read():
    line = "  ROOT %f.1 = (f32[2,3]{1,0:T(8,128)}, s4[8]{0}, pred[]) fusion(%a, %b.2), calls=%g"
    found = read_instruction(line)
    assert found is not None
    assert found.root and found.opcode == "fusion" and found.operands == ("a", "b.2")
    assert [buffer.bytes for buffer in found.made] == [24.0, 4.0, 1.0]
    assert found.runs("calls") == "g"
    assert read_instruction("}") is None
    aliases = "x, output_to_operand_aliasing={{}: (1, {}), {3}: (2, {})}, calls=%g"
    assert dict(passed_on(aliases)) == {0: 1, 3: 2}


def test_a_program_of_this_machine_turns_and_moves_what_is_known_of_it():
    def f(x, stack):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, stack)[0]

    layers, size = 7, 64
    x, stack = jnp.zeros((size, size)), jnp.zeros((layers, size, size))
    scanned = read_program(jax.jit(f).lower(x, stack).compile().as_text())
    assert layers in scanned.times.values()
    # Each layer reads its matrix and what came before, and writes what it makes, at least once.
    least = layers * 3 * size * size * 4
    assert least <= moved(scanned) <= 4 * least
