"""The significance penalty in Triton: tables and launches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops.penalty import check_lists, value_dtype
from srft_kernels.ops.tensors import element_dtype
from srft_kernels.ops.triton import launch, penalty_kernels
from srft_kernels.ops.triton.launch import CHUNK, COMPILED, element_type, on, owners_of, sent

kernels: Any = penalty_kernels
_KNOWN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _readable(tensors: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors as the kernels read them: dense, and of a dtype that they know."""
    return [
        (t if t.dtype in _KNOWN else t.to(element_dtype(p))).detach().contiguous()
        for t, p in zip(tensors, params, strict=True)
    ]


def _launch_penalty(lists: Sequence[list[Tensor]], factor: Tensor) -> Tensor:
    """Launch over parameters, anchors and significances, once for each combination of dtypes.

    If ``lists`` has a fourth list, the gradients are written there. Else the chunks' sums of P (theta - a)^2 are
    returned.
    """
    device = factor.device
    together: dict[tuple[torch.dtype, ...], list[int]] = {}
    for i, tensors in enumerate(zip(*lists, strict=True)):
        if tensors[0].numel():
            together.setdefault(tuple(t.dtype for t in tensors), []).append(i)
    found = []
    for dtypes, members in together.items():
        sizes = tuple(lists[0][i].numel() for i in members)
        before, owners = owners_of(sizes, device)
        addresses = [[listed[i].data_ptr() for i in members] for listed in lists]
        if len(addresses) == 3:
            addresses.append([0] * len(members))
        slots = torch.empty(before[-1] if len(lists) == 3 else 0, dtype=torch.float64, device=device)
        kernels.penalty[(before[-1],)](
            sent([*chain(*addresses), *sizes, *before[:-1]], device),
            len(members),
            owners,
            factor,
            slots,
            PARAM=element_type(dtypes[0]),
            ANCHOR=element_type(dtypes[1]),
            SIGNIFICANCE=element_type(dtypes[2]),
            GRADIENT=len(lists) == 4,
            BLOCK=launch.BLOCK,
            CHUNK=CHUNK,
            **COMPILED,
        )
        found.append(slots)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=device)


def penalty_value(
    params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
) -> Tensor:
    """Return ``1/2 strength sum P (theta - a)^2``, as :func:`..reference.penalty.penalty_reference` defines it.

    The sum is in float64 and in a fixed order.
    """
    check_lists(params, anchors, significance, strength)
    device = params[0].device if params else strength.device
    factor = 0.5 * strength.to(device, torch.float64)
    with on(device):
        sums = _launch_penalty([_readable(t, params) for t in (params, anchors, significance)], factor)
    return (factor * sums.sum()).to(value_dtype(params))


def penalty_gradients(
    grad: Tensor,
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    significance: Sequence[Tensor],
    strength: Tensor,
) -> list[Tensor]:
    """Return the gradients of the penalty, ``grad strength P (theta - a)``, for each tensor.

    :func:`..reference.penalty.penalty_backward_reference` defines them. They are contiguous and have the parameters'
    dtypes.
    """
    check_lists(params, anchors, significance, strength)
    if not params:
        return []
    device = params[0].device
    factor = grad.to(device, torch.float64) * strength.to(device, torch.float64)
    lists = [_readable(t, params) for t in (params, anchors, significance)]
    gradients = [torch.empty_like(p) for p in lists[0]]
    with on(device):
        _launch_penalty([*lists, gradients], factor)
    return [g.to(p.dtype) for g, p in zip(gradients, params, strict=True)]
