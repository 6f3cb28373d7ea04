"""Drawing depth images with three channels, as RGB-D trackers feed them to an RGB backbone."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from tracker.errors import RGBXError
from tracker.spellings import american

DEPTH_STYLES = ("jet", "gray", "raw", "jet_bgr")


@functools.lru_cache(maxsize=1)
def _jet_table() -> np.ndarray:
    """Return OpenCV's JET in RGB order, (256, 3) uint8, so that both halves of a frame have one channel order."""
    ramp = np.arange(256, dtype=np.uint8).reshape(256, 1)
    return np.ascontiguousarray(cv2.applyColorMap(ramp, cv2.COLORMAP_JET)[:, 0, ::-1])


def depth_to_image(depth: np.ndarray, style: str = "jet", clip: bool = True) -> np.ndarray:
    """Render a depth image.

    Args:
        depth: (H, W), any real dtype, millimeters; 0 (or NaN, or infinity) where there is no measurement.
        style: ``"jet"`` (min-max to 0..255 per frame, JET in RGB order), ``"jet_bgr"`` (the same in OpenCV's
            order, as published RGB-D weights saw it: their code swaps the RGB half of a frame and leaves this one),
            ``"gray"`` (min-max, gray three times) or ``"raw"`` (depth * 255 / 10000 saturated, so that one gray
            means one distance in every frame: 10 m is white).
        clip: first clip to min(3 * median, 10000), as DepthTrack is trained and tested by OSTrack's heirs.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RGBXError: an unknown style or not a single-channel image.
    """
    style = american(style)
    if style not in DEPTH_STYLES:
        raise RGBXError(f"depth style is {style!r}; expected one of {', '.join(DEPTH_STYLES)}")
    if depth.ndim != 2:
        raise RGBXError(f"a depth image has shape {depth.shape}; expected one channel (H, W) in millimeters")
    values = np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if clip:
        limit = min(3.0 * float(np.median(values)), 10000.0)
        values = np.clip(values, 0.0, limit)
    if style == "raw":
        gray = np.clip(np.rint(values * (255.0 / 10000.0)), 0, 255).astype(np.uint8)
    else:
        low, high = float(values.min()), float(values.max())
        scale = 255.0 / (high - low) if high > low else 0.0
        gray = ((values - low) * scale).astype(np.uint8)
    if style in ("jet", "jet_bgr"):
        colored = _jet_table()[gray]
        return colored if style == "jet" else np.ascontiguousarray(colored[:, :, ::-1])
    return np.repeat(gray[:, :, None], 3, axis=2)
