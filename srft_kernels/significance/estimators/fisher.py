"""The empirical Fisher diagonal by random signs, unbiased and with one backward pass per batch.

For independent signs s_i ∈ {-1, +1}, E[(Σ s_i g_i)²] = Σ g_i², because the cross terms s_i s_j have mean zero. The
square of the gradient of the sign-weighted sum of per-sample losses therefore estimates what the per-sample gradients
would give, at the price of one of them. Its variance per element and draw is 2 ((Σ g_i²)² - Σ g_i⁴).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from srft_kernels.significance.estimators.base import (
    Contribution,
    Estimator,
    Request,
    add_squares,
    per_sample_losses,
)


@dataclass(frozen=True)
class Fisher(Estimator):
    """Estimates the empirical Fisher diagonal by random signs.

    ``draws`` is the number of independent sign vectors per batch, which are averaged. Each takes one backward pass.

    ``loss_scale`` multiplies the loss and is divided out of the gradients. It is for fp16 parameters, whose gradients
    underflow below 6e-8.
    """

    name: ClassVar[str] = "fisher"
    draws: int = 1
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        check_scale(self.loss_scale)

    def contribution(self, request: Request) -> Contribution:
        losses = per_sample_losses(request)
        parameters = list(request.parameters.values())
        sums: list[Tensor | None] = [None] * len(parameters)
        for draw in range(self.draws):
            # The signs are always drawn on the CPU, so that the same seed gives the same signs on every device.
            signs = torch.randint(0, 2, losses.shape, generator=request.generator) * 2 - 1
            weighted = (losses * signs.to(device=losses.device, dtype=losses.dtype)).sum()
            add_squares(sums, weighted, parameters, self.loss_scale, keep_graph=draw + 1 < self.draws)
        for total in sums:
            if total is not None:
                total.div_(self.draws)
        return Contribution(sums, samples=losses.numel())


def check_scale(loss_scale: float) -> None:
    """Raise ``ValueError`` unless ``loss_scale`` is positive and finite."""
    if not 0.0 < loss_scale < float("inf"):
        raise ValueError(f"loss_scale must be positive and finite, got {loss_scale}")
