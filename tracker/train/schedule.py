"""Learning rate over the run: linear warm-up, then cosine, one step, or constant."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tracker.config import TrainSection


def lr_factor(step: int, settings: TrainSection) -> float:
    """Return what the base learning rate of every group is multiplied by at ``step`` (0-based)."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, settings.total_steps - settings.warmup_steps)
    if settings.schedule == "cosine":
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return settings.final_lr + (1.0 - settings.final_lr) * cosine
    if settings.schedule == "step":
        return settings.step_factor if step >= settings.step_at * settings.total_steps else 1.0
    return 1.0


def lr_scheduler(optimizer: Optimizer, settings: TrainSection) -> LambdaLR:
    """Return the scheduler that multiplies every learning rate by :func:`lr_factor` of the step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, settings))
