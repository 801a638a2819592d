"""One decoder for seven families of language models.

A token becomes a vector; L blocks refine it, each first mixing in what earlier tokens say
(attention) and then transforming every token on its own (the MLP); the last vector predicts the
next token. The blocks have the same shape, so their weights are stacked ``[L, ...]`` and one block
is compiled and scanned over the stack. The decoder stops at the hidden states: what turns them into
log-probabilities never builds a ``[tokens, V]`` array, and lives in ``llm.logprobs``.

Key to the axes: R rows, S positions of a row, V vocabulary, D width, L layers, H query heads, K key
heads, C head width, F MLP width, P scored tokens.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from llm.mesh import GATHERED, gathered, placed
from llm.model.architecture import Architecture
from llm.model.attention import Cache, attend, attend_back, rotation, visible, within
from llm.model.block import Block, Hidden, Norm, Table
from llm.model.lookup import lookup
from llm.model.lora import LoRA, adapt

Remat = Literal["none", "dots", "full"]
M = TypeVar("M", bound=nnx.Module)


class Decoder(nnx.Module):
    """Tokens in, hidden states out.

    Args:
        architecture: every setting of the family.
        rngs: the stream ``params`` draws the initial weights.
        param_dtype: of the weights that are kept, and trained.
        dtype: of the arithmetic; norms, rotations and softmax are in float32 whatever it is.
        remat: what the backward pass computes again to save memory: nothing, everything but matrix
            products, or whole blocks.
        unroll: how many blocks a step of the scan holds; all of them is faster on a CPU.
        lora: adapters, or None; they are float32 whatever ``param_dtype`` is.
        mesh: the devices that weights and activations are spread over; None for one.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        dtype: jax.typing.DTypeLike = jnp.float32,
        remat: Remat = "none",
        unroll: int = 1,
        lora: LoRA | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        a = architecture
        self.architecture = a
        self.mesh = mesh
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.unroll = min(unroll, a.layers)
        self.embedding = Table(a.vocab_size, a.width, rngs=rngs, param_dtype=param_dtype)
        self.positions = (
            Table(a.max_positions, a.width, rngs=rngs, param_dtype=param_dtype)
            if a.learned_positions
            else None
        )
        self.blocks = Block(a, rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        if lora is not None:
            self.blocks = adapt(self.blocks, lora, rngs=rngs)
        self.norm = Norm(a, a.width, kind=a.norm, param_dtype=param_dtype)
        self.head = (
            None if a.tied else Table(a.vocab_size, a.width, rngs=rngs, param_dtype=param_dtype)
        )

    def __call__(
        self,
        tokens: Int[Array, "R S"],
        positions: Int[Array, "R S"],
        segments: Int[Array, "R S"],
        branches: Int[Array, "R S"],
        *,
        adapters: bool = True,
    ) -> Hidden:
        """Hidden states of a packed batch, after the final norm.

        A position attends to itself and to earlier positions of its row that are in its segment
        and in its branch or the prompt.

        Args:
            tokens: token ids.
            positions: of each token in its own sequence; from one token of a sequence to the next
                it grows by one.
            segments: the example each token belongs to, from 1; 0 for padding.
            branches: the response each token belongs to, from 1; 0 for the prompt, and for
                everything in a plain sequence.
            adapters: False for the model without its adapters.
        """
        mask = visible(segments, branches)
        # A window that no row reaches the end of is none; layers with one mask share one array.
        windows = [0 if w >= tokens.shape[1] else w for w in self.architecture.windows]
        if len(set(windows)) == 1:
            mask = mask & within(windows[0], positions, positions)
        by = rotation(self.architecture, positions)
        graphdef, stack = nnx.split(self.blocks)

        def block(x: Hidden, layer: Any) -> tuple[Hidden, None]:
            params, window = layer
            seen = mask if window is None else mask & within(window, positions, positions)

            def look(query: Array, key: Array, value: Array) -> tuple[Array, None]:
                query, key, value = (placed(self.mesh, y, "heads") for y in (query, key, value))
                key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
                seen_by = attend_back(query, key, value, seen, **self.scoring)
                return placed(self.mesh, seen_by, "heads"), None

            x, _ = nnx.merge(graphdef, self.in_use(params))(x, by, look, adapters)
            return placed(self.mesh, x, "hidden"), None

        dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        policy = {"none": is_kept, "dots": dots, "full": None}[self.remat]
        if self.remat != "none" or (self.mesh is not None and self.mesh.shape["fsdp"] > 1):
            block = jax.checkpoint(
                block,
                policy=policy,
                # Inside a loop nothing is merged with the forward pass; without one, it would be.
                prevent_cse=self.unroll == self.architecture.layers,
            )
        each = None if len(set(windows)) == 1 else jnp.asarray(windows, jnp.int32)
        x = self.embed(tokens, positions)
        x, _ = jax.lax.scan(block, x, (stack, each), unroll=self.unroll)
        return self.norm(x)

    def in_use(self, params: Any) -> Any:
        """The parameters of a layer as its arithmetic needs them: matrices put together."""
        if self.mesh is None:
            return params
        layer = []
        for path, leaf in nnx.to_flat_state(params):
            name, value = "blocks/" + "/".join(map(str, path)), leaf.get_value()
            if not str(path[-2]).endswith("norm"):
                # First rounded, then sent: half of the traffic, and the same numbers.
                value = gathered(self.mesh, name, value.astype(self.dtype), layer=True)
            layer.append((path, leaf.replace(value)))
        return nnx.from_flat_state(layer)

    @property
    def scoring(self) -> dict[str, Any]:
        """How attention scores are made of products: this architecture's scale and cap."""
        a = self.architecture
        return {"scale": a.query_scale, "softcap": a.attention_softcap}

    def embed(self, tokens: Int[Array, "R S"], positions: Int[Array, "R S"]) -> Hidden:
        """What the first block reads."""
        x = self.look_up(self.embedding, "embedding/matrix", tokens)
        x = x * jnp.asarray(self.architecture.embedding_scale, self.dtype)
        if self.positions is not None:
            x = x + self.look_up(self.positions, "positions/matrix", positions)
        return x

    def look_up(self, table: Table, path: str, numbers: Int[Array, "R S"]) -> Hidden:
        """A row of a table for each number."""
        return lookup(self.mesh, path, table.matrix[...], numbers, self.dtype)

    @property
    def output_matrix(self) -> Float[Array, "V D"]:
        """A row per token: its product with a hidden state is the token's logit."""
        return (self.embedding if self.head is None else self.head).matrix[...]

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits in float32, capped where the family caps them; for sampling, never in training."""
        path = "embedding/matrix" if self.head is None else "head/matrix"
        logits = jnp.einsum(
            "...d,vd->...v",
            hidden,
            gathered(self.mesh, path, self.output_matrix.astype(hidden.dtype)),
            preferred_element_type=jnp.float32,
        )
        cap = self.architecture.logits_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def decode(
        self, tokens: Int[Array, "R S"], positions: Int[Array, "R S"], cache: Cache
    ) -> tuple[Hidden, Cache]:
        """Hidden states of the next S tokens of every row, and the cache with them in it.

        Reading a prompt and writing one token are the same call.

        Args:
            tokens: token ids.
            positions: of each token in its row's sequence; -1 for padding, which may stand
                anywhere, and whose hidden states mean nothing.
            cache: from ``empty_cache`` or an earlier call; it needs S free slots.

        Raises:
            ValueError: if S is more than the cache holds at all.
        """
        a, S = self.architecture, tokens.shape[1]
        if cache.positions.shape[1] < S:
            raise ValueError(
                f"cache has {cache.positions.shape[1]} slots and {S} tokens are to be decoded; "
                "give it a larger capacity."
            )
        there = jax.lax.dynamic_update_slice(cache.positions, positions, (0, cache.length))
        mask = (there[:, None, :] >= 0) & (there[:, None, :] <= positions[:, :, None])
        real = jnp.maximum(positions, 0)
        by = rotation(a, real)
        graphdef, stack = nnx.split(self.blocks)

        def block(
            x: Hidden, layer: Any, past: tuple[Array, Array], at: tuple[Array, ...]
        ) -> tuple[Hidden, tuple[Array, Array]]:
            params, window = layer
            seen = mask & within(window, positions, there)

            def store(held: Array, part: Array) -> Array:
                part = part.astype(held.dtype)
                if not at:
                    part, start = jnp.moveaxis(part, 1, 3), (0, 0, 0, cache.length)
                else:
                    part, start = jnp.swapaxes(part, 1, 2)[None], (*at, 0, 0, cache.length, 0)
                held = jax.lax.dynamic_update_slice(held, part, start)
                return placed(self.mesh, held, "stack" if at else "slots")

            def layer_of(held: Array) -> Array:
                return held[at] if at else jnp.swapaxes(held, 2, 3)

            def look(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
                query, key, value = (placed(self.mesh, y, "heads") for y in (query, key, value))
                kept = store(past[0], key), store(past[1], value)
                mine = layer_of(kept[0]), layer_of(kept[1])
                return placed(self.mesh, attend(query, *mine, seen, **self.scoring), "heads"), kept

            x, kept = nnx.merge(graphdef, self.in_use(params))(x, by, look)
            return placed(self.mesh, x, "hidden"), kept

        x, layers = self.embed(tokens, real), (stack, jnp.asarray(a.windows, jnp.int32))
        if isinstance(cache.keys, tuple):
            kept = []
            for index, past in enumerate(zip(cache.keys, cache.values, strict=True)):
                layer = jax.tree.map(lambda leaf, index=index: leaf[index], layers)
                x, written = block(x, layer, past, ())
                kept.append(written)
            keys, values = zip(*kept, strict=True)
            return self.norm(x), Cache(keys, values, there, cache.length + S)

        def turn(carry: tuple[Hidden, Array, Array], layer: Any) -> tuple[Any, None]:
            (x, *past), (*layer, index) = carry, layer
            x, kept = block(x, layer, (past[0], past[1]), (index,))
            return (x, *kept), None

        start = (x, cache.keys, cache.values)
        each = (*layers, jnp.arange(a.layers))
        (x, keys, values), _ = jax.lax.scan(turn, start, each, unroll=self.unroll)
        return self.norm(x), Cache(keys, values, there, cache.length + S)


def is_kept(primitive: Any, *_: Any, **params: Any) -> bool:
    """Whether the backward pass of a layer finds what a step made: all but weights put together.

    They are as large as the model. Nor is anything kept where it was put, which would be the same
    weights before they got their name; whatever else was put somewhere is kept as it was before.
    """
    return primitive.name != "sharding_constraint" and params.get("name") != GATHERED


class RewardModel(nnx.Module):
    """A decoder whose hidden state at a token is read as one number, the reward up to there.

    Args:
        decoder: shared, not copied; its output matrix is not used.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        # Zero, so that every response starts out equal and the first loss is log 2.
        self.head = RewardHead(decoder.architecture.width)

    def __call__(
        self,
        tokens: Int[Array, "R S"],
        positions: Int[Array, "R S"],
        segments: Int[Array, "R S"],
        branches: Int[Array, "R S"],
        *,
        at: Int[Array, " P"],
    ) -> Float[Array, " P"]:
        """Scores in float32 at the flat positions ``at`` = row * S + position."""
        hidden = self.decoder(tokens, positions, segments, branches)
        chosen = hidden.reshape(-1, hidden.shape[-1])[at].astype(jnp.float32)
        return chosen @ self.head.kernel[...].astype(jnp.float32)


class ActorCritic(nnx.Module):
    """A decoder that also says how good what it has written so far will turn out to be.

    The value of the state in which a token is written is read from the hidden state that predicts
    the token: policy and critic share one pass, and the critic's gradient reaches the decoder.

    Args:
        decoder: shared, not copied.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.head = ValueHead(decoder.architecture.width)

    def value(self, hidden: Float[Array, "... D"]) -> Float[Array, "..."]:
        """What the critic reads from hidden states, in units of the reward, float32."""
        kernel, bias = self.head.kernel[...], self.head.bias[...]
        return hidden.astype(jnp.float32) @ kernel.astype(jnp.float32) + bias.astype(jnp.float32)


class ValueHead(nnx.Module):
    """From a hidden state to the reward that is still to come; 0 before the first step."""

    def __init__(self, width: int) -> None:
        self.kernel = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(()))


class RewardHead(nnx.Module):
    """The direction in which hidden states are better."""

    def __init__(self, width: int) -> None:
        self.kernel = nnx.Param(jnp.zeros(width))


def parameters(model: nnx.Module) -> dict[str, Any]:
    """Every parameter by its path, adapters included: ``"blocks/attention/query/kernel"``.

    Returns:
        Arrays; shapes and dtypes where the model holds only those.
    """
    return {
        "/".join(str(part) for part in path): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def with_parameters(model: M, values: Mapping[str, Any]) -> M:
    """A copy of a model with the named parameters replaced; the others are shared.

    Args:
        model: may hold only shapes, from ``abstract_decoder``.
        values: by path, as ``parameters`` names them.

    Raises:
        ValueError: if the model has no such parameter, or one of another shape.
    """
    graphdef, state = nnx.split(model)
    paths = [path for path, _ in nnx.to_flat_state(state)]
    held = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    for path, value in values.items():
        if path not in held:
            raise ValueError(f"{path} is not a parameter of this model.")
        if held[path].get_value().shape != value.shape:
            raise ValueError(
                f"{path} has shape {value.shape}; this model's has {held[path].get_value().shape}."
            )
        # A copy, because under a trace the model's own variables may not be written to.
        held[path] = held[path].replace(value)
    return nnx.merge(graphdef, nnx.from_flat_state(zip(paths, held.values(), strict=True)))


def abstract_decoder(
    architecture: Architecture,
    *,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    dtype: jax.typing.DTypeLike = jnp.float32,
    remat: Remat = "none",
    unroll: int = 1,
    lora: LoRA | None = None,
    mesh: Mesh | None = None,
) -> Decoder:
    """A decoder with shapes in place of weights; it takes no memory. See ``Decoder``."""
    return nnx.eval_shape(
        lambda: Decoder(
            architecture,
            rngs=nnx.Rngs(0),
            param_dtype=param_dtype,
            dtype=dtype,
            remat=remat,
            unroll=unroll,
            lora=lora,
            mesh=mesh,
        )
    )
