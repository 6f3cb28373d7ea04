"""Tensors that lie beside a parameter: with its memory order, in the compute dtype, and sharded as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from srft_kernels import sharded
from srft_kernels.ops.tensors import element_dtype, in_memory_order, is_dense, lie_alike
from srft_kernels.sharded import is_sharded, like, local, shard_of

PIECE = 1 << 17  # elements of one piece, if work on all elements at once would cost memory


def dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of state beside a parameter: its own if it is dense, else those of a contiguous tensor."""
    return tensor.stride() if is_dense(tensor) else torch.empty(tensor.shape, device="meta").stride()


def anchor_dtype(param: Tensor, anchor: Tensor) -> torch.dtype:
    """Return the dtype that an anchor is kept in: its parameter's if it has that already, else the compute dtype."""
    return param.dtype if anchor.dtype == param.dtype else element_dtype(param)


def zeros_beside(param: Tensor) -> Tensor:
    """Return zeros in the compute dtype, laid out and distributed as the parameter is."""
    own = torch.zeros_like(local(param), dtype=element_dtype(param), memory_format=torch.preserve_format)
    return like(param, own)


def copy_beside(param: Tensor, dtype: torch.dtype, value: Tensor) -> Tensor:
    """Return a copy of ``value`` on the parameter's device, laid out and distributed as the parameter is."""
    copy = torch.empty_like(local(param), dtype=dtype, memory_format=torch.preserve_format)
    return like(param, copy.copy_(shard_of(value.detach(), param)))


def densely(param: Tensor) -> Tensor:
    """Return a parameter as the kernels read it: itself if it is dense, else a dense copy."""
    return param if is_dense(param) else copy_beside(param, param.dtype, param)


def matching(param: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient laid out as its parameter, which is nearly always the gradient itself."""
    if grad.dtype == param.dtype and lie_alike(grad, param):
        return grad
    return copy_beside(param, param.dtype, grad)


def sum_of(tensor: Tensor) -> float:
    """Return the sum in float64, over all shards of a distributed tensor (a collective)."""
    return _total(tensor, lambda piece: piece)


def mean_of(tensor: Tensor) -> float:
    """Return the mean in float64, over all shards of a distributed tensor (a collective)."""
    return sum_of(tensor) / tensor.numel()


def rms_of(tensor: Tensor) -> float:
    """Return the root mean square in float64, over all shards of a distributed tensor (a collective)."""
    return math.sqrt(_total(tensor, lambda piece: piece.double().square()) / tensor.numel())


def _total(tensor: Tensor, values: Callable[[Tensor], Tensor]) -> float:
    """Return the sum of ``values`` of a dense tensor, taken piece by piece because they need extra memory."""
    own = local(tensor)
    if own.numel() <= PIECE:
        total = values(own).sum(dtype=torch.float64)
    else:
        sums = [values(piece).sum(dtype=torch.float64) for piece in in_memory_order(own).split(PIECE)]
        total = torch.stack(sums).sum()
    if is_sharded(tensor):
        total = sharded.totals(total.reshape(1), [tensor], tensor.device_mesh)  # type: ignore[attr-defined]
    return float(total)


def any_nonfinite(grads: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return 1 if any element is not finite, else 0, as float32 (1,) on the device, without waiting for it."""
    sized = [g for g in grads if g.numel()]  # an empty tensor has no largest element
    if not sized:
        return torch.zeros(1, device=device)
    largest = list(torch._foreach_norm(sized, float("inf")))
    if len({norm.dtype for norm in largest}) > 1:
        largest = [norm.double() for norm in largest]
    return (~torch.stack(largest).isfinite().all()).float().reshape(1)
