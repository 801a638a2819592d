"""One optimizer step: gradients of micro-batches add up exactly, then divide once, then move.

An objective returns a value and a weight per unit, so a batch too large for the device may be cut
anywhere: the sums over its pieces are the sums over the whole. Metrics are sums too and travel the
same way. A step whose loss or gradient is not finite moves nothing.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from llm.data.packing import Batch
from llm.model import Decoder, RewardModel, with_parameters
from llm.scoring import Scores, as_responses, score, score_rewards
from objectives.pytrees import pytree
from objectives.responses import PerToken, scored
from objectives.terms import Terms, Weighted

Parameters: TypeAlias = dict[str, Array]
Sum: TypeAlias = tuple[Float[Array, ""], Float[Array, ""]]
"""(sum of value times weight, sum of weight): a mean that still adds."""

ALWAYS = ("loss", "gradient_norm", "learning_rate")
"""Metrics every step has, whatever the objective."""


@pytree
class TrainState:
    """Everything that training changes: all that a resumed run needs.

    There is no random key, because what is random is a function of the seed and of ``step``.

    Attributes:
        step: optimizer steps taken.
        trainable: the parameters that train, by path.
        optimizer: optax's state.
        totals: metrics since the last written line, as sums.
        finite: False from the first step on whose loss or gradient was not finite; nothing moves
            any more then.
    """

    step: Int[Array, ""]
    trainable: Parameters
    optimizer: Any
    totals: dict[str, Sum]
    finite: Bool[Array, ""]


class Fixed(NamedTuple):
    """What a step reads and never changes.

    Attributes:
        frozen: parameters of the policy that do not train, by path.
        reference: all parameters of a frozen model to compare with; None where the reference's
            log-probabilities come with the batch.
    """

    frozen: Parameters
    reference: Parameters | None = None


class Sums(NamedTuple):
    """What micro-batches add up to: the gradient of the summed loss, the loss, the metrics."""

    gradient: Parameters
    loss: Sum
    metrics: dict[str, Sum]


class Report(NamedTuple):
    """What the host reads of a step, when it is good and ready.

    Attributes:
        totals: metrics since the last written line, this step included.
        finite: False if this step or one before it was not finite, and so did not happen.
    """

    totals: dict[str, Sum]
    finite: Bool[Array, ""]


@dataclass(frozen=True, eq=False)
class Learner:
    """What a run is made of; every method is a pure function of its arguments, ready for jit.

    Attributes:
        module: the policy's structure, without numbers.
        transformation: optax's rule.
        rate: learning rate as a function of the step.
        log_every: steps that one line of metrics sums up.
        base: whether the reference is the policy without its adapters.
        mesh: the devices the model is spread over.
    """

    module: Decoder | RewardModel
    transformation: optax.GradientTransformation
    rate: optax.Schedule
    log_every: int = 1
    base: bool = False
    mesh: jax.sharding.Mesh | None = None

    def start(
        self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any
    ) -> tuple[TrainState, Sums]:
        """The state before the first step, and sums of nothing.

        The batch only tells which metrics there will be. To be jitted: it makes every array anew.
        """
        shapes = jax.eval_shape(self.sums, trainable, fixed, batch, objective)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zero = jnp.zeros((), jnp.float32)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            trainable=jax.tree.map(jnp.copy, trainable),
            optimizer=self.transformation.init(trainable),
            totals={name: (zero, zero) for name in (*ALWAYS, *sums.metrics)},
            finite=jnp.ones((), bool),
        )
        return state, sums

    def scores(self, trainable: Parameters, fixed: Fixed, batch: Batch) -> Scores:
        """Score a batch under the policy, and under the reference where it is a model."""
        policy = with_parameters(self.module, fixed.frozen | trainable)
        if self.base:
            return score(policy, batch, reference=policy, mesh=self.mesh)
        if fixed.reference is None:
            return score(policy, batch, mesh=self.mesh)
        reference = with_parameters(self.module, fixed.reference)
        return score(policy, batch, reference=reference, mesh=self.mesh)

    def terms(self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any) -> Terms:
        """The objective on a batch, with the metrics that every objective shares.

        Args:
            trainable: what a gradient is taken with respect to.
            fixed: the rest of the model, and the reference.
            batch: packed groups.
            objective: any of ``objectives``; for a reward model, one of differences of scores.
        """
        if isinstance(self.module, RewardModel):
            model = with_parameters(self.module, fixed.frozen | trainable)
            logp, responses = score_rewards(model, batch)
            return objective(logp, responses)
        scores = self.scores(trainable, fixed, batch)
        responses = as_responses(batch, ref_logp_of(scores, batch))
        terms = objective(scores.logp, responses)
        counted = (responses.mask & responses.exists[..., None]).astype(jnp.float32)
        lengths = jnp.sum(counted, axis=-1)
        shared = {"response_length": Weighted(lengths, (lengths > 0).astype(jnp.float32))}
        for name in ("entropy", "forward_kl", "reverse_kl"):
            values = getattr(scores, name)
            if values is not None:
                shared[f"{name}_per_token"] = Weighted(jax.lax.stop_gradient(values), counted)
        return Terms(terms.value, terms.weight, terms.metrics | shared)

    def log_ratio(self, trainable: Parameters, fixed: Fixed, batch: Batch) -> Sum:
        """Summed log-ratio to the reference, nats, and the number of responses: KTO's z."""
        scores = self.scores(trainable, fixed, batch)
        responses = as_responses(batch, ref_logp_of(scores, batch))
        seen = scored(scores.logp, responses)
        return jnp.sum(seen.log_ratio), jnp.sum(seen.exists.astype(jnp.float32))

    def measure(
        self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any
    ) -> dict[str, Sum]:
        """Loss and metrics of a batch as sums, without a gradient."""
        terms = self.terms(trainable, fixed, batch, objective)
        return {"loss": terms.total()} | {
            name: metric.total() for name, metric in terms.metrics.items()
        }

    def sums(self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any) -> Sums:
        """Gradient, loss and metrics of one micro-batch."""

        def total(trainable: Parameters) -> tuple[Float[Array, ""], tuple[Any, Any]]:
            terms = self.terms(trainable, fixed, batch, objective)
            loss, weight = terms.total()
            metrics = {name: metric.total() for name, metric in terms.metrics.items()}
            return loss, (weight, metrics)

        (loss, (weight, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(trainable)
        return Sums(gradient, (loss, weight), metrics)

    def add(
        self, sums: Sums, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any
    ) -> Sums:
        """What has been added up, and one more micro-batch."""
        return jax.tree.map(jnp.add, sums, self.sums(trainable, fixed, batch, objective))

    def apply(self, state: TrainState, sums: Sums) -> tuple[TrainState, Sums, Report]:
        """Move the parameters by the gradient of the mean loss, if it is finite.

        Returns:
            The state after the step, sums of nothing for the next one, and what to write down.
        """
        loss, weight = sums.loss
        share = 1 / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny)
        # A batch of ties has no unit: its gradient is 0 and not 0 times the largest number.
        gradient = jax.tree.map(
            lambda g: jnp.where(weight > 0, g * share, 0).astype(g.dtype), sums.gradient
        )
        norm = optax.global_norm(gradient)
        finite = state.finite & jnp.isfinite(norm) & jnp.isfinite(loss)
        updates, moved = self.transformation.update(gradient, state.optimizer, state.trainable)

        def chosen(after: Any, before: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, before)

        one = jnp.ones((), jnp.float32)
        rate = jnp.asarray(self.rate(state.step), jnp.float32)
        seen = {"loss": (loss, weight), "gradient_norm": (norm, one), "learning_rate": (rate, one)}
        fresh = state.step % self.log_every == 0
        totals = jax.tree.map(
            lambda before, step: jnp.where(fresh, step, before + step),
            state.totals,
            seen | sums.metrics,
        )
        after = TrainState(
            step=state.step + finite.astype(jnp.int32),
            trainable=chosen(optax.apply_updates(state.trainable, updates), state.trainable),
            optimizer=chosen(moved, state.optimizer),
            totals=totals,
            finite=finite,
        )
        return after, jax.tree.map(jnp.zeros_like, sums), Report(totals, finite)


def ref_logp_of(scores: Scores, batch: Batch) -> PerToken | None:
    """The reference's log-probabilities: from its own pass, or from the batch."""
    return batch.ref_logp if scores.ref_logp is None else scores.ref_logp
