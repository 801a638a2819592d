"""The embedded model: a decoder of a million parameters that has only ever read the harbour.

Whoever has no model and no network gets one made on the spot, by supervised fine-tuning from random
weights: the same decoder, objective, log-prob primitive and batches as for a real one. It is made
once and cached as a Hugging Face folder. Because its language is a known distribution, how good it
is has an absolute measure: KL(truth || model), 0 for a perfect model, estimated from drawn answers
as the mean of log p(answer) - log pi(answer), in which the large entropy of the answers cancels.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float64
from rich.console import Console

from llm.cache import cache_folder
from llm.checkpoints.write import save_model
from llm.data.examples import DataSettings, Example, Group
from llm.data.order import InOrder, Order
from llm.data.packing import Batch
from llm.data.plan import PackingSettings, make_plan
from llm.data.rendering import tokenize
from llm.embedded import docstrings, language
from llm.embedded.tokenizer import train_tokenizer
from llm.model import Decoder, parameters, with_parameters
from llm.model.architecture import Architecture, config_from_architecture
from llm.progress import Bar
from llm.scoring import score
from llm.update import Fixed, Learner
from objectives import SFT

REPORT = "distance.json"
"""In the model's folder: how far from the truth it is, or what it loses."""

# What decides the model: a change in any of them makes another one.
SOURCES = (
    *("harbour.grammar", "grammar.py", "harbour.py", "language.py"),
    *("tokenizer.py", "pretrain.py"),
)

HELD_OUT_SEED = 1_000_003
"""Of held-out questions and answers, which are other questions as well; added to a run's seed."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How the embedded model is made.

    Attributes:
        vocabulary: most tokens.
        width: D.
        layers: L.
        heads: H.
        mlp_width: F.
        context: positions of the longest sequence.
        batch: answers per step; each is seen once.
        steps: optimizer steps.
        learning_rate: at its peak; it falls linearly to 0.
        warmup: share of the steps over which it rises.
        initial_std: of the weights. 0.02, which suits widths of thousands, leaves attention at this
            width so flat that the KL to the truth falls several times more slowly.
        seed: of weights and data.
    """

    vocabulary: int = 1280
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 352
    context: int = 512
    batch: int = 32
    steps: int = 450
    learning_rate: float = 4e-3
    warmup: float = 0.05
    initial_std: float = 0.08
    seed: int = 0


class Distance(NamedTuple):
    """How far a model is from the true distribution of answers.

    Attributes:
        per_response: KL(truth || model), nats.
        standard_error: of that estimate, nats.
        per_token: the same for each token, nats.
        entropy: of the truth, exact, nats per response: what even a perfect model loses.
    """

    per_response: float
    standard_error: float
    per_token: float
    entropy: float

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"{self.per_token:.3f} nats per token from the truth "
            f"({self.per_response:.2f} ± {self.standard_error:.2f} per answer, whose entropy is "
            f"{self.entropy:.2f})"
        )


HARBOUR, DOCSTRINGS = "harbour", "docstrings"
CORPORA = (HARBOUR, DOCSTRINGS)
"""What an embedded model can have read: the invented language, or this Python's own library."""


def embedded_model(
    say: Callable[[str], None], cache: Path | None = None, corpus: str = HARBOUR
) -> Path:
    """The folder of the embedded model, made if this machine has none yet.

    Args:
        say: told what is worth knowing, a sentence at a time.
        cache: where models are kept; the user's cache folder when None.
        corpus: what it has read, one of ``CORPORA``.

    Returns:
        A Hugging Face folder with weights, config and tokenizer.

    Raises:
        OSError: if there is no room for it, or no permission to write.
    """
    settings = Pretraining()
    name = f"{corpus}-{fingerprint(settings, corpus)}"
    folder = (cache_folder() if cache is None else cache) / "embedded" / name
    if not folder.exists():
        pretrain(folder, settings, say, corpus)
    return folder


