"""Many runs as one program: nothing about a run depends on its company, and nonsense costs nothing.

Key to the axes: G settings, S seeds, R records.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandit import (
    R1,
    R2,
    ContextualMLP,
    Diverged,
    Policy,
    Setting,
    Tabular,
    TokenTransformer,
    Trace,
    seed_keys,
    squashed_cauchy,
    sweep,
)
from objectives import IPO, RECIPES, RWR, Collection, Recipe
from tests.bandit.watching import SWEEP, compiled, quick, run


def forget() -> None:
    SWEEP.compiled_starts.cache_clear()
    SWEEP.compiled_runs.cache_clear()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sweeps compiled as fast as can be, where the options of production are not the subject."""
    forget()
    monkeypatch.setattr(SWEEP, "COMPILER_OPTIONS", quick())
    yield
    forget()


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a sweep prepares or runs anything."""

    def runs(*given: Any) -> None:
        raise AssertionError("something ran")

    monkeypatch.setattr(SWEEP, "compiled_starts", runs)
    monkeypatch.setattr(SWEEP, "compiled_runs", runs)


SMALL = ContextualMLP(hidden=16, evaluation_contexts=8, fit_steps=10)
EVERYTHING = tuple(field.name for field in dataclasses.fields(Trace))


many_and_few = pytest.mark.parametrize(
    ("policy", "few", "many"),
    # More than one chunk of either: 80 runs of a table, 12 of a network.
    [pytest.param(Tabular(), 2, 40, id="table"), pytest.param(SMALL, 1, 6, id="mlp")],
)


@many_and_few
def test_what_a_seed_produces_does_not_depend_on_how_many_run_beside_it(policy, few, many, quickly):
    independent_of_company(policy, few, many)


@pytest.mark.slow
@many_and_few
def test_nor_does_it_when_compiled_as_in_production(policy, few, many):
    independent_of_company(policy, few, many)


def independent_of_company(policy: Policy, few: int, many: int) -> None:
    settings = [Setting(RECIPES["rloo"], problem, 0.05) for problem in (R1, R2)]
    alone = sweep(settings, policy, few, 6, record_every=3, keep=EVERYTHING)
    among = sweep(settings, policy, many, 6, record_every=3, keep=EVERYTHING)
    for name in EVERYTHING:
        assert alone[name].shape[:3] == (2, few, 3) and among[name].shape[:3] == (2, many, 3)
        if name == "distance":
            # XLA works pi* out with or without a loop around it, which shows in the last bit.
            np.testing.assert_allclose(alone[name], among[name][:, :few], rtol=1e-6)
        else:
            np.testing.assert_array_equal(alone[name], among[name][:, :few], err_msg=name)
    assert len(np.unique(among["reward"][0, :, -1])) == many
    # And a seed starts from the same policy in every setting.
    np.testing.assert_array_equal(*among["probability"][:, :, 0])


def test_a_sweep_holds_the_runs_that_simulate_gives(quickly):
    recipe, keys = RECIPES["online_best_of_n"], seed_keys(7, 3)
    settings = [Setting(recipe, R1, 0.05), Setting(recipe, R2, 0.02)]
    traces = sweep(settings, Tabular(), 3, 8, record_every=4, root=7, keep=EVERYTHING)
    for column, setting in enumerate(settings):
        # A sweep draws the start from a seed's key itself, which for a table is no draw at all.
        alone = run(
            recipe, setting.problem, key=keys[2], steps=8, record_every=4,
            learning_rate=setting.learning_rate,
        )  # fmt: skip
        for name in EVERYTHING:
            found, expected = traces[name][column, 2], getattr(alone, name)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_seed_s_has_one_key_however_many_seeds_there_are():
    few, many = (jax.random.key_data(seed_keys(5, count)) for count in (3, 9))
    np.testing.assert_array_equal(few, many[:3])
    assert len(np.unique(many, axis=0)) == 9
    assert (many != jax.random.key_data(seed_keys(6, 9))).any(axis=-1).all()


def test_a_sweep_of_many_numbers_costs_one_compilation_and_the_next_one_none(quickly):
    def settings(rates, taus):
        objectives = [IPO(tau=tau, threshold=0.2) for tau in taus]
        recipes = [dataclasses.replace(RECIPES["ipo"], objective=one) for one in objectives]
        return [Setting(one, problem, rate) for one in recipes for problem in (R1, R2)
                for rate in rates]  # fmt: skip

    for rates, taus, root in [((0.01, 0.1, 0.3), (0.05, 0.5), 0), ((1, 2, 3), (0.1, 1.0), 9)]:
        rewards = sweep(settings(rates, taus), Tabular(), 2, 4, record_every=2, root=root)
        assert rewards["reward"].shape == (12, 2, 3)
        assert len(np.unique(rewards["reward"][..., -1])) == 24
    assert SWEEP.compiled_starts(Tabular(), 10)._cache_size() == 1
    program = SWEEP.compiled_runs(Tabular(), 4, 2, ("step", "samples", "reward"))
    assert program._cache_size() == 1


def test_only_what_is_kept_comes_back(quickly):
    settings = [Setting(RECIPES["online_dpo"], R1, 0.1)]
    traces = sweep(settings, Tabular(), 2, 4, record_every=2, keep=("probability", "step"))
    assert {name: array.shape for name, array in traces.items()} == {
        "probability": (1, 2, 3, 100),
        "step": (1, 2, 3),
    }
    np.testing.assert_array_equal(traces["step"][0], [[0, 2, 4]] * 2)


@pytest.mark.parametrize(("policy", "size"), [(Tabular(), 32), (SMALL, 4), (TokenTransformer(), 1)])
def test_mapping_in_chunks_is_mapping(policy, size):
    assert SWEEP.chunk_size(policy) == size
    x, y = np.arange(2 * size + 1), np.arange(6.0 * size + 3).reshape(-1, 3)
    chunked = compiled(lambda x, y: SWEEP.in_chunks(lambda row: row[0] * row[1], (x, y), size))
    np.testing.assert_array_equal(chunked(x, jnp.float32(y)), x[:, None] * y)


ONE = Setting(RECIPES["ipo"], R1, 0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": []}, "0 settings and 2 seeds has nothing to run"),
        ({"seeds": 0}, "1 settings and 0 seeds has nothing to run"),
        ({"keep": ("reward", "regret")}, r"keep names \['regret'\]; a Trace has .*reward"),
        ({"steps": 0}, "steps=0"),
        ({"record_every": 3}, "record_every must divide steps"),
        ({"contexts": 0}, "contexts is 0"),
        ({"beta_star": 0.0}, "beta_star is 0.0"),
        ({"beta_star": float("nan")}, "beta_star is nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_sweep_that_makes_no_sense_is_refused_before_anything_runs(
    changes, message, nothing_runs
):
    sensible = {"settings": [ONE], "policy": Tabular(), "seeds": 2, "steps": 10}
    with pytest.raises(ValueError, match=message):
        sweep(**(sensible | changes))


@pytest.mark.parametrize("learning_rate", [0.0, -0.1, float("nan"), float("inf")])
def test_a_learning_rate_that_is_none_is_refused_before_anything_runs(learning_rate, nothing_runs):
    settings = [ONE, Setting(RECIPES["ipo"], R1, learning_rate)]
    with pytest.raises(ValueError, match=f"learning_rate is {learning_rate}; it must be finite"):
        sweep(settings, Tabular(), 1, 4)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(RECIPES["dpo"], id="objective"),
        pytest.param(RECIPES["online_ipo"], id="source"),
        pytest.param(RECIPES["ipo"].with_collection(responses=9), id="responses"),
        pytest.param(RECIPES["ipo"].with_reuse(inner_steps=2), id="reuse"),
        pytest.param(Recipe(IPO(pairs="best_vs_worst"), RECIPES["ipo"].collection), id="word"),
    ],
)
def test_settings_of_two_structures_are_refused_before_anything_runs(other, nothing_runs):
    with pytest.raises(ValueError, match="settings 0 and 1 differ in structure"):
        sweep([ONE, Setting(other, R1, 0.01)], Tabular(), 1, 4)


def test_settings_of_two_references_are_refused_because_a_seed_has_one_start(nothing_runs):
    moved = dataclasses.replace(R1, ref_logp=squashed_cauchy(location=0.5))
    with pytest.raises(ValueError, match="settings 0 and 1 have different references"):
        sweep([ONE, Setting(RECIPES["ipo"], moved, 0.01)], Tabular(), 1, 4)


def test_the_log_ratio_of_the_others_is_refused_where_a_group_has_no_others(nothing_runs):
    recipe = RECIPES["sft"].with_collection(responses=1)
    with pytest.raises(ValueError, match=r"collection\.responses=1"):
        sweep([Setting(recipe, R1, 0.01)], Tabular(), 1, 4, keep=("rejected_log_ratio",))


def test_a_run_whose_numbers_overflow_is_named(quickly):
    settings = [Setting(RECIPES["online_dpo"], R1, rate) for rate in (0.1, 1e38)]
    with pytest.raises(Diverged, match=r"reward is not finite .* learning_rate=1e\+38 with DPO\("):
        sweep(settings, Tabular(), 2, 20, record_every=20)


def test_a_weight_that_overflows_is_named_too(quickly):
    # exp(1 / 0.01) is beyond float32: the rewards of R2 come close enough to 1.
    recipe = Recipe(RWR(beta=0.01, max_weight=float("inf")), Collection("dataset"))
    with pytest.raises(Diverged, match=r"with RWR\(beta=0.01"):
        sweep([Setting(recipe, R2, 0.01)], Tabular(), 1, 4, record_every=4)


def test_an_enormous_learning_rate_alone_wrecks_a_policy_without_making_it_infinite(quickly):
    # Adam bounds every step by the learning rate, so logits stay finite until they overflow.
    settings = [Setting(RECIPES["ipo"], R1, 1e6)]
    traces = sweep(settings, Tabular(), 2, 30, keep=EVERYTHING, record_every=30)
    assert traces["entropy"][0, :, -1].max() < 1
