"""What a run would take on devices nobody here owns: compiled before it is paid for.

Nothing is imported here, so that ``compilers`` can prepare the environment before JAX is. In the
order a plan meets them: ``public``, ``topology`` and ``compilers`` (what is asked about, and
whether it can be), ``abstract`` (the run with shapes in place of numbers), ``programs`` (its
programs, compiled), ``hlo``, ``collectives`` and ``traffic`` (what they say and move, read from
their text), ``roofline`` (how fast that can be), ``make`` and ``planned`` (the plan), ``choices``
(which layouts to compare), ``apart`` (a process for compilers that may die) and ``tables``.
"""
