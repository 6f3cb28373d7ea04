"""The training loop of the benches that are not the tracker's, and what is made of its losses."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def cosine(step: int, steps: int) -> float:
    """The share of the learning rate in a step: it falls from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1)))


def train(
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    steps: int,
    loss_of: Callable[[Batch], Tensor],
    each: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Train one step a batch with a cosine schedule over ``steps``, and return the losses.

    ``each(step)`` is called after every step.
    """
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(cosine, steps=steps))
    losses = []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        each(step)
    return losses


def first_and_last(losses: Sequence[float]) -> dict[str, float]:
    """The mean of the first and of the last tenth of a run's losses."""
    tenth = max(1, len(losses) // 10)
    return {"first_loss": sum(losses[:tenth]) / tenth, "last_loss": sum(losses[-tenth:]) / tenth}


def stages(method: str, steps: int) -> list[tuple[str, int]]:
    """What a method trains, ``"head"`` or ``"all"``, and for how many steps."""
    if method == "probe":
        return [("head", steps)]
    return [("head", steps // 2), ("all", steps - steps // 2)] if method == "lpft" else [("all", steps)]
