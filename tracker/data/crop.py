"""Cuts square regions around a box out of an image and resizes them, by one convention in training and in testing.

Coordinates are continuous. Pixel i covers [i, i+1), and a box ``x, y, w, h`` covers [x, x+w) x [y, y+h), so that its
center is x + w/2. The region is the square of side ``factor * sqrt(w*h)`` around the box's center. Its position and its
side are not rounded to whole pixels. It is sampled bilinearly at the centers of the output pixels, and what lies
outside the image is zero. A box maps to the crop and back without loss.

The published code (OSTrack and its successors) has two conventions that disagree: training maps centers about (out -
1)/2 from a region rounded to whole pixels, testing maps them about out/2. Here both use the one above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tracker.errors import RGBXError


@dataclass(frozen=True)
class CropTransform:
    """Where a crop lies in its image.

    Attributes:
        x, y: image coordinates of the region's top-left corner, in pixels.
        side: side of the region in the image, in pixels.
        out_size: side of the crop, in pixels.
    """

    x: float
    y: float
    side: float
    out_size: int

    def to_crop(self, box: np.ndarray) -> np.ndarray:
        """Map image boxes ``x, y, w, h`` (..., 4) to ``cx, cy, w, h`` in units of the crop's side; [0, 1] is inside."""
        b = np.asarray(box, dtype=np.float64)
        return np.stack(
            [
                (b[..., 0] + b[..., 2] / 2 - self.x) / self.side,
                (b[..., 1] + b[..., 3] / 2 - self.y) / self.side,
                b[..., 2] / self.side,
                b[..., 3] / self.side,
            ],
            axis=-1,
        )

    def to_image(self, box: np.ndarray) -> np.ndarray:
        """Map ``cx, cy, w, h`` (..., 4) in units of the crop's side back to ``x, y, w, h`` in image pixels."""
        b = np.asarray(box, dtype=np.float64)
        w, h = b[..., 2] * self.side, b[..., 3] * self.side
        return np.stack([b[..., 0] * self.side + self.x - w / 2, b[..., 1] * self.side + self.y - h / 2, w, h], axis=-1)


def jitter_box(box: np.ndarray, center_jitter: float, scale_jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Move and rescale a box at random, as OSTrack does before it cuts the search region.

    Width and height are each multiplied by exp(N(0, 1) * scale_jitter). The center moves by up to half of center_jitter
    * sqrt(w*h) along each axis. Four random numbers are always drawn, so that settings do not shift the stream.
    """
    size = np.asarray(box[2:4], dtype=np.float64) * np.exp(rng.standard_normal(2) * scale_jitter)
    center = np.asarray(box[0:2], dtype=np.float64) + np.asarray(box[2:4], dtype=np.float64) / 2
    center = center + math.sqrt(size[0] * size[1]) * center_jitter * (rng.random(2) - 0.5)
    return np.concatenate([center - size / 2, size])


def crop_transform(box: np.ndarray, factor: float, out_size: int) -> CropTransform:
    """Return the region of side ``factor * sqrt(w*h)`` around the center of ``box`` (``x, y, w, h``).

    Raises:
        RGBXError: the box is not finite or has no area, or factor or size is not positive.
    """
    x, y, w, h = (float(v) for v in box)
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(w) and math.isfinite(h)) or w <= 0 or h <= 0:
        raise RGBXError(
            f"cannot crop around the box x={x:g} y={y:g} w={w:g} h={h:g}; it must be finite and have an area"
        )
    if not factor > 0 or out_size < 1:
        raise RGBXError(f"cannot crop with factor {factor} to {out_size} pixels; both must be positive")
    side = factor * math.sqrt(w * h)
    return CropTransform(x + w / 2 - side / 2, y + h / 2 - side / 2, side, out_size)


def cut_window(frame: np.ndarray, transform: CropTransform) -> tuple[np.ndarray, CropTransform]:
    """Cut out the window of ``frame`` (H, W, C) that a region touches, and give the region in the window's coordinates.

    The window is a view that includes the pixels which bilinear sampling reads beyond the region. A region wholly
    outside of the frame has an empty window.
    """
    height, width = frame.shape[:2]
    left, top = max(0, math.floor(transform.x) - 1), max(0, math.floor(transform.y) - 1)
    right = min(width, math.ceil(transform.x + transform.side) + 2)
    bottom = min(height, math.ceil(transform.y + transform.side) + 2)
    window = frame[top : max(top, bottom), left : max(left, right)]
    return window, CropTransform(transform.x - left, transform.y - top, transform.side, transform.out_size)


def sample_region(frame: np.ndarray, transform: CropTransform) -> np.ndarray:
    """Cut the region of ``transform`` out of ``frame`` (H, W, C) and resize it: (out, out, C), any C, same dtype."""
    window, inside = cut_window(frame, transform)
    size, scale = inside.out_size, inside.side / inside.out_size
    if window.size == 0:
        return np.zeros((size, size, frame.shape[2]), dtype=frame.dtype)
    matrix = np.array([[scale, 0.0, inside.x + 0.5 * scale - 0.5], [0.0, scale, inside.y + 0.5 * scale - 0.5]])
    parts = []
    for first in range(0, frame.shape[2], 3):
        # Only the window is copied, because planes of a six-channel frame are not contiguous.
        part = np.ascontiguousarray(window[:, :, first : first + 3])
        warped = cv2.warpAffine(
            part,
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        parts.append(warped.reshape(size, size, -1))
    # Channels side by side by OpenCV: numpy would take several times as long.
    return parts[0] if len(parts) == 1 else np.asarray(cv2.merge(parts))


def crop_region(
    frame: np.ndarray,
    box: np.ndarray,
    factor: float,
    out_size: int,
    center_jitter: float = 0.0,
    scale_jitter: float = 0.0,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, CropTransform]:
    """Crop the region around a box.

    Args:
        frame: (H, W, C) image, any number of channels.
        box: ``x, y, w, h`` in pixels of the frame.
        factor: side of the region over sqrt(w*h).
        out_size: side of the crop in pixels.
        center_jitter: see :func:`jitter_box`.
        scale_jitter: likewise.
        rng: the generator of the jitter, which needs one.

    Returns:
        The crop (out, out, C), and the transform that maps boxes between image and crop.

    Raises:
        RGBXError: a box without an area, or jitter without a generator.
    """
    if rng is not None:
        box = jitter_box(box, center_jitter, scale_jitter, rng)
    elif center_jitter or scale_jitter:
        raise RGBXError("jitter needs a numpy random Generator; pass rng=numpy.random.default_rng(seed)")
    transform = crop_transform(box, factor, out_size)
    return sample_region(frame, transform), transform
