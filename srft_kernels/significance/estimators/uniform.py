"""Uniform: all weights have the same significance, which makes the prior pull L2-SP (arXiv 1802.01483)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from srft_kernels.significance.estimators.base import Estimator


@dataclass(frozen=True)
class Uniform(Estimator):
    """P = 1. It needs no data."""

    name: ClassVar[str] = "uniform"
    needs_batches: ClassVar[bool] = False

    def of_weight(self, weight: Tensor) -> Tensor:
        return torch.ones_like(weight)
