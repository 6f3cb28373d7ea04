"""Estimates from the spread of draws how far their average still is from what it converges to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from srft_kernels.sharded import whole

# A spread from fewer draws says too little to stop by. With eight draws its own standard error is a quarter.
LEAST_DRAWS = 8


class RunningError:
    """The relative error of a weighted mean of independent draws, each a list of tensors.

    It estimates sqrt(E‖m - μ‖²) / ‖μ‖ for the mean m of the draws so far and its expectation μ. The norm is taken over
    all elements of all tensors together, or of one tensor. This is a root mean square and not a bound for any one
    element. E‖m - μ‖² is the draws' variance over their effective number (Σw)² / Σw². ‖μ‖² is ‖m‖² less that, because
    noise makes a mean longer.

    The squared deviations are summed as the draws come (Welford 1962; West 1979 for weights), so that no draw is kept.
    Each draw costs one read of the draw and of the sums. Nothing is synchronized with a device before :meth:`relative`
    is called.
    """

    def __init__(self) -> None:
        self.draws = 0
        self._weight = self._squared_weights = 0.0
        self._deviations: list[Tensor] = []

    @torch.no_grad()
    def observe(self, weighted: Sequence[Tensor | None], weight: float, sums: Sequence[Tensor]) -> None:
        """Record a draw *before* the caller adds it to ``sums`` in place.

        Args:
            weighted: The draw times its ``weight``. ``None`` stands for a tensor of zeros.
            weight: The weight of the draw.
            sums: The sums of the weighted draws before this one.
        """
        before = self._weight
        self.draws += 1
        self._weight += weight
        self._squared_weights += weight * weight
        if not before:
            self._deviations = [torch.zeros((), dtype=torch.float64, device=s.device) for s in sums]
            return
        share = weight * before / self._weight
        for deviation, draw, total in zip(self._deviations, weighted, sums, strict=True):
            gap = total / before if draw is None else total / before - draw / weight
            deviation.add_(_squared_norm(gap), alpha=share)

    @property
    def effective_draws(self) -> float:
        return self._weight**2 / self._squared_weights if self._squared_weights else 0.0

    def relative(self, sums: Sequence[Tensor]) -> tuple[float, list[float]]:
        """Return the error of ``sums`` over the weight so far, relative to its length: of all tensors, and of each.

        It is infinite if nothing but noise can be seen, as with fewer than two draws, and 0 if every draw was the same.
        """
        if self.draws < 2:
            return math.inf, [math.inf] * len(sums)
        scale = 1.0 / (self._weight * (self.effective_draws - 1.0))
        variances = [d * scale for d in _floats(self._deviations)]
        lengths = [m / self._weight**2 for m in _floats([_squared_norm(s) for s in sums])]
        each = [_ratio(v, m) for v, m in zip(variances, lengths, strict=True)]
        return _ratio(sum(variances), sum(lengths)), each


def _squared_norm(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return whole(norm).square()


def _floats(scalars: list[Tensor]) -> list[float]:
    one_device = len({s.device for s in scalars}) == 1
    values: list[float] = torch.stack(scalars if one_device else [s.cpu() for s in scalars]).tolist()
    return values


def _ratio(variance: float, length: float) -> float:
    if variance == 0.0:
        return 0.0
    signal = length - variance
    return math.sqrt(variance / signal) if signal > 0.0 else math.inf
