"""Tiny model folders in the Hugging Face format, written by hand and not by the code under test."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

LAYERS, D, F, V, S = 2, 8, 12, 13, 16
HEADS, KEYS, C = 4, 2, 2

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": D,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_inner": F,
        "n_positions": S,
        "vocab_size": V,
        "torch_dtype": "float32",
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": D,
        "intermediate_size": F,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": S,
        "rotary_pct": 1.0,
        "vocab_size": V,
    },
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": D,
        "intermediate_size": F,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": S,
        "vocab_size": V,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
    },
}


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes that transformers gives the tensors of a family."""
    found: dict[str, tuple[int, ...]] = {}
    if family == "gpt2":
        found |= {"transformer.wte.weight": (V, D), "transformer.wpe.weight": (S, D)}
        found |= {f"transformer.ln_f.{kind}": (D,) for kind in ("weight", "bias")}
        for layer in range(LAYERS):
            h = f"transformer.h.{layer}."
            matrices = {  # stored [in, out]
                "attn.c_attn": (D, 3 * D),
                "attn.c_proj": (D, D),
                "mlp.c_fc": (D, F),
                "mlp.c_proj": (F, D),
            }
            for name, (rows, columns) in matrices.items():
                found |= {f"{h}{name}.weight": (rows, columns), f"{h}{name}.bias": (columns,)}
            for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
                found[h + name] = (D,)
    elif family == "gpt_neox":
        found |= {"gpt_neox.embed_in.weight": (V, D), "embed_out.weight": (V, D)}
        found |= {f"gpt_neox.final_layer_norm.{kind}": (D,) for kind in ("weight", "bias")}
        for layer in range(LAYERS):
            h = f"gpt_neox.layers.{layer}."
            matrices = {  # stored [out, in]
                "attention.query_key_value": (3 * D, D),
                "attention.dense": (D, D),
                "mlp.dense_h_to_4h": (F, D),
                "mlp.dense_4h_to_h": (D, F),
            }
            for name, (rows, columns) in matrices.items():
                found |= {f"{h}{name}.weight": (rows, columns), f"{h}{name}.bias": (rows,)}
            for name in ("input_layernorm", "post_attention_layernorm"):
                found |= {f"{h}{name}.{kind}": (D,) for kind in ("weight", "bias")}
    else:
        found |= {"model.embed_tokens.weight": (V, D), "lm_head.weight": (V, D)}
        found["model.norm.weight"] = (D,)
        for layer in range(LAYERS):
            h = f"model.layers.{layer}."
            found |= {
                h + "self_attn.q_proj.weight": (HEADS * C, D),
                h + "self_attn.k_proj.weight": (KEYS * C, D),
                h + "self_attn.v_proj.weight": (KEYS * C, D),
                h + "self_attn.o_proj.weight": (D, HEADS * C),
                h + "mlp.gate_proj.weight": (F, D),
                h + "mlp.up_proj.weight": (F, D),
                h + "mlp.down_proj.weight": (D, F),
                h + "input_layernorm.weight": (D,),
                h + "post_attention_layernorm.weight": (D,),
            }
    return found


def random_tensors(family: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random weights of a family under the names of transformers."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, 0.3, shape).astype(jnp.dtype(dtype))
        for name, shape in shapes(family).items()
    }


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], files: int = 1
) -> Path:
    """A model folder, in one file or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if files == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    placed = {}
    names = sorted(tensors)
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::files]}
        save_file(part, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
