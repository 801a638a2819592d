"""Which labels matter, asked of a language model that has read film reviews: one file per claim."""
