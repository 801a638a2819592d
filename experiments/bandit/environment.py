"""What is the world, and what does sampling from the reference show of it?

Command: ``modeseek reproduce environment``. Hardware and time: 0.2 s on one of two cores. Number to
expect: the best of 10 samples of the reference earns 0.313 under R1 and 0.940 under R2. Feeds
``figures/environment.py``.

Everything about the world is exact (100 bins, sums). The seeds draw groups of N = 10 actions, as
the paper's offline data sets do, to see that a data set shows what the exact numbers say. The
region of a peak is every bin within one width, 10 bins, of it: there the reward is at least 1/e.
"""

import numpy as np

from bandit import R1, R2, Problem
from experiments.intervals import Interval, difference, interval
from experiments.results import Result, Size, Verdict

BETAS = (1.0, 0.5, 0.1, 0.05)
GROUP = 10
GROUPS = 100
WIDTH = 10
PEAKS = {"R1": 70, "R2": 20}
PAPER = "Tajwar et al. 2024, bandit code"

# What the authors' equations give, to the digits printed. Bins, masses and rewards of the
# reference, then of pi* = pi_ref exp(r / beta): expected reward and KL to the reference.
EXPECTED = {
    "reference: entropy": "4.117",
    "reference: P(0)": "0.0781",
    "reference: P(99)": "0.0422",
    "reference: P(20)": "0.0243",
    "reference: P(50)": "0.0038",
    "reference: P(70)": "0.0021",
    "R1: mass near the peak": "0.046",
    "R2: mass near the peak": "0.454",
    "R1: reward": "0.0390",
    "R2: reward": "0.3772",
    "R1: best of 10": "0.314",
    "R2: best of 10": "0.941",
    "R1: reward of pi* at 1": "0.077",
    "R1: reward of pi* at 0.5": "0.152",
    "R1: reward of pi* at 0.1": "0.941",
    "R1: reward of pi* at 0.05": "0.974",
    "R1: KL of pi* at 0.1": "3.79",
    "R1: KL of pi* at 0.05": "4.24",
    "R2: reward of pi* at 1": "0.524",
    "R2: reward of pi* at 0.5": "0.661",
    "R2: reward of pi* at 0.1": "0.947",
    "R2: reward of pi* at 0.05": "0.974",
    "R2: KL of pi* at 0.1": "1.44",
    "R2: KL of pi* at 0.05": "1.82",
}


def run(size: Size) -> Result:
    """Compute the world exactly, and draw from it."""
    reference = probabilities(R1.ref_logp)
    bins = np.arange(reference.size)
    measured = {
        "reference: entropy": float(-np.sum(reference * np.log(reference))),
        **{f"reference: P({k})": float(reference[k]) for k in (0, 99, 20, 50, 70)},
    }
    counts = np.unique(np.round(np.geomspace(1, 1000, 61)).astype(int))
    arrays = {"bins": bins, "reference": reference, "counts": counts, "betas": np.array(BETAS)}
    sampled = {}
    for name, problem in {"R1": R1, "R2": R2}.items():
        reward = np.asarray(problem.reward, np.float64)
        near = np.abs(bins - PEAKS[name]) <= WIDTH
        best = np.array([best_of(reference, reward, count) for count in counts])
        optima = np.stack([probabilities(problem.optimum(beta)) for beta in BETAS])
        measured |= facts(name, reference, problem, near, optima)
        sampled[name] = draws(reference, reward, size.seeds)
        arrays |= {
            f"{name}: reward": reward,
            f"{name}: optima": optima,
            f"{name}: best of": best,
            f"{name}: sampled best of {GROUP}": sampled[name],
        }
    masses = {name: measured[f"{name}: mass near the peak"] for name in PEAKS}
    uniform = (2 * WIDTH + 1) / bins.size
    finds = {name: float(1 - (1 - mass) ** GROUP) for name, mass in masses.items()}
    exact = {name: measured[f"{name}: best of {GROUP}"] for name in PEAKS}
    verdicts = [
        calibration(measured),
        thin_and_thick(masses, uniform),
        alignment(reference, PEAKS["R2"]),
        sampling(sampled, exact, finds),
    ]
    hundred = {name: float(1 - (1 - mass) ** 100) for name, mass in masses.items()}
    settings = {
        "betas": list(BETAS),
        "width": WIDTH,
        "groups": GROUPS,
        "seeds": size.seeds,
        "P(one of 10 samples is near the peak)": finds,
        "P(one of 100 samples is near the peak)": hundred,
        "mass near the peak": masses,
    }
    return Result(name="environment", verdicts=verdicts, arrays=arrays, settings=settings)


def probabilities(logp: object) -> np.ndarray:
    """Probabilities in float64, adding up to 1."""
    p = np.exp(np.asarray(logp, np.float64))
    return p / p.sum()


