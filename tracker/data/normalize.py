"""Images to network input: ImageNet statistics on every half of three channels."""

from __future__ import annotations

import torch

from tracker.errors import RGBXError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Normalize images to float32 on the same device: (v/255 - mean)/std, both halves alike.

    Args:
        images: (B, C, H, W) or (C, H, W) uint8. C is a multiple of three. X is treated like RGB (OSTrack's convention,
            which every RGB-X tracker has kept).

    Raises:
        RGBXError: not uint8, or channels not a multiple of three.
    """
    if images.dtype != torch.uint8:
        raise RGBXError(f"images are {images.dtype}; expected uint8 pixels, not yet normalized")
    if images.ndim < 3 or images.shape[-3] % 3 or images.shape[-3] == 0:
        raise RGBXError(
            f"images have shape {tuple(images.shape)}; expected (B, 6, H, W) or another multiple of 3 channels"
        )
    halves = images.shape[-3] // 3
    mean = torch.tensor(IMAGENET_MEAN * halves, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    std = torch.tensor(IMAGENET_STD * halves, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    return (images.float() - mean * 255.0) / (std * 255.0)
