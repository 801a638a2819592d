"""Reserved for the language-model world; nothing is here yet.

The name is held so that an import of `llm` resolves to this repository and not to the package of
the same name on the registry.
"""
