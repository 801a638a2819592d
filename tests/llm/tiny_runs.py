"""Runs small enough to be repeated: a llama of a few thousand parameters, bytes for tokens."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from safetensors.numpy import save_file

from llm.architecture import architecture_from_config
from llm.checkpoints.write import save_model
from llm.data.order import Order
from llm.data.packing import Batch
from llm.data.plan import PackingSettings, Plan, make_plan
from llm.finetune import finetune
from llm.model import Decoder
from llm.settings import OFFLINE_RECIPES, Training
from tests.llm.data.byte_tokenizer import make_tokenizer

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
