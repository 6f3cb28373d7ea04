"""The significance penalty and its gradient in plain torch, with which every kernel is compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srft_kernels.ops.penalty import check_lists, value_dtype
from srft_kernels.ops.tensors import element_dtype


def penalty_reference(
    params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
) -> Tensor:
    """Return the penalty in plain torch: 0-d, on the parameters' device, or on the strength's for an empty list."""
    check_lists(params, anchors, significance, strength)
    device = params[0].device if params else strength.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for p, a, s in zip(params, anchors, significance, strict=True):
        dtype = element_dtype(p)
        distance = p.to(dtype) - a.to(dtype)
        total = total + (s.to(dtype) * distance * distance).sum(dtype=torch.float64)
    return (0.5 * strength.to(torch.float64) * total).to(value_dtype(params))


def penalty_backward_reference(
    grad: Tensor,
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    significance: Sequence[Tensor],
    strength: Tensor,
) -> list[Tensor]:
    """Return ``grad · strength · P (θ - a)`` for each tensor, contiguous, with the parameters' dtypes and shapes."""
    check_lists(params, anchors, significance, strength)
    factor = grad.to(torch.float64) * strength.to(torch.float64)
    gradients = []
    for p, a, s in zip(params, anchors, significance, strict=True):
        dtype = element_dtype(p)
        pull = factor.to(dtype) * s.to(dtype) * (p.to(dtype) - a.to(dtype))
        gradients.append(pull.to(p.dtype).contiguous())
    return gradients
