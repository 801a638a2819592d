"""Training sees exactly the tokens that the model is given and gives."""

from pathlib import Path

import numpy as np
import pytest

from llm.data.examples import DataSettings, Example
from llm.data.rendering import tokenize
from llm.data.sources import read_examples
from tests.llm.data.byte_tokenizer import TEMPLATE, make_tokenizer

BOS, EOS = 0, 1
CHAT = Example(
    [{"role": "user", "content": "hi"}],
    ([{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]),
    (1.0, 0.0),
    "a:1",
)


def plain(prompt: str, *responses: str) -> Example:
    return Example(prompt, responses, tuple(map(float, range(len(responses)))), "a:1")


def one(example: Example, tokenizer, context: int | None = None, **settings):
    (group,) = tokenize([example], tokenizer, DataSettings(**settings), context=context)
    return group


def said(tokenizer, ids) -> str:
    return tokenizer.decode(np.asarray(ids).tolist())


def test_plain_text_is_tokenized_as_given_and_ended(tokenizer):
    group = one(plain("ab ", "cd", " e"), tokenizer)
    assert said(tokenizer, group.prompt) == "ab "
    assert [said(tokenizer, r) for r in group.responses] == ["cd</s>", " e</s>"]
    assert group.rewards.tolist() == [0.0, 1.0]


def test_bos_stands_once_before_the_prompt_where_the_tokenizer_adds_one():
    adding = make_tokenizer(add_bos=True)
    group = one(plain("ab", "cd", "ef"), adding)
    assert said(adding, group.prompt) == "<s>ab"
    assert all(BOS not in response for response in group.responses)


def test_text_without_a_prompt_begins_with_bos_so_that_its_first_token_is_scored(tokenizer):
    assert one(plain("", "abc"), tokenizer).prompt.tolist() == [BOS]
    assert one(plain("", "abc"), make_tokenizer(add_bos=True)).prompt.tolist() == [BOS]
    assert one(plain("", "abc"), make_tokenizer(bos=False)).prompt.tolist() == []


def test_eos_ends_a_response_exactly_once(tokenizer):
    group = one(plain("p", "ends</s>", "ends not", "ends too</s>\n "), tokenizer)
    assert [r.tolist().count(EOS) for r in group.responses] == [1, 1, 1]
    assert all(r[-1] == EOS for r in group.responses)


@pytest.mark.shared
def test_a_response_goes_on_without_the_space_some_tokenizers_put_before_a_text(shared: Path):
    from transformers import PreTrainedTokenizerFast

    llama = PreTrainedTokenizerFast.from_pretrained(shared / "models" / "stories260K")
    for response in ("sat on", " sat on", "\nsat"):
        group = one(plain("The cat", response), llama)
        whole = [*group.prompt.tolist(), *group.responses[0].tolist()]
        assert said(llama, whole) == f"<s> The cat{response}</s>" or (
            llama.decode(whole, skip_special_tokens=True).strip() == f"The cat{response}"
        )


def test_chat_goes_through_the_template_and_scores_what_the_answer_adds(chat_tokenizer):
    group = one(CHAT, chat_tokenizer)
    assert said(chat_tokenizer, group.prompt) == "<user>hi<end>\n<assistant>"
    # The template ends a turn with text of its own, which the model has to learn to write.
    assert said(chat_tokenizer, group.responses[0]) == "good<end>\n</s>"


def test_what_a_template_writes_after_eos_is_left_out():
    ending = make_tokenizer(template=TEMPLATE.replace("<end>\n", "</s>\n"))
    group = one(CHAT, ending)
    assert said(ending, group.responses[0]) == "good</s>"
    assert said(ending, group.prompt) == "<user>hi</s>\n<assistant>"


def test_chat_takes_no_bos_but_the_templates():
    adding = make_tokenizer(add_bos=True, template="<s>" + TEMPLATE)
    assert one(CHAT, adding).prompt.tolist().count(BOS) == 1


def test_chat_without_a_template_is_refused_with_the_remedy(tokenizer):
    with pytest.raises(ValueError, match=r"a:1 .*no chat template.*--reading\.template FILE"):
        one(CHAT, tokenizer)


def test_a_template_from_a_file_takes_the_place_of_the_tokenizers(tokenizer, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE.replace("<", "[").replace(">", "]"))
    assert said(tokenizer, one(CHAT, tokenizer, template=str(file)).prompt).startswith("[user]hi")
    with pytest.raises(OSError, match="none"):
        one(CHAT, tokenizer, template=str(tmp_path / "none"))


def test_a_template_that_rewrites_the_prompt_is_refused():
    moody = make_tokenizer(template=TEMPLATE + "{{ messages | length }}")
    with pytest.raises(ValueError, match=r"a:1: .*writes the prompt differently"):
        one(CHAT, moody)


def test_a_template_that_refuses_the_messages_is_named_with_the_row():
    strict = make_tokenizer(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match=r"a:1: .*roles must alternate"):
        one(CHAT, strict)


def test_text_becomes_chat_where_that_is_asked_for(chat_tokenizer):
    group = one(plain("hi\n\n", " good"), chat_tokenizer, chat=True)
    assert said(chat_tokenizer, group.prompt) == "<user>hi<end>\n<assistant>"
    assert said(chat_tokenizer, group.responses[0]) == "good<end>\n</s>"


def test_a_transcript_becomes_its_turns_where_chat_is_asked_for(chat_tokenizer):
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    group = one(plain(prompt, " d"), chat_tokenizer, chat=True)
    expected = "<user>a<end>\n<assistant>b<end>\n<user>c<end>\n<assistant>"
    assert said(chat_tokenizer, group.prompt) == expected


def test_text_without_a_prompt_cannot_become_chat(chat_tokenizer):
    with pytest.raises(ValueError, match=r"a:1 is text without a prompt"):
        one(plain("", "abc"), chat_tokenizer, chat=True)


def test_a_long_prompt_keeps_its_end_and_its_bos():
    adding = make_tokenizer(add_bos=True)
    group = one(plain("0123456789", "ab"), adding, context=8)
    assert said(adding, group.prompt) == "<s>6789"
    assert said(adding, group.responses[0]) == "ab</s>"
    assert group.lost_prompt == 6 and group.cut_responses == 0


def test_a_long_response_keeps_its_beginning_and_loses_eos(tokenizer):
    group = one(plain("0123", "abcdefghi", "xyz"), tokenizer, context=10)
    assert [said(tokenizer, r) for r in group.responses] == ["abcdef", "xyz</s>"]
    assert group.lost_prompt == 0 and group.cut_responses == 1


def test_where_both_are_long_the_prompt_gives_up_no_more_than_half(tokenizer):
    group = one(plain("0123456789", "abcdefghijkl"), tokenizer, context=10)
    assert said(tokenizer, group.prompt) == "56789"
    assert said(tokenizer, group.responses[0]) == "abcde"


def test_the_prompt_length_asked_for_is_kept_to(tokenizer):
    group = one(plain("0123456789", "ab"), tokenizer, context=100, max_prompt_length=3)
    assert said(tokenizer, group.prompt) == "789"


def alone(examples: list[Example], tokenizer, context: int | None = None, **settings):
    return tokenize(
        examples, tokenizer, DataSettings(**settings), context=context, prompts_only=True
    )


def test_prompts_to_be_answered_lose_whatever_answers_they_have(tokenizer):
    examples = [plain("ab", "cd", "ef"), plain("ab"), plain("gh", " ")]
    groups = alone(examples, tokenizer)
    assert [said(tokenizer, group.prompt) for group in groups] == ["ab", "ab", "gh"]
    assert all(group.responses == () and group.rewards.shape == (0,) for group in groups)


def test_a_chat_prompt_to_be_answered_ends_where_the_assistant_begins(chat_tokenizer):
    asked = Example(CHAT.prompt, (), (), "a:1")
    for group in alone([CHAT, asked], chat_tokenizer):
        assert said(chat_tokenizer, group.prompt) == "<user>hi<end>\n<assistant>"


def test_a_prompt_to_be_answered_leaves_half_of_the_context_or_as_much_as_is_asked_for(tokenizer):
    (group,) = alone([plain("0123456789", "ab")], tokenizer, context=8)
    assert said(tokenizer, group.prompt) == "6789" and group.lost_prompt == 6
    (group,) = alone([plain("0123456789")], tokenizer, context=8, max_prompt_length=7)
    assert said(tokenizer, group.prompt) == "3456789"
    (group,) = alone([plain("0123456789")], tokenizer)
    assert group.lost_prompt == 0


def test_prompts_without_answers_are_refused_where_answers_are_to_be_learned(tokenizer):
    with pytest.raises(ValueError, match=r"a:1: no response(?s:.*)an online recipe"):
        tokenize([plain("ab", "cd"), plain("ab")], tokenizer, DataSettings(bad_rows="drop"))


def test_a_prompt_may_spell_the_token_that_ends_a_turn():
    # Pythia's BOS is its EOS, and the authors' prompts have it between instruction and answer.
    same = make_tokenizer()
    same.bos_token = same.eos_token
    group = one(plain("i</s><a>", "cd"), same)
    assert said(same, group.prompt) == "i</s><a>"


def test_too_long_is_refused_where_nothing_may_be_cut(tokenizer):
    with pytest.raises(ValueError, match=r"a:1: too long: response 1 of 1 .* 13 tokens"):
        one(plain("0123456789", "ab"), tokenizer, context=8, truncate=False)


def test_more_length_than_the_model_reads_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"max-length is 100, but the model reads at most 50"):
        one(plain("a", "b"), tokenizer, context=50, max_length=100)


