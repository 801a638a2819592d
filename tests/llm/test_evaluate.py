"""What is reported of a model is what its logits say, and pairs are judged by the preferred one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from llm.data.examples import Group
from llm.evaluate import Evaluation, evaluate, measure
from llm.judgement import Measured, judge, judge_rewards
from llm.model import Decoder, RewardModel, with_parameters
from llm.model.architecture import architecture_from_config
from tests.llm.checkpoints.model_folders import CONFIGS, random_tensors, write_folder

QUIET = Console(quiet=True)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


GROUPS = [
    Group(ids(1, 5), (ids(3, 4, 2), ids(7, 2)), np.array([1, 0], np.float32), "a:1"),
    Group(ids(1, 8, 9), (ids(6, 2), ids(10, 11, 12, 2)), np.array([0, 1], np.float32), "a:2"),
    Group(ids(1, 5), (ids(4, 2),), np.array([1], np.float32), "a:3"),
]


def decoder(seed: int) -> Decoder:
    found = Decoder(architecture_from_config(CONFIGS["llama"]), rngs=nnx.Rngs(seed))
    # Larger than initial weights are, so that the two models differ.
    graphdef, state = nnx.split(found)
    return nnx.merge(graphdef, jax.tree.map(lambda x: 4 * x, state))


LENGTH = 8
STRUCTURE = nnx.split(decoder(0))[0]


@jax.jit
def run(state: nnx.State, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hidden states and log-probabilities at every position of a padded sequence."""
    model, positions = nnx.merge(STRUCTURE, state), jnp.arange(LENGTH)[None]
    hidden = model(tokens[None], positions, jnp.ones((1, LENGTH), int), jnp.zeros((1, LENGTH), int))
    return hidden[0], jax.nn.log_softmax(model.logits(hidden)[0])


