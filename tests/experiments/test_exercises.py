"""The problem set: solutions are accepted, usual mistakes are named, gaps are called gaps."""

import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import expit as s
from scipy.special import log_softmax, softmax

from experiments.exercises import __main__ as grader
from experiments.exercises.checks import CHECKS, check, labels
from objectives import reverse_kl

EXERCISES = Path(grader.__file__).parent
SOLUTIONS = EXERCISES / "solutions"


def softmax_gradient(p, x):
    return p * (x - np.sum(p * x))


def pi_star(ref_logp, reward, beta):
    return log_softmax(ref_logp + reward / beta)


def reverse_kl_gradient(logp, ref_logp):
    return softmax_gradient(np.exp(logp), logp - ref_logp)


def of_pairs(dpo, ipo, dpo_loser=None):
    """Both gradients from functions of the gap; the loser's are minus the winner's."""

    def answer(D_w, D_l, beta, tau):
        d = D_w - D_l
        first, second = dpo(d, beta), ipo(d, tau)
        return first, (-1 if dpo_loser is None else dpo_loser) * first, second, -second

    return answer


def dpo(d, beta):
    return -beta * s(-beta * d)


def ipo(d, tau):
    return 2 * (d - 1 / (2 * tau))


def targets(sft=None, rwr=None, best=None):
    """The three targets, right where nothing else is given."""

    def answer(ref_logp, reward, beta):
        p = np.exp(ref_logp)
        F = np.sum(np.where(reward[None] <= reward[:, None], p[None], 0), axis=-1)
        return (
            ref_logp if sft is None else sft(ref_logp, reward, beta),
            pi_star(ref_logp, reward, beta) if rwr is None else rwr(ref_logp, reward, beta),
            np.log(p * (2 * F - p)) if best is None else best(p, F),
        )

    return answer


def penalties(k1=None, k2=None, k3=None):
    """The three expected gradients, right where nothing else is given."""

    def answer(logp, ref_logp):
        p, q = np.exp(logp), np.exp(ref_logp)
        return (
            np.zeros_like(p) if k1 is None else k1(logp, ref_logp),
            reverse_kl_gradient(logp, ref_logp) if k2 is None else k2(logp, ref_logp),
            p - q if k3 is None else k3(logp, ref_logp),
        )

    return answer


def others(reward):
    N = reward.shape[-1]
    return reward - (np.sum(reward, axis=-1, keepdims=True) - reward) / (N - 1)


def kept(N):
    return (N - 1) / N


def age(step, T, minibatches):
    return step % (T * minibatches)


def ratio(logp, old_logp):
    return np.exp(logp - old_logp)


def loss(r, A, low, high):
    return np.maximum(-A * r, -A * np.clip(r, 1 - low, 1 + high))


def silent(r, A, low, high):
    return np.where(A > 0, r > 1 + high, r < 1 - low)


