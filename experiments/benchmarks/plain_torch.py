"""The one-token study in plain PyTorch: what a reader would write first, to compare and to time.

A context goes through the paper's network, ten actions are drawn from the reference, and the policy
imitates the best or widens the gap of every pair for T full-batch Adam steps. The expected reward
over 100 fresh contexts is measured exactly after every step, as the authors' code estimates it by
samples.
"""

import numpy as np
import torch
from torch import nn


def network(bins: int) -> nn.Sequential:
    """100 -> 50 -> LayerNorm -> ReLU -> 256 -> 256 -> bins, Xavier-uniform with gain 0.01."""
    layers = nn.Sequential(
        *(nn.Linear(100, 50), nn.LayerNorm(50), nn.ReLU()),
        *(nn.Linear(50, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()),
        nn.Linear(256, bins),
    )
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=0.01)
            nn.init.zeros_(layer.bias)
    return layers


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
    """Train offline with ``"best_of_n"`` or ``"ipo"`` and return the expected reward at every step.

    Args:
        method: which loss.
        reference: probability of each bin.
        reward: of each bin.
        seed: of everything random.
        contexts: training contexts.
        actions: N, drawn from the reference in each context.
        steps: T, gradient steps on the same actions.
        learning_rate: Adam's.
        target_margin: 1/(2 tau) of IPO, nats.
        threshold: least reward difference of a pair.
    """
    torch.manual_seed(seed)
    bins = len(reference)
    log_reference = torch.log(torch.as_tensor(reference, dtype=torch.float32))
    rewards = torch.as_tensor(reward, dtype=torch.float32)
    train, fresh = torch.rand(contexts, 100), torch.rand(100, 100)
    policy = network(bins)

    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(100):
        logp = torch.log_softmax(policy(train), dim=-1)
        loss = (logp.exp() * (logp - log_reference)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    drawn = torch.multinomial(log_reference.exp(), contexts * actions, replacement=True)
    drawn = drawn.reshape(contexts, actions)
    earned = rewards[drawn]
    better = earned[:, :, None] > earned[:, None, :] + threshold
    best = earned.argmax(dim=1, keepdim=True)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    curve = np.empty(steps)
    for step in range(steps):
        logp = torch.log_softmax(policy(train), dim=-1).gather(1, drawn)
        if method == "best_of_n":
            loss = -logp.gather(1, best).mean()
        else:
            ratio = logp - log_reference[drawn]
            gap = ratio[:, :, None] - ratio[:, None, :]
            loss = ((gap - target_margin) ** 2)[better].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            curve[step] = (torch.softmax(policy(fresh), dim=-1) @ rewards).mean()
    return curve
