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

from llm.critic import with_value_loss
from llm.data.packing import Batch
from llm.mesh import spread
from llm.model import ActorCritic, Decoder, RewardModel, with_parameters
from llm.model.architecture import Architecture
from llm.sampler.draws import Rule
from llm.scoring import UNTOUCHED, Scores, as_responses, score, score_rewards
from llm.settings import CriticSettings
from objectives.pytrees import pytree
from objectives.responses import PerToken, Responses, scored
from objectives.terms import Terms, Weighted

Parameters: TypeAlias = dict[str, Array]
Sum: TypeAlias = tuple[Float[Array, ""], Float[Array, ""]]
"""(sum of value times weight, sum of weight): a mean that still adds."""

ALWAYS = ("loss", "gradient_norm", "learning_rate")
"""Metrics every step has, whatever the objective."""


class Behind(NamedTuple):
    """The policy as it was when the steps on the collection at hand began.

    Attributes:
        step: optimizer steps it had taken.
        trainable: its parameters that train, by path.
    """

    step: Int[Array, ""]
    trainable: Parameters


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
        behind: in a checkpoint, whoever writes the next collection; None where that is the policy
            as it will be, and always while steps are taken, which leave it alone.
    """

    step: Int[Array, ""]
    trainable: Parameters
    optimizer: Any
    totals: dict[str, Sum]
    finite: Bool[Array, ""]
    behind: Behind | None = None


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
        counted: 1 for a token that is scored, else 0.
        value: what the critic says, in units of the reward; None without one.
    """

    logp: PerToken
    responses: Responses
    metrics: dict[str, Weighted]
    counted: PerToken
    value: PerToken | None = None


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
        rule: how responses are drawn from logits: the distribution that is trained.
        critic: how an ``ActorCritic`` learns its values; None for any other module.

    Raises:
        ValueError: if one of ``module`` and ``critic`` has a critic and the other has not.
    """

    module: Decoder | RewardModel | ActorCritic
    transformation: optax.GradientTransformation
    rate: optax.Schedule
    log_every: int = 1
    base: bool = False
    mesh: jax.sharding.Mesh | None = None
    rule: Rule = UNTOUCHED
    critic: CriticSettings | None = None

    def __post_init__(self) -> None:
        if isinstance(self.module, ActorCritic) != (self.critic is not None):
            raise ValueError(
                f"module is a {type(self.module).__name__} and critic is {self.critic!r}; give "
                "settings of a critic to an ActorCritic and to nothing else."
            )

    @property
    def architecture(self) -> Architecture:
        """What the decoder's config says."""
        module = self.module
        return (module if isinstance(module, Decoder) else module.decoder).architecture

    def start(
        self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any
    ) -> TrainState:
        """The state before the first step.

        The batch only tells which metrics there will be. To be jitted: it makes every array anew.
        """
        shapes = jax.eval_shape(self.sums, trainable, fixed, batch, objective)
        zero = jnp.zeros((), jnp.float32)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            trainable=jax.tree.map(jnp.copy, trainable),
            optimizer=self.transformation.init(trainable),
            totals={name: (zero, zero) for name in (*ALWAYS, *shapes.metrics)},
            finite=jnp.ones((), bool),
        )
        return spread(self.mesh, state)

    def nothing(self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any) -> Sums:
        """Sums of nothing, for micro-batches to be added to; nothing is read but shapes."""
        shapes = jax.eval_shape(self.sums, trainable, fixed, batch, objective)
        return spread(self.mesh, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))

    def judge(self, trainable: Parameters, fixed: Fixed, batch: Batch) -> Scores:
        """What policy, reference and critic say of every scored token, under the rule.

        For fresh responses, before the first step on them. Log-probabilities and the exact KLs of
        the next-token distributions are in nats, values in units of the reward. What nobody is
        there to say is None. The module must be a policy.
        """
        model: Any = with_parameters(self.module, fixed.frozen | trainable)
        reference: Any = model if self.base else None
        if fixed.reference is not None:
            reference = with_parameters(self.module, fixed.reference)
        if isinstance(reference, ActorCritic):
            reference = reference.decoder
        found = score(model, batch, rule=self.rule, reference=reference, mesh=self.mesh)
        if found.ref_logp is None and batch.ref_logp is not None:
            found = found._replace(ref_logp=jnp.asarray(batch.ref_logp))
        return found

    def look(self, trainable: Parameters, fixed: Fixed, batch: Batch) -> Seen:
        """Turn a batch into what an objective is given, and what else the pass has to say."""
        if isinstance(self.module, RewardModel):
            model = with_parameters(self.module, fixed.frozen | trainable)
            scores, responses = score_rewards(model, batch)
            return Seen(scores, responses, {}, counted_of(responses))
        found = self.judge(trainable, fixed, batch)
        responses = as_responses(batch, found.ref_logp)
        counted = counted_of(responses)
        lengths = jnp.sum(counted, axis=-1)
        metrics = {"response_length": Weighted(lengths, (lengths > 0).astype(jnp.float32))}
        measured = {name: getattr(found, name) for name in ("forward_kl", "reverse_kl")}
        if batch.old_logp is not None:
            # At the first step on fresh responses, how far sampler and scorer disagree; later, how
            # stale the responses are.
            measured["off_policy"] = jnp.abs(found.logp - responses.old_logp)
        for name, values in measured.items():
            if values is not None:
                metrics[f"{name}_per_token"] = Weighted(jax.lax.stop_gradient(values), counted)
        return Seen(found.logp, responses, metrics, counted, found.value)

    def terms(self, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any) -> Terms:
        """The objective on a batch, with the metrics that every objective shares.

        Args:
            trainable: what a gradient is taken with respect to.
            fixed: the rest of the model, and the reference.
            batch: packed groups.
            objective: any of ``objectives``; for a reward model, one of differences of scores.

        Raises:
            ValueError: if there is a critic, and the objective's unit is not the token or the
                batch lacks what a critic learns from.
        """
        seen = self.look(trainable, fixed, batch)
        terms = objective(seen.logp, seen.responses)
        if self.critic is not None and seen.value is not None:
            terms = with_value_loss(terms, seen.value, batch, seen.counted, self.critic)
        # A log-ratio to nothing is not called one, and there is no KL to nothing.
        what = self.compared(fixed, batch)
        metrics = {
            name.replace("log_ratio", what): metric
            for name, metric in terms.metrics.items()
            if what == "log_ratio" or name != "kl_to_reference"
        }
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
        return Sums(spread(self.mesh, gradient), (loss, weight), metrics)

    def add(
        self, sums: Sums, trainable: Parameters, fixed: Fixed, batch: Batch, objective: Any
    ) -> Sums:
        """What has been added up, and one more micro-batch."""
        one = self.sums(trainable, fixed, batch, objective)
        return spread(self.mesh, jax.tree.map(jnp.add, sums, one))

    def step(
        self, state: TrainState, fixed: Fixed, batch: Batch, objective: Any
    ) -> tuple[TrainState, Report]:
        """A whole step on one batch: its gradient is never kept beside a sum of gradients."""
        return self.moved(state, self.sums(state.trainable, fixed, batch, objective))

    def apply(self, state: TrainState, sums: Sums) -> tuple[TrainState, Sums, Report]:
        """Take a step on what micro-batches added up to.

        Returns:
            The state after the step, sums of nothing for the next one, and what to write down.
        """
        after, report = self.moved(state, sums)
        return after, spread(self.mesh, jax.tree.map(jnp.zeros_like, sums)), report

    def moved(self, state: TrainState, sums: Sums) -> tuple[TrainState, Report]:
        """Move the parameters by the gradient of the mean loss, if all of it is finite.

        Returns:
            The state after the step, and what to write down.
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
        return spread(self.mesh, after), Report(totals, finite)


def counted_of(responses: Responses) -> PerToken:
    """1 for a token that is scored, else 0."""
    return (responses.mask & responses.exists[..., None]).astype(jnp.float32)
