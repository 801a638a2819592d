"""From one number per response to what is said of a model: losses, accuracies, distances, lengths.

What is reported are means over tokens, responses or pairs, each with a 95% interval that counts
prompts (``llm.intervals``). A pair is right when the preferred response is the likelier one: by the
sum of its log-probabilities, by their mean per token, which does not favour short ones, or by how
much likelier it is than under the reference. Beside them stands how often the preferred response is
simply the longer one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from llm.intervals import Estimate, Values, ratio, share

PerResponse = Float64[np.ndarray, " responses"]


@dataclass(frozen=True)
class Measured:
    """One number per response, of all groups one after the other.

    Attributes:
        group: number of the group it belongs to.
        prompt: number of its prompt; groups may share one.
        reward: in the data.
        length: scored tokens.
        sums: by name, over its tokens, in nats: ``logp``, ``entropy``, and, with a reference,
            ``ref_logp``, ``forward_kl`` and ``reverse_kl``. A reward model has ``score`` alone.
    """

    group: Int64[np.ndarray, " responses"]
    prompt: Int64[np.ndarray, " responses"]
    reward: PerResponse
    length: PerResponse
    sums: dict[str, PerResponse]

    @property
    def pairs(self) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """Every preferred response of a group with every other that is rated lower."""
        winners, losers = [], []
        ends = np.flatnonzero(np.diff(self.group)) + 1
        for these in np.split(np.arange(len(self.group)), ends):
            better = self.reward[these][:, None] > self.reward[these][None, :]
            first, second = np.nonzero(better)
            winners.append(these[first])
            losers.append(these[second])
        return np.concatenate(winners), np.concatenate(losers)


def judge(found: Measured) -> dict[str, Estimate]:
    """A language model's estimates, by name; those of pairs only where there are any."""
    logp, length, prompt = found.sums["logp"], found.length, found.prompt
    winners, losers = found.pairs
    kinds = {"": np.arange(len(logp))}
    if len(winners):
        kinds |= best_and_worst(found)
    numbers = {
        f"loss_per_token{kind}": ratio(-logp[these], length[these], prompt[these])
        for kind, these in kinds.items()
    }
    log_ratio = logp - found.sums["ref_logp"] if "ref_logp" in found.sums else None
    if len(winners):
        numbers["accuracy_by_sum"] = right(found, logp)
        numbers["accuracy_by_mean"] = right(found, logp / np.maximum(length, 1))
        if log_ratio is not None:
            numbers["accuracy_by_log_ratio"] = right(found, log_ratio)
        numbers["accuracy_of_longer"] = right(found, length)
    if log_ratio is not None:
        for kind, these in kinds.items():
            numbers[f"log_ratio{kind}"] = mean(log_ratio[these], prompt[these])
        if len(winners):
            numbers["margin"] = mean(log_ratio[winners] - log_ratio[losers], prompt[winners])
    for name in ("forward_kl", "reverse_kl", "entropy"):
        if name in found.sums:
            numbers[f"{name}_per_token"] = ratio(found.sums[name], length, prompt)
    for kind, these in kinds.items():
        numbers[f"length{kind}"] = mean(length[these], prompt[these])
    return numbers


def judge_rewards(found: Measured) -> dict[str, Estimate]:
    """A reward model's estimates, by name."""
    rewards, prompt = found.sums["score"], found.prompt
    winners, losers = found.pairs
    if not len(winners):
        raise ValueError("no group has two responses of different reward: give preference data.")
    margin = rewards[winners] - rewards[losers]
    numbers = {
        "accuracy": right(found, rewards),
        "accuracy_of_longer": right(found, found.length),
        "loss": mean(np.logaddexp(0, -margin), prompt[winners]),
        "margin": mean(margin, prompt[winners]),
    }
    for name, values in (("reward", rewards), ("length", found.length)):
        for kind, these in best_and_worst(found).items():
            numbers[name + kind] = mean(values[these], prompt[these])
    return numbers


def best_and_worst(found: Measured) -> dict[str, Int64[np.ndarray, "_"]]:
    """Responses that are rated below none of their group, and above none, where ratings differ."""
    winners, losers = found.pairs
    return {"_preferred": np.setdiff1d(winners, losers), "_rejected": np.setdiff1d(losers, winners)}


def right(found: Measured, values: Values) -> Estimate:
    """How often the preferred response of a pair has the higher value; a tie is half."""
    winners, losers = found.pairs
    margin = values[winners] - values[losers]
    return share((np.sign(margin) + 1) / 2, found.prompt[winners])


def mean(values: Values, prompt: Int64[np.ndarray, " units"]) -> Estimate:
    """A mean over responses or pairs."""
    return ratio(values, np.ones_like(values), prompt)
