"""The optimizer: optax's rules, with the choices that matter spelled out once."""

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
    """Clip by global norm, then the rule; float32 state whatever the compute precision."""
    decay = {"weight_decay": settings.weight_decay, "mask": matrices}
    betas = {"b1": settings.beta1, "b2": settings.beta2}
    rule = {
        "adamw": lambda: optax.adamw(rate, **betas, **decay),
        "lion": lambda: optax.lion(rate, **betas, **decay),
        "adafactor": lambda: optax.adafactor(rate, weight_decay_rate=settings.weight_decay or None),
        "sgd": lambda: optax.sgd(rate),
    }[settings.name]()
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), rule)


def matrices(parameters: dict[str, object]) -> dict[str, bool]:
    """Which parameters decay: matrices do; scales and biases, whatever is stacked, do not."""
    return {path: not path.endswith(("scale", "bias")) for path in parameters}
