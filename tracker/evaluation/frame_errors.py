"""What every protocol measures in a frame: overlap and distance of centers."""

from __future__ import annotations

import numpy as np

IOU_THRESHOLDS = np.linspace(0.0, 1.0, 21)
PIXEL_THRESHOLDS = np.linspace(0.0, 50.0, 51)
NORMALIZED_THRESHOLDS = np.linspace(0.0, 0.5, 51)


def overlap(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the IoU of (N, 4) ``x, y, w, h`` with (N, 4): (N,), 0 where they are apart, NaN where a number is.

    The MATLAB toolkits take the last pixel x + w - 1 as the right edge and add 1 to the width of the overlap;
    the two cancel, so this is the plain continuous IoU.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        left_top = np.maximum(boxes[:, :2], truth[:, :2])
        right_bottom = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
        inside = np.clip(right_bottom - left_top, 0.0, None).prod(axis=1)
        union = boxes[:, 2] * boxes[:, 3] + truth[:, 2] * truth[:, 3] - inside
        return np.asarray(inside / union)


def center_offset(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the offsets from the centers of ``truth`` to those of ``boxes``, (N, 2) in pixels.

    Whether a center is x + w/2 or x + (w - 1)/2 makes no difference to an offset.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray((boxes[:, :2] + boxes[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2))


def center_error(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the distances of the centers, (N,) in pixels."""
    offset = center_offset(boxes, truth)
    return np.asarray(np.hypot(offset[:, 0], offset[:, 1]))


def normalized_center_error(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the distances of the centers, (N,), with each axis divided by the true width or height."""
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = center_offset(boxes, truth) / truth[:, 2:]
    return np.asarray(np.hypot(offset[:, 0], offset[:, 1]))


def count_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count for every threshold the values strictly above it; NaN is above none."""
    return np.asarray((values[None, :] > thresholds[:, None]).sum(axis=1), dtype=np.float64)


def count_within(values: np.ndarray, thresholds: np.ndarray, *, strict: bool = False) -> np.ndarray:
    """Count for every threshold the values at most (``strict``: below) it; NaN is within none."""
    columns, rows = values[None, :], thresholds[:, None]
    return np.asarray((columns < rows if strict else columns <= rows).sum(axis=1), dtype=np.float64)
