"""Frames as small JPEG images, RGB and X side by side in one, within a limit of bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from typing import NoReturn

import cv2
import numpy as np
from tqdm import tqdm

from tracker.data.sequence import Sequence
from tracker.errors import RGBXError

SAMPLES = 3
"""Frames of a sequence that are encoded to foresee the size of all."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a sequence.

    Attributes:
        indices: the frames that they are of, in order.
        images: a JPEG file each.
        size: width and height of one panel in pixels.
        frame_size: width and height of the frames that they were made from.
    """

    indices: list[int]
    images: list[bytes]
    size: tuple[int, int]
    frame_size: tuple[int, int]


def panel_size(width: int, height: int, panel_width: int) -> tuple[int, int]:
    """Return the width and height of a panel: at most ``panel_width`` wide, never larger than the frame."""
    scale = min(1.0, panel_width / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_frame(frame: np.ndarray, panel_width: int, quality: int, rgb_only: bool = False) -> bytes:
    """Encode both panels of a frame, (H, W, 6) uint8, as one JPEG; the first alone where ``rgb_only``."""
    size = panel_size(frame.shape[1], frame.shape[0], panel_width)
    planes = cv2.split(frame)
    halves = [cv2.merge(planes[:3])] if rgb_only else [cv2.merge(planes[:3]), cv2.merge(planes[3:])]
    panels = [cv2.resize(half, size, interpolation=cv2.INTER_AREA) for half in halves]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(np.hstack(panels), cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RGBXError(f"OpenCV could not encode a picture of {size[0]}x{size[1]} pixels as JPEG; try another width")
    return bytes(data.tobytes())


def take_pictures(
    sequences: ListLike[Sequence],
    *,
    panel_width: int,
    quality: int,
    max_bytes: int,
    progress: bool = False,
) -> dict[str, Pictures]:
    """Take pictures of sequences that together stay below ``max_bytes``: sequence name to its pictures.

    Where all frames would be too many, every k-th is taken, the same k for all sequences, so that none is
    shown better than another; one of each sequence always is.

    Raises:
        RGBXError: a frame that cannot be read.
    """
    foreseen = sum(s.length * _mean_bytes(s, panel_width, quality) for s in sequences)
    stride = max(1, math.ceil(foreseen / max(1, max_bytes)))
    taken: dict[str, Pictures] = {}
    total = sum(len(range(0, s.length, stride)) for s in sequences)
    with tqdm(total=total, desc="pictures", unit="frame", disable=not progress) as bar:
        for sequence in sequences:
            taken[sequence.name] = _every(sequence, stride, panel_width, quality, bar)
    # The samples may have been easier to compress than the rest.
    while _bytes(taken) > max_bytes and any(len(p.indices) > 1 for p in taken.values()):
        taken = {name: Pictures(p.indices[::2], p.images[::2], p.size, p.frame_size) for name, p in taken.items()}
    return taken


def _bytes(taken: Mapping[str, Pictures]) -> int:
    return sum(len(image) for pictures in taken.values() for image in pictures.images)


def _mean_bytes(sequence: Sequence, panel_width: int, quality: int) -> float:
    indices = {sequence.length * (2 * k + 1) // (2 * SAMPLES) for k in range(SAMPLES)} if sequence.length else set()
    sizes = [len(encode_frame(sequence.frame(i), panel_width, quality, sequence.rgb_only)) for i in indices]
    return float(np.mean(sizes)) if sizes else 0.0


def _every(sequence: Sequence, stride: int, panel_width: int, quality: int, bar: tqdm[NoReturn]) -> Pictures:
    indices = list(range(0, sequence.length, stride))
    images = []
    frame_size = (0, 0)
    for index in indices:
        frame = sequence.frame(index)
        if frame_size == (0, 0):
            frame_size = (frame.shape[1], frame.shape[0])
        elif frame_size != (frame.shape[1], frame.shape[0]):
            raise RGBXError(
                f"sequence {sequence.name}: frame {index} is {frame.shape[1]}x{frame.shape[0]}, but those before are "
                f"{frame_size[0]}x{frame_size[1]}; expected one size"
            )
        images.append(encode_frame(frame, panel_width, quality, sequence.rgb_only))
        bar.update()
    return Pictures(indices, images, panel_size(*frame_size, panel_width), frame_size)
