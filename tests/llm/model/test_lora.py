"""Adapters start at nothing, are all that trains, and leave nothing behind when merged."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.model import Decoder, abstract_decoder, parameters, with_parameters
from llm.model.lora import LoRA, LoRAParam, adapt, merge
from tests.llm.model.decoders import ARCHITECTURES, filled, quickly_compiled, rows, run, tokens

EVERYWHERE = LoRA(rank=2, alpha=6.0, targets=("query", "key", "value", "output", "gate", "up"))


@pytest.fixture(scope="module")
def base() -> Decoder:
    return filled(ARCHITECTURES["qwen3"])


@pytest.fixture(scope="module")
def adapted(base: Decoder) -> Decoder:
    return adapt(base, EVERYWHERE, rngs=nnx.Rngs(1))


@pytest.fixture(scope="module")
def trained(adapted: Decoder) -> Decoder:
    """Adapters that do correct something."""
    rng = np.random.default_rng(3)
    return with_parameters(
        adapted,
        {
            path: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32)
            for path, leaf in parameters(adapted).items()
            if path.endswith("lora_b")
        },
    )


def row() -> tuple[jax.Array, ...]:
    return rows(24, (tokens(20), 0, 1, 0))


def test_an_adapter_that_is_not_trained_changes_nothing(base: Decoder, adapted: Decoder):
    np.testing.assert_array_equal(run(adapted, *row()), run(base, *row()))


def test_adapters_stand_beside_the_kernels_of_their_targets(adapted: Decoder):
    shapes = {path: leaf.shape for path, leaf in parameters(adapted).items() if "lora" in path}
    assert len(shapes) == 2 * 6
    assert shapes["blocks/attention/query/lora_a"] == (3, 16, 2)
    assert shapes["blocks/attention/query/lora_b"] == (3, 2, 4, 6)
    assert shapes["blocks/attention/output/lora_a"] == (3, 4, 6, 2)
    assert shapes["blocks/attention/output/lora_b"] == (3, 2, 16)
    assert not any("down" in path for path in shapes)


def test_switched_off_adapters_give_the_base_model(base: Decoder, trained: Decoder):
    off = quickly_compiled(lambda decoder: decoder(*row(), adapters=False))(trained)
    np.testing.assert_array_equal(off, run(base, *row()))
    assert np.abs(np.asarray(run(trained, *row())) - np.asarray(off)).max() > 0.1


def test_merging_keeps_what_the_model_computes_and_drops_the_adapters(trained: Decoder):
    merged = merge(trained)
    assert parameters(merged).keys() == parameters(filled(ARCHITECTURES["qwen3"])).keys()
    np.testing.assert_allclose(run(merged, *row()), run(trained, *row()), atol=1e-5)
    assert "blocks/attention/query/lora_a" in parameters(trained)


def test_the_correction_is_scaled_by_alpha_over_rank(base: Decoder, trained: Decoder):
    held = parameters(trained)
    a, b = (np.asarray(held[f"blocks/attention/output/lora_{part}"]) for part in "ab")
    delta = 3.0 * np.einsum("lhcr,lrd->lhcd", a, b)
    kernel = "blocks/attention/output/kernel"
    merged = np.asarray(parameters(merge(trained))[kernel])
    np.testing.assert_allclose(merged, np.asarray(parameters(base)[kernel]) + delta, atol=1e-5)


def test_only_adapters_train_when_they_are_split_off(adapted: Decoder):
    graphdef, train, frozen = nnx.split(adapted, LoRAParam, ...)

    def loss(train: Any) -> jax.Array:
        return jnp.sum(jnp.sin(nnx.merge(graphdef, train, frozen)(*row())[0, :20]))

    gradient = nnx.to_flat_state(quickly_compiled(jax.grad(loss))(train))
    assert len(gradient) == 2 * 6
    for path, variable in gradient:
        # At the start B is 0, so A has no gradient yet and B has one.
        assert bool(jnp.any(variable[...] != 0)) == (path[-1] == "lora_b"), path


def test_adapters_are_float32_beside_a_bfloat16_model():
    decoder = abstract_decoder(
        ARCHITECTURES["qwen3"], param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, lora=LoRA()
    )
    for path, leaf in parameters(decoder).items():
        assert leaf.dtype == (jnp.float32 if "lora" in path else jnp.bfloat16), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"targets": ("query", "keys")}, "it must name at least one of query, key"),
        ({"targets": ()}, "it must name at least one of"),
    ],
)
def test_an_impossible_adapter_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LoRA(), **change)


def test_a_target_that_the_model_lacks_is_refused():
    lora = LoRA(targets=("query", "gate"))
    with pytest.raises(ValueError, match="targets names gate, which this model does not have"):
        adapt(abstract_decoder(ARCHITECTURES["gpt2"]), lora, rngs=nnx.Rngs(0))
