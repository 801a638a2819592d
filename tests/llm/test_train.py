"""A step knows its programs beforehand, and cutting it changes nothing, for KTO either."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.model import parameters
from llm.step import Step
from llm.train import is_multiple, means, stop_requests
from llm.update import Fixed
from objectives import KTO
from tests.llm.tiny_runs import (
    as_jax,
    in_pieces,
    loud,
    make_decoder,
    make_groups,
    make_learner,
)

GROUPS = make_groups((3, 5, 40), (20, 1, 9), (7, 12, 2), (1, 30, 31), rewards=(1.0, 0.0))


@pytest.mark.slow
def test_a_cut_step_of_kto_is_the_step_on_the_whole_batch():
    decoder = make_decoder()
    policy, fixed = loud(parameters(decoder)), Fixed({}, parameters(decoder))
    learner, objective = make_learner(decoder), KTO()
    plan, uncut = in_pieces(GROUPS), in_pieces(GROUPS, max_tokens=256)
    (whole,) = uncut.micro_batches(0)
    first = as_jax(plan.micro_batches(0)[0])
    state = jax.jit(learner.start)(policy, fixed, first, objective)
    step = Step(learner, fixed, objective, state, [], plan.examples(cut=True), put=as_jax)
    assert step.compilations == 4, "to begin a sum, to add, for the reference point, to move"
    batches = [as_jax(batch) for batch in plan.micro_batches(0)]
    assert len(batches) > 1
    with jax.transfer_guard("disallow"):
        after, report = step(state, batches)
    expected = jax.jit(learner.sums)(policy, fixed, as_jax(whole), objective)
    loss, weight = expected.loss
    assert weight == 8
    np.testing.assert_allclose(np.divide(*report.totals["loss"]), loss / weight, rtol=1e-5)
    assert state.trainable["norm/scale"].is_deleted(), "a step uses up the state it is given"
    for path, gradient in expected.gradient.items():
        moved = np.asarray(policy[path]) - np.asarray(after.trainable[path])
        scale = float(jnp.abs(gradient / weight).max())
        np.testing.assert_allclose(moved, gradient / weight, rtol=1e-3, atol=1e-4 * scale + 1e-7)


def test_a_signal_waits_for_the_step_and_a_second_ctrl_c_does_not():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_metric_without_a_unit_is_left_out():
    totals = {"loss": (jnp.asarray(3.0), jnp.asarray(2.0)), "margin": (jnp.zeros(()),) * 2}
    assert means(totals) == {"loss": 1.5}


def test_never_is_written_as_every_0_steps():
    assert [is_multiple(number, 0) for number in range(3)] == [False] * 3
    assert [is_multiple(number, 2) for number in range(1, 5)] == [False, True, False, True]
