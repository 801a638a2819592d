"""The page a lecture opens: two policies over the bins, moved by any two objectives.

``engine.js`` is ``bandit.exact`` once more, in the language of a browser; tests hold every number
of every claim against the library. ``settings.js``, ``pictures.js`` and ``page.js`` are what a
student sets, sees and touches. ``build`` puts everything into one file that needs no network.
"""
