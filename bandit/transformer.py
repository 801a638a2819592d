"""The paper's 10-token world: a small transformer writes nine tokens after a prompt token.

The same bins, the same reference and the same reward as the one-token world, but a response is a
sequence, so an objective has to credit tokens and a ratio is a product. The network is minGPT's
"nano": 3 layers, 3 heads, width 48, pre-norm, learned positions.

Key to the axes: B prompts, N responses per prompt, T = 9 response tokens, K bins (the vocabulary),
D width, H heads. Inside, R = B N sequences.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bandit.policies import Params, Prompts, Tokens, draw, fit
from bandit.problems import BINS, Problem
from objectives import reverse_kl
from objectives.pytrees import pytree, structure


@pytree
class TokenTransformer:
    """A causal transformer policy over sequences of bins.

    Attributes:
        layers: number of blocks.
        heads: attention heads per block.
        width: D.
        evaluation_prompts: how many prompts a trace is measured on, one sampled prefix each.
        fit_steps: Adam steps of the fit to the reference, one random prompt each.
        fit_learning_rate: Adam's, for that fit.
        dropout: rate on the embeddings and on every residual branch while training.
        reference_is_start: log-ratios are to the fitted network, as the authors take them.

    Source: Tajwar et al. 2024, arXiv:2404.14367, transformer bandit code; Karpathy's minGPT.

    Differs: the authors' log-probability reads the logits of position t at token t, which has
    already seen that token, and scores the prompt; here a token is scored by the logits of the
    position before it, and the prompt is not scored. No dropout on attention weights.
    """

    layers: int = structure(default=3)
    heads: int = structure(default=3)
    width: int = structure(default=48)
    evaluation_prompts: int = structure(default=100)
    fit_steps: int = structure(default=100)
    fit_learning_rate: float = 0.01
    dropout: float = structure(default=0.1)
    reference_is_start: bool = True

    def prompts(self, key: PRNGKeyArray, count: int) -> Int[Array, " B"]:
        """Prompt tokens, uniform over 100 bins."""
        return jax.random.randint(key, (count,), 0, BINS)

    def held_out(self, key: PRNGKeyArray, trained_on: Prompts) -> Int[Array, " B"]:
        """Fresh prompt tokens."""
        return self.prompts(key, self.evaluation_prompts)

    def init(self, key: PRNGKeyArray, problem: Problem, prompts: Prompts) -> Params:
        """MinGPT's initialisation, then the fit to the reference along sampled prefixes."""
        if problem.bins != BINS:
            raise ValueError(
                f"problem has {problem.bins} bins, but a TokenTransformer's prompts are drawn from "
                f"{BINS}; give the problem {BINS} bins."
            )
        fresh_key, fit_key = jax.random.split(key)
        params = self.fresh(fresh_key, problem)

        def misfit(params: Params, key: PRNGKeyArray) -> Float[Array, ""]:
            prompt_key, sample_key, dropout_key = jax.random.split(key, 3)
            prompt = self.prompts(prompt_key, 1)
            frozen = jax.lax.stop_gradient(params)
            tokens = self.sample(frozen, prompt, sample_key, 1, 1.0)
            logp = jax.nn.log_softmax(self.logits(params, prompt, tokens, dropout_key))
            return jnp.sum(reverse_kl(logp, jnp.broadcast_to(problem.ref_logp, logp.shape)))

        return fit(params, misfit, fit_key, self.fit_steps, self.fit_learning_rate)

    def fresh(self, key: PRNGKeyArray, problem: Problem) -> Params:
        """Random parameters: N(0, 0.02), output projections smaller by sqrt(2 layers), biases 0."""
        D, L = self.width, self.layers
        keys = iter(jax.random.split(key, 7))

        def normal(*shape: int, std: float = 0.02) -> Float[Array, "..."]:
            return std * jax.random.normal(next(keys), shape)

        residual = 0.02 / (2 * L) ** 0.5
        blocks = {
            "attention_norm": {"scale": jnp.ones((L, D)), "bias": jnp.zeros((L, D))},
            "qkv": {"weight": normal(L, D, 3 * D), "bias": jnp.zeros((L, 3 * D))},
            "attention_out": {"weight": normal(L, D, D, std=residual), "bias": jnp.zeros((L, D))},
            "mlp_norm": {"scale": jnp.ones((L, D)), "bias": jnp.zeros((L, D))},
            "mlp_in": {"weight": normal(L, D, 4 * D), "bias": jnp.zeros((L, 4 * D))},
            "mlp_out": {"weight": normal(L, 4 * D, D, std=residual), "bias": jnp.zeros((L, D))},
        }
        return {
            "tokens": normal(problem.bins, D),
            "positions": normal(problem.tokens + 1, D),
            "blocks": blocks,
            "norm": {"scale": jnp.ones(D), "bias": jnp.zeros(D)},
            "head": normal(D, problem.bins),
        }

    def logits(
        self, params: Params, prompts: Prompts, tokens: Tokens, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B N T K"]:
        """Logits of each response token, from the position before it."""
        B, N, T = tokens.shape
        prompt = jnp.broadcast_to(prompts[:, None, None], (B, N, 1))
        sequence = jnp.concatenate([prompt, tokens[..., :-1]], axis=-1).reshape(B * N, T)
        rate = 0.0 if key is None else self.dropout
        drops = 1 + 2 * self.layers
        keys = [None] * drops if key is None else list(jax.random.split(key, drops))
        x = params["tokens"][sequence] + params["positions"][None, :T]
        x = drop(keys[0], x, rate)
        seen = jnp.tril(jnp.ones((T, T), bool))
        for layer in range(self.layers):
            block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
            q, k, v = self.qkv(x, block)
            score = jnp.einsum("rthd,rshd->rhts", q, k) / q.shape[-1] ** 0.5
            score = jnp.where(seen[None, None], score, jnp.finfo(score.dtype).min)
            weight = jax.nn.softmax(score)
            attended = jnp.einsum("rhts,rshd->rthd", weight, v).reshape(x.shape)
            x = x + drop(keys[2 * layer + 1], affine(attended, block["attention_out"]), rate)
            x = x + drop(keys[2 * layer + 2], feed_forward(x, block), rate)
        return (layer_norm(x, params["norm"]) @ params["head"]).reshape(B, N, T, -1)

    def qkv(self, x: Float[Array, "R T D"], block: Params) -> tuple[Float[Array, "R T H d"], ...]:
        """Queries, keys and values of one block."""
        projected = affine(layer_norm(x, block["attention_norm"]), block["qkv"])
        heads = (*x.shape[:-1], self.heads, -1)
        return tuple(part.reshape(heads) for part in jnp.split(projected, 3, axis=-1))

    def sample(
        self, params: Params, prompts: Prompts, key: PRNGKeyArray, count: int, temperature: Any
    ) -> Tokens:
        """Write the response token by token, keeping keys and values of the tokens so far."""
        T = params["positions"].shape[0] - 1
        R = prompts.shape[0] * count
        shape = (self.layers, R, T, self.heads, self.width // self.heads)
        cache = (jnp.zeros(shape), jnp.zeros(shape))

        def step(carry: Any, now: Any) -> tuple[Any, Int[Array, " R"]]:
            token, (past_k, past_v) = carry
            position, step_key = now
            x = params["tokens"][token][:, None] + params["positions"][position][None, None]
            seen = jnp.arange(T) <= position
            for layer in range(self.layers):
                block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
                q, k, v = self.qkv(x, block)
                past_k = past_k.at[layer, :, position].set(k[:, 0])
                past_v = past_v.at[layer, :, position].set(v[:, 0])
                score = jnp.einsum("rhd,rshd->rhs", q[:, 0], past_k[layer]) / q.shape[-1] ** 0.5
                score = jnp.where(seen[None, None], score, jnp.finfo(score.dtype).min)
                weight = jax.nn.softmax(score)
                attended = jnp.einsum("rhs,rshd->rhd", weight, past_v[layer]).reshape(x.shape)
                x = x + affine(attended, block["attention_out"])
                x = x + feed_forward(x, block)
            logits = layer_norm(x[:, 0], params["norm"]) @ params["head"]
            token = draw(step_key, logits / temperature, 1)[:, 0]
            return (token, (past_k, past_v)), token

        now = (jnp.arange(T), jax.random.split(key, T))
        _, tokens = jax.lax.scan(step, (jnp.repeat(prompts, count), cache), now)
        return tokens.T.reshape(prompts.shape[0], count, T)


def affine(x: Float[Array, "*R I"], layer: Params) -> Float[Array, "*R O"]:
    """X W + b."""
    return x @ layer["weight"] + layer["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def layer_norm(x: Float[Array, "*R D"], norm: Params) -> Float[Array, "*R D"]:
    """Normalise over the width, then scale and shift."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    standard = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    return standard * norm["scale"].reshape(shape) + norm["bias"].reshape(shape)


def feed_forward(x: Float[Array, "R T D"], block: Params) -> Float[Array, "R T D"]:
    """The block's two-layer network, on its own normalised input."""
    return affine(
        jax.nn.gelu(affine(layer_norm(x, block["mlp_norm"]), block["mlp_in"])), block["mlp_out"]
    )


def drop(key: PRNGKeyArray | None, x: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Dropout; nothing happens without a key or a rate."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)
