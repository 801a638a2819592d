"""The one-token study in NumPy alone: every derivative written out, nothing hidden.

The same setting as ``plain_torch``. Read it beside ``bandit/`` to see what automatic
differentiation and compilation are worth.
"""

import numpy as np

Arrays = dict[str, np.ndarray]


def start(rng: np.random.Generator, bins: int) -> Arrays:
    """Parameters of 100 -> 50 -> LayerNorm -> ReLU -> 256 -> 256 -> bins."""
    params: Arrays = {"scale": np.ones(50, np.float32), "shift": np.zeros(50, np.float32)}
    for layer, (fan_in, fan_out) in enumerate(((100, 50), (50, 256), (256, 256), (256, bins))):
        limit = 0.01 * (6 / (fan_in + fan_out)) ** 0.5
        params[f"w{layer}"] = rng.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32)
        params[f"b{layer}"] = np.zeros(fan_out, np.float32)
    return params


def forward(params: Arrays, x: np.ndarray) -> tuple[np.ndarray, Arrays]:
    """Log-probabilities of every bin, and what the backward pass needs."""
    linear = x @ params["w0"] + params["b0"]
    deviation = np.sqrt(linear.var(axis=1, keepdims=True) + 1e-5)
    standard = (linear - linear.mean(axis=1, keepdims=True)) / deviation
    h0 = np.maximum(standard * params["scale"] + params["shift"], 0)
    h1 = np.maximum(h0 @ params["w1"] + params["b1"], 0)
    h2 = np.maximum(h1 @ params["w2"] + params["b2"], 0)
    logits = h2 @ params["w3"] + params["b3"]
    top = logits.max(axis=1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    seen = {"x": x, "deviation": deviation, "standard": standard, "h0": h0, "h1": h1, "h2": h2}
    return logp, seen


def backward(params: Arrays, seen: Arrays, d_logits: np.ndarray) -> Arrays:
    """Gradients of every parameter from those of the logits."""
    grads: Arrays = {"w3": seen["h2"].T @ d_logits, "b3": d_logits.sum(axis=0)}
    d = (d_logits @ params["w3"].T) * (seen["h2"] > 0)
    grads |= {"w2": seen["h1"].T @ d, "b2": d.sum(axis=0)}
    d = (d @ params["w2"].T) * (seen["h1"] > 0)
    grads |= {"w1": seen["h0"].T @ d, "b1": d.sum(axis=0)}
    d = (d @ params["w1"].T) * (seen["h0"] > 0)
    grads |= {"scale": (d * seen["standard"]).sum(axis=0), "shift": d.sum(axis=0)}
    d = d * params["scale"]
    centred = d - d.mean(axis=1, keepdims=True)
    along = (d * seen["standard"]).mean(axis=1, keepdims=True)
    d = (centred - seen["standard"] * along) / seen["deviation"]
    return grads | {"w0": seen["x"].T @ d, "b0": d.sum(axis=0)}


def adam(params: Arrays, grads: Arrays, state: tuple[int, Arrays, Arrays], rate: float) -> int:
    """One Adam step, in place; returns the new count of steps."""
    count, first, second = state
    count += 1
    for name, grad in grads.items():
        first[name] += 0.1 * (grad - first[name])
        second[name] += 0.001 * (grad**2 - second[name])
        mean, square = first[name] / (1 - 0.9**count), second[name] / (1 - 0.999**count)
        params[name] -= (rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
    return count


def run(
    method: str,
    reference: np.ndarray,
    reward: np.ndarray,
    *,
    seed: int,
    contexts: int,
    actions: int,
    steps: int,
    learning_rate: float,
    target_margin: float = 10.0,
    threshold: float = 0.2,
) -> np.ndarray:
    """Train offline with ``"best_of_n"`` or ``"ipo"``: see ``plain_torch.run``."""
    rng = np.random.default_rng(seed)
    bins, log_reference = len(reference), np.log(reference).astype(np.float32)
    train = rng.uniform(size=(contexts, 100)).astype(np.float32)
    fresh = rng.uniform(size=(100, 100)).astype(np.float32)
    params = start(rng, bins)

    def fresh_state() -> tuple[Arrays, Arrays]:
        zeros = {name: np.zeros_like(value) for name, value in params.items()}
        return zeros, {name: np.zeros_like(value) for name, value in params.items()}

    count, (first, second) = 0, fresh_state()
    for _ in range(100):
        logp, seen = forward(params, train)
        ratio = logp - log_reference
        p = np.exp(logp)
        divergence = (p * ratio).sum(axis=1, keepdims=True)
        grads = backward(params, seen, p * (ratio - divergence) / contexts)
        count = adam(params, grads, (count, first, second), 0.01)

    drawn = rng.choice(bins, size=(contexts, actions), p=reference / reference.sum())
    earned = reward[drawn]
    rows = np.arange(contexts)[:, None]
    best = drawn[np.arange(contexts), earned.argmax(axis=1)]
    better = earned[:, :, None] > earned[:, None, :] + threshold
    count, (first, second) = 0, fresh_state()
    curve = np.empty(steps)
    for step in range(steps):
        logp, seen = forward(params, train)
        d_logp = np.zeros_like(logp)
        if method == "best_of_n":
            d_logp[np.arange(contexts), best] = -1 / contexts
        else:
            ratio = logp[rows, drawn] - log_reference[drawn]
            gap = ratio[:, :, None] - ratio[:, None, :]
            d_gap = np.where(better, 2 * (gap - target_margin), 0) / max(better.sum(), 1)
            np.add.at(d_logp, (rows, drawn), d_gap.sum(axis=2) - d_gap.sum(axis=1))
        d_logits = d_logp - np.exp(logp) * d_logp.sum(axis=1, keepdims=True)
        grads = backward(params, seen, d_logits.astype(np.float32))
        count = adam(params, grads, (count, first, second), learning_rate)
        curve[step] = (np.exp(forward(params, fresh)[0]) @ reward).mean()
    return curve
