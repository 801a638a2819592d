"""What the trainer's own model says of responses that somebody else wrote.

One pass, without gradients, over fresh responses: the policy's log-probabilities (which must be the
sampler's, or the two disagree about what the policy is), the reference's, the critic's values, and
both exact KLs. It runs in the shapes the training steps run in.

Key to the axes: B prompts, N responses of each, T response positions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float32

from llm.data.declared import plan_within
from llm.data.examples import Group, PackingSettings
from llm.data.order import InOrder
from llm.data.packing import Batch, Shape
from llm.hosts import fetch
from llm.step import Put, shape
from llm.update import Fixed, Learner, Parameters

PerScoredToken = Float32[np.ndarray, "_"]


class Said(NamedTuple):
    """Numbers per token of a group's responses, one response after the other; nats.

    Attributes:
        logp: of the policy.
        ref_logp: of the reference; None without one.
        value: of the critic, in units of the reward; None without one.
        forward_kl: KL(pi_ref || pi) of the next-token distributions; None without a reference.
        reverse_kl: KL(pi || pi_ref), likewise.
    """

    logp: PerScoredToken
    ref_logp: PerScoredToken | None
    value: PerScoredToken | None
    forward_kl: PerScoredToken | None
    reverse_kl: PerScoredToken | None


Rescore: TypeAlias = Callable[[Parameters, Sequence[Group]], list[Said]]
"""Says, of a policy with these numbers, what there is to say of each group, in their order."""


class Rescorer:
    """The pass, compiled for a shape when it first occurs.

    Args:
        learner: the pure functions.
        fixed: the rest of the model, and the reference.
        shapes: all there will be.
        packing: how groups are laid out.
        groups: most in one batch.
        shards: data shards of the mesh.
        width: of the model.
        put: places a batch on the devices.
    """

    def __init__(
        self,
        learner: Learner,
        fixed: Fixed,
        shapes: Sequence[Shape],
        packing: PackingSettings,
        *,
        groups: int,
        shards: int,
        width: int,
        put: Put,
    ) -> None:
        self.fixed, self.shapes, self.packing = fixed, shapes, packing
        self.groups, self.shards, self.width, self.put = groups, shards, width, put
        self.judge = jax.jit(learner.judge)
        self.programs: dict[Any, Any] = {}

    def __call__(self, trainable: Parameters, groups: Sequence[Group]) -> list[Said]:
        """What there is to say of each group, in their order."""
        order = InOrder(len(groups), self.groups)
        plan = plan_within(
            self.shapes,
            groups,
            order,
            self.packing,
            steps=order.steps,
            shards=self.shards,
            width=self.width,
        )
        found: dict[int, Said] = {}
        for step in range(plan.steps):
            for batch in plan.micro_batches(step):
                said = fetch(self.run(trainable, batch))
                for b, number in enumerate(batch.example.tolist()):
                    if number >= 0:
                        found[number] = said_of(said, b, groups[number])
        return [found[number] for number in range(len(groups))]

    def run(self, trainable: Parameters, batch: Batch) -> Any:
        """One batch."""
        placed, name = self.put(batch), shape(batch)
        if name not in self.programs:
            self.programs[name] = self.judge.lower(trainable, self.fixed, placed).compile()
        return self.programs[name](trainable, self.fixed, placed)


def said_of(said: Any, b: int, group: Group) -> Said:
    """The numbers of one group of a batch."""

    def flat(values: np.ndarray | None) -> Any:
        if values is None:
            return None
        return np.concatenate([values[b, n, : len(y)] for n, y in enumerate(group.responses)])

    return Said(*(flat(getattr(said, name)) for name in Said._fields))
