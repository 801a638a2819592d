"""The optimizer: optax's rules, with the choices that matter spelled out once.

Every rule is the same four things one after the other: gradients that are too long are cut down,
the rule gives each number its direction, weight decay pulls matrices towards 0, and the learning
rate scales the sum.
"""

import optax

from llm.settings import OptimizerSettings


def schedule(settings: OptimizerSettings, peak: float, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step: a linear warm-up, then a fall to 0 at the end.

    Args:
        settings: shape and warm-up share.
        peak: the highest learning rate.
        steps: length of the run.
    """
    warmup = round(settings.warmup * steps)
    rest = max(steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[settings.schedule]
    if not warmup:
        return after
    # From 1/warmup and not from 0, so that no step is wasted on a learning rate of 0.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def optimizer(settings: OptimizerSettings, rate: optax.Schedule) -> optax.GradientTransformation:
    """A rule with clipping, decay and learning rate, whatever the rule.

    Args:
        settings: which rule, and its numbers.
        rate: learning rate as a function of the step.
    """
    rule = {
        "adamw": lambda: optax.scale_by_adam(settings.beta1, settings.beta2),
        "lion": lambda: optax.scale_by_lion(settings.beta1, settings.beta2),
        # Without a learning rate it already points downhill, where the others point uphill.
        "adafactor": lambda: optax.chain(optax.adafactor(), optax.scale(-1.0)),
        "sgd": optax.identity,
    }[settings.name]()
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        rule,
        optax.add_decayed_weights(settings.weight_decay, matrices),
        optax.scale_by_learning_rate(rate),
    )


def matrices(parameters: dict[str, object]) -> dict[str, bool]:
    """Which parameters decay: matrices do; scales and biases, whatever is stacked, do not."""
    return {path: not path.endswith(("scale", "bias")) for path in parameters}
