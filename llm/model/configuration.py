"""A `config.json` being read, so that none of its settings is ignored without anyone noticing.

A configuration is a dictionary in which nobody says which keys matter. A ``Reading`` remembers the
keys that were read; what is left at the end is either known to be harmless, because it is about
generation or about training, or it is refused: a model that runs with one of its settings ignored
is wrong without looking wrong. Everything that is found is reported together.
"""

from collections.abc import Mapping
from typing import Any

WITHOUT_EFFECT = {
    "where it comes from, and what it was saved as": (
        "architectures dtype torch_dtype transformers_version name_or_path tokenizer_class "
        "task_specific_params finetuning_task is_llama_config is_decoder"
    ),
    "what other tasks read": (
        "id2label label2id num_labels problem_type classifier_dropout summary_type "
        "summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"
    ),
    "dropout, training and speed": (
        "initializer_range attention_dropout hidden_dropout embd_pdrop attn_pdrop resid_pdrop "
        "attention_probs_dropout_prob hidden_dropout_prob gradient_checkpointing use_cache "
        "cache_implementation pretraining_tp torchscript use_bfloat16 reorder_and_upcast_attn "
        "chunk_size_feed_forward n_ctx max_sequence_length return_dict return_dict_in_generate "
        "output_attentions output_hidden_states output_scores"
    ),
    "generation": (
        "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id "
        "suppress_tokens begin_suppress_tokens bad_words_ids forced_bos_token_id "
        "forced_eos_token_id max_length min_length do_sample early_stopping num_beams "
        "num_beam_groups num_return_sequences diversity_penalty temperature top_k top_p typical_p "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
        "remove_invalid_values exponential_decay_length_penalty prefix"
    ),
}
"""Keys of a ``config.json`` that do not change what a decoder computes from its weights."""

HARMLESS = frozenset(key for keys in WITHOUT_EFFECT.values() for key in keys.split())
HARMLESS_PREFIXES = ("_", "transformers.", "unsloth")


class Reading:
    """A configuration being read: which keys have been used, and everything wrong with it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.used = {"model_type"}
        self.problems: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or the default where the file has none."""
        self.used.add(key)
        return self.config.get(key, default)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; null and, without a default, absence are problems."""
        value = self.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        said = "missing" if value is None else repr(value)
        self.problems.append(f"{key} is {said}; it must be a whole number of at least 1")
        return 1

    def only(self, key: str, *supported: Any) -> None:
        """A setting that this decoder implements only at the given values, the first by default."""
        value = self.get(key, supported[0])
        if value not in supported:
            self.refuse(key, value)

    def one_of(self, key: str, default: str, meanings: Mapping[str, Any]) -> Any:
        """What a word in the file means here."""
        value = self.get(key, default)
        if value in meanings:
            return meanings[value]
        self.problems.append(f"{key} is {value!r}; known are {', '.join(meanings)}")
        return meanings[default]

    def refuse(self, key: str, value: Any) -> None:
        """Record a setting that is not implemented."""
        self.problems.append(f"{key} is {value!r}, which this decoder does not implement")

    def finish(self) -> None:
        """Refuse what nothing has read; raise everything that was found, in one error."""
        for key, value in self.config.items():
            harmless = key in HARMLESS or key.startswith(HARMLESS_PREFIXES)
            if key not in self.used and not harmless and value is not None:
                self.refuse(key, value)
        if self.problems:
            raise ValueError(
                f"The configuration of this {self.config['model_type']} model cannot be used:\n  "
                + "\n  ".join(dict.fromkeys(self.problems))
                + "\nChoose another checkpoint; or, if a key listed here does not change what the "
                "model computes, delete it from config.json."
            )
