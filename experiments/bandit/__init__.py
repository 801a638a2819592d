"""The didactic half of the paper, one experiment per file (see ``experiments/README.md``)."""
