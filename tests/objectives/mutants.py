"""Mistakes that people make in exactly these formulas, and the run that tries each one out.

A mutant is one small change of the source text. Each is applied to a temporary copy of the package,
which is imported in place of the original, and a fast part of the tests is run against it. All of
this happens in one process, so that JAX compiles what did not change only once.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).resolve().parent


class Mutant(NamedTuple):
    """One slip."""

    file: str
    old: str
    new: str
    only: str = ""
    """Which tests to run, as pytest's ``-k``, where most of them could not notice."""

    def __str__(self) -> str:
        return f"{self.file}: {self.old} -> {self.new}"


CLOSED_FORMS, CONTRACT = "test_closed_forms.py", "test_contract.py"
WATCHED_BY = {
    "terms.py": ["test_terms.py", CLOSED_FORMS, CONTRACT],
    "responses.py": [CLOSED_FORMS, CONTRACT],
    "supervised.py": [CLOSED_FORMS, CONTRACT],
    "contrastive.py": [CLOSED_FORMS, CONTRACT],
    "policy_gradient.py": [CLOSED_FORMS, CONTRACT],
    "pytrees.py": [CONTRACT],
    "hyperparameters.py": [CONTRACT],
    "divergences.py": ["test_divergences.py"],
    "advantages.py": ["test_advantages.py"],
    "labels.py": ["test_labels.py"],
    "acquisition.py": ["test_acquisition.py"],
    "recipes.py": ["test_recipes.py"],
}
"""The tests that should notice, in the order in which they are asked."""

SAMPLE_STD = (
    "std = jnp.sqrt(jnp.sum(centred**2, axis={axis}, keepdims=True) "
    "/ (jnp.sum({where}, axis={axis}, keepdims=True) - 1))"
)

