"""Values, weights, metrics and gradients against formulas written a second time, in float64."""

import functools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import example, given

from objectives import OBJECTIVES
from tests.objectives import oracle
from tests.objectives.batches import B, Batch, N, T, draw, litter, loss_and_gradient, on_device
from tests.objectives.variations import CASES, Case

pytestmark = pytest.mark.usefixtures("x64")

close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)


def check(case: Case, batch: Batch) -> None:
    """Everything an objective returns is what the oracle says."""
    terms, loss, gradient = loss_and_gradient(case.objective, *on_device(batch))
    expected = oracle.answer(case.objective, batch)
    value, weight = np.asarray(terms.value), np.asarray(terms.weight)
    assert value.shape == weight.shape
    assert {leaf.dtype for leaf in jax.tree.leaves((terms, loss, gradient))} == {np.dtype(float)}
    units = {unit.index: unit for unit in expected.units}
    for index in np.ndindex(weight.shape):
        if index not in units:
            assert weight[index] == 0, f"unit {index} must not exist"
            continue
        close(weight[index], units[index].weight)
        close(value[index], units[index].value, err_msg=f"unit {index}")
    close(loss, expected.mean())
    close(gradient, expected.gradient(batch.mask.shape))
    assert set(terms.metrics) == set(expected.metrics)
    for name, metric in terms.metrics.items():
        close(metric.mean(), oracle.average(expected.metrics[name]), err_msg=name)
        close(metric.total()[1], sum(w for _, w in expected.metrics[name]), err_msg=name)


def test_every_objective_has_a_formula_written_a_second_time():
    assert set(oracle.FORMULAS) == set(OBJECTIVES)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_objective_is_its_formula(case, seed):
    check(case, draw(seed, case.advantage))


@st.composite
def batches(draw_from: st.DrawFn) -> Batch:
    """Batches whose masks, ties and near-misses hypothesis chooses."""
    batch = draw(draw_from(st.integers(0, 2**16)), garbage=0.5)
    flags = st.lists(st.booleans(), min_size=B * N, max_size=B * N)
    valid = np.array(draw_from(flags)).reshape(B, N)
    lengths = draw_from(st.lists(st.integers(0, T), min_size=B * N, max_size=B * N))
    mask = np.arange(T) < np.array(lengths).reshape(B, N, 1)
    levels = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.6, 1.0]), min_size=B * N, max_size=B * N)
    reward = np.array(draw_from(levels)).reshape(B, N)
    scale = draw_from(st.sampled_from([1e-9, 1.0, 30.0]))
    logp, old_logp = batch.logp * scale, batch.old_logp * scale
    changed = batch._replace(
        logp=np.minimum(logp, 0),
        old_logp=np.maximum(np.minimum(old_logp, 0), np.minimum(logp, 0) - 3),
        ref_logp=np.maximum(batch.ref_logp, np.minimum(logp, 0) - 3),
        mask=mask,
        valid=valid,
        reward=reward,
    )
    return litter(changed, np.nan)


@given(batch=batches(), which=st.integers(0, len(CASES) - 1))
@example(batch=draw(0)._replace(valid=np.zeros((B, N), bool)), which=0)
def test_an_objective_is_its_formula_on_awkward_batches(batch, which):
    case = CASES[which]
    check(case, batch if case.advantage != "response" else one_advantage(batch))


def one_advantage(batch: Batch) -> Batch:
    """The first token's advantage for the whole response, or garbage where there is none."""
    first = np.where(
        batch.exists[..., None], np.nan_to_num(batch.advantage[..., :1], nan=0.7), np.nan
    )
    return batch._replace(advantage=first)
