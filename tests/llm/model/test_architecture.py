"""What a config.json says is what the architecture holds, and what it cannot hold is refused."""

import dataclasses

import pytest

from llm.model.architecture import (
    Architecture,
    RopeScaling,
    architecture_from_config,
    config_from_architecture,
)

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 61,
    "n_embd": 24,
    "n_head": 4,
    "n_layer": 4,
    "n_positions": 64,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_type": "llama3",
}
CONFIGS = {
    "gpt2": GPT2,
    "gpt_neox": {
        **LLAMA,
        "model_type": "gpt_neox",
        "hidden_size": 32,
        "num_key_value_heads": None,
    },
    "llama": LLAMA,
    "llama3": {**LLAMA, "rope_theta": 5e5, "rope_scaling": LLAMA3},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 9},
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen2 with windows": {
        **LLAMA,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 3,
    },
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 10},
    "gemma2": {**LLAMA, "model_type": "gemma2", "sliding_window": 9},
}


def read(config: dict, **changes: object) -> Architecture:
    return architecture_from_config({**config, **changes})


@pytest.mark.parametrize("name", CONFIGS)
def test_an_architecture_is_written_and_read_back(name: str):
    architecture = read(CONFIGS[name])
    assert read(config_from_architecture(architecture)) == architecture
    assert hash(architecture) == hash(read(CONFIGS[name]))


def test_the_layers_with_a_window_are_those_of_the_family():
    assert read(CONFIGS["llama"]).windows == (0, 0, 0, 0)
    assert read(CONFIGS["mistral"]).windows == (9, 9, 9, 9)
    assert read(CONFIGS["mistral"], sliding_window=None).windows == (0, 0, 0, 0)
    assert read(CONFIGS["qwen2"], sliding_window=9).windows == (0, 0, 0, 0)
    assert read(CONFIGS["qwen2 with windows"]).windows == (0, 0, 0, 9)
    assert read(CONFIGS["gemma2"]).windows == (9, 0, 9, 0)
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    assert read(CONFIGS["gemma2"], layer_types=kinds).windows == (0, 9, 0, 0)


def test_both_layouts_of_the_rotary_settings_say_the_same():
    flat = read(LLAMA, rope_theta=5e5, rope_scaling=LLAMA3)
    nested = read(LLAMA, rope_parameters={**LLAMA3, "rope_theta": 5e5})
    both = read(
        LLAMA, rope_theta=5e5, rope_scaling=LLAMA3, rope_parameters={**LLAMA3, "rope_theta": 5e5}
    )
    assert flat == nested == both
    assert flat.rope_theta == 5e5
    assert flat.rope_scaling == RopeScaling(
        kind="llama3",
        factor=8.0,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_positions=16,
    )
    assert read(LLAMA, rope_scaling={"type": "linear", "factor": 2.0}).rope_scaling == RopeScaling(
        kind="linear", factor=2.0
    )


def test_pythia_rotates_a_quarter_of_each_head_in_either_layout():
    config = CONFIGS["gpt_neox"]
    assert read(config).rope_fraction == 0.25
    assert read(config, rotary_pct=0.5, rotary_emb_base=100).rope_theta == 100
    nested = {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 100.0}
    assert read(config, rope_parameters=nested) == read(config, rotary_pct=0.5, rope_theta=100)


def test_two_layouts_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"rope_theta is stated twice, as 100\.0 and as 5\.0"):
        read(LLAMA, rope_theta=5.0, rope_parameters={"rope_type": "default", "rope_theta": 100.0})


def test_an_unknown_family_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'mamba'.*gpt2, gpt_neox, llama, mistral, qwen2, qwen3"):
        read(LLAMA, model_type="mamba")


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (LLAMA, "quantization_config", {"bits": 4}),
        (LLAMA, "auto_map", {"AutoModelForCausalLM": "theirs.Model"}),
        (LLAMA, "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        (LLAMA, "rope_scaling", {"rope_type": "linear", "factor": 4.0, "attention_factor": 2.0}),
        (LLAMA, "hidden_act", "xielu"),
        (LLAMA, "partial_rotary_factor", 0.5),
        (LLAMA, "sliding_window", 9),
        (LLAMA, "rope_interleaved", True),
        (GPT2, "scale_attn_by_inverse_layer_idx", True),
        (GPT2, "add_cross_attention", True),
        (CONFIGS["gemma2"], "use_bidirectional_attention", True),
        (CONFIGS["qwen2"], "layer_types", ["sliding_attention"] * 4),
        (CONFIGS["qwen2"], "use_mrope", True),
    ],
)
def test_a_setting_that_is_not_implemented_is_refused_by_name(config, key, value):
    with pytest.raises(ValueError) as raised:
        read(config, **{key: value})
    inner = [part for part in value.values() if part != 4.0] if isinstance(value, dict) else [value]
    message = str(raised.value)
    assert key in message or any(repr(part) in message for part in inner)


def test_everything_wrong_is_said_at_once():
    with pytest.raises(ValueError) as raised:
        read(LLAMA, hidden_size=None, num_hidden_layers=0, pruned_heads={"0": [1]}, mystery=3)
    message = str(raised.value)
    for part in (
        "hidden_size is missing",
        "num_hidden_layers is 0",
        "pruned_heads",
        "mystery is 3",
    ):
        assert part in message


def test_keys_about_generation_and_training_are_ignored():
    assert read(LLAMA, temperature=0.6, _name_or_path="x", attention_dropout=0.1) == read(LLAMA)


def test_a_setting_that_its_family_has_no_word_for_cannot_be_exported():
    capped = dataclasses.replace(read(LLAMA), attention_softcap=50.0)
    with pytest.raises(ValueError, match=r"attention_softcap is 50\.0, where llama can only say"):
        config_from_architecture(capped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "kv_heads must divide heads"),
        ({"rope_fraction": 0.5}, "rotated in pairs"),
        ({"windows": (1, 2)}, "one number per layer"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_an_impossible_architecture_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(read(LLAMA), **change)


def test_impossible_rope_scaling_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        RopeScaling(kind="linear", factor=0.5)
    with pytest.raises(ValueError, match="must be below"):
        RopeScaling(kind="llama3", factor=2.0, low_frequency_factor=4.0)
