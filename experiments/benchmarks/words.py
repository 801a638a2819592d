"""A tokenizer whose words are its token ids: text for peers that insist on text."""

from typing import Any

BEGIN, END, PADDING = "<begin>", "<end>", "<pad>"


def word(token: int) -> str:
    """How a token is spelled."""
    return f"w{token}"


def make_tokenizer(words: int) -> Any:
    """A tokenizer of ``transformers`` that takes ``w7 w12`` for the ids 7 and 12, and back.

    Args:
        words: size of the vocabulary; the first three are special.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [BEGIN, END, PADDING]
    spelled = [*special, *(word(token) for token in range(len(special), words))]
    vocabulary = {name: token for token, name in enumerate(spelled)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PADDING))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def spell(tokens: Any) -> str:
    """Token ids as text."""
    return " ".join(word(int(token)) for token in tokens)
