"""What a run begins from, read from where it lies: a model's folder, its tokenizer, examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.checkpoints.folders import find_model
from llm.data.examples import Example
from llm.data.sources import read_examples
from llm.embedded.examples import built_in
from llm.embedded.pretrain import CORPORA, DOCSTRINGS, HARBOUR, embedded_model
from llm.settings import Training


def model_folder(settings: Training, say: Callable[[str], None]) -> Path:
    """Where the model is that a run begins from; the embedded one is made if there is none yet.

    Data of one's own are tuned on with the model of the library, which has read more words.
    """
    if settings.model is not None:
        return find_model(settings.model)
    return embedded_model(
        say, corpus=DOCSTRINGS if settings.data not in (None, HARBOUR) else HARBOUR
    )


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; code that comes with it is never run.

    Raises:
        ValueError: if there is none that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the tokenizer of {folder} cannot be loaded ({reason}): put its tokenizer.json and "
            "tokenizer_config.json there."
        ) from None


def read_data(
    name: str, settings: Training, say: Callable[[str], None]
) -> tuple[list[Example], list[Example] | None]:
    """Examples to train on, and those to hold out where the data say which."""
    reading = settings.reading
    if settings.data is None or settings.data in CORPORA:
        corpus, preference = settings.data or HARBOUR, settings.preference
        how = {"seed": settings.seed, "limit": reading.limit}
        return (
            built_in(corpus, name, preference, **how),
            built_in(corpus, name, preference, **how, held_out=True),
        )
    how = {"schema": reading.schema, "bad_rows": reading.bad_rows, "say": say}
    examples = read_examples(settings.data, split=reading.split, limit=reading.limit, **how)
    if reading.eval_source is None:
        return examples, None
    return examples, read_examples(reading.eval_source, split=None, **how)
