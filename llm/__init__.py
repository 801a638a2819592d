"""The language-model world: checkpoints in, the shared objectives, a fine-tuned checkpoint out.

Nothing is imported here, so that a command pays only for what it uses. In the order a run meets
them: ``settings`` and ``preparation`` (what is asked for, and whether it can be done),
``checkpoints`` and ``model`` (a Hugging Face folder becomes a decoder), ``data`` (rows become
packed batches), ``logprobs`` and ``scoring`` (batches become the [B, N, T] an objective sees),
``update`` and ``train`` (steps), ``state`` and ``journal`` (what survives and what is told),
``evaluate``, ``sampler`` and ``export`` (what came of it). ``plan`` asks what all of that would
take on other devices.
"""
