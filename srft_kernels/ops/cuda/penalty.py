"""The significance penalty on a GPU, by the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from srft_kernels.ops import penalty
from srft_kernels.ops.cuda import current_stream
from srft_kernels.ops.tensors import DTYPE_CODES, addresses


def _readable(tensor: Tensor) -> Tensor:
    """Return the tensor as the kernels read it: contiguous, and widened to float32 if they do not know its dtype."""
    return (tensor if tensor.dtype in DTYPE_CODES else tensor.float()).contiguous()


def _number(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a 0-d float64 tensor on the device. A number on the CPU travels with the launch that fills the tensor."""
    if tensor.device.type == "cpu" and device.type != "cpu":
        return torch.full((), float(tensor), dtype=torch.float64, device=device)
    return tensor.to(device, torch.float64)


class CudaPenalty:
    """The compiled penalty kernels."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def value(
        self, params: Sequence[Tensor], anchors: Sequence[Tensor], significance: Sequence[Tensor], strength: Tensor
    ) -> Tensor:
        """Compute :func:`.reference.penalty.penalty_reference`."""
        penalty.check_lists(params, anchors, significance, strength)
        device = params[0].device if params else strength.device
        lists = [[_readable(t) for t in tensors] for tensors in (params, anchors, significance)]
        factor = _number(strength, device)
        out = torch.empty((), dtype=penalty.value_dtype(params), device=device)
        scratch = torch.empty(self._module.penalty_scratch_bytes(), dtype=torch.uint8, device=device)
        scratch[: self._module.penalty_zeroed_bytes()].zero_()
        self._module.penalty_value(
            **self._described(lists, None),
            strength=factor.data_ptr(),
            value=out.data_ptr(),
            wide=out.dtype == torch.float64,
            scratch=scratch.data_ptr(),
            device=device.index or 0,
            stream=current_stream(device),
        )
        return out

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
        lists = [[_readable(t) for t in tensors] for tensors in (params, anchors, significance)]
        factor = _number(grad, device) * _number(strength, device)
        gradients = [torch.empty_like(p) for p in lists[0]]
        self._module.penalty_gradient(
            **self._described(lists, gradients),
            factor=factor.data_ptr(),
            device=device.index or 0,
            stream=current_stream(device),
        )
        return [g.to(p.dtype) for g, p in zip(gradients, params, strict=True)]

    def _described(self, lists: list[list[Tensor]], gradients: list[Tensor] | None) -> dict[str, list[int]]:
        dtypes: list[int] = []
        places: list[int] = []
        for i, tensors in enumerate(zip(*lists, strict=True)):
            dtypes += [DTYPE_CODES[t.dtype] for t in tensors]
            places += [*addresses(tensors), 0 if gradients is None else gradients[i].data_ptr()]
        return {"sizes": [p.numel() for p in lists[0]], "dtypes": dtypes, "addresses": places}