def facts(
    name: str, reference: np.ndarray, problem: Problem, near: np.ndarray, optima: np.ndarray
) -> dict[str, float]:
    """The numbers of one reward that ``EXPECTED`` lists."""
    reward = np.asarray(problem.reward, np.float64)
    numbers = {
        f"{name}: mass near the peak": reference[near].sum(),
        f"{name}: reward": reference @ reward,
        f"{name}: best of {GROUP}": best_of(reference, reward, GROUP),
    }
    for beta, optimum in zip(BETAS, optima, strict=True):
        numbers[f"{name}: reward of pi* at {beta:g}"] = optimum @ reward
        numbers[f"{name}: KL of pi* at {beta:g}"] = optimum @ np.log(optimum / reference)
    return {key: float(value) for key, value in numbers.items()}


def best_of(p: np.ndarray, reward: np.ndarray, count: int) -> float:
    """The exact expected reward of the best of ``count`` samples: the sum of r dF(r)^count."""
    order = np.argsort(reward)
    below = np.cumsum(p[order]) ** count
    return float(reward[order] @ np.diff(below, prepend=0.0))


def draws(p: np.ndarray, reward: np.ndarray, seeds: int) -> np.ndarray:
    """Mean best-of-10 reward over ``GROUPS`` sampled groups, one number per seed."""
    return np.array(
        [
            np.random.default_rng(seed).choice(reward, (GROUPS, GROUP), p=p).max(axis=1).mean()
            for seed in range(seeds)
        ]
    )


def calibration(measured: dict[str, float]) -> Verdict:
    """Held if every number is within one unit of the last printed digit of the one expected."""

    def units(name: str) -> float:
        printed = EXPECTED[name]
        digits = len(printed.partition(".")[2])
        return abs(measured[name] - float(printed)) * 10.0**digits

    off = {name: units(name) for name in EXPECTED}
    wrong = [name for name, distance in off.items() if distance > 1]
    rounded = sum(distance <= 0.501 for distance in off.values())
    farthest = max(off, key=lambda name: off[name])
    evidence = (
        f"{len(EXPECTED) - len(wrong)} of {len(EXPECTED)} numbers within a unit of the last digit, "
        f"{rounded} equal in every digit; entropy {measured['reference: entropy']:.3f} nats; "
        f"farthest: {farthest}, {measured[farthest]:.4f} for {EXPECTED[farthest]}"
    )
    return Verdict(
        claim="The bandit is the authors': reference, rewards, baselines and pi*",
        source=PAPER,
        outcome="did not hold" if wrong else "held",
        evidence=evidence + (f"; off: {', '.join(wrong)}" if wrong else ""),
    )


def thin_and_thick(masses: dict[str, float], uniform: float) -> Verdict:
    """Held if the region of R1's peak has less mass than a uniform policy gives it, R2's more."""
    held = masses["R1"] < uniform < masses["R2"]
    return Verdict(
        claim="R1's peak lies where the reference is thin, R2's where it is thick",
        source="Tajwar et al. 2024, section 4",
        outcome="held" if held else "did not hold",
        evidence=f"mass of the reference within {WIDTH} bins of the peak: R1 {masses['R1']:.3f}, "
        f"R2 {masses['R2']:.3f}; a uniform policy has {uniform:.3f}",
    )


def alignment(reference: np.ndarray, peak: int) -> Verdict:
    """Held if the likeliest bin is within a width of R2's peak; conditional if the inner one is."""
    mode = int(np.argmax(reference))
    inner = 1 + int(np.argmax(reference[1:-1]))
    condition = ""
    if abs(mode - peak) <= WIDTH:
        outcome = "held"
    elif abs(inner - peak) <= WIDTH:
        outcome, condition = "held under this condition", "the two end bins are left out"
    else:
        outcome = "did not hold"
    return Verdict(
        claim="R2's peak is roughly aligned with the mode of the reference",
        source="Tajwar et al. 2024, section 4",
        outcome=outcome,
        condition=condition,
        evidence=f"R2 peaks at bin {peak}; the likeliest bin is {mode} ({reference[mode]:.4f}), "
        f"the likeliest inner bin {inner} ({reference[inner]:.4f})",
    )


def sampling(
    sampled: dict[str, np.ndarray], exact: dict[str, float], finds: dict[str, float]
) -> Verdict:
    """Held if R2's best of 10 is nearly optimal (0.9), R1's is not, and the gap is significant."""
    gap = difference(sampled["R2"], sampled["R1"])
    r1, r2 = interval(sampled["R1"]), interval(sampled["R2"])
    held = gap.low > 0 and r2.low > 0.9 and r1.high < 0.9
    return Verdict(
        claim="Ten samples of the reference already show R2's optimum, and seldom R1's",
        source="this project",
        outcome="held" if held else "did not hold",
        evidence=f"best of {GROUP}: R1 {shown(r1)} (exact {exact['R1']:.3f}), R2 {shown(r2)} "
        f"(exact {exact['R2']:.3f}); a sample is near the peak with P = {finds['R1']:.2f} and "
        f"{finds['R2']:.3f}",
    )


def shown(value: Interval) -> str:
    """Three digits: the numbers compared here differ in the third."""
    return f"{value.mean:.3f} ± {value.half_width:.3f}"
