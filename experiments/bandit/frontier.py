"""How much reward does each method buy per nat of KL to the reference?

Command: ``modeseek reproduce frontier``. Hardware and time: 1 s on one of two cores, after
``complementarity``, whose runs it reads. Number to expect: no point lies above the envelope by more
than 1e-6 of reward. Feeds ``figures/frontier.py``.

No policy can earn more at a given KL(pi || pi_ref) than pi*, proportional to pi_ref exp(r / beta),
at the beta that has this KL. So pi* over all beta is an exact envelope: reward and KL of a trace
are exact as well, and means over contexts stay below it because it is concave.

A method's *share* at some KL is the reward it has gained when it first gets there, over what pi*
gains. Shares are read at the levels of ``LEVELS``, averaged, at the lowest learning rate at which
every on-policy method gets to all of them with every seed.

The *optimum of its own* that a regularised objective has, if its data were unlimited, is pi* at
its beta for RWR and for REINFORCE with a KL penalty. For IPO it is pi* at tau with another reward:
the rate at which a response beats the reference's. DPO's would be pi* at beta if labels were drawn
from the Bradley-Terry model; here the better response always wins, and DPO then has no finite
optimum. It is compared all the same.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bandit import PROBLEMS
from experiments.bandit.complementarity import FAMILIES, STANDARD, Run, settings_of
from experiments.intervals import Interval, difference, interval
from experiments.outcomes import judged
from experiments.results import Result, Size, Verdict
from objectives import OBJECTIVES, optimal_policy

REWARDS = ("R1", "R2")
LEVELS = {"R1": (1.0, 2.0, 3.0, 4.0), "R2": (0.5, 1.0, 1.5)}
BETAS = np.geomspace(5e-3, 1e4, 6000)
MARKED = (0.3, 0.1)
TOLERANCE = 1e-4
"""By how much float32 may put a point above the envelope, in reward."""
CLOSE = {"reward": 0.05, "KL": 0.25}
"""How near a run must end to its own optimum: in reward, and as a share of the optimum's KL."""
OURS = "this project"


class Envelope(NamedTuple):
    """Expected reward and KL of pi* at every beta, KL ascending.

    Attributes:
        kl: nats.
        reward: expected.
        start: reward of the reference.
        largest: the largest reward of any bin.
        end: KL of the policy that always takes that bin.
    """

    kl: np.ndarray
    reward: np.ndarray
    start: float
    largest: float
    end: float

    def at(self, kl: np.ndarray) -> np.ndarray:
        """The largest expected reward at some KL."""
        return np.interp(kl, self.kl, self.reward, left=self.start, right=self.largest)


def run(size: Size, inputs: Mapping[str, Result]) -> Result:
    """Put the runs of ``complementarity`` under the envelope."""
    source = inputs["complementarity"]
    runs, reward, kl = settings_of(source), source.arrays["reward"], source.arrays["reverse_kl"]
    envelopes = {name: envelope(name) for name in REWARDS}
    curves = list(zip(runs, reward.astype(np.float64), kl.astype(np.float64), strict=True))
    shares = {name: shares_of(curves, envelopes[name], name) for name in REWARDS}
    arrays = {"kl": kl.mean(axis=1), "reward": reward.mean(axis=1)}
    for name, best in envelopes.items():
        seen = slice(None, None, 10)
        marked = optimum(name, problem_reward(name), np.array(MARKED))
        arrays |= {
            f"{name}: envelope kl": np.append(best.kl[seen], best.end),
            f"{name}: envelope reward": np.append(best.reward[seen], best.largest),
            f"{name}: marked": np.stack(marked),
        }
    return Result(
        name="frontier",
        verdicts=[
            below_the_envelope(curves, envelopes),
            nearest(shares),
            seeking_against_covering(shares, {one.method: one.objective for one in runs}),
            offline_ends_below(curves, envelopes),
            own_optimum(curves),
        ],
        arrays=arrays,
        settings={
            "runs": source.settings["runs"],
            "standard": STANDARD,
            "matched": source.settings["matched"],
            "marked": list(MARKED),
            "shares": {
                name: {method: float(value.mean()) for method, value in found[1].items()}
                for name, found in shares.items()
            },
            "learning_rates": {name: found[0] for name, found in shares.items()},
            "levels": {name: list(levels) for name, levels in LEVELS.items()},
            "steps": source.settings["steps"],
            "seeds": source.settings["seeds"],
        },
    )


Curve = tuple[Run, np.ndarray, np.ndarray]
"""A run with its expected reward and KL, ``[seeds, records]`` each."""

Shares = tuple[float, Mapping[str, np.ndarray]]
"""A learning rate, and each on-policy method's share of pi*'s gain at it, one number per seed."""


def problem_reward(name: str) -> np.ndarray:
    """Reward of each bin in float64."""
    return np.asarray(PROBLEMS[name].reward, np.float64)


