"""Probes on a GPU, by the compiled kernels.

Seed, step and scales travel with the launch, so a captured graph draws the same probe at every replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import probe
from srft_kernels.ops.cuda import current_stream
from srft_kernels.ops.tensors import DTYPE_CODES, addresses


class CudaProbe:
    """The compiled probe kernels, with one launch for each combination of dtypes and few hundred tensors."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def fill(self, out: Sequence[Tensor], seed: int, step: int, tensors: Sequence[int]) -> None:
        """Compute :func:`.reference.probe.fill_reference`."""
        self._module.fill_probes(**_described(out, [], [], seed, step, tensors))

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
        self._module.perturb(**_described(params, read, [], seed, step, tensors), scale=scale)

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
        self._module.fold_probes(**_described(estimates, plus, minus, seed, step, tensors), decay=decay, weight=weight)


def _described(
    targets: Sequence[Tensor],
    read: Sequence[Tensor],
    minus: Sequence[Tensor],
    seed: int,
    step: int,
    tensors: Sequence[int],
) -> dict[str, Any]:
    device = targets[0].device if targets else torch.device("cpu")
    absent = [0] * len(targets)
    columns = [addresses(listed) if listed else absent for listed in (targets, read, minus)]
    return {
        "sizes": [t.numel() for t in targets],
        "numbers": list(tensors),
        "dtypes": [DTYPE_CODES[t.dtype] for pair in zip(targets, read or targets, strict=True) for t in pair],
        "addresses": [place for places in zip(*columns, strict=True) for place in places],
        "seed": seed & (2**64 - 1),
        "step": step,
        "device": device.index or 0,
        "stream": current_stream(device),
    }
