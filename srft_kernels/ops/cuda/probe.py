"""Probes on a GPU, by the compiled kernels.

Seed, step and scales travel with the launch, so a captured graph draws the same probe at every replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import probe


class CudaProbe:
    """The compiled probe kernels, with one launch for each combination of dtypes and few hundred tensors."""

    def __init__(self, module: Any) -> None:
        self._operators = getattr(torch.ops, module.operators)

    def fill(self, out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
        """Compute :func:`.reference.probe.fill_reference`."""
        self._operators.fill_probes_(out, seed, step, tensors)

    def perturb(
        self,
        params: Sequence[Tensor],
        originals: Sequence[Tensor],
        scale: float,
        seed: int,
        step: int,
        tensors: Sequence[int],
    ) -> None:
        """Compute :func:`.reference.probe.perturb_reference`."""
        read = [probe.readable(o, p) for o, p in zip(originals, params, strict=True)]
        self._operators.perturb_(params, read, scale, seed, step, tensors)

    def fold(
        self,
        estimates: Sequence[Tensor],
        plus: Sequence[Tensor],
        minus: Sequence[Tensor],
        decay: float,
        weight: float,
        seed: int,
        step: int,
        tensors: Sequence[int],
    ) -> None:
        """Compute :func:`.reference.probe.fold_reference`."""
        plus, minus = probe.of_one_dtype(estimates, plus, minus)
        self._operators.fold_probes_(estimates, plus, minus, decay, weight, seed, step, tensors)
