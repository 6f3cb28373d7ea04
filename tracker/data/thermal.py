"""Thermal images with more than 8 bits: raw counts of 10, 14 or 16 bits, and FLIR's radiometric JPEG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError

THERMAL_STYLES = ("minmax", "percentile", "fixed")
PERCENTILES = (1.0, 99.0)
"""What the style ``percentile`` makes black and white: a dead pixel or the sun does not decide the rest."""
_FLIR = b"FLIR\x00"
RADIOMETRIC_HEADER = 1 << 16
"""FLIR's segments follow the JPEG header; the first of them begins within so many bytes."""


def thermal_to_image(
    raw: np.ndarray, style: str = "percentile", limits: tuple[float, float] | None = None
) -> np.ndarray:
    """Bring a thermal image to 8 bits.

    Args:
        raw: (H, W) or (H, W, 3). Images of uint8 are returned as they are. Values that are not finite are black.
        style: ``"minmax"`` (the frame's least value is black, its largest white), ``"percentile"`` (its 1st and 99th
            percentile are) or ``"fixed"`` (``limits`` are, in every frame: one gray is one temperature).
        limits: raw values of black and white, for ``"fixed"``.

    Returns:
        (H, W) or (H, W, 3) uint8, warm is bright. A frame of one value is black.

    Raises:
        RGBXError: an unknown style.
    """
    if style not in THERMAL_STYLES:
        raise RGBXError(f"thermal style is {style!r}; expected one of {', '.join(THERMAL_STYLES)}")
    if raw.dtype == np.uint8:
        return raw
    values = raw.astype(np.float32)
    finite = np.isfinite(values)
    if limits is not None and style == "fixed":
        low, high = limits
    elif not finite.any():
        low, high = 0.0, 0.0
    elif style == "percentile":
        low, high = (float(value) for value in np.percentile(values[finite], PERCENTILES))
    else:
        low, high = float(values[finite].min()), float(values[finite].max())
    scale = 255.0 / (high - low) if high > low else 0.0
    gray = np.where(finite, (values - low) * scale, 0.0)
    return np.asarray(np.clip(np.rint(gray), 0, 255).astype(np.uint8))


def is_radiometric(data: bytes) -> bool:
    """Return whether the bytes of a JPEG file hold a raw thermal image in FLIR's segments."""
    return data[:2] == b"\xff\xd8" and _FLIR in data[:RADIOMETRIC_HEADER]


def read_radiometric(data: bytes, path: Path) -> np.ndarray:
    """Read the raw thermal image of a FLIR radiometric JPEG, (H, W) uint16 counts of the sensor.

    The picture that such a file shows is a drawing with its own scale for each frame, a palette and often a logo.

    Args:
        data: the file's bytes.
        path: of the file, for messages.

    Raises:
        RGBXError: the library ``flyr`` is not installed, or the file is damaged.
    """
    try:
        from flyr.records import RecordIndex, extract_flir_app1, parse_flir_records
        from flyr.thermal import parse_raw_data
    except ImportError:
        raise RGBXError(
            f"{path} is a radiometric JPEG, and reading its raw image needs the library flyr; pip install flyr, or "
            "convert the frames to 16-bit images"
        ) from None
    try:
        segments = extract_flir_app1(io.BytesIO(data))
        record = parse_flir_records(segments)[RecordIndex.RAW_DATA.value]
        raw = np.asarray(parse_raw_data(segments, record)[2])
    except Exception as error:  # the library raises what its parsers happen to raise
        raise RGBXError(f"{path} is a radiometric JPEG without a readable raw image ({type(error).__name__})") from None
    if not raw.size:
        raise RGBXError(f"{path} is a radiometric JPEG without a readable raw image; it may be cut off")
    return raw.astype(np.uint16)
