"""The paper's language-model runs at their own size, ready for an accelerator or a pod.

Each file is one study: its stages, the authors' settings, and where a number is ours. Run one with
``python -m experiments.llm.full_scale.alpacafarm --dry-run``.
"""
