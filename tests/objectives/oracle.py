"""The objectives a second time: float64, explicit loops, and gradients worked out by hand.

Nothing here is shared with the package under test. Each formula visits its units one after another
and writes down the unit's value, its weight, and the derivative of the value in every token's
log-probability. What is read from an objective is its numbers and words, nothing else.

Key to the axes: b group, n response (w winner, l loser), t token position.
"""

from collections.abc import Callable, Iterator
from math import exp, expm1, inf, log, log1p
from typing import Any, NamedTuple

import numpy as np

from tests.objectives.batches import Batch

Index = tuple[int, ...]
Slope = dict[tuple[int, int, int], float]


class Unit(NamedTuple):
    """A token, a response, a pair or a group: where it stands, its value and weight, d value."""

    index: Index
    value: float
    weight: float
    slope: Slope


class Answer(NamedTuple):
    """All units of a batch, and per metric a list of (value, weight)."""

    units: list[Unit]
    metrics: dict[str, list[tuple[float, float]]]

    def mean(self) -> float:
        return average([(unit.value, unit.weight) for unit in self.units])

    def gradient(self, shape: tuple[int, ...]) -> np.ndarray:
        """Of the mean, in logp."""
        gradient = np.zeros(shape)
        total = sum(unit.weight for unit in self.units)
        for unit in self.units:
            for token, slope in unit.slope.items():
                gradient[token] += unit.weight / total * slope
        return gradient


def average(weighted: list[tuple[float, float]]) -> float:
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else 0.0


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def log_sigmoid(x: float) -> float:
    return -log1p(exp(-x)) if x >= 0 else x - log1p(exp(x))


def log_complement(x: float) -> float:
    """log(1 - exp(min(x, -1e-6)))."""
    x = min(x, -1e-6)
    return log(-expm1(x)) if x > -0.5 else log1p(-exp(x))


def log_complement_slope(x: float) -> float:
    return -exp(x) / -expm1(x) if x < -1e-6 else 0.0


def add(*slopes: Slope) -> Slope:
    """The sum of some slopes."""
    total: Slope = {}
    for slope in slopes:
        for token, value in slope.items():
            total[token] = total.get(token, 0.0) + value
    return total


