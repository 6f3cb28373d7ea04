"""The significance penalty on a GPU, by the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import penalty


def _number(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a 0-d float64 tensor on the device. A number on the CPU travels with the launch that fills the tensor."""
    if tensor.device.type == "cpu" and device.type != "cpu":
        return torch.full((), float(tensor), dtype=torch.float64, device=device)
    return tensor.to(device, torch.float64)


class CudaPenalty:
    """The compiled penalty kernels, behind the operators of ``csrc/cuda/operators.cpp``."""

    def __init__(self, module: Any) -> None:
        self._operators = getattr(torch.ops, module.operators)

    @torch.no_grad()
    def value(
        self, params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
    ) -> Tensor:
        """Compute :func:`.reference.penalty.penalty_reference`."""
        penalty.check_lists(params, anchors, significance, strength)
        device = params[0].device if params else strength.device
        value: Tensor = self._operators.significance_penalty(params, anchors, significance, _number(strength, device))
        return value

    @torch.no_grad()
    def gradients(
        self,
        grad: Tensor,
        params: Sequence[Tensor],
        anchors: Sequence[Tensor],
        significance: Sequence[Tensor],
        strength: Tensor,
    ) -> list[Tensor]:
        """Compute :func:`.reference.penalty.penalty_backward_reference`."""
        penalty.check_lists(params, anchors, significance, strength)
        device = params[0].device if params else strength.device
        factor = _number(grad, device) * _number(strength, device)
        gradients: list[Tensor] = self._operators.significance_penalty_backward(params, anchors, significance, factor)
        return gradients
