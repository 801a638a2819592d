"""Floor 2: one file per claim or per run; each asks a question and writes a small result."""
