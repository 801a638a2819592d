"""One optimizer step: gradients of micro-batches add up exactly, then divide once, then move.

An objective returns a value and a weight per unit, so a batch too large for the device may be cut
anywhere: the sums over its pieces are the sums over the whole. Metrics are sums too and travel the
same way. A step whose loss, gradient or update is not finite moves nothing.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from llm.data.packing import Batch
from llm.model import Decoder, RewardModel, with_parameters
from llm.scoring import as_responses, score, score_rewards
from objectives.pytrees import pytree
from objectives.responses import PerToken, Responses, scored
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
        finite: False from the first step on whose loss, gradient or update was not finite; nothing
            moves any more then, and the rest of the state is as that step found it.
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


class Seen(NamedTuple):
    """A batch as an objective sees it.

    Attributes:
        logp: log-probabilities of the policy, nats; scores, where it is a reward model.
        responses: everything about the batch that is constant.
        metrics: what the pass over the batch measured whatever the objective.
    """

    logp: PerToken
    responses: Responses
    metrics: dict[str, Weighted]


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

    def look(self, trainable: Parameters, fixed: Fixed, batch: Batch) -> Seen:
        """Turn a batch into what an objective is given, and what else the pass has to say."""
        values = fixed.frozen | trainable
        if isinstance(self.module, RewardModel):
            return Seen(*score_rewards(with_parameters(self.module, values), batch), {})
        policy = with_parameters(self.module, values)
        reference = policy if self.base else None
        if fixed.reference is not None:
            reference = with_parameters(self.module, fixed.reference)
        found = score(policy, batch, reference=reference, mesh=self.mesh)
        ref_logp = found.ref_logp
        if ref_logp is None and batch.ref_logp is not None:
            ref_logp = jnp.asarray(batch.ref_logp)
        responses = as_responses(batch, ref_logp)
        counted = (responses.mask & responses.exists[..., None]).astype(jnp.float32)
        lengths = jnp.sum(counted, axis=-1)
        metrics = {"response_length": Weighted(lengths, (lengths > 0).astype(jnp.float32))}
        for name in ("entropy", "forward_kl", "reverse_kl"):
            values = getattr(found, name)
            if values is not None:
                metrics[f"{name}_per_token"] = Weighted(jax.lax.stop_gradient(values), counted)
        return Seen(found.logp, responses, metrics)

    def terms(self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any) -> Terms:
        """The objective on a batch, with the metrics that every objective shares.

        Args:
            trainable: what a gradient is taken with respect to.
            fixed: the rest of the model, and the reference.
            batch: packed groups.
            objective: any of ``objectives``; for a reward model, one of differences of scores.
        """
        seen = self.look(trainable, fixed, batch)
        terms = objective(seen.logp, seen.responses)
        # A log-ratio to nothing is not called one.
        what = self.compared(fixed, batch)
        metrics = {name.replace("log_ratio", what): m for name, m in terms.metrics.items()}
        return replace(terms, metrics=metrics | seen.metrics)

    def compared(self, fixed: Fixed, batch: Batch) -> str:
        """What an objective's log-ratios are here: rewards, or of one model or of two."""
        if isinstance(self.module, RewardModel):
            return "reward"
        alone = fixed.reference is None and not self.base and batch.ref_logp is None
        return "logp" if alone else "log_ratio"

    def log_ratio(self, trainable: Parameters, fixed: Fixed, batch: Batch) -> Sum:
        """Summed log-ratio to the reference, nats, and the number of responses: KTO's z."""
        seen = self.look(trainable, fixed, batch)
        clean = scored(seen.logp, seen.responses)
        return jnp.sum(clean.log_ratio), jnp.sum(clean.exists.astype(jnp.float32))

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
        """Move the parameters by the gradient of the mean loss, if all of it is finite.

        Returns:
            The state after the step, sums of nothing for the next one, and what to write down.
        """
        loss, weight = sums.loss
        # A batch of ties has no unit: it moves nothing, whatever rounding left in the sums.
        share = jnp.where(weight > 0, 1 / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny), 0)
        gradient = jax.tree.map(lambda g: (g * share).astype(g.dtype), sums.gradient)
        norm = optax.tree.norm(gradient)
        updates, moved = self.transformation.update(gradient, state.optimizer, state.trainable)
        # An update can be infinite where the gradient is not, with a learning rate beyond reason.
        sizes = jnp.stack([loss, norm, optax.tree.norm(updates)])
        finite = state.finite & jnp.all(jnp.isfinite(sizes))

        def chosen(after: Any, before: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, before)

        one = jnp.ones((), jnp.float32)
        rate = jnp.asarray(self.rate(state.step), jnp.float32)
        always = {"loss": (loss, weight), "gradient_norm": (norm, one)}
        always["learning_rate"] = (rate, one)
        fresh = state.step % self.log_every == 0
        totals = jax.tree.map(
            lambda before, step: jnp.where(fresh, step, before + step),
            state.totals,
            always | sums.metrics,
        )
        after = TrainState(
            step=state.step + finite.astype(jnp.int32),
            trainable=chosen(optax.apply_updates(state.trainable, updates), state.trainable),
            optimizer=chosen(moved, state.optimizer),
            totals=chosen(totals, state.totals),
            finite=finite,
        )
        return after, jax.tree.map(jnp.zeros_like, sums), Report(totals, finite)
