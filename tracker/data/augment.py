"""Random changes to crops. Whatever happens to RGB's geometry and light happens to X, from the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class PairAugmentation:
    """What was drawn for one pair. Applying it is deterministic.

    Attributes:
        grayscale: RGB halves of both crops lose their color (X keeps its own).
        template_flip: the template is mirrored left to right.
        search_flip: the search crop is.
        template_gain: factor of every channel of the template.
        search_gain: factor of every channel of the search crop.
    """

    grayscale: bool
    template_flip: bool
    search_flip: bool
    template_gain: float
    search_gain: float


def draw_augmentation(
    rng: np.random.Generator, grayscale: float, flip: float, flip_each: float, brightness: float
) -> PairAugmentation:
    """Draw one pair's augmentation. It always takes six random numbers, so that settings do not shift the stream.

    Args:
        rng: the generator of the six numbers.
        grayscale: probability that the pair is gray.
        flip: probability that the pair is mirrored, template and search alike.
        flip_each: probability that a crop is mirrored once more on its own.
        brightness: gains are uniform in [1 - brightness, 1 + brightness], one for the template, one for the search
            crop.
    """
    u = rng.random(6)
    both = bool(u[1] < flip)
    return PairAugmentation(
        grayscale=bool(u[0] < grayscale),
        template_flip=both ^ bool(u[2] < flip_each),
        search_flip=both ^ bool(u[3] < flip_each),
        template_gain=float(1 + brightness * (2 * u[4] - 1)),
        search_gain=float(1 + brightness * (2 * u[5] - 1)),
    )


def augment_crop(crop: np.ndarray, grayscale: bool, flip: bool, gain: float) -> np.ndarray:
    """Change a crop, (H, W, 6) or (H, W, 3) uint8: gray RGB first, then mirror, then gain with saturation."""
    out = crop
    if grayscale:
        out = out.copy()
        gray = cv2.cvtColor(np.ascontiguousarray(crop[:, :, :3]), cv2.COLOR_RGB2GRAY)
        out[:, :, :3] = gray[:, :, None]
    if flip:
        out = out[:, ::-1]
    if gain != 1.0:
        # A table of 256 is exact (round to nearest, saturate) and cheaper than floating-point images.
        table = np.clip(np.rint(np.arange(256) * gain), 0, 255).astype(np.uint8)
        height, width, channels = out.shape
        flat = np.ascontiguousarray(out).reshape(height, width * channels)
        out = cv2.LUT(flat, table).reshape(height, width, channels)
    return np.ascontiguousarray(out)


def flip_box(box: np.ndarray) -> np.ndarray:
    """Mirror ``cx, cy, w, h`` (..., 4), normalized to the crop, left to right."""
    out = np.array(box, copy=True)
    out[..., 0] = 1.0 - out[..., 0]
    return out
