"""What kernels need to know of a tensor: its compute dtype, its layout and its address."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the compute dtype for tensors of ``dtype``: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def element_dtype(tensor: Tensor) -> torch.dtype:
    """Return the compute dtype of element work beside ``tensor``."""
    return compute_dtype(tensor.dtype)


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return a view of a dense tensor's elements in memory order, in which they are numbered."""
    return torch.as_strided(tensor, (tensor.numel(),), (1,))


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill their memory without gaps or overlaps, in any order of dimensions."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense.default(tensor))


def lie_alike(a: Tensor, b: Tensor) -> bool:
    """Return whether the elements of two tensors have the same positions in memory.

    The stride of a dimension of size one moves nothing, and convolutions leave odd values there.
    """
    return a.shape == b.shape and (
        a.stride() == b.stride()
        or a.numel() == 0
        or all(size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))
    )
