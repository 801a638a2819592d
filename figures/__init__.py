"""Floor 3: one file per figure. A figure reads what an experiment wrote, and draws."""
