"""The three adapters of PATrack (Wang et al. 2026, arXiv 2603.21100), each as a module on tokens.

The paper adapts one frozen RGB tracker in three places: within a modality (:class:`FrequencyMixer`), between the
modalities (:class:`SharedGuidanceFusion`) and before the prediction head (:class:`TaskAdapter`). Sizes follow the
published code; what differs between code and paper stands at each class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIXER_CHANNELS = 8
"""Channels that a mixer works in, half of them for each band of frequencies."""


class HighFrequency(nn.Module):
    """High frequencies of a map: a depthwise convolution beside a maximum, which both answer to edges.

    Half of the channels go through a 1x1 convolution that doubles them and a depthwise 3x3 convolution, the other half
    through a 3x3 maximum and a 1x1 convolution that doubles them; a GELU ends each path.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.expand = nn.Conv2d(half, 2 * half, kernel_size=1, bias=False)
        self.depthwise = nn.Conv2d(2 * half, 2 * half, kernel_size=3, padding=1, groups=2 * half, bias=False)
        self.pooled = nn.Conv2d(half, 2 * half, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, channels, S, S)`` to ``(B, 2 * channels, S, S)``."""
        convolved, pooled = maps.chunk(2, dim=1)
        convolved = F.gelu(self.depthwise(self.expand(convolved)))
        pooled = F.gelu(self.pooled(F.max_pool2d(pooled, kernel_size=3, stride=1, padding=1)))
        return torch.cat([convolved, pooled], dim=1)


def low_frequency(maps: Tensor) -> Tensor:
    """Return the low frequencies of ``(B, C, S, S)``: every cell becomes the mean of its 2x2 block.

    On an odd side the blocks of the last row and column are smaller. The published code takes even sides only, where
    the two agree.
    """
    side = maps.shape[-1]
    means = F.avg_pool2d(maps, kernel_size=2, stride=2, ceil_mode=side % 2 == 1, count_include_pad=False)
    return F.interpolate(means, scale_factor=2.0, mode="nearest")[..., :side, :side]


class FrequencyMixer(nn.Module):
    """The modality-dependent adapter: tokens taken apart into frequency bands and put together again.

    Template and search tokens are laid out on their grids and go through the same weights one after the other:
    ``dim`` to 8 channels, of which the first four are split as :class:`HighFrequency` has it and the last four as
    :func:`low_frequency`; a depthwise 3x3 convolution is added to the twelve, and a 1x1 convolution leads back.

    Args:
        dim: width of the tokens.
        grids: cells along a side of the template and of the search region.
    """

    def __init__(self, dim: int, grids: Sequence[int]) -> None:
        super().__init__()
        half = MIXER_CHANNELS // 2
        self.grids = tuple(grids)
        self.down = nn.Linear(dim, MIXER_CHANNELS)
        self.high = HighFrequency(half)
        self.fuse = nn.Conv2d(3 * half, 3 * half, kernel_size=3, padding=1, groups=3 * half, bias=False)
        self.up = nn.Conv2d(3 * half, dim, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, Nz + Nx, dim)``, template first, to the same shape."""
        low_rank = self.down(tokens)
        parts = low_rank.split([side * side for side in self.grids], dim=1)
        mixed = [self._mixed(part, side) for part, side in zip(parts, self.grids, strict=True)]
        return torch.cat(mixed, dim=1)

    def _mixed(self, tokens: Tensor, side: int) -> Tensor:
        maps = tokens.transpose(1, 2).unflatten(2, (side, side))
        high, low = maps.chunk(2, dim=1)
        bands = torch.cat([self.high(high), low_frequency(low)], dim=1)
        up: Tensor = self.up(bands + self.fuse(bands))
        return up.flatten(2).transpose(1, 2)


class SharedGuidanceFusion(nn.Module):
    """The modality-entangled adapter: attention within each modality that what both have in common guides.

    Both modalities are brought to ``dim // 4`` channels by one matrix. A map of the two side by side is the shared
    guidance g. With k_i and v_i of one modality at position i, position i receives

        sum_j softmax_j(k_i . g_j) v_j  +  the other modality at i,

    and one matrix leads back to ``dim``. The products are not scaled, and the softmax runs over the positions of the
    guidance: the published code calls k the keys and g the queries, in usual terms k asks and g is asked. Template and
    search tokens attend among themselves only. No layer has a bias.

    Args:
        dim: width of the tokens.
        grids: cells along a side of the template and of the search region.
        gated: multiply the attended values by a learned number for each modality, zero at first. The published code
            creates these two and does not use them.
    """

    def __init__(self, dim: int, grids: Sequence[int], gated: bool = False) -> None:
        super().__init__()
        width = dim // 4
        self.lengths = [side * side for side in grids]
        self.down = nn.Linear(dim, width, bias=False)
        self.guidance = nn.Linear(2 * width, width, bias=False)
        self.keys = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        self.up = nn.Linear(width, dim, bias=False)
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(2)) if gated else None

    def forward(self, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is to be added to each of two modalities, from the tokens ``(B, Nz + Nx, dim)`` of both."""
        narrow = self.down(rgb), self.down(x)
        guidance = self.guidance(torch.cat(narrow, dim=-1))
        received = []
        for index, own in enumerate(narrow):
            attended = self._attended(self.keys[index](own), guidance, self.values[index](own))
            if self.gates is not None:
                attended = attended * self.gates[index]
            received.append(self.up(attended + narrow[1 - index]))
        return received[0], received[1]

    def _attended(self, keys: Tensor, guidance: Tensor, values: Tensor) -> Tensor:
        # One head, in an axis of its own: ONNX takes attention with four axes alone.
        parts = zip(*(t[:, None].split(self.lengths, dim=2) for t in (keys, guidance, values)), strict=True)
        attended = [F.scaled_dot_product_attention(k, g, v, scale=1.0) for k, g, v in parts]
        return torch.cat(attended, dim=2)[:, 0]


class TaskAdapter(nn.Module):
    """The task-level adapter: three linear layers between the fused search tokens and the frozen head.

    It has neither an activation nor a way around it, so that the head sees nothing but its output, and starts from the
    default initialization: published so.

    Args:
        dim: width of the tokens; a quarter of it inside.
        dropout: probability, before the last layer.
    """

    def __init__(self, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        width = dim // 4
        self.down = nn.Linear(dim, width)
        self.middle = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, N, dim)`` to the same shape."""
        adapted: Tensor = self.up(self.dropout(self.middle(self.down(tokens))))
        return adapted
