"""Drawing events with three channels: in two colors on white, or in gray with a channel for a third of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tracker.errors import RGBXError
from tracker.spellings import american

EVENT_STYLES = ("color", "gray")
ARRAY_SUFFIXES = (".npz", ".npy")
ON_COLOR = (220, 30, 30)
OFF_COLOR = (30, 30, 200)
"""RGB of the two polarities in VisEvent's and COESOT's event images, on white."""
GRAY_ON, GRAY_NONE, GRAY_OFF = 0, 127, 255
"""Grays of FE108's event images."""
WINDOWS = 3
"""Parts of a frame's time, each a channel of a gray image."""
_NAMES = {"x": "x", "y": "y", "t": "t", "ts": "t", "timestamp": "t", "p": "p", "polarity": "p", "pol": "p"}


def polarity_to_image(polarity: np.ndarray) -> np.ndarray:
    """Draw an (H, W) integer map as (H, W, 3) uint8: brighter (> 0) is red, darker (< 0) blue, nothing (0) white."""
    if polarity.ndim != 2:
        raise RGBXError(f"an event map has shape {polarity.shape}; expected (H, W) of polarities -1, 0, 1")
    table = np.array([OFF_COLOR, (255, 255, 255), ON_COLOR], dtype=np.uint8)
    return np.asarray(table[np.sign(polarity).astype(np.intp) + 1])


def polarity_map(x: np.ndarray, y: np.ndarray, polarity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the last event of each pixel in the order given, (H, W) int8 of -1, 0 and 1.

    Args:
        x: (K,) integer columns of the events.
        y: (K,) integer rows.
        polarity: (K,), > 0 is ON, otherwise OFF.
        size: (W, H).

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
        # Assignment with repeated indices keeps no promised order, so only the last event of each pixel is drawn.
        flat = np.asarray(y, dtype=np.int64) * width + np.asarray(x, dtype=np.int64)
        _, last = np.unique(flat[::-1], return_index=True)
        keep = len(flat) - 1 - last
        canvas.reshape(-1)[flat[keep]] = np.where(np.asarray(polarity)[keep] > 0, 1, -1)
    return canvas


def events_to_image(x: np.ndarray, y: np.ndarray, polarity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw events on white, red where the last one at a pixel is ON and blue where it is OFF (VisEvent, COESOT).

    Arguments and errors are those of :func:`polarity_map`.

    Returns:
        (H, W, 3) uint8.
    """
    return polarity_to_image(polarity_map(x, y, polarity, size))


def events_to_stack(
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    polarity: np.ndarray,
    size: tuple[int, int],
    span: tuple[float, float] | None = None,
) -> np.ndarray:
    """Draw events in gray, a third of the time in each channel: ON is black, OFF white, nothing 127 (FE108).

    Args:
        x: as for :func:`polarity_map`.
        y: likewise.
        t: (K,) times in any unit, not decreasing.
        polarity: as for :func:`polarity_map`.
        size: (W, H).
        span: beginning and end of the frame's time; by default from the first event to the last.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RGBXError: as :func:`polarity_map`; or the numbers of times and events differ.
    """
    if len(t) != len(x):
        raise RGBXError(f"events have {len(x)} places and {len(t)} times; expected as many of each")
    times = np.asarray(t, dtype=np.float64)
    start, end = span if span is not None else (times[0], times[-1]) if len(times) else (0.0, 1.0)
    share = (times - start) / (end - start) if end > start else np.zeros(len(times))
    part = np.clip((share * WINDOWS).astype(np.intp), 0, WINDOWS - 1)
    x, y, polarity = np.asarray(x), np.asarray(y), np.asarray(polarity)
    maps = [polarity_map(x[part == k], y[part == k], polarity[part == k], size) for k in range(WINDOWS)]
    return _grays(np.stack(maps, axis=2))


def voxels_to_image(voxels: np.ndarray, style: str = "color") -> np.ndarray:
    """Draw a voxel grid, (B, H, W) of signed sums of polarities over time, earliest first.

    ``"color"`` draws the sign of the sum over time; ``"gray"`` that of each third of the bins (a bin may count in
    two thirds where B is not a multiple of 3).

    Returns:
        (H, W, 3) uint8.

    Raises:
        RGBXError: another shape, values that are not finite, or an unknown style.
    """
    style = _known_style(style)
    if voxels.ndim != 3 or not len(voxels) or not np.isfinite(voxels).all():
        raise RGBXError(f"a voxel grid has shape {voxels.shape}; expected (bins, height, width) of finite numbers")
    if style == "color":
        return polarity_to_image(np.sign(voxels.sum(axis=0)).astype(np.int8))
    edges = np.arange(WINDOWS + 1) * len(voxels) / WINDOWS
    lows, highs = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    parts = [voxels[low:high].sum(axis=0) for low, high in zip(lows, highs, strict=True)]
    return _grays(np.sign(np.stack(parts, axis=2)))


def array_to_image(path: Path, size: tuple[int, int], style: str = "color") -> np.ndarray:
    """Read the events of one frame from a file and draw them.

    ``.npz`` holds arrays ``x``, ``y``, ``t``, ``p`` (or ``timestamp``, ``polarity``); ``.npy`` the same as a structured
    array, as (K, 4) columns x, y, t, p, or a voxel grid (B, H, W). Polarity above 0 is ON.

    Args:
        path: the file.
        size: (W, H) of the frame.
        style: one of :data:`EVENT_STYLES`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RGBXError: a file that is none of these, events outside the frame, or an unknown style.
    """
    style = _known_style(style)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            array = loaded
            columns = {name: loaded[name] for name in loaded.dtype.names or ()}
        else:
            with loaded:
                columns = {name: loaded[name] for name in loaded.files}
            array = next(iter(columns.values())) if len(columns) == 1 else np.empty(0)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for broken files
        what = "is missing" if not path.exists() else f"cannot be read ({type(error).__name__})"
        raise RGBXError(f"{path} {what}; expected events as numpy arrays") from None
    named = {_NAMES[name.lower()]: column for name, column in columns.items() if name.lower() in _NAMES}
    if not named and array.ndim == 2 and array.shape[1] == 4:
        named = dict(zip("xytp", array.T, strict=True))
    if set("xyp") <= set(named):
        x, y, p = named["x"].astype(np.int64), named["y"].astype(np.int64), named["p"].astype(np.int8)
        if style == "color":
            return events_to_image(x, y, p, size)
        if "t" in named:
            return events_to_stack(x, y, named["t"], p, size)
    elif array.ndim == 3:
        if array.shape[1:] != (size[1], size[0]):
            raise RGBXError(f"{path} is a grid of {array.shape[2]}x{array.shape[1]} for {size[0]}x{size[1]} frames")
        return voxels_to_image(array, style)
    raise RGBXError(f"{path} holds {sorted(columns) or array.shape}; expected x, y, t and p, or a grid (bins, H, W)")


def _grays(signs: np.ndarray) -> np.ndarray:
    table = np.array([GRAY_OFF, GRAY_NONE, GRAY_ON], dtype=np.uint8)
    return np.asarray(table[signs.astype(np.intp) + 1])


def _known_style(style: str) -> str:
    style = american(style)
    if style not in EVENT_STYLES:
        raise RGBXError(f"event style is {style!r}; expected one of {', '.join(EVENT_STYLES)}")
    return style
