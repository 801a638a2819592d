"""A categorical world where every claim about preference fine-tuning can be checked exactly."""

from bandit.exact import simulate_exactly
from bandit.policies import ContextualMLP, Policy, Tabular
from bandit.problems import PROBLEMS, R1, R2, Problem, bump, squashed_cauchy
from bandit.simulate import Start, Trace, prepare, simulate
from bandit.sweep import Diverged, Setting, seed_keys, sweep
from bandit.transformer import TokenTransformer

__all__ = [
    "PROBLEMS",
    "R1",
    "R2",
    "ContextualMLP",
    "Diverged",
    "Policy",
    "Problem",
    "Setting",
    "Start",
    "Tabular",
    "TokenTransformer",
    "Trace",
    "bump",
    "prepare",
    "seed_keys",
    "simulate",
    "simulate_exactly",
    "squashed_cauchy",
    "sweep",
]