def test_a_tokenizer_that_cannot_end_a_response_is_refused(tokenizer):
    class Endless:
        eos_token_id = None

    with pytest.raises(ValueError, match="no EOS token"):
        tokenize([plain("a", "b")], Endless(), DataSettings())


def test_many_examples_keep_their_order_and_their_responses(tokenizer, monkeypatch):
    monkeypatch.setattr("llm.data.rendering.AT_ONCE", 3)
    examples = [plain(f"p{i}", *(f"r{i}{n}" for n in range(1 + i % 3))) for i in range(8)]
    groups = tokenize(examples, tokenizer, DataSettings())
    for i, group in enumerate(groups):
        assert said(tokenizer, group.prompt) == f"p{i}"
        texts = [said(tokenizer, r) for r in group.responses]
        assert texts == [f"r{i}{n}</s>" for n in range(1 + i % 3)]


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


SHARED = [
    slow("ultrafeedback/train.jsonl.gz", {307, 479, 656, 834, 911, 998}, 1000),
    ("ultrafeedback/eval.jsonl.gz", {44}, 200),
    slow("hh_rlhf/harmless-base_test.jsonl.gz", {87, 517, 926, 1104}, 2312),
    slow("hh_rlhf/helpful_test.jsonl.gz", {121, 740, 1214, 2063}, 2352),
    (
        "instruction_preference/instruction_preference_1100.jsonl.gz",
        {123, 227, 401, 567, 629, 677},
        1100,
    ),
    slow("instruction_preference/instruction_1100.jsonl.gz", set(), 1100),
]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "bad", "rows"), SHARED)
def test_every_row_of_the_shared_data_is_read_and_passes_or_is_named(shared: Path, name, bad, rows):
    from transformers import PreTrainedTokenizerFast

    from llm.data.contract import Contract, examine
    from llm.data.rendering import render

    gpt2 = PreTrainedTokenizerFast.from_pretrained(shared / "tokenizers" / "gpt2")
    examples = read_examples(str(shared / "data" / name))
    assert len(examples) == rows
    contract = Contract(eos=gpt2.eos_token_id, bos=gpt2.bos_token_id, vocab_size=50257)
    groups = render(examples, gpt2, DataSettings(), 1024)
    found = [examine(e, g, contract, gpt2) for e, g in zip(examples, groups, strict=True)]
    assert {row for row, findings in enumerate(found, start=1) if findings} == bad
