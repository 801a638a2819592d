"""Each family's `config.json`: how its settings are spelled, and what they mean here.

The families say the same things in different words: `n_embd` or `hidden_size`, `rotary_pct` or
`partial_rotary_factor`, biases that are a setting in one and a fact of the code in another. A
reader per family turns its words into the fields of an ``Architecture``, and ``write`` turns them
back. The defaults of keys that a file leaves out are those of the family's class in `transformers`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llm.model.configuration import Reading

if TYPE_CHECKING:
    from llm.model.architecture import Architecture


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def _gpt2(reading: Reading) -> dict[str, Any]:
    width, heads = reading.size("n_embd"), reading.size("n_head")
    head_width, layers = _even_heads(reading, "n_embd", heads), reading.size("n_layer")
    reading.only("scale_attn_by_inverse_layer_idx", False)
    return {
        "head_width": head_width,
        "vocab_size": reading.size("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "mlp_width": 4 * width if reading.get("n_inner") is None else reading.size("n_inner"),
        "max_positions": reading.size("n_positions"),
        "norm": "layer",
        "norm_eps": reading.get("layer_norm_epsilon", 1e-5),
        "learned_positions": True,
        "activation": reading.one_of("activation_function", "gelu_new", ACTIVATIONS),
        "gated_mlp": False,
        "attention_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
        "windows": (0,) * layers,
        "query_scale": head_width**-0.5 if reading.get("scale_attn_weights", True) else 1.0,
        "tied": reading.get("tie_word_embeddings", True),
    }


def _gpt_neox(reading: Reading) -> dict[str, Any]:
    width, heads = reading.size("hidden_size"), reading.size("num_attention_heads")
    head_width, layers = (
        _even_heads(reading, "hidden_size", heads),
        reading.size("num_hidden_layers"),
    )
    bias = reading.get("attention_bias", True)
    return {
        "head_width": head_width,
        **_rope(reading, ("rotary_emb_base", "rope_theta"), ("rotary_pct",), 0.25),
        "vocab_size": reading.size("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "mlp_width": reading.size("intermediate_size"),
        "max_positions": reading.size("max_position_embeddings"),
        "norm": "layer",
        "norm_eps": reading.get("layer_norm_eps", 1e-5),
        "activation": reading.one_of("hidden_act", "gelu", ACTIVATIONS),
        "gated_mlp": False,
        "parallel_residual": reading.get("use_parallel_residual", True),
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": True,
        "windows": (0,) * layers,
        "query_scale": head_width**-0.5,
        "tied": reading.get("tie_word_embeddings", False),
    }


def _llama(reading: Reading) -> dict[str, Any]:
    bias = reading.get("attention_bias", False)
    reading.only("rope_interleaved", False)
    return {
        **_rotary_decoder(reading, kv_heads=None, head_width=None),
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": reading.get("mlp_bias", False),
    }


def _mistral(reading: Reading) -> dict[str, Any]:
    settings = _rotary_decoder(reading, kv_heads=8, head_width=None)
    window = reading.get("sliding_window", 4096) or 0
    return {**settings, "windows": (window,) * settings["layers"]}


def _qwen2(reading: Reading) -> dict[str, Any]:
    settings = _rotary_decoder(reading, kv_heads=32, head_width=None)
    reading.only("use_mrope", False)
    return {
        **settings,
        "attention_bias": True,
        "windows": _qwen_windows(reading, settings["layers"]),
    }


def _qwen3(reading: Reading) -> dict[str, Any]:
    settings = _rotary_decoder(reading, kv_heads=32, head_width=128)
    bias = reading.get("attention_bias", False)
    return {
        **settings,
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": True,
        "windows": _qwen_windows(reading, settings["layers"]),
    }


def _gemma2(reading: Reading) -> dict[str, Any]:
    reading.get("hidden_act")  # Gemma's own key is the one that counts
    settings = _rotary_decoder(reading, 4, 256, "hidden_activation", "gelu_pytorch_tanh")
    bias = reading.get("attention_bias", False)
    reading.only("use_bidirectional_attention", None, False)
    alternating = ["sliding_attention", "full_attention"] * settings["layers"]
    kinds = reading.get("layer_types") or alternating[: settings["layers"]]
    return {
        **settings,
        "norm_offset": 1.0,
        "post_norms": True,
        "attention_bias": bias,
        "attention_output_bias": bias,
        "windows": _windows(reading, kinds, reading.get("sliding_window", 4096)),
        "query_scale": reading.size("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": reading.get("attn_logit_softcapping", 50.0),
        "logits_softcap": reading.get("final_logit_softcapping", 30.0),
        "tied": reading.get("tie_word_embeddings", True),
        "embedding_scale": settings["width"] ** 0.5,
    }


FAMILIES: dict[str, Callable[[Reading], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
}
"""What reads the configuration of each family, by ``model_type``."""


def _rotary_decoder(
    reading: Reading,
    kv_heads: int | None,
    head_width: int | None,
    activation_key: str = "hidden_act",
    activation: str = "silu",
) -> dict[str, Any]:
    """What Llama and its descendants share; the defaults are those of each family's own class."""
    width, heads = reading.size("hidden_size"), reading.size("num_attention_heads")
    layers = reading.size("num_hidden_layers")
    if reading.get("num_key_value_heads", kv_heads) is None:
        kv_heads = heads
    else:
        kv_heads = reading.size("num_key_value_heads", kv_heads)
    if reading.get("head_dim", head_width) is None:
        head_width = _even_heads(reading, "hidden_size", heads)
    else:
        head_width = reading.size("head_dim", head_width)
    return {
        **_rope(reading, ("rope_theta",), (), 1.0),
        "vocab_size": reading.size("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_width": head_width,
        "mlp_width": reading.size("intermediate_size"),
        "max_positions": reading.size("max_position_embeddings"),
        "norm_eps": reading.get("rms_norm_eps", 1e-6),
        "activation": reading.one_of(activation_key, activation, ACTIVATIONS),
        "windows": (0,) * layers,
        "query_scale": head_width**-0.5,
        "tied": reading.get("tie_word_embeddings", False),
    }


def _even_heads(reading: Reading, key: str, heads: int) -> int:
    """The width of a head where no key states it."""
    width = reading.size(key)
    if width % heads:
        reading.problems.append(f"{key} is {width}, which is not a multiple of the {heads} heads")
    return max(width // heads, 1)


def _qwen_windows(reading: Reading, layers: int) -> tuple[int, ...]:
    window, first = reading.get("sliding_window", 4096), reading.get("max_window_layers", 28)
    if not reading.get("use_sliding_window", False):
        window, first = None, layers
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return _windows(reading, reading.get("layer_types") or kinds, window)


def _windows(reading: Reading, kinds: list[str], window: int | None) -> tuple[int, ...]:
    known = {"full_attention": 0, "sliding_attention": window}
    for kind in kinds:
        if known.get(kind) is None:
            reading.problems.append(f"layer_types has {kind!r} where sliding_window is {window!r}")
            break
    return tuple(known.get(kind) or 0 for kind in kinds)


def _rope(
    reading: Reading, theta_keys: tuple[str, ...], fraction_keys: tuple[str, ...], fraction: float
) -> dict[str, Any]:
    """The rotary settings from either layout, or from both where they agree."""
    stated = [reading.get(key) or {} for key in ("rope_parameters", "rope_scaling")]
    for key, default in (("rope_theta", 10000.0), ("partial_rotary_factor", fraction)):
        names = theta_keys if key == "rope_theta" else (*fraction_keys, key)
        stated += [{key: reading.get(name)} for name in names]
        stated += [{key: default}] if not any(part.get(key) is not None for part in stated) else []
    rope: dict[str, Any] = {}
    for key, value in ((key, value) for part in stated for key, value in part.items()):
        name = "rope_type" if key == "type" else key
        if value is not None and rope.setdefault(name, value) != value:
            reading.problems.append(f"{name} is stated twice, as {rope[name]!r} and as {value!r}")
    theta, fraction = rope.pop("rope_theta"), rope.pop("partial_rotary_factor")
    if not fraction_keys and fraction != 1.0:
        reading.refuse("partial_rotary_factor", fraction)
    return {
        "rope_theta": float(theta),
        "rope_fraction": float(fraction),
        "rope_scaling": _rope_scaling(reading, rope),
    }


ROPE_KEYS = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_frequency_factor",
        "high_freq_factor": "high_frequency_factor",
        "original_max_position_embeddings": "original_positions",
    },
}
"""For each kind of rope scaling, its keys in a ``config.json`` and the fields they fill."""