def next_tokens(model: Decoder, prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Log-probabilities of all tokens at each position of a response, [T, V]."""
    whole = np.concatenate((prompt, response))
    found = run(nnx.state(model), jnp.asarray(np.pad(whole, (0, LENGTH - len(whole)))))[1]
    return np.asarray(found[len(prompt) - 1 : len(whole) - 1], np.float64)


def test_sums_over_responses_are_those_of_the_logits() -> None:
    model, reference = decoder(0), decoder(1)
    found = measure(model, reference, GROUPS, Evaluation(batch=2), None, QUIET)
    assert found.group.tolist() == [0, 0, 1, 1, 2]
    assert found.prompt[0] == found.prompt[4] != found.prompt[2]
    assert found.length.tolist() == [3, 2, 2, 4, 2]
    assert found.reward.tolist() == [1, 0, 0, 1, 1]
    assert [pair.tolist() for pair in found.pairs] == [[0, 3], [1, 2]]
    flat = [(group.prompt, response) for group in GROUPS for response in group.responses]
    for number, (prompt, response) in enumerate(flat):
        p, q = (next_tokens(m, prompt, response) for m in (model, reference))
        at = np.arange(len(response)), response
        wanted = {
            "logp": p[at].sum(),
            "ref_logp": q[at].sum(),
            "entropy": -(np.exp(p) * p).sum(),
            "forward_kl": (np.exp(q) * (q - p)).sum(),
            "reverse_kl": (np.exp(p) * (p - q)).sum(),
        }
        for name, value in wanted.items():
            assert found.sums[name][number] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_a_reward_model_is_read_at_the_last_token() -> None:
    body = decoder(0)
    head = jnp.asarray(np.random.default_rng(0).normal(size=body.architecture.width), jnp.float32)
    model = with_parameters(RewardModel(body), {"head/kernel": head})
    found = measure(model, None, GROUPS, Evaluation(batch=3), None, QUIET)
    prompt, response = GROUPS[1].prompt, GROUPS[1].responses[1]
    whole = np.concatenate((prompt, response))
    hidden = run(nnx.state(body), jnp.asarray(np.pad(whole, (0, LENGTH - len(whole)))))[0]
    assert found.sums["score"][3] == pytest.approx(float(hidden[len(whole) - 1] @ head), rel=1e-4)


def measured(**sums: list[float]) -> Measured:
    """Six prompts: five pairs whose preferred response comes first, and a demonstration."""
    groups = np.repeat(np.arange(6), [2] * 5 + [1])
    return Measured(
        group=groups,
        prompt=groups,
        reward=np.array([1.0, 0.0] * 5 + [0.0]),
        length=np.array([4.0, 2.0] * 5 + [3.0]),
        sums={name: np.array(values) for name, values in sums.items()},
    )


def test_pairs_are_judged_by_sum_by_mean_and_by_log_ratio() -> None:
    logp = [-4.0, -3.0] * 3 + [-4.0, -1.0] * 2 + [-6.0]
    ref = [-5.0, -2.0] + [-4.0, -4.0] * 4 + [-6.0]
    numbers = judge(measured(logp=logp, ref_logp=ref, forward_kl=[1.0] * 11))
    assert numbers["accuracy_by_sum"].value == 0  # -4 < -3 and -4 < -1
    assert numbers["accuracy_by_mean"].value == pytest.approx(3 / 5)  # -1 > -1.5, and -1 < -0.5
    assert numbers["accuracy_by_log_ratio"].value == pytest.approx(1 / 5)
    assert numbers["accuracy_of_longer"].value == 1
    assert numbers["loss_per_token"].value == pytest.approx(-np.sum(logp) / 33)
    assert numbers["loss_per_token_preferred"].value == pytest.approx(1.0)
    assert numbers["loss_per_token_rejected"].value == pytest.approx(11 / 10)
    assert numbers["margin"].value == pytest.approx((2 - 1 - 1 - 3 - 3) / 5)
    assert numbers["log_ratio_preferred"].units == 5
    assert numbers["forward_kl_per_token"].value == pytest.approx(1 / 3)
    assert numbers["length"].value == pytest.approx(3.0)


def test_a_tie_is_half_right() -> None:
    numbers = judge_rewards(measured(score=[1.0, 1.0, 2.0, 1.0, 0.0, 1.0] + [3.0, 1.0] * 2 + [9.0]))
    assert numbers["accuracy"].value == pytest.approx(3.5 / 5)
    assert numbers["loss"].value == pytest.approx(
        np.mean([np.log(2), np.log1p(np.exp(-1)), np.log1p(np.e)] + [np.log1p(np.exp(-2))] * 2)
    )
    assert numbers["reward_rejected"].value == pytest.approx(1.0)


def test_a_response_rated_between_others_is_neither_preferred_nor_rejected() -> None:
    found = Measured(
        group=np.repeat(np.arange(6), 3),
        prompt=np.repeat(np.arange(6), 3),
        reward=np.array([2.0, 1.0, 0.0] * 6),
        length=np.array([1.0, 2.0, 3.0] * 6),
        sums={"logp": np.array([-1.0, -2.0, -3.0] * 6)},
    )
    numbers = judge(found)
    assert numbers["length_preferred"].value == 1
    assert numbers["length_rejected"].value == 3
    assert numbers["accuracy_by_sum"].units == 18


def test_demonstrations_have_a_loss_and_no_pairs() -> None:
    found = measured(logp=[-4.0] * 11)
    alone = Measured(found.prompt, found.prompt, np.zeros(11), found.length, found.sums)
    numbers = judge(alone)
    assert not [name for name in numbers if name.startswith(("accuracy", "margin"))]
    assert {"loss_per_token", "length"} <= numbers.keys()


def test_a_reward_model_is_not_compared_with_a_reference(tmp_path: Path) -> None:
    config = CONFIGS["llama"] | {"architectures": ["LlamaForSequenceClassification"]}
    folder = write_folder(tmp_path / "reward", config, random_tensors("llama"))
    with pytest.raises(ValueError, match="leave --reference out"):
        evaluate(str(folder), Evaluation(reference=str(folder)), QUIET)
