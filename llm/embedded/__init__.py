"""A language model for whoever has no network: a small language, its tokenizer, its decoder."""
