"""The learning rate as a pure function of how far training has come: nothing is stored in checkpoints."""

import math
from collections.abc import Sequence

from pipelines.config.training import OptimConfig

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 3
COSINE_EPOCHS = 20


def learning_rate(
    settings: OptimConfig, *, step: int, total: int, epoch: int, progress: float, metrics: Sequence[float]
) -> float:
    """The learning rate of a step.

    `step` and `epoch` count the finished ones, `total` are the steps of the whole training, `progress` in [0, 1] is the
    share of it that is finished after this step, and `metrics` holds the monitored metric of each validated epoch (-inf
    where there is none).

    constant: `learning_rate`.
    cosine: from `learning_rate` to `floor` over the whole training. Stage 2 of the paper (Lou et al., IEEE TIFS 2025,
        implementation details).
    cosine20: a cosine of the epoch, down to `floor` after COSINE_EPOCHS epochs and up again. Stage 2 of the public
        release, whose period is fixed.
    plateau: multiplied by PLATEAU_FACTOR when the best metric is more than PLATEAU_PATIENCE epochs old, counted anew
        after each reduction. Stage 1 of the paper and of the release, with the release's factor and patience.
    poly: from `learning_rate` to `floor` by (1 - step/total) to the power of `power`, step by step. MSCCNet (floor: a
        hundredth of the rate) and PCLMix (floor 0).

    Over the first `warmup_steps` steps the rate rises linearly to what the schedule says.
    """
    warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return warmup * _scheduled(settings, step / total, epoch, progress, metrics)


def warmup_warning(settings: OptimConfig, section: str, total: int) -> str | None:
    """What to say of a training of `total` steps that ends within its warm-up; None of one that does not."""
    if total > settings.warmup_steps:
        return None
    share = total / (settings.warmup_steps + 1)
    return (
        f"{section}.warmup_steps is {settings.warmup_steps}, but the training has {total} steps: its learning rate"
        f" rises to {share:.1%} of {section}.learning_rate; set {section}.warmup_steps={total // 20}, a twentieth"
    )


def _scheduled(settings: OptimConfig, share: float, epoch: int, progress: float, metrics: Sequence[float]) -> float:
    rate, floor = settings.learning_rate, settings.floor
    if settings.schedule == "poly":
        return (rate - floor) * (1 - share) ** settings.power + floor
    if settings.schedule == "cosine":
        return _cosine(rate, floor, min(progress, 1.0))
    if settings.schedule == "cosine20":
        return _cosine(rate, floor, epoch / COSINE_EPOCHS)
    if settings.schedule == "plateau":
        best, epochs_since = -math.inf, 0
        for metric in metrics:
            best, epochs_since = (metric, 0) if metric > best else (best, epochs_since + 1)
            if epochs_since > PLATEAU_PATIENCE:
                rate, epochs_since = max(rate * PLATEAU_FACTOR, floor), 0
    return rate


def _cosine(top: float, floor: float, share: float) -> float:
    return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * share))
