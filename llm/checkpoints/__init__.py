"""Models as the rest of the world stores them: Hugging Face folders of safetensors, in and out."""

from llm.checkpoints.adapters import load_adapter, save_adapter
from llm.checkpoints.folders import find_model, read_architecture, read_config
from llm.checkpoints.read import load_decoder, read_parameters
from llm.checkpoints.write import save_model

__all__ = [
    "find_model",
    "load_adapter",
    "load_decoder",
    "read_architecture",
    "read_config",
    "read_parameters",
    "save_adapter",
    "save_model",
]
