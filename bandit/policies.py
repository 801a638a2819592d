"""Policies over bins, as init/apply pairs over plain pytrees of parameters.

A policy is a frozen value that knows its shapes; its parameters are a separate pytree that every
function takes and returns. ``Tabular`` has one logit per bin and context, so it can represent
anything and nothing generalises. ``ContextualMLP`` is the paper's network: contexts share weights,
so pushing mass in one context moves it in others, and capacity can run out.

Key to the axes: B prompts, N responses per prompt, T tokens, K bins.
"""

import itertools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bandit.problems import Problem
from objectives import reverse_kl
from objectives.pytrees import pytree, structure

Params = Any
Prompts = Any
Tokens = Int[Array, "B N T"]


@runtime_checkable
class Policy(Protocol):
    """What ``simulate`` asks of a policy."""

    @property
    def reference_is_start(self) -> bool:
        """Whether log-ratios are to the policy's own start, not to the problem's reference.

        The authors take the first in the 10-token world and the second in the one-token worlds.
        """
        ...

    def prompts(self, key: PRNGKeyArray, count: int) -> Prompts:
        """Draw training prompts."""
        ...

    def held_out(self, key: PRNGKeyArray, trained_on: Prompts) -> Prompts:
        """Draw the prompts that traces are measured on."""
        ...

    def init(self, key: PRNGKeyArray, problem: Problem, prompts: Prompts) -> Params:
        """Parameters of a policy that imitates the reference."""
        ...

    def logits(
        self,
        params: Params,
        prompts: Prompts,
        tokens: Tokens,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B n T K"]:
        """Unnormalised log-probabilities of every next token; n is N, or 1 if all N share them.

        Args:
            params: the policy's parameters.
            prompts: what the responses answer.
            tokens: the responses.
            key: consumed by dropout; None switches it off.
        """
        ...

    def sample(
        self, params: Params, prompts: Prompts, key: PRNGKeyArray, count: int, temperature: Any
    ) -> Tokens:
        """Draw ``count`` responses per prompt."""
        ...


def token_logp(
    policy: Policy,
    params: Params,
    prompts: Prompts,
    tokens: Tokens,
    temperature: Any = 1.0,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B N T"]:
    """Log-probability in nats of every token, given the prompt and the tokens before it."""
    logp = jax.nn.log_softmax(policy.logits(params, prompts, tokens, key) / temperature)
    logp = jnp.broadcast_to(logp, (*tokens.shape, logp.shape[-1]))
    return jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]


def draw(key: PRNGKeyArray, logits: Float[Array, "*batch K"], count: int) -> Int[Array, "*batch N"]:
    """Draw ``count`` bins from each categorical by inverting its distribution function.

    One uniform number per draw instead of the Gumbel trick's K: several times faster on a CPU.

    Args:
        key: consumed.
        logits: unnormalised log-probabilities.
        count: draws per categorical.
    """
    cumulative = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    uniform = jax.random.uniform(key, (*logits.shape[:-1], count)) * cumulative[..., -1:]
    passed = jnp.sum(uniform[..., :, None] >= cumulative[..., None, :], axis=-1)
    return jnp.minimum(passed, logits.shape[-1] - 1)


@pytree
class Tabular:
    """One logit per bin and context; it starts at the reference exactly.

    Attributes:
        reference_is_start: log-ratios are to the problem's reference, where it starts.
    """

    reference_is_start: bool = False

    def prompts(self, key: PRNGKeyArray, count: int) -> Int[Array, " B"]:
        """The contexts, numbered; the key is not used."""
        return jnp.arange(count)

    def held_out(self, key: PRNGKeyArray, trained_on: Int[Array, " B"]) -> Int[Array, " B"]:
        """The training contexts themselves: a table knows nothing of any other."""
        return trained_on

    def init(self, key: PRNGKeyArray, problem: Problem, prompts: Prompts) -> Float[Array, "B K"]:
        """The reference's log-probabilities in every context."""
        refuse_tokens(self, problem)
        return jnp.broadcast_to(problem.ref_logp, (prompts.shape[0], problem.bins))

    def logits(
        self, params: Params, prompts: Prompts, tokens: Tokens, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B 1 1 K"]:
        """The table's rows."""
        return params[prompts][:, None, None, :]

    def sample(
        self, params: Params, prompts: Prompts, key: PRNGKeyArray, count: int, temperature: Any
    ) -> Tokens:
        """Draw actions from each context's row."""
        return draw(key, params[prompts] / temperature, count)[..., None]


@pytree
class ContextualMLP:
    """The paper's contextual policy: 100 -> 50 -> LayerNorm -> ReLU -> 256 -> 256 -> K bins.

    It is fitted to the reference by 100 full-batch Adam steps on the exact reverse KL over the
    training contexts, which is what the paper calls SFT here.

    Attributes:
        context_size: dimension of a context, drawn uniformly from [0, 1].
        features: width after the first layer.
        hidden: width of the two hidden layers.
        evaluation_contexts: how many fresh contexts traces are measured on.
        fit_steps: steps of the fit to the reference.
        fit_learning_rate: Adam's, for that fit.
        reference_is_start: log-ratios are to the reference itself, not to the fitted network.

    Source: Tajwar et al. 2024, arXiv:2404.14367, bandit code.
    """

    context_size: int = structure(default=100)
    features: int = structure(default=50)
    hidden: int = structure(default=256)
    evaluation_contexts: int = structure(default=100)
    fit_steps: int = structure(default=100)
    fit_learning_rate: float = 0.01
    reference_is_start: bool = False

    def prompts(self, key: PRNGKeyArray, count: int) -> Float[Array, "B C"]:
        """Contexts, uniform in the unit cube."""
        return jax.random.uniform(key, (count, self.context_size))

    def held_out(self, key: PRNGKeyArray, trained_on: Prompts) -> Float[Array, "B C"]:
        """Fresh contexts."""
        return self.prompts(key, self.evaluation_contexts)

    def init(self, key: PRNGKeyArray, problem: Problem, prompts: Prompts) -> Params:
        """Xavier-uniform weights of gain 0.01, then the fit to the reference."""
        refuse_tokens(self, problem)
        weight_key, fit_key = jax.random.split(key)
        widths = (self.context_size, self.features, self.hidden, self.hidden, problem.bins)
        shapes = list(itertools.pairwise(widths))
        ends = np.cumsum([fan_in * fan_out for fan_in, fan_out in shapes])
        uniform = jax.random.uniform(weight_key, (ends[-1],), minval=-1, maxval=1)
        layers = []
        for (fan_in, fan_out), flat in zip(shapes, jnp.split(uniform, ends[:-1]), strict=True):
            limit = 0.01 * (6 / (fan_in + fan_out)) ** 0.5
            weight = limit * flat.reshape(fan_in, fan_out)
            layers.append({"weight": weight, "bias": jnp.zeros(fan_out)})
        norm = {"scale": jnp.ones(self.features), "bias": jnp.zeros(self.features)}
        params = {"layers": layers, "norm": norm}

        def misfit(params: Params, _: PRNGKeyArray) -> Float[Array, ""]:
            logp = jax.nn.log_softmax(self.forward(params, prompts))
            return jnp.mean(reverse_kl(logp, jnp.broadcast_to(problem.ref_logp, logp.shape)))

        return fit(params, misfit, fit_key, self.fit_steps, self.fit_learning_rate)

    def forward(self, params: Params, contexts: Float[Array, "B C"]) -> Float[Array, "B K"]:
        """Logits of every bin."""

        def affine(x: Float[Array, "B _"], layer: Params) -> Float[Array, "B _"]:
            return x @ layer["weight"] + layer["bias"][None, :]

        first, *hidden, last = params["layers"]
        x = affine(contexts, first)
        x = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
        x = jax.nn.relu(x * params["norm"]["scale"][None, :] + params["norm"]["bias"][None, :])
        for layer in hidden:
            x = jax.nn.relu(affine(x, layer))
        return affine(x, last)

    def logits(
        self, params: Params, prompts: Prompts, tokens: Tokens, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B 1 1 K"]:
        """The network's output; one row serves all N responses."""
        return self.forward(params, prompts)[:, None, None, :]

    def sample(
        self, params: Params, prompts: Prompts, key: PRNGKeyArray, count: int, temperature: Any
    ) -> Tokens:
        """Draw actions in each context."""
        return draw(key, self.forward(params, prompts) / temperature, count)[..., None]


def refuse_tokens(policy: Policy, problem: Problem) -> None:
    """Raise unless responses are one token and contexts are no tokens."""
    if problem.tokens != 1 or problem.prompt_earns:
        raise ValueError(
            f"{type(policy).__name__} draws one bin per response, but the problem has tokens="
            f"{problem.tokens} and prompt_earns={problem.prompt_earns}; use a TokenTransformer."
        )


def fit(params: Params, loss: Any, key: PRNGKeyArray, steps: int, learning_rate: Any) -> Params:
    """Minimise ``loss(params, key)`` with Adam; each step consumes a key of its own."""
    optimizer = optax.adam(learning_rate)

    def step(carry: Any, step_key: PRNGKeyArray) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, step_key), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    return params
