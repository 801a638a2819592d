"""Every family against `transformers` and torch: layer by layer, loss by loss, weight by weight.

A tiny model of each family is built at random and saved; both sides read the same file. Where they
part, the first layer that differs says where to look. The gradient of every weight is compared by
saving torch's gradients as if they were a checkpoint, so that the reader renames and transposes
them as it does the weights.
"""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llm.checkpoints.folders import read_architecture
from llm.checkpoints.read import load_decoder, read_parameters
from llm.model import Decoder, parameters, with_parameters
from llm.model.architecture import config_from_architecture
from llm.model.attention import attend, rotation, visible, within
from objectives import DPO, SFT, Responses
from tests.llm.model.decoders import quickly_compiled

torch = pytest.importorskip("torch")

SMALL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_head": 4, "n_layer": 3, "n_positions": 64}
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
NEOX["hidden_size"] = 32
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 30.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
ALTERNATING = ["full_attention", "sliding_attention", "full_attention"]

# The wavelengths of the llama3 case reach from 6 to 80 tokens, so a row of 29 sees all three kinds.
CASES = {
    "gpt2": ("gpt2", {**GPT2, "n_inner": 50}),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox-sequential": (
        "gpt_neox",
        {
            **NEOX,
            "use_parallel_residual": False,
            "hidden_act": "gelu_new",
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.75},
        },
    ),
    "llama": ("llama", {**SMALL, "head_dim": 10, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("llama", {**SMALL, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": (
        "llama",
        {**SMALL, "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0}},
    ),
    "mistral": ("mistral", {**SMALL, "sliding_window": 7, "num_key_value_heads": 1}),
    "qwen2": ("qwen2", {**SMALL, "tie_word_embeddings": True}),
    "qwen2-windows": (
        "qwen2",
        {**SMALL, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**SMALL, "head_dim": 8, "layer_types": ALTERNATING, "sliding_window": 6}),
    "gemma2": (
        "gemma2",
        {
            **SMALL,
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 17,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 3.0,
        },
    ),
}
CASES["qwen3"][1]["use_sliding_window"] = True

B, N, PROMPT, T = 2, 2, 17, 12
LENGTHS = np.array([[12, 7], [1, 9]])  # of the responses


def tokens_and_mask() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of prompt and response, padded on the right; which row positions are real; the mask."""
    tokens = np.random.default_rng(1).integers(0, 61, (B * N, PROMPT + T)).astype(np.int32)
    mask = np.arange(T) < LENGTHS[..., None]
    real = np.concatenate([np.ones((B * N, PROMPT), bool), mask.reshape(B * N, T)], axis=1)
    return tokens, real, mask


TOKENS, REAL, MASK = tokens_and_mask()
REF_LOGP = np.random.default_rng(2).uniform(-6, -2, MASK.shape).astype(np.float32)
REWARD = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


DEFAULT = ("gpt2", "gpt_neox", "llama-llama3", "mistral", "qwen2-windows", "qwen3", "gemma2")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.slow]) for name in CASES
    ],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A torch model, the folder it is saved in, and our decoder loaded from there."""
    import transformers

    family, settings = CASES[request.param]
    config = transformers.AutoConfig.for_model(
        family, **settings, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms and biases too, so that one that is left out shows; logits of order 1.
            weight.normal_(0, 0.1 if weight.ndim == 1 else 0.2)
            if "norm" in name or "ln_" in name:
                weight.add_(0.0 if family == "gemma2" or name.endswith("bias") else 1.0)
    path = tmp_path_factory.mktemp(family)
    model.save_pretrained(path)
    return SimpleNamespace(model=model, path=path, decoder=load_decoder(str(path)))


def inputs() -> tuple[jax.Array, ...]:
    """Tokens, positions, segments and branches, one sequence per row."""
    positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
    rows = (TOKENS, positions, REAL.astype(np.int32), np.zeros_like(TOKENS))
    return tuple(jnp.asarray(row) for row in rows)


def test_every_layer_and_the_logits_agree(pair: SimpleNamespace):
    with torch.no_grad():
        out = pair.model(
            torch.from_numpy(TOKENS).long(),
            attention_mask=torch.from_numpy(REAL).long(),
            output_hidden_states=True,
        )
    layers, hidden, logits = every_layer(pair.decoder, *inputs())
    for index, theirs in enumerate(out.hidden_states[:-1]):
        ours = np.asarray(layers[index])[REAL]
        np.testing.assert_allclose(
            ours, theirs.numpy()[REAL], atol=1e-5, rtol=1e-5, err_msg=f"into block {index}"
        )
    np.testing.assert_allclose(
        np.asarray(hidden)[REAL], out.hidden_states[-1].numpy()[REAL], atol=1e-5, rtol=1e-5
    )
    theirs = out.logits.numpy()[REAL]
    assert 0.3 < theirs.std() < 10
    np.testing.assert_allclose(np.asarray(logits)[REAL], theirs, atol=1e-5)


@quickly_compiled
def every_layer(decoder: Decoder, tokens, positions, segments, branches):
    """What goes into each block, the final hidden states and the logits."""
    a = decoder.architecture
    graphdef, stack = nnx.split(decoder.blocks)
    by, x, into = rotation(a, positions), decoder.embed(tokens, positions), []
    for layer, window in enumerate(a.windows):
        mask = visible(segments, branches) & within(window, positions, positions)

        def look(query, key, value, mask=mask):
            key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
            return attend(query, key, value, mask, **decoder.scoring), None

        block = nnx.merge(graphdef, jax.tree.map(lambda leaf, layer=layer: leaf[layer], stack))
        into.append(x)
        x, _ = block(x, by, look)
    hidden = decoder(tokens, positions, segments, branches)
    return into, hidden, decoder.logits(hidden)


def test_losses_and_the_gradient_of_every_weight_agree(pair: SimpleNamespace, tmp_path: Path):
    losses, gradients = losses_and_gradients(pair.decoder, parameters(pair.decoder))
    for index, loss_of in enumerate((sft, dpo)):
        name = loss_of.__name__
        pair.model.zero_grad()
        theirs = loss_of(pair.model)
        theirs.backward()
        np.testing.assert_allclose(losses[index], theirs.item(), rtol=1e-5, err_msg=name)
        expected = gradient_as_checkpoint(pair, tmp_path / name)
        assert gradients.keys() == expected.keys()
        # Some gradients are 0 but for rounding: a key's bias shifts all scores of a query alike.
        rounding = 1e-7 * np.linalg.norm([np.linalg.norm(value) for value in expected.values()])
        for path, value in expected.items():
            error = np.linalg.norm(gradients[path][index] - value)
            assert error <= 1e-4 * np.linalg.norm(value) + rounding, (name, path)


@quickly_compiled
def losses_and_gradients(decoder: Decoder, values: dict[str, jax.Array]):
    """Loss and gradient of SFT and of DPO, which share all but the slope at the log-probability."""
    responses = Responses(
        mask=jnp.asarray(MASK),
        reward=jnp.asarray(REWARD),
        ref_logp=jnp.asarray(REF_LOGP),
        old_logp=jnp.asarray(REF_LOGP),
    )

    def response_logp(values: dict[str, jax.Array]) -> jax.Array:
        updated = with_parameters(decoder, values)
        hidden = updated(*inputs())
        logp = jax.nn.log_softmax(updated.logits(hidden[:, PROMPT - 1 : -1]))
        logp = jnp.take_along_axis(logp, jnp.asarray(TOKENS)[:, PROMPT:, None], axis=-1)
        return logp.reshape(B, N, T)

    logp, pull_back = jax.vjp(response_logp, values)
    losses, slopes = zip(
        *(
            jax.value_and_grad(lambda x, o=objective: o(x, responses).mean())(logp)
            for objective in (SFT(), DPO(beta=0.3))
        ),
        strict=True,
    )
    (gradients,) = jax.vmap(pull_back)(jnp.stack(slopes))
    return jnp.stack(losses), gradients


def torch_logp(model):
    """The same in torch, with 0 where there is no token."""
    out = model(torch.from_numpy(TOKENS).long(), attention_mask=torch.from_numpy(REAL).long())
    logp = out.logits[:, PROMPT - 1 : -1].log_softmax(-1)
    logp = logp.gather(-1, torch.from_numpy(TOKENS[:, PROMPT:, None]).long())[..., 0]
    return torch.where(torch.from_numpy(MASK), logp.reshape(B, N, T), 0.0)


def sft(model):
    return -torch_logp(model).sum() / MASK.sum()


def dpo(model):
    ratio = torch_logp(model).sum(-1) - torch.from_numpy(np.where(MASK, REF_LOGP, 0).sum(-1))
    winner = (ratio * torch.from_numpy(REWARD)).sum(-1)
    loser = (ratio * torch.from_numpy(1 - REWARD)).sum(-1)
    return -torch.nn.functional.logsigmoid(0.3 * (winner - loser)).mean()


def gradient_as_checkpoint(pair: SimpleNamespace, path: Path) -> dict[str, np.ndarray]:
    """Torch's gradients under our names and in our layout."""
    weights = {name: weight.detach().clone() for name, weight in pair.model.named_parameters()}
    with torch.no_grad():
        for _, weight in pair.model.named_parameters():
            weight.copy_(weight.grad)
        pair.model.save_pretrained(path)
        for name, weight in pair.model.named_parameters():
            weight.copy_(weights[name])
    read = read_parameters(path, pair.decoder.architecture)
    return {name: np.asarray(value) for name, value in read.items()}


def test_a_configuration_that_we_write_is_read_back_by_transformers(pair: SimpleNamespace):
    import transformers

    architecture = pair.decoder.architecture
    written = config_from_architecture(architecture)
    config = transformers.AutoConfig.for_model(**written)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.load_state_dict(pair.model.state_dict())
    with torch.no_grad():
        tokens = torch.from_numpy(TOKENS).long()
        expected = pair.model(tokens).logits.numpy()
        logits = model.float().eval()(tokens).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert read_architecture(pair.path) == architecture
