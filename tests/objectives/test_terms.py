"""Values with weights: the one kind of thing that is ever averaged."""

import jax
import numpy as np

from objectives import Terms, Weighted


def weighted(value: list[float], weight: list[float]) -> Weighted:
    return Weighted(jax.numpy.asarray(value), jax.numpy.asarray(weight))


def test_the_mean_is_weighted():
    total, weight = weighted([1.0, 2.0, 4.0], [1.0, 0.5, 0.25]).total()
    np.testing.assert_allclose([total, weight], [3.0, 1.75])
    np.testing.assert_allclose(weighted([1.0, 2.0, 4.0], [1.0, 0.5, 0.25]).mean(), 3.0 / 1.75)


def test_a_unit_of_weight_zero_counts_for_nothing_whatever_it_holds():
    for nothing in (np.nan, np.inf, -np.inf):
        assert weighted([1.0, nothing, 4.0], [1.0, 0.0, 2.0]).mean() == 3.0


def test_the_mean_of_no_units_is_zero_and_has_no_gradient():
    value, gradient = jax.value_and_grad(
        lambda x: Weighted(x, jax.numpy.zeros(3)).mean(),
    )(jax.numpy.asarray([1.0, 2.0, 4.0]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_weights_too_small_to_notice_still_divide():
    np.testing.assert_allclose(weighted([1.0, 2.0, 4.0], [1e-30, 1e-30, 0.0]).mean(), 1.5)


def test_terms_are_a_weighted_with_metrics_and_unpack_like_one():
    value, weight = weighted([1.0, 2.0, 4.0], [1.0, 0.5, 0.25])
    terms = Terms(value, weight, {"margin": Weighted(value, weight)})
    assert terms.mean() == Weighted(value, weight).mean() == terms.metrics["margin"].mean()
    assert terms.total() == Weighted(value, weight).total()