MUTANTS = [
    # Sums and units.
    Mutant("terms.py", "jnp.where(self.weight != 0, self.value, 0)", "self.value"),
    Mutant(
        "terms.py",
        "return jnp.sum(counted * self.weight), jnp.sum(self.weight)",
        "return jnp.mean(counted * self.weight), jnp.mean(self.weight)",
    ),
    Mutant(
        "terms.py", "total / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny)", "total / weight"
    ),
    # What exists, and what is constant.
    Mutant("responses.py", "jax.lax.stop_gradient(responses)", "responses"),
    Mutant("responses.py", "responses.mask & exists[..., None]", "responses.mask"),
    Mutant("responses.py", "else scored & self.valid", "else self.valid"),
    Mutant(
        "responses.py",
        "jnp.where(seen, jnp.asarray(x, dtype), 0)",
        "jnp.asarray(x, dtype) * seen.astype(dtype)",
    ),
    Mutant("responses.py", "reward=jnp.where(exists, reward, 0),", "reward=reward,"),
    Mutant("responses.py", "return self.S - self.S_ref", "return self.S_ref - self.S"),
    Mutant(
        "responses.py",
        "dtype = jnp.promote_types(jnp.result_type(logp), jnp.float32)",
        "dtype = jnp.result_type(logp)",
        "precision or bfloat16",
    ),
    Mutant(
        "responses.py",
        "reward.astype(jnp.promote_types(reward.dtype, jnp.float32))",
        "reward.astype(dtype if dtype != float else jnp.bfloat16)",
    ),
    Mutant("responses.py", "jnp.maximum(jnp.sum(mask, axis=-1), 1)", "jnp.sum(mask, axis=-1)"),
    Mutant("responses.py", "jnp.sum(mask, axis=-1), 1)", "jnp.sum(mask, axis=-1), mask.shape[-1])"),
    Mutant("responses.py", "S_old=jnp.sum(old, axis=-1)", "S_old=jnp.sum(ref, axis=-1)", "GSPO"),
    Mutant("responses.py", "ref_logp=ref,", "ref_logp=old,", "REINFORCE or PPO"),
    # Imitation.
    Mutant("supervised.py", "(batch.mask & keep[..., None])", "batch.mask"),
    Mutant("supervised.py", 'total / batch.length if normalize == "length" else total', "total"),
    Mutant("supervised.py", "else -weight * batch.logp", "else weight * batch.logp", "RWR"),
    Mutant("supervised.py", "keep=preferred", "keep=best(batch.reward, batch.exists)", "PrefFT"),
    Mutant(
        "supervised.py",
        "keep=best(batch.reward, batch.exists))",
        "keep=worst(batch.reward, batch.exists))",
        "BestOfN",
    ),
    Mutant(
        "supervised.py",
        "jnp.minimum(jnp.exp(batch.reward / self.beta), self.max_weight)",
        "jnp.exp(jnp.minimum(batch.reward / self.beta, self.max_weight))",
        "RWR",
    ),
    Mutant(
        "supervised.py",
        "advantage = group_mean(batch.reward, batch.exists)[..., None]",
        "advantage = batch.reward[..., None]",
        "AWR",
    ),
    Mutant("supervised.py", "jnp.exp(advantage / self.beta)", "jnp.exp(advantage)", "AWR"),
    Mutant(
        "supervised.py",
        "push / jnp.maximum(jnp.sum(others, axis=-1), 1)",
        "push / others.shape[-1]",
        "Unlikelihood",
    ),
    Mutant("supervised.py", "-pull + self.beta * push", "-pull - self.beta * push", "Unlikelihood"),
    Mutant(
        "supervised.py",
        "push = -jnp.sum(jnp.where(others, log1mexp",
        "push = jnp.sum(jnp.where(others, log1mexp",
        "Unlikelihood",
    ),
    Mutant(
        "supervised.py", "others = batch.exists & ~chosen", "others = batch.exists", "Unlikelihood"
    ),
    Mutant(
        "supervised.py",
        "groups = differs(batch.reward, batch.exists)",
        "groups = jnp.any(batch.exists, axis=-1)",
        "Unlikelihood",
    ),
    # Pairs.
    Mutant("contrastive.py", "return winner(x) - loser(x)", "return loser(x) - winner(x)"),
    Mutant(
        "contrastive.py",
        "pairs(batch.reward, batch.exists, rule, threshold)",
        "pairs(batch.reward, batch.exists, rule)",
        "DPO",
    ),
    Mutant(
        "contrastive.py", "Weighted(loser(ratio) + zeros", "Weighted(winner(ratio) + zeros", "DPO"
    ),
    Mutant("contrastive.py", "self.beta * gap(batch.log_ratio)", "self.beta * gap(batch.S)", "DPO"),
    Mutant(
        "contrastive.py",
        "right, wrong = -log_sigmoid(margin), -log_sigmoid(-margin)",
        "wrong, right = -log_sigmoid(margin), -log_sigmoid(-margin)",
        "DPO",
    ),
    Mutant("contrastive.py", "(1 - e) * right + e * wrong", "(1 - e) * right - e * wrong", "DPO"),
    Mutant("contrastive.py", "/ (1 - 2 * e)", "/ (1 - e)", "DPO"),
    Mutant("contrastive.py", "margin - 1 / (2 * self.tau)", "margin - 1 / self.tau", "IPO"),
    Mutant("contrastive.py", "- batch.S_ref / batch.length", "- batch.S_ref", "IPO"),
    Mutant(
        "contrastive.py",
        "jnp.maximum(0, self.margin - margin)",
        "jnp.maximum(0, self.margin + margin)",
        "SLiC",
    ),
    Mutant("contrastive.py", "self.reg * winner(batch.S)", "self.reg * loser(batch.S)", "SLiC"),
    Mutant("contrastive.py", "- self.gamma", "- self.gamma / self.beta", "SimPO"),
    Mutant("contrastive.py", "winner(batch.S / batch.length)", "winner(batch.S)", "CPO"),
    Mutant("contrastive.py", "gap(average - log1mexp(average))", "gap(average)", "ORPO"),
    Mutant(
        "contrastive.py",
        "-winner(average) - self.lambda_",
        "winner(average) - self.lambda_",
        "ORPO",
    ),
    Mutant("contrastive.py", "z = lax.stop_gradient(", "z = (", "KTO"),
    Mutant(
        "contrastive.py",
        "jnp.maximum(0, masked_mean(ratio, exists))",
        "masked_mean(ratio, exists)",
        "KTO",
    ),
    Mutant(
        "contrastive.py",
        "batch.reward > self.threshold, exists",
        "batch.reward >= self.threshold, exists",
        "KTO",
    ),
    Mutant(
        "contrastive.py",
        "batch.reward > masked_mean(batch.reward, exists, axis=-1)",
        "batch.reward > masked_mean(batch.reward, exists)",
        "KTO",
    ),
    Mutant(
        "contrastive.py",
        "exists & differs(batch.reward, exists)[..., None]",
        "exists",
        "KTO or preferred",
    ),
    Mutant("contrastive.py", "(1 - sigmoid(-margin))", "(1 - sigmoid(margin))", "KTO"),
    # Policy gradients.
    Mutant(
        "policy_gradient.py",
        "(batch.logp - batch.ref_logp)",
        "(batch.ref_logp - batch.logp)",
        "REINFORCE",
    ),
    Mutant(
        "policy_gradient.py",
        "coefficient * lax.stop_gradient(batch.logp)",
        "coefficient * batch.logp",
        "REINFORCE",
    ),
    Mutant(
        "policy_gradient.py",
        "surrogate = -advantage_of(self, batch)",
        "surrogate = advantage_of(self, batch)",
        "REINFORCE",
    ),
    Mutant(
        "policy_gradient.py",
        "jnp.maximum(-advantage * ratio,",
        "jnp.minimum(-advantage * ratio,",
        "PPO",
    ),
    Mutant(
        "policy_gradient.py",
        "jnp.clip(ratio, 1 - low, 1 + high)",
        "jnp.clip(ratio, 1 - high, 1 + low)",
        "PPO",
    ),
    Mutant(
        "policy_gradient.py", "batch.logp - batch.old_logp", "batch.logp - batch.ref_logp", "PPO"
    ),
    Mutant(
        "policy_gradient.py",
        "jnp.where(advantage < 0, bounded, surrogate)",
        "bounded",
        "PPO",
    ),
    Mutant("policy_gradient.py", "counts / batch.length[..., None]", "counts", "PPO"),
    Mutant("policy_gradient.py", "surrogate / self.normalize[1]", "surrogate", "PPO"),
    Mutant("policy_gradient.py", "jnp.where(batch.mask, surrogate, 0)", "surrogate", "PPO"),
    Mutant(
        "policy_gradient.py",
        "(batch.S - batch.S_old) / batch.length",
        "(batch.S - batch.S_old)",
        "GSPO",
    ),
    Mutant(
        "policy_gradient.py",
        "jnp.sum(advantage, axis=-1) / batch.length",
        "jnp.mean(advantage, axis=-1)",
        "GSPO",
    ),
    Mutant(
        "policy_gradient.py",
        "jnp.sum(self.kl(batch), axis=-1) / batch.length",
        "jnp.sum(self.kl(batch), axis=-1)",
        "GSPO",
    ),
    # Divergences.
    Mutant(
        "divergences.py",
        "return expectation(target_logp, target_logp - logp)",
        "return expectation(logp, logp - target_logp)",
    ),
    Mutant(
        "divergences.py",
        "return expectation(logp, logp - target_logp)",
        "return expectation(logp, target_logp - logp)",
    ),
    Mutant("divergences.py", "return -expectation(logp, logp)", "return expectation(logp, logp)"),
    Mutant("divergences.py", "jnp.where(p > 0, p * jnp.where(p > 0, of, 0), 0)", "p * of"),
    Mutant(
        "divergences.py",
        "jnp.logaddexp(logp, target_logp) - jnp.log(2.0)",
        "(logp + target_logp) / 2",
    ),
    Mutant("divergences.py", "seeking = alpha > 0.5", "seeking = alpha < 0.5"),
    Mutant(
        "divergences.py",
        "jnp.where(jnp.exp(under) > 0, logp - target_logp, 0)",
        "logp - target_logp",
    ),
    Mutant("divergences.py", "reward / beta", "reward * beta"),
    Mutant("divergences.py", "return log_ratio**2 / 2", "return log_ratio**2"),
    Mutant(
        "divergences.py",
        "return jnp.expm1(-log_ratio) + log_ratio",
        "return jnp.expm1(log_ratio) - log_ratio",
    ),
    Mutant("divergences.py", "x = jnp.minimum(x, CEILING)", "x = x"),
    # Advantages.
    Mutant(
        "advantages.py", "jnp.sum(jnp.where(where, x, 0),", "jnp.sum(x * where.astype(x.dtype),"
    ),
    Mutant(
        "advantages.py",
        "jnp.sum(where, axis=axis, keepdims=True)",
        "jnp.sum(jnp.ones_like(where), axis=axis, keepdims=True)",
    ),
    Mutant(
        "advantages.py",
        "reward - masked_mean(reward, valid, axis=-1)",
        "reward - masked_mean(reward, valid)",
    ),
    Mutant(
        "advantages.py",
        "std = jnp.sqrt(masked_mean(centred**2, valid, axis=-1))",
        SAMPLE_STD.format(axis=-1, where="valid"),
    ),
    Mutant("advantages.py", "jnp.maximum(std, floor) + 1e-6", "std + 1e-6"),
    Mutant("advantages.py", "jnp.maximum(count - 1, 1)", "jnp.maximum(count, 1)"),
    Mutant("advantages.py", "count + state.number", "count"),
    Mutant(
        "advantages.py",
        "std = jnp.sqrt(masked_mean(centred**2, mask))",
        SAMPLE_STD.format(axis=None, where="mask"),
    ),
    Mutant("advantages.py", "reward + gamma * next_value - value", "reward + next_value - value"),
    Mutant("advantages.py", "gamma * lambda_ * next_advantage", "lambda_ * next_advantage"),
    Mutant("advantages.py", "jnp.where(seen, value, next_value)", "value"),
    Mutant("advantages.py", "jnp.where(seen, advantage, next_advantage)", "advantage"),
    Mutant("advantages.py", "reverse=True", "reverse=False"),
    Mutant("advantages.py", "jnp.where(mask, advantage + value, 0)", "advantage"),
    Mutant("advantages.py", "tokens_left == 1", "tokens_left == 0"),
    Mutant("advantages.py", "return reward - beta * jnp.sum(", "return reward + beta * jnp.sum("),
    Mutant(
        "advantages.py",
        "jnp.where(mask, old_logp - ref_logp, 0)",
        "mask.astype(ref_logp.dtype) * (old_logp - ref_logp)",
    ),
    # Labels.
    Mutant(
        "labels.py",
        "reward[..., :, None] > reward[..., None, :] + threshold",
        "reward[..., :, None] >= reward[..., None, :] + threshold",
    ),
    Mutant("labels.py", "where & (jnp.cumsum(where, axis=-1) == 1)", "where"),
    Mutant("labels.py", "exists[..., :, None] & exists[..., None, :]", "exists[..., None, :]"),
    Mutant("labels.py", "exists & (reward == bottom)", "exists & (reward <= bottom + 0.3)"),
    Mutant("labels.py", "return top > bottom", "return top >= bottom"),
    Mutant(
        "labels.py", "(reward_a - reward_b) / temperature", "(reward_b - reward_a) / temperature"
    ),
    Mutant(
        "labels.py", "(reward_a - reward_b) / temperature", "(reward_a - reward_b) * temperature"
    ),
    # Acquisition.
    Mutant("acquisition.py", "return -jnp.mean(S, axis=-1)", "return jnp.mean(S, axis=-1)"),
    Mutant(
        "acquisition.py",
        "return -jnp.mean(S, axis=-1)",
        "return -jnp.stack([S.reshape(-1)[s : s + S.shape[1]].mean() for s in range(len(S))])",
    ),
    Mutant("acquisition.py", "return jnp.abs(h_a - h_b)", "return h_a - h_b"),
    Mutant("acquisition.py", "jnp.var(h_a - h_b, axis=0)", "jnp.var(h_a - h_b, axis=0, ddof=1)"),
    Mutant("acquisition.py", "entropy >= border", "entropy > border"),
    Mutant("acquisition.py", "jnp.lexsort((lottery, -scores))", "jnp.argsort(-scores)"),
    Mutant("acquisition.py", "jnp.minimum(nearest,", "jnp.maximum(nearest,"),
    Mutant("acquisition.py", "taken.at[pick].set(True)", "taken"),
    Mutant("acquisition.py", "jnp.where(excluded, -1.0, nearest)", "nearest"),
    # Values.
    Mutant("pytrees.py", "isinstance(value, (str, bool))", "isinstance(value, str)", "words"),
    Mutant("hyperparameters.py", "if not np.all(holds):", "if False:", "refuses"),
    Mutant(
        "hyperparameters.py", "getattr(owner, field) > 0", "getattr(owner, field) >= 0", "refuses"
    ),
    Mutant(
        "hyperparameters.py",
        "getattr(owner, field) >= 0",
        "not getattr(owner, field) < 0",
        "refuses",
    ),
    Mutant(
        "recipes.py", 'self.collection.source == "policy"', 'self.collection.source != "dataset"'
    ),
    Mutant(
        "recipes.py",
        "self.inner_steps * self.minibatches",
        "self.inner_steps + self.minibatches",
    ),
    Mutant("recipes.py", 'advantage="leave_one_out"', 'advantage="group_mean"'),
]


