"""How fast the same study runs, here and elsewhere: paired, medians and ratios, never asserted."""
