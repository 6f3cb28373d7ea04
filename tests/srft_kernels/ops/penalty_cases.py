"""Lists of tensors for the significance penalty, for the tests of every backend."""

from __future__ import annotations

import torch
from torch import Tensor

# Around the block of 512, the chunk of 32768 and the 16 lanes; empty and 0-d ones between.
SHAPES: tuple[tuple[int, ...], ...] = ((0,), (7,), (), (33, 65), (2, 0, 3), (511,), (513,), (181, 181), (32769,), (0,))

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


def draw(
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    seed: int = 0,
) -> Lists:
    g = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=g, dtype=torch.float64) for s in shapes]
    anchors = [p + 0.1 * torch.randn(p.shape, generator=g, dtype=torch.float64) for p in params]
    significance = [torch.randn(p.shape, generator=g, dtype=torch.float64).square() for p in params]
    p, a, s = dtypes
    return [t.to(p) for t in params], [t.to(a) for t in anchors], [t.to(s) for t in significance]
