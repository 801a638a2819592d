"""A problem set: a dozen scripts with a gap each, and checks that know the right answer.

A correct answer is never written down here; the library computes it. ``README.md`` lists the
exercises, and ``python -m experiments.exercises FOLDER`` grades a folder of answers.
"""