def reference(name: str) -> np.ndarray:
    """Log-probabilities of the reference in float64, normalised."""
    logp = np.asarray(PROBLEMS[name].ref_logp, np.float64)
    return logp - np.log(np.sum(np.exp(logp)))


def optimum(name: str, utility: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reward and KL of the policies proportional to pi_ref exp(utility / beta), one per beta."""
    ref_logp = reference(name)
    with jax.enable_x64(True):
        best = jax.vmap(optimal_policy, in_axes=(None, None, 0))(
            jnp.asarray(ref_logp), jnp.asarray(utility), jnp.asarray(betas)
        )
        logp = np.asarray(best)
    p = np.exp(logp)
    return p @ problem_reward(name), np.sum(p * (logp - ref_logp), axis=-1)


def envelope(name: str) -> Envelope:
    """Pi* over all beta, from nearly the reference to nearly a point."""
    reward = problem_reward(name)
    earned, kl = optimum(name, reward, BETAS[::-1])
    ref_logp = reference(name)
    start, end = float(np.exp(ref_logp) @ reward), -float(ref_logp[reward.argmax()])
    return Envelope(np.maximum.accumulate(kl), earned, start, float(reward.max()), end)


def shares_of(curves: list[Curve], best: Envelope, problem: str) -> Shares:
    """The shares of the on-policy methods at the lowest rate at which all reach every level."""
    rates = sorted({one.learning_rate for one, *_ in curves})
    found: dict[str, np.ndarray] = {}
    for rate in rates:
        found = {
            one.method: share(reward, kl, best, LEVELS[problem])
            for one, reward, kl in curves
            if (one.source, one.problem, one.learning_rate) == ("policy", problem, rate)
            and one.beta == STANDARD[one.method]
        }
        if all(np.isfinite(value).all() for value in found.values()):
            return rate, found
    return rates[-1], {k: value for k, value in found.items() if np.isfinite(value).all()}


def share(
    reward: np.ndarray, kl: np.ndarray, best: Envelope, levels: tuple[float, ...]
) -> np.ndarray:
    """Mean over levels of KL of the reward gained there over what pi* gains, per seed.

    Args:
        reward: expected reward [seeds, records].
        kl: KL to the reference [seeds, records].
        best: the envelope.
        levels: of KL, nats.

    Returns:
        [seeds]; NaN for a seed that never gets to a level.
    """
    shares = []
    for level in levels:
        there = kl >= level
        after = np.maximum(there.argmax(axis=1), 1)
        rows = np.arange(len(kl))
        low, high = kl[rows, after - 1], kl[rows, after]
        part = np.clip((level - low) / np.maximum(high - low, 1e-12), 0, 1)
        gained = (1 - part) * reward[rows, after - 1] + part * reward[rows, after]
        gained = (gained - best.start) / (best.at(np.array(level)) - best.start)
        shares.append(np.where(there.any(axis=1), gained, np.nan))
    return np.mean(shares, axis=0)


def below_the_envelope(curves: list[Curve], envelopes: Mapping[str, Envelope]) -> Verdict:
    """Held if no record of any run lies above, but for rounding."""
    excess = {
        problem: max(
            float(np.max(reward - best.at(kl)))
            for one, reward, kl in curves
            if one.problem == problem
        )
        for problem, best in envelopes.items()
    }
    count = sum(reward.size for _, reward, _ in curves)
    return judged(
        "No policy earns more at its KL than pi* at the same KL",
        source="Rafailov et al. 2023, eq. 4; the envelope is exact",
        evidence=f"largest reward above the envelope over {count} points: "
        + ", ".join(f"{problem} {value:+.1e}" for problem, value in excess.items()),
        holds={problem: value <= TOLERANCE for problem, value in excess.items()},
        subject="on",
    )


def mean_share(shares: Shares, members: Iterable[str]) -> np.ndarray:
    """Mean share of those of some methods that reached every level, per seed; NaN if none did."""
    found = [shares[1][member] for member in members if member in shares[1]]
    return np.mean(found, axis=0) if found else np.full(2, np.nan)


def gap(shares: Shares, ours: Iterable[str], others: Iterable[str]) -> Interval:
    """Mean share of some methods minus that of others; NaN if one side reached no level."""
    a, b = mean_share(shares, ours), mean_share(shares, others)
    return difference(a, b) if a.shape == b.shape else Interval(float("nan"), float("nan"))


def nearest(shares: Mapping[str, Shares]) -> Verdict:
    """Held on a problem if policy gradients are surely above both other families."""
    holds, evidence = {}, []
    ours = FAMILIES["policy gradient"]
    rivals = [members for members in FAMILIES.values() if members != ours]
    for problem, found in shares.items():
        holds[problem] = all(gap(found, ours, members).low > 0 for members in rivals)
        ranked = sorted(found[1], key=lambda method: -found[1][method].mean())
        rows = [f"{method} {percent(interval(found[1][method]))}" for method in ranked]
        evidence.append(f"{problem}: {', '.join(rows) or 'no method reached every level'}")
    return judged(
        "On-policy, policy gradients stay nearest to the envelope",
        source=OURS,
        evidence="share of pi*'s gain at equal KL; " + "; ".join(evidence),
        holds=holds,
        subject="on",
    )


def seeking_against_covering(shares: Mapping[str, Shares], classes: Mapping[str, str]) -> Verdict:
    """Held on a problem if mode-seeking objectives have the larger mean share."""
    seeking = [method for method in classes if OBJECTIVES[classes[method]].mode_seeking]
    covering = [method for method in classes if method not in seeking]
    gaps = {problem: gap(found, seeking, covering) for problem, found in shares.items()}
    return judged(
        "At equal KL, mode-seeking objectives earn more than mass-covering ones",
        source="Tajwar et al. 2024, section 6, read as a prediction",
        evidence="mean share of pi*'s gain, seeking - covering: "
        + ", ".join(f"{problem} {percent(value, sign=True)}" for problem, value in gaps.items()),
        holds={problem: value.low > 0 for problem, value in gaps.items()},
        subject="on",
    )


def offline_ends_below(curves: list[Curve], envelopes: Mapping[str, Envelope]) -> Verdict:
    """Held on a problem if every method ends further below the envelope offline than on-policy."""
    end: dict[tuple[str, str, str, float], np.ndarray] = {}
    for one, reward, kl in curves:
        if one.beta == STANDARD[one.method]:
            below = envelopes[one.problem].at(kl[:, -1]) - reward[:, -1]
            end[one.problem, one.source, one.method, one.learning_rate] = below
    rates = sorted({rate for *_, rate in end})
    holds, evidence = {}, []
    for problem in REWARDS:
        gaps = {}
        for method in (*FAMILIES["supervised"], *FAMILIES["contrastive"]):
            fresh, fixed = (
                np.mean([end[problem, source, method, rate] for rate in rates], axis=0)
                for source in ("policy", "dataset")
            )
            gaps[method] = difference(fixed, fresh)
        holds[problem] = all(gap.low > 0 for gap in gaps.values())
        rows = ", ".join(f"{m} {g.mean:+.3f} ± {g.half_width:.3f}" for m, g in gaps.items())
        evidence.append(f"{problem}: {rows}")
    return judged(
        "Learning from a fixed data set ends further below the envelope than learning on-policy",
        source=OURS,
        evidence="reward below the envelope at the end, offline - on-policy; "
        + "; ".join(evidence),
        holds=holds,
        subject="on",
    )


def win_rate(name: str) -> np.ndarray:
    """How often each bin's reward beats a sample of the reference, a tie counting half."""
    p, reward = np.exp(reference(name)), problem_reward(name)
    wins = (reward[:, None] > reward[None]) + 0.5 * (reward[:, None] == reward[None])
    return wins @ p


def own_optimum(curves: list[Curve]) -> Verdict:
    """Held for a regularised objective if all of its runs end near the optimum it has by theory."""
    cases: dict[str, list[bool]] = {}
    evidence = []
    for one, reward, kl in curves:
        label = regularised(one)
        if label is None or one.beta is None:
            continue
        utility = problem_reward(one.problem)
        if one.objective == "IPO":
            utility = win_rate(one.problem)
        (target_reward,), (target_kl,) = optimum(one.problem, utility, np.array([one.beta]))
        got, moved = interval(reward[:, -1]), interval(kl[:, -1])
        near = abs(got.mean - target_reward) <= CLOSE["reward"]
        near &= abs(moved.mean - target_kl) <= CLOSE["KL"] * target_kl
        cases.setdefault(label, []).append(bool(near))
        evidence.append(
            f"{label} {one.beta:g} on {one.problem} {got} at {moved} nats "
            f"(optimum {target_reward:.2f} at {target_kl:.2f})"
        )
    return judged(
        "A regularised objective ends at the optimum that theory gives it",
        source=OURS,
        evidence="; ".join(evidence),
        holds={label: all(near) for label, near in cases.items()},
        subject="for",
    )


def regularised(one: Run) -> str | None:
    """What a run tests about its own optimum, if anything: only strong regularisation has room."""
    strong = one.beta is not None and one.beta != STANDARD[one.method] and one.beta > 0
    if not strong:
        return None
    if one.source == "policy":
        return "REINFORCE with a k2 penalty" if one.method == "REINFORCE" else None
    return f"offline {one.method}"


def percent(value: Interval, sign: bool = False) -> str:
    """As in ``91 ± 2%``."""
    mean = f"{100 * value.mean:+.0f}" if sign else f"{100 * value.mean:.0f}"
    return f"{mean} ± {100 * value.half_width:.0f}%"