def occurrences(mutant: Mutant) -> int:
    return (ROOT / "objectives" / mutant.file).read_text(encoding="utf-8").count(mutant.old)


def forget_the_package() -> None:
    """Let the next import read the package, and the tests that hold pieces of it, afresh."""
    for name in list(sys.modules):
        if name.split(".")[0] == "objectives" or name.startswith("tests.objectives."):
            del sys.modules[name]


def fails(test: str, only: str) -> bool:
    """Whether a test file notices something, with whichever package is first on the path."""
    import pytest

    forget_the_package()
    wanted = f"({only} or awkward) and not devices" if only else "not devices"  # no subprocess
    arguments = [str(TESTS / test), "-x", "-q", "--tb=no", "--no-header", "-k", wanted]
    arguments += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    arguments += ["-o", "addopts=--import-mode=importlib", "-m", "not slow"]
    arguments += ["-p", "no:cacheprovider", "--assert=plain", "--hypothesis-profile", "mutants"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = pytest.main(arguments)
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{test} could not run: {status!r}\n{output.getvalue()}")
    return status == pytest.ExitCode.TESTS_FAILED


def survives(mutant: Mutant) -> bool:
    """Whether no test notices the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        package = shutil.copytree(ROOT / "objectives", Path(folder) / "objectives")
        path = package / mutant.file
        source = path.read_text(encoding="utf-8")
        if source.count(mutant.old) != 1:
            return True  # it changes nothing, or more than was meant
        path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
        sys.path.insert(0, folder)
        try:
            return not any(fails(test, mutant.only) for test in WATCHED_BY[mutant.file])
        finally:
            sys.path.remove(folder)


def main() -> None:
    """Print, as JSON on the last line, which of the mutants numbered by the arguments survive."""
    import hypothesis

    hypothesis.settings.register_profile(
        "mutants",
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=25,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # no shrinking
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    chosen = [int(number) for number in sys.argv[1:]]
    unharmed = {test for i in chosen for test in WATCHED_BY[MUTANTS[i].file]}
    complaints = [test for test in sorted(unharmed) if fails(test, "")]
    assert not complaints, f"{complaints} fail without any mutation"
    print(json.dumps([i for i in chosen if survives(MUTANTS[i])]))


if __name__ == "__main__":
    main()
