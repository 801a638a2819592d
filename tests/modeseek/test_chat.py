"""A conversation by pipe: answers come in whole characters, what does not fit is said."""

import io
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from llm.checkpoints.write import save_model
from llm.embedded.tokenizer import train_tokenizer
from llm.model import abstract_decoder, with_parameters
from llm.model.architecture import architecture_from_config, config_from_architecture
from llm.sampler import sample
from modeseek import chat

CONTEXT = 64
SHORT = ["--max-new-tokens", "12"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[bool, Path]:
    """A random model, with and without a chat template."""
    made = {}
    for template in (True, False):
        tokenizer = train_tokenizer(["what is it?\nit is the boat.", "where is it?"] * 4, 280)
        if not template:
            tokenizer.chat_template = None
        architecture = architecture_from_config(
            {
                "model_type": "llama",
                "vocab_size": len(tokenizer),
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": CONTEXT,
            }
        )
        shapes, rng = abstract_decoder(architecture), np.random.default_rng(0)
        values = {
            "/".join(map(str, path)): rng.normal(
                path[-1] == "scale", 0.3, leaf.get_value().shape
            ).astype(np.float32)
            for path, leaf in nnx.to_flat_state(nnx.state(shapes, nnx.Param))
        }
        made[template] = tmp_path_factory.mktemp("models") / f"template-{template}"
        save_model(
            made[template],
            with_parameters(shapes, jax.device_put(values)),
            config=config_from_architecture(architecture),
            tokenizer=tokenizer,
        )
    return made


@pytest.fixture
def say(monkeypatch, capsys):
    """Run the command on lines from a pipe; returns what it printed."""

    def run(text: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        chat.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def opened(folder: Path, *notes: list[str], **options: object) -> chat.Conversation:
    made = chat.begin(chat.Chat(model=str(folder), **options), Console(quiet=True))
    if notes:
        made.note = notes[0].append
    return made


def test_each_line_of_a_pipe_is_answered_and_the_same_lines_alike(folders, say):
    lines = "what is it?\n\n/reset\nwhat is it?\n/quit\nnever asked\n"
    out = say(lines, folders[True], *SHORT)
    assert out.count("starts again") == 1
    first, second = out.split("The conversation starts again.\n")
    # Of one question asked twice, the answers are drawn independently.
    assert first.strip() and second.strip() and first != second
    assert out == say(lines, folders[True], *SHORT)
    assert out != say(lines, folders[True], *SHORT, "--seed", 1)


@pytest.mark.parametrize("template", [True, False])
def test_the_pieces_of_an_answer_are_the_decoded_tokens(folders, template):
    conversation = opened(folders[template], max_new_tokens=12)
    broken = 0
    for line in ("what is it?", "where", "is it the boat?"):
        conversation.turns = []
        prompt = conversation.prompt(line)
        conversation.turns = []
        pieces = list(conversation.answer(line))
        [[whole]] = sample(
            conversation.decoder, [prompt], conversation.sampling, prompt_ids=[conversation.asked]
        )
        text = conversation.tokenizer.decode(whole.tokens, skip_special_tokens=True)
        assert "".join(pieces) == text
        assert conversation.turns[-1] == {"role": "assistant", "content": text}
        broken += "\ufffd" in text
    assert broken, "a random model writes bytes that are no characters; they were not exercised"


def test_the_model_sees_what_was_said_before_only_with_a_template(folders):
    for template in (True, False):
        conversation = opened(folders[template], max_new_tokens=12)
        alone = conversation.prompt("where is it?")
        conversation.turns = [
            {"role": "user", "content": "what is it?"},
            {"role": "assistant", "content": "the boat"},
        ]
        after = conversation.prompt("where is it?")
        assert (len(after) > len(alone)) == template
        assert conversation.encode(conversation.turns) == after.tolist()
        begin = conversation.tokenizer.bos_token_id
        assert [tokens.tolist().count(begin) for tokens in (alone, after)] == [1, 1]


def test_the_system_message_stands_first_however_long_the_conversation(folders):
    notes: list[str] = []
    conversation = opened(folders[True], notes, max_new_tokens=12, system="the boat")
    for _ in range(12):
        tokens = conversation.prompt("what is it?")
        conversation.turns.append({"role": "assistant", "content": "it is the boat."})
        assert len(tokens) <= CONTEXT - 12
        assert conversation.tokenizer.decode(tokens).startswith("<|begin|>the boat")
        assert [turn["role"] for turn in conversation.turns[:2]] == ["user", "assistant"]
    assert notes and "oldest 2 turns no longer fit" in notes[0]


def test_plain_continues_the_line_without_template_or_memory(folders, say):
    assert say("the boat\n", folders[True], *SHORT, "--plain").strip()
    conversation = opened(folders[True], max_new_tokens=12, plain=True)
    tokens = conversation.prompt("the boat")
    assert conversation.tokenizer.decode(tokens) == "<|begin|>the boat"


def test_a_stopped_answer_is_kept_as_far_as_it_went(folders, monkeypatch, capsys):
    conversation = opened(folders[True], max_new_tokens=12)
    boat = conversation.tokenizer("boat", add_special_tokens=False)["input_ids"]

    def interrupted(*arguments: object, **options: object):
        yield np.asarray(boat, np.int32)
        raise KeyboardInterrupt

    monkeypatch.setattr("llm.sampler.stream", interrupted)
    chat.talk(conversation, ["what is it?"], Console(), patient=True)
    assert capsys.readouterr().out == "boat (stopped)\n"
    assert conversation.turns[-1] == {"role": "assistant", "content": "boat"}
    with pytest.raises(KeyboardInterrupt):
        chat.talk(conversation, ["what is it?"], Console(), patient=False)


def test_a_line_too_long_ends_a_pipe_and_not_a_conversation(folders, capsys):
    conversation = opened(folders[True], max_new_tokens=12)
    line = "abc " * 60
    with pytest.raises(ValueError, match=r"The line takes \d+ tokens.* room for 52"):
        chat.talk(conversation, [line], Console(), patient=False)
    chat.talk(conversation, [line, "/reset"], Console(soft_wrap=True), patient=True)
    printed = capsys.readouterr().out
    assert "say less" in printed and "starts again" in printed
    assert not conversation.turns


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--system", "x"], "--system needs a chat template.*has none"),
        (["--system", "x", "--plain"], "--system needs a chat template"),
        (["--max-new-tokens", "64"], "--max-new-tokens is 64.*64 tokens"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused_before_the_weights_are_read(
    folders, say, monkeypatch, arguments, words
):
    monkeypatch.setattr("llm.checkpoints.read.load_decoder", None)
    with pytest.raises(ValueError, match=words):
        say("hi\n", folders[False], *arguments)


def test_bytes_of_a_character_wait_for_the_rest_of_it():
    assert chat.whole_characters("boat") == "boat"
    assert chat.whole_characters("bo\ufffdat\ufffd\ufffd") == "bo\ufffdat"


def test_an_answer_cannot_take_over_the_terminal(folders, monkeypatch, capsys):
    conversation = opened(folders[True], max_new_tokens=12)
    monkeypatch.setattr(conversation, "answer", lambda line: (x for x in ("a\x1b[2J", "\tb\nc")))
    chat.talk(conversation, ["what is it?"], Console(), patient=True)
    assert capsys.readouterr().out == "a\ufffd[2J\tb\nc\n"


@pytest.mark.shared
def test_a_real_model_continues_a_line(shared, say):
    folder = shared / "models" / "stories260K"
    out = say("Once\n", folder, "--temperature", 0, "--max-new-tokens", 24)
    assert out.startswith(" upon a time, there was a little girl named Lily.")
