"""Magnitude: the significance of a weight is its absolute value, the criterion of magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from srft_kernels.significance.estimators.base import Estimator


@dataclass(frozen=True)
class Magnitude(Estimator):
    """P = |θ|. It needs no data."""

    name: ClassVar[str] = "magnitude"
    needs_batches: ClassVar[bool] = False

    def of_weight(self, weight: Tensor) -> Tensor:
        return weight.abs()