class View:
    """The quantities the formulas are written in: which tokens are scored, L, S, D, r, A."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.groups, self.size, self.length = batch.mask.shape

    def tokens(self, b: int, n: int) -> list[int]:
        if not self.batch.valid[b, n]:
            return []
        return [t for t in range(self.length) if self.batch.mask[b, n, t]]

    def exists(self, b: int, n: int) -> bool:
        return bool(self.tokens(b, n))

    def group(self, b: int) -> list[int]:
        return [n for n in range(self.size) if self.exists(b, n)]

    def responses(self) -> Iterator[tuple[int, int]]:
        for b in range(self.groups):
            for n in self.group(b):
                yield b, n

    def L(self, b: int, n: int) -> int:
        return len(self.tokens(b, n))

    def total(self, x: np.ndarray, b: int, n: int) -> float:
        return sum(float(x[b, n, t]) for t in self.tokens(b, n))

    def S(self, b: int, n: int) -> float:
        return self.total(self.batch.logp, b, n)

    def D(self, b: int, n: int) -> float:
        return self.S(b, n) - self.total(self.batch.ref_logp, b, n)

    def reward(self, b: int, n: int) -> float:
        return float(self.batch.reward[b, n])

    def rewards(self, b: int) -> list[float]:
        return [self.reward(b, n) for n in self.group(b)]

    def advantage(self, b: int, n: int, t: int) -> float:
        advantage = self.batch.advantage
        assert advantage is not None
        return float(advantage[b, n, 0 if advantage.shape[-1] == 1 else t])

    def preference(self, b: int) -> bool:
        """Whether the group has two different rewards."""
        return len(set(self.rewards(b))) > 1

    def best(self, b: int) -> int | None:
        return max(self.group(b), key=lambda n: self.reward(b, n), default=None)

    def worst(self, b: int) -> int | None:
        return min(self.group(b), key=lambda n: self.reward(b, n), default=None)

    def along(self, b: int, n: int, slope: float) -> Slope:
        """The slope of ``slope * S_bn``."""
        return {(b, n, t): slope for t in self.tokens(b, n)}


def per_unit(
    view: View,
    normalize: Any,
    token_value: Callable[[int, int, int], tuple[float, float]],
    keep: list[tuple[int, int]],
) -> list[Unit]:
    """Units out of (value, slope) per token, by how a response counts."""
    units = []
    for b, n in keep:
        places = {t: token_value(b, n, t) for t in view.tokens(b, n)}
        if normalize == "token":
            for t, (value, slope) in places.items():
                units.append(Unit((b, n, t), value, 1.0, {(b, n, t): slope}))
            continue
        share = 1.0
        if normalize == "length":
            share = 1 / len(places)
        if isinstance(normalize, tuple):
            share = 1 / normalize[1]
        value = share * sum(value for value, _ in places.values())
        slopes = {(b, n, t): share * slope for t, (_, slope) in places.items()}
        units.append(Unit((b, n), value, 1.0, slopes))
    return units


def imitation(
    view: View,
    objective: Any,
    keep: list[tuple[int, int]],
    weight: Callable[[int, int, int], float] = lambda b, n, t: 1.0,
) -> Answer:
    def token_value(b: int, n: int, t: int) -> tuple[float, float]:
        return -weight(b, n, t) * float(view.batch.logp[b, n, t]), -weight(b, n, t)

    metrics = {
        "logp": [(view.S(b, n), 1.0) for b, n in keep],
        "log_ratio": [(view.D(b, n), 1.0) for b, n in keep],
    }
    return Answer(per_unit(view, objective.normalize, token_value, keep), metrics)


def sft(view: View, objective: Any) -> Answer:
    return imitation(view, objective, list(view.responses()))


def pref_ft(view: View, objective: Any) -> Answer:
    keep = [(b, view.best(b)) for b in range(view.groups) if view.preference(b)]
    return imitation(view, objective, keep)


def best_of_n(view: View, objective: Any) -> Answer:
    keep = [(b, view.best(b)) for b in range(view.groups) if view.group(b)]
    return imitation(view, objective, keep)


def exp_capped(x: float, cap: float) -> float:
    return min(exp(x) if x < 700 else inf, cap)


def rwr(view: View, objective: Any) -> Answer:
    def weight(b: int, n: int, t: int) -> float:
        return exp_capped(view.reward(b, n) / objective.beta, objective.max_weight)

    return imitation(view, objective, list(view.responses()), weight)


def awr(view: View, objective: Any) -> Answer:
    def weight(b: int, n: int, t: int) -> float:
        if view.batch.advantage is None:
            advantage = view.reward(b, n) - sum(view.rewards(b)) / len(view.rewards(b))
        else:
            advantage = view.advantage(b, n, t)
        return exp_capped(advantage / objective.beta, objective.max_weight)

    return imitation(view, objective, list(view.responses()), weight)


def unlikelihood_best_of_n(view: View, objective: Any) -> Answer:
    units, chosen, rejected = [], [], []
    for b in range(view.groups):
        if not view.preference(b):
            continue
        best = view.best(b)
        others = [n for n in view.group(b) if n != best]
        if objective.against == "worst":
            others = [view.worst(b)]
        push, slope = 0.0, view.along(b, best, -1.0)
        for n in others:
            S = view.S(b, n)
            if objective.against == "complement":
                part, rate = -log_complement(S), -log_complement_slope(S)
            elif objective.against == "mean":
                part, rate = S / len(others), 1 / len(others)
            else:
                part, rate = S, 1.0
            push += part
            slope = add(slope, view.along(b, n, objective.beta * rate))
        units.append(Unit((b,), -view.S(b, best) + objective.beta * push, 1.0, slope))
        chosen.append((view.D(b, best), 1.0))
        rejected += [(view.D(b, n), 1.0) for n in others]
    return Answer(units, {"chosen_log_ratio": chosen, "rejected_log_ratio": rejected})


def preference_pairs(view: View, objective: Any) -> Iterator[tuple[int, int, int]]:
    for b in range(view.groups):
        if not view.group(b):
            continue
        for w in view.group(b):
            for loser in view.group(b):
                if objective.pairs == "best_vs_worst" and (
                    w != view.best(b) or loser != view.worst(b)
                ):
                    continue
                if view.reward(b, w) > view.reward(b, loser) + objective.threshold:
                    yield b, w, loser


def contrastive(
    view: View,
    objective: Any,
    pair: Callable[[int, int, int], tuple[float, float, float, float]],
) -> Answer:
    """Units out of (value, margin, slope in S_w, slope in S_l) per pair."""
    units: list[Unit] = []
    metrics: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("margin", "accuracy", "chosen_log_ratio", "rejected_log_ratio")
    }
    for b, w, loser in preference_pairs(view, objective):
        value, margin, up, down = pair(b, w, loser)
        slope = add(view.along(b, w, up), view.along(b, loser, down))
        units.append(Unit((b, w, loser), value, 1.0, slope))
        metrics["margin"].append((margin, 1.0))
        metrics["accuracy"].append((float(margin > 0), 1.0))
        metrics["chosen_log_ratio"].append((view.D(b, w), 1.0))
        metrics["rejected_log_ratio"].append((view.D(b, loser), 1.0))
    return Answer(units, metrics)


def dpo(view: View, objective: Any) -> Answer:
    beta, e = objective.beta, objective.label_smoothing

    def pair(b: int, w: int, loser: int) -> tuple[float, float, float, float]:
        x = beta * (view.D(b, w) - view.D(b, loser))
        if objective.robust:
            value = (-(1 - e) * log_sigmoid(x) + e * log_sigmoid(-x)) / (1 - 2 * e)
            slope = (-(1 - e) * sigmoid(-x) - e * sigmoid(x)) / (1 - 2 * e)
        else:
            value = -(1 - e) * log_sigmoid(x) - e * log_sigmoid(-x)
            slope = -(1 - e) * sigmoid(-x) + e * sigmoid(x)
        return value, x, beta * slope, -beta * slope

    return contrastive(view, objective, pair)


def ipo(view: View, objective: Any) -> Answer:
    def pair(b: int, w: int, loser: int) -> tuple[float, float, float, float]:
        by_length = objective.normalize == "length"
        share_w = 1 / view.L(b, w) if by_length else 1.0
        share_l = 1 / view.L(b, loser) if by_length else 1.0
        d = share_w * view.D(b, w) - share_l * view.D(b, loser)
        miss = d - 1 / (2 * objective.tau)
        return miss**2, d, 2 * miss * share_w, -2 * miss * share_l

    return contrastive(view, objective, pair)


def slic(view: View, objective: Any) -> Answer:
    def pair(b: int, w: int, loser: int) -> tuple[float, float, float, float]:
        gap = view.S(b, w) - view.S(b, loser)
        hinge = 1.0 if gap < objective.margin else 0.0
        value = hinge * (objective.margin - gap) - objective.reg * view.S(b, w)
        return value, gap, -hinge - objective.reg, hinge

    return contrastive(view, objective, pair)


def simpo(view: View, objective: Any) -> Answer:
    def pair(b: int, w: int, loser: int) -> tuple[float, float, float, float]:
        L_w, L_l = view.L(b, w), view.L(b, loser)
        x = objective.beta * (view.S(b, w) / L_w - view.S(b, loser) / L_l) - objective.gamma
        slope = -sigmoid(-x) * objective.beta
        return -log_sigmoid(x), x, slope / L_w, -slope / L_l

    return contrastive(view, objective, pair)


def cpo(view: View, objective: Any) -> Answer:
    def pair(b: int, w: int, loser: int) -> tuple[float, float, float, float]:
        x = objective.beta * (view.S(b, w) - view.S(b, loser))
        slope, share = -sigmoid(-x) * objective.beta, objective.reg / view.L(b, w)
        return -log_sigmoid(x) - share * view.S(b, w), x, slope - share, -slope

    return contrastive(view, objective, pair)


def orpo(view: View, objective: Any) -> Answer:
    def pair(b: int, w: int, loser: int) -> tuple[float, float, float, float]:
        L_w, L_l = view.L(b, w), view.L(b, loser)
        a_w, a_l = view.S(b, w) / L_w, view.S(b, loser) / L_l
        x = (a_w - log_complement(a_w)) - (a_l - log_complement(a_l))
        slope = -objective.lambda_ * sigmoid(-x)
        up = -1 + slope * (1 - log_complement_slope(a_w))
        down = -slope * (1 - log_complement_slope(a_l))
        return -a_w - objective.lambda_ * log_sigmoid(x), x, up / L_w, down / L_l

    return contrastive(view, objective, pair)


def kto(view: View, objective: Any) -> Answer:
    everyone = list(view.responses())
    z = objective.reference_point
    if z is None:
        at_hand = [view.D(b, n) for b, n in everyone]
        z = objective.beta * max(0.0, sum(at_hand) / len(at_hand)) if at_hand else 0.0
    units: list[Unit] = []
    metrics: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("margin", "accuracy", "chosen_log_ratio", "rejected_log_ratio")
    }
    for b, n in everyone:
        if objective.threshold == "group_mean":
            if not view.preference(b):
                continue
            bar = sum(view.rewards(b)) / len(view.rewards(b))
        else:
            bar = objective.threshold
        desirable = view.reward(b, n) > bar
        x = objective.beta * view.D(b, n) - z
        if desirable:
            value = objective.desirable_weight * (1 - sigmoid(x))
            slope = -objective.desirable_weight * sigmoid(x) * sigmoid(-x)
        else:
            value = objective.undesirable_weight * (1 - sigmoid(-x))
            slope = objective.undesirable_weight * sigmoid(x) * sigmoid(-x)
        units.append(Unit((b, n), value, 1.0, view.along(b, n, slope * objective.beta)))
        metrics["margin"].append((x, 1.0))
        metrics["accuracy"].append((float(x > 0), 1.0))
        side = "chosen_log_ratio" if desirable else "rejected_log_ratio"
        metrics[side].append((view.D(b, n), 1.0))
    return Answer(units, metrics)


def kl_penalty(penalty: Any, x: float) -> tuple[float, float]:
    """Value and slope of beta * k(x)."""
    if penalty.beta is None:
        return 0.0, 0.0
    value, slope = {
        "k1": (x, 1.0),
        "k2": (x * x / 2, x),
        "k3": (exp(-x) - 1 + x, 1 - exp(-x)),
    }[penalty.estimator]
    return penalty.beta * value, penalty.beta * slope


def clipped(objective: Any, advantage: float, ratio: float) -> tuple[float, float]:
    """max(-A rho, -A clip(rho)) and its slope in log rho."""
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    if advantage > 0 and ratio > high:
        return -advantage * high, 0.0
    if advantage < 0 and ratio < low:
        return -advantage * low, 0.0
    return -advantage * ratio, -advantage * ratio


def about_the_reference(view: View) -> list[tuple[float, float]]:
    return [(view.D(b, n), 1.0) for b, n in view.responses()]


def reinforce(view: View, objective: Any) -> Answer:
    logp, ref = view.batch.logp, view.batch.ref_logp

    def token_value(b: int, n: int, t: int) -> tuple[float, float]:
        advantage, here = view.advantage(b, n, t), float(logp[b, n, t])
        kl, kl_slope = kl_penalty(objective.kl, here - float(ref[b, n, t]))
        value = -advantage * here + kl + objective.entropy * here * here
        return value, -advantage + kl_slope + objective.entropy * here

    units = per_unit(view, objective.normalize, token_value, list(view.responses()))
    return Answer(units, {"kl_to_reference": about_the_reference(view)})


def ppo(view: View, objective: Any) -> Answer:
    logp, ref, old = view.batch.logp, view.batch.ref_logp, view.batch.old_logp
    metrics: dict[str, list[tuple[float, float]]] = {
        "kl_to_reference": about_the_reference(view),
        "ratio": [],
        "clip_fraction": [],
    }

    def token_value(b: int, n: int, t: int) -> tuple[float, float]:
        advantage, here = view.advantage(b, n, t), float(logp[b, n, t])
        ratio = exp(here - float(old[b, n, t]))
        outside = ratio < 1 - objective.clip_low or ratio > 1 + objective.clip_high
        metrics["ratio"].append((ratio, 1.0))
        metrics["clip_fraction"].append((float(outside), 1.0))
        value, slope = clipped(objective, advantage, ratio)
        bound = objective.dual_clip
        if bound is not None and advantage < 0 and value > -bound * advantage:
            value, slope = -bound * advantage, 0.0
        kl, kl_slope = kl_penalty(objective.kl, here - float(ref[b, n, t]))
        return value + kl + objective.entropy * here**2, slope + kl_slope + objective.entropy * here

    keep = list(view.responses())
    if objective.normalize != "length":
        return Answer(per_unit(view, objective.normalize, token_value, keep), metrics)
    # As published, GRPO's unit is the token, and a token weighs 1/L.
    tokens = per_unit(view, "token", token_value, keep)
    return Answer([u._replace(weight=1 / view.L(*u.index[:2])) for u in tokens], metrics)


def gspo(view: View, objective: Any) -> Answer:
    units: list[Unit] = []
    metrics: dict[str, list[tuple[float, float]]] = {
        "kl_to_reference": about_the_reference(view),
        "ratio": [],
        "clip_fraction": [],
    }
    for b, n in view.responses():
        places, L = view.tokens(b, n), view.L(b, n)
        advantage = sum(view.advantage(b, n, t) for t in places) / L
        ratio = exp((view.S(b, n) - view.total(view.batch.old_logp, b, n)) / L)
        outside = ratio < 1 - objective.clip_low or ratio > 1 + objective.clip_high
        metrics["ratio"].append((ratio, 1.0))
        metrics["clip_fraction"].append((float(outside), 1.0))
        value, rate = clipped(objective, advantage, ratio)
        slope = view.along(b, n, rate / L)
        for t in places:
            x = float(view.batch.logp[b, n, t]) - float(view.batch.ref_logp[b, n, t])
            kl, kl_slope = kl_penalty(objective.kl, x)
            value += kl / L
            slope = add(slope, {(b, n, t): kl_slope / L})
        units.append(Unit((b, n), value, 1.0, slope))
    return Answer(units, metrics)


FORMULAS: dict[str, Callable[[View, Any], Answer]] = {
    "SFT": sft,
    "PrefFT": pref_ft,
    "BestOfN": best_of_n,
    "RWR": rwr,
    "AWR": awr,
    "UnlikelihoodBestOfN": unlikelihood_best_of_n,
    "DPO": dpo,
    "IPO": ipo,
    "SLiC": slic,
    "SimPO": simpo,
    "CPO": cpo,
    "ORPO": orpo,
    "KTO": kto,
    "REINFORCE": reinforce,
    "PPO": ppo,
    "GSPO": gspo,
}


def answer(objective: Any, batch: Batch) -> Answer:
    """What the objective is by OBJECTIVES.md, on a batch."""
    return FORMULAS[type(objective).__name__](View(batch), objective)