def _rope_scaling(reading: Reading, rope: dict[str, Any]) -> dict[str, Any] | None:
    kind = rope.pop("rope_type", "default")
    if kind not in ROPE_KEYS:
        reading.problems.append(f"rope_type is {kind!r}; known are {', '.join(ROPE_KEYS)}")
        return None
    original = reading.get("original_max_position_embeddings")
    if kind == "llama3":
        original = original or reading.get("max_position_embeddings")
        rope.setdefault("original_max_position_embeddings", original)
    for key in rope.keys() - ROPE_KEYS[kind].keys():
        reading.refuse(f"{key} of a {kind} rope", rope[key])
    absent = sorted(ROPE_KEYS[kind].keys() - rope.keys())
    reading.problems += [f"{key} is missing from the {kind} rope" for key in absent]
    if kind == "default" or absent:
        return None
    return {"kind": kind, **{name: rope[key] for key, name in ROPE_KEYS[kind].items()}}


def write(architecture: "Architecture") -> dict[str, Any]:
    """The ``config.json`` of an architecture, in the words of its family."""
    a = architecture
    config: dict[str, Any] = {
        "model_type": a.family,
        "architectures": [CLASSES[a.family]],
        "vocab_size": a.vocab_size,
        "tie_word_embeddings": a.tied,
    }
    activation = next(word for word, meaning in ACTIVATIONS.items() if meaning == a.activation)
    if a.family == "gpt2":
        return config | {
            "n_embd": a.width,
            "n_head": a.heads,
            "n_layer": a.layers,
            "n_inner": a.mlp_width,
            "n_positions": a.max_positions,
            "activation_function": activation,
            "layer_norm_epsilon": a.norm_eps,
            "scale_attn_weights": a.query_scale != 1.0,
        }
    config |= {
        "hidden_size": a.width,
        "num_attention_heads": a.heads,
        "num_hidden_layers": a.layers,
        "intermediate_size": a.mlp_width,
        "max_position_embeddings": a.max_positions,
        "hidden_act": activation,
        **_write_rope(a),
    }
    if a.family == "gpt_neox":
        return config | {
            "layer_norm_eps": a.norm_eps,
            "use_parallel_residual": a.parallel_residual,
            "attention_bias": a.attention_bias,
        }
    config |= {
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_width,
        "rms_norm_eps": a.norm_eps,
    }
    window = max(a.windows) or None
    kinds = ["sliding_attention" if window else "full_attention" for window in a.windows]
    if a.family == "llama":
        config |= {"attention_bias": a.attention_bias, "mlp_bias": a.mlp_bias}
    if a.family == "mistral":
        config |= {"sliding_window": window}
    if a.family in ("qwen2", "qwen3"):
        config |= {"use_sliding_window": window is not None, "sliding_window": window}
        config |= {"layer_types": kinds, "max_window_layers": a.layers}
    if a.family == "qwen3":
        config |= {"attention_bias": a.attention_bias}
    if a.family == "gemma2":
        config |= {
            "hidden_activation": activation,
            "attention_bias": a.attention_bias,
            "sliding_window": window,
            "layer_types": kinds,
            "query_pre_attn_scalar": round(a.query_scale**-2),
            "attn_logit_softcapping": a.attention_softcap,
            "final_logit_softcapping": a.logits_softcap,
        }
    return config


CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
}
"""The class that ``transformers`` loads each family into."""


def _write_rope(a: "Architecture") -> dict[str, Any]:
    """Both layouts: ``transformers`` 5 reads the first, version 4 and other readers the second."""
    scaling: dict[str, Any] = {}
    if a.rope_scaling is not None:
        kind = a.rope_scaling.kind
        scaling = {key: getattr(a.rope_scaling, name) for key, name in ROPE_KEYS[kind].items()}
        scaling = {"rope_type": kind, **scaling}
    parameters = {"rope_type": "default", "rope_theta": a.rope_theta, **scaling}
    flat: dict[str, Any] = {"rope_theta": a.rope_theta, "rope_scaling": scaling or None}
    if a.family == "gpt_neox":
        parameters["partial_rotary_factor"] = a.rope_fraction
        flat |= {"rotary_emb_base": a.rope_theta, "rotary_pct": a.rope_fraction}
    return {"rope_parameters": parameters, **flat}
