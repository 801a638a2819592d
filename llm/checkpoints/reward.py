"""Reward models as transformers knows them: sequence classification with one label.

The body is that of the language model, under the same names; in place of the output matrix there
is ``score.weight``, one row, whose product with the hidden state of the last token is the reward.
Which token is the last is decided there by value, as the last that is not padding, so padding must
not be EOS, with which every response ends.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from llm.checkpoints.folders import CONFIG, find_model, read_architecture, read_config
from llm.checkpoints.names import FAMILIES, Tensor, axis_sizes, laid_out
from llm.checkpoints.read import read_parameters
from llm.checkpoints.write import (
    Outgoing,
    outgoing_tensor,
    outgoing_tensors,
    with_dtype,
    write_model_folder,
)
from llm.model import Remat, RewardModel, abstract_decoder, parameters, with_parameters
from llm.model.architecture import Architecture, architecture_from_config
from llm.model.families import CLASSES

HEAD = "head/kernel"
SUFFIX = "ForSequenceClassification"


def score_tensor(architecture: Architecture) -> Tensor:
    """How the head is stored: one row of a matrix."""
    return laid_out(HEAD, None, "score.weight", "0/1 D -> D", axis_sizes(architecture))


def is_reward_model(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a model with a classification head."""
    return any(name.endswith(SUFFIX) for name in config.get("architectures") or ())


def body(architecture: Architecture) -> Architecture:
    """The architecture without an output matrix of its own, which scoring has no use for."""
    return dataclasses.replace(architecture, tied=True)


def save_reward_model(
    path: Path,
    model: RewardModel,
    *,
    config: Mapping[str, Any],
    tokenizer: Any = None,
    source: Path | None = None,
    dtype: DTypeLike | None = None,
    overwrite: bool = False,
) -> None:
    """Write a reward model as a folder that ``AutoModelForSequenceClassification`` loads.

    Args:
        path: the folder to make.
        model: without adapters: merge them first.
        config: of the language model it began from; what a classifier needs is added.
        tokenizer: written beside the weights, with a padding token that is not EOS where it has a
            token for it; copied from ``source`` if None.
        source: the folder of the language model: dtypes and companion files are kept.
        dtype: of the weights; as in ``source``, or as the parameters are held, if None.
        overwrite: replace what is at ``path``.

    Raises:
        ValueError: if the folder holds something already, if the model has adapters, or if
            ``config`` describes another architecture.
        OSError: if the disk has no room for it.
    """
    architecture = model.decoder.architecture
    values = parameters(model.decoder)
    if any(name.rsplit("/", 1)[-1].startswith("lora_") for name in values):
        raise ValueError("The reward model holds adapters: merge them before saving it.")
    if body(architecture_from_config(config)) != body(architecture):
        raise ValueError(
            f"The {CONFIG} given for {path} describes another architecture than the reward "
            "model's: give the one that it was built from."
        )
    names = FAMILIES[architecture.family]
    outgoing = [
        prefixed(tensor, names.prefix)
        for tensor in outgoing_tensors(values, body(architecture), source=source, dtype=dtype)
        if tensor.name != names.head
    ]
    head, score = {HEAD: parameters(model)[HEAD]}, score_tensor(architecture)
    # In float32 whatever the rest is: it is one row, and rewards differ by little.
    outgoing.append(outgoing_tensor(score.name, [score], head, "F32"))
    padding = padding_id(config, tokenizer)
    if tokenizer is not None and padding != tokenizer.pad_token_id:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = None if padding is None else tokenizer.convert_ids_to_tokens(padding)
    kind = dtype if dtype is not None or source is not None else values["embedding/matrix"].dtype
    write_model_folder(
        path,
        outgoing,
        with_dtype(classifier_config(config, padding), kind),
        tokenizer=tokenizer,
        source=source,
        overwrite=overwrite,
    )


def prefixed(tensor: Outgoing, prefix: str) -> Outgoing:
    """A tensor of the body under its full name, which sources of the body alone leave out."""
    if tensor.name.startswith(prefix):
        return tensor
    return dataclasses.replace(tensor, name=prefix + tensor.name)


def classifier_config(config: Mapping[str, Any], padding: int | None) -> dict[str, Any]:
    """The configuration of a language model as that of a classifier with one label."""
    name = CLASSES[config["model_type"]]
    return {
        **config,
        "architectures": [name.removesuffix("LMHeadModel").removesuffix("ForCausalLM") + SUFFIX],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "num_labels": 1,
        "pad_token_id": padding,
    }


def padding_id(config: Mapping[str, Any], tokenizer: Any) -> int | None:
    """A token to pad with that no scored sequence ends with; None where there is no such token.

    A classifier without one scores one sequence at a time and looks at its very last token.
    """
    said = config.get("eos_token_id")
    ends = set(said) if isinstance(said, list) else {said}
    known = [config.get("pad_token_id")]
    if tokenizer is not None:
        ends.add(tokenizer.eos_token_id)
        # A response never holds BOS, and an unknown token is rare.
        known = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id]
    return next((token for token in known if token is not None and token not in ends), None)


def load_reward_model(
    name: str,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    remat: Remat = "none",
    unroll: int = 1,
) -> RewardModel:
    """A reward model from a folder or from the Hub: a classifier with one label.

    Args:
        name: as in ``find_model``.
        dtype: what it computes in; the head is in float32 whatever it is.
        param_dtype: what its parameters are held in.
        mesh: where the parameters go; the first device if None.
        remat: as in ``Decoder``.
        unroll: as in ``Decoder``.

    Raises:
        ValueError: if it is not a classifier with one label, or its files do not fit.
        OSError: if the Hub does not hand the model over.
    """
    path = find_model(name)
    config = read_config(path)
    labels = config.get("num_labels", len(config.get("id2label") or (0, 1)))
    if not is_reward_model(config) or labels != 1:
        raise ValueError(
            f"{path / CONFIG}: architectures is {config.get('architectures')} with {labels} "
            f"labels; a reward model is a {SUFFIX.removeprefix('For')} model with one."
        )
    architecture = body(read_architecture(path))
    score = score_tensor(architecture)
    values = read_parameters(path, architecture, dtype=param_dtype, mesh=mesh, beside=[score])
    head = values.pop(HEAD)
    shapes = abstract_decoder(
        architecture,
        param_dtype=param_dtype,
        dtype=dtype,
        remat=remat,
        unroll=unroll,
        mesh=mesh,
    )
    return with_parameters(RewardModel(with_parameters(shapes, values)), {HEAD: head})
