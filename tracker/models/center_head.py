"""The CENTER head: where the target is, how large, and where within its cell (OSTrack convention)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

PROBABILITY_FLOOR = 1e-4


class HeadMaps(NamedTuple):
    """What the head says about every cell of the search region; S cells a side."""

    score: Tensor
    """``(B, 1, S, S)`` in [1e-4, 1 - 1e-4]: is the center of the target in this cell."""
    size: Tensor
    """``(B, 2, S, S)`` in [1e-4, 1 - 1e-4]: width and height relative to the search crop."""
    offset: Tensor
    """``(B, 2, S, S)`` in cells: x and y of the center from the cell's index."""


def decode_boxes(score: Tensor, size: Tensor, offset: Tensor) -> Tensor:
    """Return the box of the best cell: ``(B, 4)`` cx, cy, w, h relative to the search crop.

    cx = (ix + ox) / S, cy = (iy + oy) / S, and width and height are the size map there. ``score`` is ``(B,
    1, S, S)`` and may be any re-weighting of the head's (a Hann window at test time). Gradients reach size
    and offset only.
    """
    cells = score.shape[-1]
    best = score.flatten(1).argmax(dim=1)
    index = best[:, None, None].expand(-1, 2, 1)
    width_height = size.flatten(2).gather(2, index).squeeze(2)
    within = offset.flatten(2).gather(2, index).squeeze(2)
    corner = torch.stack([best % cells, torch.div(best, cells, rounding_mode="floor")], dim=1)
    return torch.cat([(corner.to(within.dtype) + within) / cells, width_height], dim=1)


def at_least_single(x: Tensor) -> Tensor:
    """Return fp32 for anything narrower.

    In bf16, 1 - 1e-4 is 1, and cells near the middle come in steps of an eighth.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def bounded_sigmoid(logits: Tensor) -> Tensor:
    """Return a sigmoid that keeps off 0 and 1, so that the focal loss takes no logarithm of zero."""
    return at_least_single(logits).sigmoid().clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)


class ConvNormAct(nn.Module):
    """3x3 convolution, batch normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def _branch(inputs: int, channels: int, outputs: int) -> nn.Sequential:
    widths = [inputs, channels, channels // 2, channels // 4, channels // 8]
    layers: list[nn.Module] = [ConvNormAct(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], outputs, kernel_size=1))


class CenterHead(nn.Module):
    """Three convolutional branches over the search tokens: score, size and offset.

    ``freeze_statistics(True)`` keeps the batch normalization in evaluation mode whatever ``train()`` says:
    SRTrack fine-tunes so, and per-sample losses then do not depend on the rest of the batch.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.score = _branch(inputs, channels, 1)
        self.size = _branch(inputs, channels, 2)
        self.offset = _branch(inputs, channels, 2)
        self.statistics_frozen = False
        self._initialize()

    def _initialize(self) -> None:
        for branch in (self.score, self.size, self.offset):
            last = branch[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.zeros_(last.bias)
        last = self.score[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        # Nearly every cell is background. A start at 0.1 saves the first steps from unlearning 0.5.
        nn.init.constant_(last.bias, -math.log(9.0))

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Hold the running means and variances of the batch normalization, or let them move again."""
        self.statistics_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> CenterHead:
        super().train(mode)
        if self.statistics_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, features: Tensor) -> HeadMaps:
        """Return the :class:`HeadMaps` of ``(B, D, S, S)`` features of the search region, in fp32 also in autocast."""
        return HeadMaps(
            score=bounded_sigmoid(self.score(features)),
            size=bounded_sigmoid(self.size(features)),
            offset=at_least_single(self.offset(features)),
        )
