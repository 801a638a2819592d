"""The embedded tokenizer: lossless, deterministic, at home in plain text and in a chat."""

import subprocess
import sys

import numpy as np
import pytest

from llm.embedded.language import sample
from llm.embedded.tokenizer import BEGIN, END, train_tokenizer


def texts(size=1500):
    generator = np.random.default_rng(0)
    return ["\n".join(sample(generator)) for _ in range(size)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(texts(), 768)


def test_any_text_survives_the_round_trip(tokenizer):
    for text in ("The otter keeps two keys.", "naïve café\n\n  🦦 \t(!)"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert max(ids) < len(tokenizer) <= 768


def test_a_text_begins_once_and_has_no_end_of_its_own(tokenizer):
    ids = tokenizer("Oh, bother.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids


def test_a_chat_is_the_plain_text_with_an_end(tokenizer):
    chat = [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "A hare."}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == f"{BEGIN}Who is it?\nA hare.{END}"
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked)
    plain = tokenizer("Who is it?\n")["input_ids"]
    assert tokenizer.apply_chat_template(chat[:1], tokenize=True)["input_ids"] == plain


def test_the_folder_loads_with_transformers(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(tmp_path))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("Not you again.")["input_ids"] == tokenizer("Not you again.")["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.bos_token, loaded.eos_token) == (BEGIN, END)


@pytest.mark.slow
def test_two_processes_learn_the_same_file():
    script = """
import hashlib
import numpy as np
from llm.embedded.language import sample
from llm.embedded.tokenizer import train_tokenizer
generator = np.random.default_rng(0)
trained = train_tokenizer(["\\n".join(sample(generator)) for _ in range(1500)], 768)
print(hashlib.sha256(trained.backend_tokenizer.to_str().encode()).hexdigest())
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1
