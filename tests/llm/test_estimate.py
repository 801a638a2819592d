"""What is promised of a run before it starts is what the run then has."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from llm.devices import DEVICES, Device, device_named
from llm.estimate import Estimate, duration, estimate
from llm.flops import forward_flops
from llm.footprint import laid_out, residuals
from llm.model import Decoder, abstract_decoder, parameters
from llm.model.architecture import Architecture, architecture_from_config
from llm.model.lora import LoRA
from llm.optimizer import optimizer, schedule
from llm.settings import (
    OFFLINE_RECIPES,
    ONLINE_RECIPES,
    AdapterSettings,
    MeshSettings,
    OptimizerSettings,
    SamplingSettings,
    Training,
)
from llm.update import Fixed, Learner
from llm.workload import Workload
from tests.llm.tiny_runs import CONFIG, as_jax, in_pieces, make_groups

LOAD = Workload(prompts=1000, prompt_tokens=20.0, response_tokens=30.0, responses=2, longest=120)
DEVICE = Device(name="test", flops=1e12, bandwidth=1e11, memory=1e11, mfu=0.5, kind="cpu")


def pythia(**changes) -> Architecture:
    """A small GPT-NeoX: biases, parallel residuals, an output matrix of its own."""
    config = {
        "model_type": "gpt_neox",
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "max_position_embeddings": 512,
        "vocab_size": 512,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "hidden_act": "gelu",
    }
    return architecture_from_config(config | changes)


def plan(
    name: str = "dpo",
    load: Workload = LOAD,
    devices: int = 1,
    device: Device = DEVICE,
    **settings,
) -> Estimate:
    recipes = OFFLINE_RECIPES | ONLINE_RECIPES
    training = Training(model="x", **settings)
    return estimate(pythia(), name, recipes[name], training, load, device, devices)


def held(found: Estimate, what: str) -> float:
    """Bytes of one kind of memory; 0 if there is none."""
    return sum(item.bytes for item in found.memory if item.what == what)


@pytest.mark.parametrize(("rule", "rank"), [("adamw", 0), ("adafactor", 0), ("adamw", 4)])
def test_weights_moments_and_gradients_are_as_large_as_the_real_ones(rule, rank):
    adapters, settings = AdapterSettings(rank=rank), OptimizerSettings(name=rule)
    lora = LoRA(rank=rank, alpha=16.0, targets=adapters.targets) if rank else None
    module = Decoder(architecture_from_config(CONFIG), rngs=nnx.Rngs(0), lora=lora)
    values = parameters(module)
    moving = {path: value for path, value in values.items() if not rank or "/lora_" in path}
    fixed = Fixed({path: value for path, value in values.items() if path not in moving})
    rate = schedule(settings, 1.0, 9)
    learner = Learner(module=module, transformation=optimizer(settings, rate), rate=rate)
    batch = as_jax(in_pieces(make_groups((5, 3, 4))).micro_batches(0)[0])
    recipe = OFFLINE_RECIPES["sft"]
    given = moving, fixed, batch, recipe.objective
    state, sums = learner.start(*given), learner.nothing(*given)
    training = Training(model="x", optimizer=settings, adapters=adapters)
    found = estimate(module.architecture, "sft", recipe, training, LOAD, DEVICE)
    nbytes = {
        # What trains took the place of what was read.
        "model as it was read": {p: value for p, value in values.items() if p not in moving},
        "weights that train": state.trainable,
        "optimizer": state.optimizer,
        "gradient, added up": sums.gradient,
    }
    for what, tree in nbytes.items():
        assert held(found, what) == sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), what
    assert found.parameters == sum(value.size for value in values.values())
    assert found.trainable == sum(value.size for value in moving.values())


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_activations_are_what_xla_reserves_for_a_backward_pass(remat):
    architecture, R, S = pythia(num_hidden_layers=4), 16, 64

    def temporary(layers: int) -> int:
        shape = replace(architecture, layers=layers, windows=(0,) * layers)
        module = abstract_decoder(shape, remat=remat)
        graphdef, state = nnx.split(module)
        ids = jax.ShapeDtypeStruct((R, S), jnp.int32)

        def loss(state, tokens):
            ones = jnp.ones_like(tokens)
            places = jnp.broadcast_to(jnp.arange(S)[None], tokens.shape)
            return nnx.merge(graphdef, state)(tokens, places, ones, ones).sum()

        program = jax.jit(jax.grad(loss)).lower(state, ids).compile()
        analysis = program.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    per_row, _ = residuals(architecture, S, jnp.float32, remat, fused=False)
    # Two more layers keep that much more, whatever the rest of the program needs.
    measured = (temporary(4) - temporary(2)) / 2
    assert R * per_row == pytest.approx(measured, rel=0.3)


def test_arithmetic_is_what_xla_counts():
    # Wide enough for the products to outweigh all that is done to single numbers.
    architecture = pythia(hidden_size=512, intermediate_size=2048, num_hidden_layers=2)
    (group,) = make_groups((16, 48))
    tokens = jnp.asarray(np.concatenate([group.prompt, group.responses[0]]))[None]
    module = abstract_decoder(architecture, unroll=architecture.layers)
    graphdef, state = nnx.split(module)

    def forward(state, tokens):
        decoder, ones = nnx.merge(graphdef, state), jnp.ones_like(tokens)
        places = jnp.arange(tokens.shape[1])[None]
        return decoder.logits(decoder(tokens, places, ones, ones)[:, 15:-1])

    counted = jax.jit(forward).lower(state, tokens).compile().cost_analysis()
    assert counted is not None
    assert forward_flops(architecture, group) == pytest.approx(counted["flops"], rel=0.05)


def test_steps_tokens_and_arithmetic_add_up_offline():
    found = plan(batch=10, epochs=2.0, reference="none")
    assert (found.steps, found.collections, found.generated) == (200, 0, 0)
    assert found.trained == 2 * 1000 * (20 + 2 * 30)
    assert found.training_flops == 2 * 1000 * 3 * forward_flops(pythia(), LOAD.group(2))
    # Weights, two moments and a gradient, float32, are read and written in each step.
    moving = 200 * 2 * 16 * found.parameters / (0.5 * 1e11)
    assert found.training_seconds == pytest.approx(found.training_flops / 0.5e12 + moving)
    assert found.judging_flops == 0
    assert plan(batch=10).judging_flops == 1000 * forward_flops(pythia(), LOAD.group(2))
    assert plan(batch=10, steps=7).steps == 7


def test_fresh_responses_are_written_read_and_used_as_often_as_the_recipe_says():
    recipe = ONLINE_RECIPES["online_dpo"].with_collection(prompts=40)
    recipe = recipe.with_reuse(minibatches=4, inner_steps=3)
    training = Training(model="x", batch=10, reward="model:y")
    found = estimate(pythia(), "online_dpo", recipe, training, LOAD, DEVICE)
    assert (found.steps, found.collections) == (25 * 12, 25)
    assert found.generated == 1000 * 2 * 30
    assert found.trained == 3 * 1000 * (20 + 2 * 30)
    # The policy, its frozen reference and the reward model read each response once.
    assert found.judging_flops == 3 * 1000 * forward_flops(pythia(), LOAD.group(2))
    assert held(found, "reward models") == 4 * found.parameters
    slower = replace(training, sampling=SamplingSettings(max_new_tokens=256))
    again = estimate(pythia(), "online_dpo", recipe, slower, LOAD, DEVICE)
    assert again.sampling_seconds > found.sampling_seconds > 0


def test_the_cache_of_the_sampler_is_counted_while_it_writes_and_activations_while_it_trains():
    found = plan("reinforce", batch=16, sampling=SamplingSettings(max_new_tokens=100))
    assert held(found, "cache of 16 x 220 tokens") == 16 * 220 * 2 * 3 * 128 * 4
    moments = {item.when: 0.0 for item in found.memory}
    for item in found.memory:
        moments[item.when] += item.bytes
    assert found.peak == moments["always"] + max(moments["training"], moments["sampling"])


def test_computing_again_keeps_less_and_takes_longer():
    none, dots, full = (plan(remat=remat) for remat in ("none", "dots", "full"))
    kept = [held(found, "activations kept") for found in (none, dots, full)]
    assert kept[0] > kept[1] > kept[2] > 0
    again = full.training_seconds - none.training_seconds
    assert again == pytest.approx(none.training_flops / 3 / 0.5e12)


def test_devices_that_share_a_model_hold_a_part_of_it_each():
    whole, parts = plan(), plan(devices=4, mesh=MeshSettings(fsdp=4))
    assert held(parts, "optimizer") == held(whole, "optimizer") / 4
    assert held(parts, "activations kept") == held(whole, "activations kept")
    assert parts.training_seconds == pytest.approx(whole.training_seconds / 4)


def test_a_model_is_cut_into_as_few_pieces_as_fit():
    def fsdp(resident, memory=16.0, devices=8, **mesh):
        return laid_out(MeshSettings(**mesh), devices, resident, memory).fsdp

    assert [fsdp(size) for size in (1.0, 8.0, 9.0, 33.0, 1e9)] == [1, 1, 2, 8, 8]
    # Devices along tensor share it too; 6 devices cannot hold 4 pieces each.
    assert fsdp(33.0, tensor=4) == 2 and fsdp(25.0, devices=6) == 6
    # What was asked for stays, and where memory is not known nothing is cut.
    assert fsdp(1e9, fsdp=2) == 2 and fsdp(1e9, data=4) is None and fsdp(1e9, memory=None) == 1


def test_a_plan_cuts_a_model_that_does_not_fit_whole():
    whole = plan(devices=8)
    # While a run begins, what trains is there twice: as it was read, too.
    kept = sum(item.bytes for item in whole.memory if item.when == "always")
    kept += held(whole, "weights that train")
    cut = plan(devices=8, device=replace(DEVICE, memory=kept / 2))
    assert held(cut, "optimizer") == held(whole, "optimizer") / 4


def test_half_precision_writes_with_a_copy_of_the_weights():
    copied, alone = plan("rloo", dtype="bfloat16"), plan("rloo", dtype="float32")
    assert held(copied, "weights to write with, bfloat16") == pytest.approx(2 * copied.parameters)
    assert not [item for item in alone.memory if "to write with" in item.what]


def test_a_plan_says_whether_it_fits():
    found = plan()
    assert found.fits and not replace(found, device=replace(DEVICE, memory=found.peak)).fits
    said = Console(width=120, record=True)
    said.print(replace(found, device=replace(DEVICE, memory=1.0)).table())
    assert "does not fit" in said.export_text()


def test_devices_are_known_by_name_and_this_one_is_measured():
    assert DEVICES["h200"].memory > DEVICES["h100"].memory
    here = device_named("cpu")
    assert 1e9 < here.flops < 1e14 and 1e8 < here.bandwidth < 1e13 and here.memory > 1e8
    with pytest.raises(ValueError, match=r"no device 'tpu'; there are h200, .* and cpu"):
        device_named("tpu")


def test_times_are_said_in_the_unit_people_would_use():
    assert [duration(s) for s in (3.0, 119.0, 600.0, 9e3, 4e5)] == [
        *("3.0 s", "119.0 s", "10.0 min", "2.5 h", "4.6 d")
    ]
