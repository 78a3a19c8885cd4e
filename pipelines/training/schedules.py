"""The learning rate as a pure function of how far training has come: nothing to save, nothing to restore."""

import math
from collections.abc import Sequence

from pipelines.config.training import OptimConfig

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 3
COSINE_EPOCHS = 20


def learning_rate(settings: OptimConfig, *, step: int, epoch: int, progress: float, figures: Sequence[float]) -> float:
    """The learning rate of a step.

    `step` counts the steps before it, `epoch` the finished epochs, `progress` in [0, 1] is the share of all training
    that is behind us, and `figures` holds the validation figure of each epoch whose figure is known (-inf where it
    could not be read). Sources of factor, patience and period: method.md, "Training".

    constant: as set.
    cosine: from learning_rate to floor over the whole run (the paper's stage 2).
    cosine20: a cosine of the epoch, down to floor after 20 epochs and up again (what the release's stage 2 does).
    plateau: halved whenever the best figure is more than PLATEAU_PATIENCE epochs old, counted anew after each halving
    (stage 1 of both).

    Over the first `warmup_steps` steps the rate rises linearly to what the schedule says.
    """
    rise = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return rise * _scheduled(settings, epoch, progress, figures)


def _scheduled(settings: OptimConfig, epoch: int, progress: float, figures: Sequence[float]) -> float:
    top, floor = settings.learning_rate, settings.floor
    if settings.schedule == "cosine":
        return _cosine(top, floor, min(progress, 1.0))
    if settings.schedule == "cosine20":
        return _cosine(top, floor, epoch / COSINE_EPOCHS)
    if settings.schedule == "plateau":
        best, waited = -math.inf, 0
        for figure in figures:
            best, waited = (figure, 0) if figure > best else (best, waited + 1)
            if waited > PLATEAU_PATIENCE:
                top, waited = max(top * PLATEAU_FACTOR, floor), 0
    return top


def _cosine(top: float, floor: float, part: float) -> float:
    return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * part))
