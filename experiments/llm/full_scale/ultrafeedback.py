"""UltraFeedback with Mistral-7B: does a negative gradient help offline, on a strong model?

Question: from the same SFT model and the same pairs, what do DPO and Pref-FT gain? Command:
``python -m experiments.llm.full_scale.ultrafeedback --devices 8``. Hardware and time: as the plan
says; the 7B model, its copy and its moments want four devices of 80 GB or more. Numbers to expect,
read off the paper's plots: in mean gold reward over SFT, Pref-FT about +0.5 and DPO about +1.7; in
log-ratio times beta after 1.9k steps, Pref-FT 3.6 for preferred and 3.3 for rejected responses, DPO
+0.6 and -0.25.

Known of the authors' runs: Mistral-7B, SFT on UltraChat-200k, DPO against Pref-FT only. They were
made with another project's trainers, and neither hyper-parameters nor gold reward are published.
The learning rates here are ours, one for both methods; a batch of 32 makes one epoch the 1.9k steps
of their plot. The chat template is ours too: the base model has none.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from experiments.llm.full_scale.authors import measure, write
from experiments.llm.full_scale.command import main
from experiments.llm.full_scale.stages import Facts, Place, Stage, Study
from llm.data.examples import DataSettings, Example, PackingSettings
from llm.data.schemas import RowError, reader
from llm.data.sources import read_rows
from llm.settings import OFFLINE_RECIPES, MeshSettings, OptimizerSettings, SaveSettings, Training
from objectives import DPO, PrefFT

CHAT = "HuggingFaceH4/ultrachat_200k"
PAIRS = "HuggingFaceH4/ultrafeedback_binarized"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "max_position_embeddings": 32768,
    "vocab_size": 32000,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
WHOLE = 2048
"""Most tokens of a prompt with its responses' longest."""

ASSUMED = Facts(
    demonstrations=207_865,
    pairs=61_135,
    prompts=0,
    prompt_tokens=250.0,
    response_tokens=300.0,
    longest=2 * WHOLE,
)
"""Rows as the data sets' pages state them; lengths are guesses about what is measured."""

FILES = (
    ("sft.jsonl", CHAT, "train_sft", "messages"),
    ("chat_test.jsonl", CHAT, "test_sft", "messages"),
    ("train.jsonl", PAIRS, "train_prefs", "preference"),
    ("test.jsonl", PAIRS, "test_prefs", "preference"),
)
COLUMNS = {"messages": ("messages",), "preference": ("chosen", "rejected")}


def write_data(place: Place, say: Callable[[str], None]) -> Facts:
    """Fetch conversations and pairs, write them out with the template, and measure them."""
    counts: dict[str, int] = {}
    pairs: list[Example] = []
    for name, source, split, schema in FILES:
        rows = read_rows(place.source(source), split=split, limit=place.limit)
        examples, kept = [], []
        for row in rows:
            try:
                examples.append(reader(schema)(row.fields, row.where))
            except RowError:
                continue
            kept.append({column: row.fields[column] for column in COLUMNS[schema]})
        path = place.file(f"ultra/{name}")
        counts[name] = write(path, kept)
        say(f"{path}: {len(kept):,} of {len(rows):,} rows of {source}, split {split}")
        if name == "train.jsonl":
            pairs = examples
    place.file("ultra/chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    facts = replace(
        ASSUMED, demonstrations=counts["sft.jsonl"], pairs=counts["train.jsonl"], longest=0
    )
    return measure(place, facts, pairs)


def training(place: Place, name: str, files: Sequence[str], **changes: Any) -> Training:
    """What the three runs share."""
    given: dict[str, Any] = {
        "model": str(place.out / "ultra/sft/model"),
        "data": str(place.file(f"ultra/{files[0]}")),
        "out": place.out / name,
        "batch": 32,
        "optimizer": OptimizerSettings(learning_rate=5e-7),
        "remat": "full",
        "reading": DataSettings(
            eval_source=str(place.file(f"ultra/{files[1]}")),
            template=str(place.file("ultra/chat.jinja")),
            max_length=WHOLE,
            bad_rows="drop",
        ),
        "packing": PackingSettings(max_tokens=8192),
        "mesh": MeshSettings(fsdp=place.devices),
        "evaluate_every": 200,
        "save": SaveSettings(every=200),
        "seed": place.seed or 0,
    }
    return Training(**given | changes)


def stages(place: Place, facts: Facts) -> list[Stage]:
    """The reference, then the two methods that begin from it."""
    reference = "ultra/sft"
    found = [
        Stage(
            name=reference,
            recipe_name="sft",
            recipe=OFFLINE_RECIPES["sft"],
            settings=training(
                place,
                reference,
                ("sft.jsonl", "chat_test.jsonl"),
                model=place.model,
                batch=128,
                optimizer=OptimizerSettings(learning_rate=2e-5),
            ),
            load=facts.load(facts.demonstrations, 1),
            says="UltraChat-200k is the authors'; 2e-5, batch 128, one epoch are ours.",
        )
    ]
    for method, objective in (("pref_ft", PrefFT(normalize="token")), ("dpo", DPO(beta=0.1))):
        name = f"ultra/{method}"
        found.append(
            Stage(
                name=name,
                recipe_name=method,
                recipe=replace(OFFLINE_RECIPES[method], objective=objective),
                settings=training(place, name, ("train.jsonl", "test.jsonl")),
                load=facts.load(facts.pairs, 2),
                needs=(reference,),
                says="5e-7 and batch 32 are ours" + (", beta 0.1 too." if method == "dpo" else "."),
            )
        )
    return found


STUDY = Study(
    name="ultrafeedback",
    title="UltraFeedback with Mistral-7B: DPO against Pref-FT.",
    model="mistralai/Mistral-7B-v0.1",
    config=MISTRAL,
    assumed=ASSUMED,
    write_data=write_data,
    stages=stages,
)

if __name__ == "__main__":
    main(STUDY)
