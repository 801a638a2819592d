"""Runs small enough to be repeated: a llama of a few thousand parameters, bytes for tokens."""

from typing import Any

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "vocab_size": 258,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