def fingerprint(settings: Pretraining, corpus: str = HARBOUR) -> str:
    """What tells one embedded model from another: its settings, its language and its code."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    if corpus == DOCSTRINGS:  # another Python has another library
        digest.update(json.dumps(docstrings.demonstrations()).encode())
    for name in SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]


def corpus_rows(corpus: str, settings: Pretraining) -> list[dict[str, str]]:
    """What a model reads, in order: the harbour has no end; a library is read again and again."""
    size = settings.batch * settings.steps
    if corpus == HARBOUR:
        return language.demonstrations(settings.seed, size)
    rows = docstrings.demonstrations()
    return [rows[row] for row in Order(len(rows), size, settings.seed).batch(0)]


def pretrain(
    folder: Path, settings: Pretraining, say: Callable[[str], None], corpus: str = HARBOUR
) -> dict[str, float]:
    """Train a tokenizer and a decoder from nothing and write them to a folder, whole or not at all.

    Args:
        folder: the folder to make.
        settings: how.
        say: told what is worth knowing.
        corpus: what the model reads.

    Returns:
        How good it is on questions or functions it has not seen: the harbour's ``Distance``, or
        nats per token.
    """
    began = time.monotonic()
    rows = corpus_rows(corpus, settings)
    tokenizer = train_tokenizer(
        (row["prompt"] + row["completion"] for row in rows), settings.vocabulary
    )
    architecture = architecture_of(settings, len(tokenizer))
    decoder = initial_decoder(architecture, settings)
    size = sum(value.size for value in parameters(decoder).values())
    learned = {
        HARBOUR: "to answer as the keeper of a harbour does",
        DOCSTRINGS: "to describe the functions of this Python's library",
    }[corpus]
    say(
        f"No model was given, so one is made: {size:,} parameters learn {learned}, from "
        f"{len(rows):,} texts. It takes a minute or two, once."
    )
    groups = encode(rows, tokenizer, architecture)
    decoder = train(decoder, groups, settings, f"a model of the {corpus}")
    if corpus == HARBOUR:
        distance = distance_from_truth(decoder, tokenizer)
        verdict, report = f"It is {distance}", distance._asdict()
    else:
        apart = encode(docstrings.demonstrations(held_out=True), tokenizer, architecture)
        tokens = sum(group.scored for group in apart)
        loss = float(-response_logp(decoder, apart).sum() / tokens)
        verdict = f"It loses {loss:.2f} nats per token on modules it has not read"
        report = {"held_out_nats_per_token": loss}
    say(f"{verdict}; made in {time.monotonic() - began:.0f} s and kept in {folder}.")

    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    config = config_from_architecture(architecture) | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        save_model(unfinished, decoder, config=config, tokenizer=tokenizer, overwrite=True)
        (unfinished / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        if not folder.exists():  # another process may have been faster
            os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def architecture_of(settings: Pretraining, vocabulary: int) -> Architecture:
    """A small Llama."""
    head_width = settings.width // settings.heads
    return Architecture(
        family="llama",
        vocab_size=vocabulary,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        kv_heads=settings.heads,
        head_width=head_width,
        mlp_width=settings.mlp_width,
        max_positions=settings.context,
        windows=(0,) * settings.layers,
        query_scale=head_width**-0.5,
        tied=True,
    )


def initial_decoder(architecture: Architecture, settings: Pretraining) -> Decoder:
    """Random weights with the standard deviation that suits the width."""
    decoder = Decoder(architecture, rngs=nnx.Rngs(params=settings.seed), unroll=architecture.layers)
    values = parameters(decoder)
    gain = settings.initial_std / float(jnp.std(values["embedding/matrix"]))
    wider = {path: gain * v for path, v in values.items() if not path.endswith("scale")}
    return with_parameters(decoder, wider)


def encode(
    rows: Sequence[Mapping[str, str]], tokenizer: Any, architecture: Architecture
) -> list[Group]:
    """Token ids of demonstrations, by the path that every data set takes."""
    examples = [
        Example(row["prompt"], (row["completion"],), (1.0,), f"harbour:{number}")
        for number, row in enumerate(rows, 1)
    ]
    return tokenize(
        examples,
        tokenizer,
        DataSettings(),
        context=architecture.max_positions,
        vocab_size=architecture.vocab_size,
    )


def train(decoder: Decoder, groups: Sequence[Group], settings: Pretraining, what: str) -> Decoder:
    """Supervised fine-tuning from random weights; every group is seen once."""
    plan = make_plan(
        groups,
        InOrder(len(groups), settings.batch),
        PackingSettings(shapes=1),
        steps=settings.steps,
        width=settings.width,
    )
    warmup = round(settings.warmup * settings.steps)
    peak, rest = settings.learning_rate, settings.steps - warmup
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), optax.linear_schedule(peak, 0.0, rest)], [warmup]
    )
    transformation = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99))
    learner = Learner(decoder, transformation, rate)
    fixed, objective = Fixed({}), SFT()

    example = jax.device_put(plan.examples(cut=False)[0])
    state = jax.jit(learner.start)(parameters(decoder), fixed, example, objective)
    step = jax.jit(learner.step, donate_argnums=0)
    with Bar(Console(), what, plan.steps) as bar:
        for number in range(plan.steps):
            # A step that is cut in two is two steps here: nothing has to be exact.
            for batch in plan.micro_batches(number):
                state, report = step(state, fixed, jax.device_put(batch), objective)
                if number % 10 == 9:
                    loss, weight = jax.device_get(report.totals["loss"])
                    bar.show(number + 1, {"loss": float(loss / weight)})
    return with_parameters(decoder, state.trainable)


def distance_from_truth(
    decoder: Decoder, tokenizer: Any, size: int = 400, seed: int = HELD_OUT_SEED
) -> Distance:
    """Estimate KL(truth || model) from answers drawn from the truth to held-out questions.

    The model is given credit for an answer as the tokenizer spells it; what it would put on other
    spellings of the same text counts as lost.

    Args:
        decoder: the model.
        tokenizer: the model's.
        size: answers to draw; the standard error falls with its root.
        seed: decides which.
    """
    rows = language.demonstrations(seed, size, held_out=True)
    truth = [language.log_probability(row["prompt"], row["completion"]) for row in rows]
    groups = encode(rows, tokenizer, decoder.architecture)
    excess = np.asarray(truth) - response_logp(decoder, groups)
    tokens = np.mean([group.scored for group in groups])
    return Distance(
        per_response=float(excess.mean()),
        standard_error=float(excess.std() / np.sqrt(len(excess))),
        per_token=float(excess.mean() / tokens),
        entropy=language.entropy(),
    )


def response_logp(decoder: Decoder, groups: Sequence[Group]) -> Float64[np.ndarray, " groups"]:
    """Return log pi(response | prompt) of groups of one response each, nats."""
    order = InOrder(len(groups), 32)
    plan = make_plan(
        groups,
        order,
        PackingSettings(shapes=1),
        steps=order.steps,
        width=decoder.architecture.width,
    )

    @jax.jit
    def scored(values: dict[str, Array], batch: Batch) -> Array:
        return jnp.sum(score(with_parameters(decoder, values), batch).logp, axis=(1, 2))

    found = np.zeros(len(groups))
    values = parameters(decoder)
    for step in range(plan.steps):
        for batch in plan.micro_batches(step):
            real = batch.example >= 0
            found[batch.example[real]] = np.asarray(scored(values, jax.device_put(batch)))[real]
    return found
