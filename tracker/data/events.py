"""Events to three channels: polarities drawn on a canvas."""

from __future__ import annotations

import numpy as np

from tracker.errors import RGBXError

ON_COLOUR = (220, 30, 30)
OFF_COLOUR = (30, 30, 200)
"""RGB of the two polarities in VisEvent's and COESOT's event images, on white."""


def polarity_to_image(polarity: np.ndarray) -> np.ndarray:
    """(H, W) integer map, > 0 brighter, < 0 darker, 0 nothing, to (H, W, 3) uint8: red, blue, white."""
    if polarity.ndim != 2:
        raise RGBXError(f"an event map has shape {polarity.shape}; expected (H, W) of polarities -1, 0, 1")
    table = np.array([OFF_COLOUR, (255, 255, 255), ON_COLOUR], dtype=np.uint8)
    return np.asarray(table[np.sign(polarity).astype(np.intp) + 1])


def events_to_image(x: np.ndarray, y: np.ndarray, polarity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw a list of events in the order given; where several hit one pixel the last one shows.

    Args:
        x, y: (K,) integer pixel coordinates.
        polarity: (K,), > 0 is ON, otherwise OFF.
        size: (W, H).

    Returns:
        (H, W, 3) uint8.

    Raises:
        RGBXError: lengths that differ, or events outside the image.
    """
    if not len(x) == len(y) == len(polarity):
        raise RGBXError(f"events have {len(x)} x, {len(y)} y and {len(polarity)} polarities; expected as many of each")
    width, height = size
    canvas = np.zeros((height, width), dtype=np.int8)
    if len(x):
        if np.min(x) < 0 or np.min(y) < 0 or np.max(x) >= width or np.max(y) >= height:
            raise RGBXError(f"events lie outside the {width}x{height} image; check the sensor size")
        # Assignment with repeated indices keeps no promised order, so only the last event of each pixel is
        # drawn.
        flat = np.asarray(y, dtype=np.int64) * width + np.asarray(x, dtype=np.int64)
        _, last = np.unique(flat[::-1], return_index=True)
        keep = len(flat) - 1 - last
        canvas.reshape(-1)[flat[keep]] = np.where(np.asarray(polarity)[keep] > 0, 1, -1)
    return polarity_to_image(canvas)