MISTAKES = {
    "e01_velocity_of_a_bin": [
        ("forgot to subtract the mean", lambda logp, v: np.exp(logp) * v),
        ("velocity of log p", lambda logp, v: v - np.sum(np.exp(logp) * v)),
        ("policy's own", lambda logp, v: np.exp(logp) * (v - v.mean())),
        ("diagonal", lambda logp, v: np.exp(logp) * (1 - np.exp(logp)) * v),
        ("velocities of the logits", lambda logp, v: v),
        ("factor: yours is 2", lambda logp, v: 2 * softmax_gradient(np.exp(logp), v)),
        ("shape", lambda logp, v: v[:1]),
        ("does it return its result", lambda logp, v: None),
        ("add up to 0", lambda logp, v: np.exp(logp) * (v + v**2)),
    ],
    "e02_gradient_of_reverse_kl": [
        ("is the gradient of the forward KL", lambda z, q: softmax(z) - np.exp(q)),
        ("minus the gradient of the forward", lambda z, q: np.exp(q) - softmax(z)),
        ("velocity", lambda z, q: -reverse_kl_gradient(log_softmax(z), q)),
        (
            "a softmax gradient sums to zero",
            lambda z, q: softmax(z) * (log_softmax(z) - q),
        ),
        ("The 1 of d", lambda z, q: softmax(z) * (log_softmax(z) - q + 1)),
        ("respect to the probabilities", lambda z, q: log_softmax(z) - q + 1),
    ],
    "e03_cover_or_seek": [
        ("reverse KL is not always faster", lambda p, q_1, q_2: True),
        ("forward KL is not always faster", lambda p, q_1, q_2: False),
        ("other way round", lambda p, q_1, q_2: p * np.log(q_1 / q_2) < q_1 - q_2),
        ("not the arithmetic", lambda p, q_1, q_2: p > (q_1 + q_2) / 2),
        ("not the geometric", lambda p, q_1, q_2: p > np.sqrt(q_1 * q_2)),
        ("more than what is needed", lambda p, q_1, q_2: p > q_1),
        ("% of", lambda p, q_1, q_2: p > 0.3),
    ],
    "e04_what_imitation_imitates": [
        ("SFT: these are probabilities", targets(sft=lambda ref, r, beta: np.exp(ref))),
        ("SFT: maximum likelihood", targets(sft=pi_star)),
        ("forgot the reference", targets(rwr=lambda ref, r, beta: log_softmax(r / beta))),
        ("beta divides", targets(rwr=lambda ref, r, beta: log_softmax(ref + r * beta))),
        ("add up to 1", targets(rwr=lambda ref, r, beta: ref + r / beta)),
        ("difference of two", targets(best=lambda p, F: 2 * np.log(F))),
        ("counts once", targets(best=lambda p, F: np.log(2 * p * F))),
        ("two draws agree", targets(best=lambda p, F: log_softmax(2 * np.log(p)))),
        ("a tuple of 3", lambda ref, r, beta: (ref, ref)),
    ],
    "e05_gradients_of_dpo_and_ipo": [
        ("beta is missing outside", of_pairs(lambda d, beta: -s(-beta * d), ipo)),
        ("beta is missing inside", of_pairs(lambda d, beta: -beta * s(-d), ipo)),
        ("wrong sign", of_pairs(lambda d, beta: -beta * s(beta * d), ipo)),
        ("DPO winner: right but for its sign", of_pairs(lambda d, beta: -dpo(d, beta), ipo)),
        ("DPO loser: it is 0", of_pairs(dpo, ipo, dpo_loser=0)),
        ("DPO loser: right but for its sign", of_pairs(dpo, ipo, dpo_loser=1)),
        ("factor 2", of_pairs(dpo, lambda d, tau: d - 1 / (2 * tau))),
        ("not 1 / tau", of_pairs(dpo, lambda d, tau: 2 * (d - 1 / tau))),
    ],
    "e06_kl_estimators": [
        ("k1: this is the gradient of the reverse KL", penalties(k1=reverse_kl_gradient)),
        ("k1: the mean of grad log p", penalties(k1=lambda logp, ref: np.exp(logp))),
        ("k2: it is not zero", penalties(k2=lambda logp, ref: 0 * logp)),
        ("k2: grad log p", penalties(k2=lambda logp, ref: np.exp(logp) * (logp - ref))),
        ("k3: this is the gradient of the reverse KL", penalties(k3=reverse_kl_gradient)),
        ("k3: this is minus", penalties(k3=lambda logp, ref: np.exp(ref) - np.exp(logp))),
    ],
    "e07_leave_one_out": [
        ("itself included", lambda r: r - r.mean(-1, keepdims=True), kept),
        ("as they were", lambda r: r, kept),
        ("z-score", lambda r: (r - r.mean(-1, keepdims=True)) / r.std(-1, keepdims=True), kept),
        ("over the batch", lambda r: r - r.mean(), kept),
        ("it is not 1", others, lambda N: 1),
        ("what is left", others, lambda N: N / (N - 1)),
        ("what is lost", others, lambda N: 1 / N),
    ],
    "e08_stale_data": [
        ("B/M gradient steps", lambda step, T, m: step % T, ratio),
        ("T passes", lambda step, T, m: step % m, ratio),
        ("number of the collection", lambda step, T, m: step // (T * m), ratio),
        ("product", lambda step, T, m: step % (T + m), ratio),
        ("upside down", age, lambda logp, old_logp: np.exp(old_logp - logp)),
        ("logarithm", age, lambda logp, old_logp: logp - old_logp),
        ("imitating", age, lambda logp, old_logp: 1.0),
    ],
    "e09_clipped_surrogate": [
        ("PPO maximises", lambda *x: -loss(*x), silent),
        (
            "joined by max",
            lambda r, A, low, high: np.minimum(-A * r, -A * r.clip(1 - low, 1 + high)),
            silent,
        ),
        ("always clipped", lambda r, A, low, high: -A * r.clip(1 - low, 1 + high), silent),
        ("nothing is clipped", lambda r, A, low, high: -A * r, silent),
        ("outside the borders", loss, lambda r, A, low, high: (r < 1 - low) | (r > 1 + high)),
        ("do learn", loss, lambda *x: ~silent(*x)),
        ("pushed down are clipped", loss, lambda r, A, low, high: (A > 0) & (r > 1 + high)),
        ("do fall silent", loss, lambda r, A, low, high: False),
    ],
    "e10_likelihood_displacement": [
        ("a row of its own", lambda: (20, 20)),
        ("whole number from 1 to 20", lambda: (20, 40)),
    ],
    "e11_where_pushing_hurts": [
        # The same counts as in the solution, so the same program.
        ("pushing helps here", lambda: (20, 10, 5, 4)),
        ("whole number from 2 to 10", lambda: (70, 30, 5, 1)),
    ],
    "e12_beat_certainty": [
        ("certainty itself", labels.certainty),
        ("chance itself", labels.chance),
        ("Not ahead", lambda candidates: -np.asarray(labels.certainty(candidates))),
    ],
}
"""Usual wrong answers of each exercise, and a word of what is said about each."""

FORMS = {
    "e01_velocity_of_a_bin": lambda logp, v: np.diag(p := np.exp(logp)) @ v - np.outer(p, p) @ v,
    "e02_gradient_of_reverse_kl": jax.jit(
        jax.grad(lambda z, q: reverse_kl(jax.nn.log_softmax(z), q))
    ),
    "e03_cover_or_seek": lambda p, q_1, q_2: (p / (q_1 - q_2) * np.log(q_1 / q_2) > 1).astype(int),
    "e06_kl_estimators": penalties(k1=lambda logp, ref: 0.0),
}
"""Right answers in another form than that of the solutions."""


def outcome(script, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # pictures go where the script is run
    return runpy.run_path(str(script))["verdict"]


def scripts(folder):
    return {path.stem: path for path in folder.glob("e*.py")}


OPEN_ENDED = ("e10_likelihood_displacement", "e11_where_pushing_hurts", "e12_beat_certainty")
"""Their checks train over many seeds."""
JUDGED = [pytest.param(n, marks=[pytest.mark.slow] if n in OPEN_ENDED else []) for n in CHECKS]


def test_there_is_a_script_a_solution_and_a_check_for_each():
    assert list(CHECKS) == sorted(scripts(EXERCISES)) == sorted(scripts(SOLUTIONS))
    assert set(MISTAKES) == set(CHECKS)
    assert len(CHECKS) == 12


@pytest.mark.parametrize("name", CHECKS)
def test_a_gap_is_called_a_gap(name, monkeypatch, tmp_path):
    verdict = outcome(EXERCISES / f"{name}.py", monkeypatch, tmp_path)
    assert (verdict.exercise, verdict.outcome) == (name, "not answered")


@pytest.mark.parametrize("name", JUDGED)
def test_the_solution_is_accepted(name, monkeypatch, tmp_path):
    verdict = outcome(SOLUTIONS / f"{name}.py", monkeypatch, tmp_path)
    assert (verdict.exercise, verdict.outcome) == (name, "accepted"), verdict.message


@pytest.mark.parametrize("name", JUDGED)
def test_usual_mistakes_are_rejected_by_name(name):
    for said, *answer in MISTAKES[name]:
        verdict = check(name, *answer)
        assert verdict.outcome == "rejected", said
        assert said.lower() in verdict.message.lower()


@pytest.mark.parametrize("name", FORMS)
def test_a_right_answer_may_have_any_form(name):
    assert check(name, FORMS[name]).outcome == "accepted"


def test_an_error_in_an_answer_is_the_students_to_see():
    with pytest.raises(ZeroDivisionError):
        check("e01_velocity_of_a_bin", lambda logp, v: 1 / 0)


def test_an_answer_that_says_it_is_not_implemented_is_a_gap():
    def velocity(logp, v):
        raise NotImplementedError

    assert check("e01_velocity_of_a_bin", velocity).outcome == "not answered"


def test_an_exercise_there_is_not_is_refused():
    with pytest.raises(ValueError, match="e01_velocity_of_a_bin"):
        check("e13", lambda: ...)


@pytest.mark.parametrize("name", CHECKS)
def test_a_script_is_a_notebook_with_one_answer_cell(name):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    for folder in (EXERCISES, SOLUTIONS):
        cells = jupytext.read(folder / f"{name}.py", fmt="py:percent").cells
        assert cells[0].cell_type == "markdown"
        assert cells[0].source.startswith(f"# {int(name[1:3])}. ")
        assert [cell.metadata.get("tags") for cell in cells].count(["answer"]) == 1
        assert any(f'verdict = check("{name}"' in cell.source for cell in cells)


@pytest.mark.parametrize("name", CHECKS)
def test_an_exercise_says_how_long_it_takes_and_where_it_comes_from(name):
    text = (EXERCISES / f"{name}.py").read_text(encoding="utf-8")
    for part in (" minutes", "Reference: ", "**Question.**", "*Hint.*", "**What to look at.**"):
        assert text.count(part) == 1, part
    table = (EXERCISES / "README.md").read_text(encoding="utf-8")
    [row] = [line for line in table.splitlines() if line.startswith(f"| [{name}]({name}.py)")]
    assert f"**{row.split('|')[-2].strip()} minutes" in text


@pytest.mark.parametrize("name", CHECKS)
def test_a_solution_fills_the_gap_of_its_exercise_and_nothing_else(name):
    for path in (EXERCISES / f"{name}.py", SOLUTIONS / f"{name}.py"):
        text = path.read_text(encoding="utf-8")
        answer = text.split('# %% Answer tags=["answer"]\n')[1].split("# %%")[0]
        lines = [line for line in answer.splitlines() if line.startswith(("def ", '    """'))]
        if path.parent == EXERCISES:
            asked = lines
            assert "..." in answer
    assert lines == asked
    assert "..." not in answer.replace('"""', "")


def folder_of(tmp_path, **answers):
    for name, text in answers.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return {script.stem: script for script in grader.scripts_of(grader.Options(folder=tmp_path))}


def test_a_script_may_do_anything(tmp_path):
    found = folder_of(
        tmp_path,
        e02_gradient_of_reverse_kl="x = 1\n1 / 0\n",
        e03_cover_or_seek="import time\ntime.sleep(60)\n",
        e04_what_imitation_imitates="x = 1\n",
        notes="raise SystemExit\n",
    )
    assert list(found) == list(CHECKS)[1:4]
    crashed = grader.graded(found["e02_gradient_of_reverse_kl"], 60)
    endless = grader.graded(found["e03_cover_or_seek"], 1)
    silent = grader.graded(found["e04_what_imitation_imitates"], 60)
    assert crashed.outcome == endless.outcome == silent.outcome == "crashed"
    assert crashed.message == "ZeroDivisionError: division by zero (line 2)"
    assert "within 1 seconds" in endless.message
    assert "verdict = check" in silent.message


def test_the_command_prints_a_table_and_goes_on_after_a_crash(tmp_path, monkeypatch, capsys):
    right = (SOLUTIONS / "e03_cover_or_seek.py").read_text(encoding="utf-8")
    folder_of(tmp_path, e02_gradient_of_reverse_kl="1 / 0\n", e03_cover_or_seek=right)
    monkeypatch.setattr(sys, "argv", ["exercises", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        grader.main()
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "crashed" in printed
    assert "1 of 2 accepted" in printed


def test_the_grader_says_what_it_looks_for(tmp_path):
    with pytest.raises(ValueError, match="e01_velocity_of_a_bin"):
        grader.scripts_of(grader.Options(folder=tmp_path))


def test_one_may_grade_a_few_of_the_exercises_themselves():
    found = grader.scripts_of(grader.Options(only=("e05", "e1")))
    assert [script.stem[:3] for script in found] == ["e05", "e10", "e11", "e12"]
