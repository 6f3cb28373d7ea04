"""Complementarity-aware masking: blocks of one modality are hidden where the other one has contrast.

The idea comes from the abstract of CMDTrack (Zhang et al., TPAMI 2025), which masks patches within one modality so that
the network has to rely on the other. The choice of patches is this project's own: by the contrast that the other
modality has there, so that what is hidden can be inferred from what is left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_CONTRAST = 1e-3
"""In units of normalized pixels. Blocks without any contrast are drawn too, all alike."""


def draw_hidden(batch: int, probability: float, device: torch.device) -> Tensor:
    """Return which modality each sample hides: ``(batch, 2)`` bool, columns RGB and X, at most one of them True.

    A sample hides one with ``probability``, either one equally often. Numbers come from torch's global generator.
    """
    hides = torch.rand(batch, 1, device=device) < probability
    rgb = torch.rand(batch, 1, device=device) < 0.5
    return torch.cat([hides & rgb, hides & ~rgb], dim=1)


def block_contrast(crops: Tensor, block: int) -> Tensor:
    """Return the contrast of each modality in each block of pixels: ``(B, 2, n, n)``.

    There are n blocks of ``block`` pixels along a side. The contrast is the standard deviation of a channel's pixels
    within the block, as the root of the channels' mean variance. ``crops`` are ``(B, 6, S, S)``. Blocks at the right
    and lower edge hold what is left of them.
    """

    def mean(values: Tensor) -> Tensor:
        averages: Tensor = F.avg_pool2d(values, block, ceil_mode=crops.shape[-1] % block != 0)
        return averages

    variance = (mean(crops.square()) - mean(crops).square()).clamp_min(0)
    contrast: Tensor = variance.unflatten(1, (2, 3)).mean(dim=2).sqrt()
    return contrast


def hide_blocks(crops: Tensor, hidden: Tensor, block: int, share: float) -> Tensor:
    """Crops with a share of the blocks of one modality set to zero, which is the mean color of normalized pixels.

    Blocks are drawn without replacement, each with a probability in proportion to the contrast of the other modality
    there (Gumbel's top k, Kool et al. 2019, arXiv 1903.06059), from torch's global generator.

    Args:
        crops: ``(B, 6, S, S)`` normalized, RGB first.
        hidden: ``(B, 2)`` as :func:`draw_hidden` answers it.
        block: side of a block in pixels.
        share: of the blocks that are hidden, in [0, 1]; rounded to whole blocks.
    """
    side = crops.shape[-1]
    contrast = block_contrast(crops, block)
    blocks = contrast.shape[-1]
    # If RGB is hidden (column 0), the contrast of X decides.
    other = torch.where(hidden[:, :1, None, None], contrast[:, 1:], contrast[:, :1]).flatten(1)
    uniform = torch.rand_like(other).clamp(1e-7, 1 - 1e-7)
    ranks = (other + LEAST_CONTRAST).log() - (-uniform.log()).log()
    chosen = ranks.topk(round(share * blocks * blocks), dim=1).indices
    mask = torch.zeros_like(other).scatter(1, chosen, 1.0).unflatten(1, (1, blocks, blocks))
    pixels = F.interpolate(mask, scale_factor=float(block), mode="nearest")[..., :side, :side]
    planes = (hidden[:, :, None, None] * pixels).repeat_interleave(3, dim=1)
    return crops * (1 - planes)
