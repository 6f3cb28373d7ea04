"""Frames of which a half is missing: blank, dropped, late or unreadable RGB or X, and what stands in for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tracker.data.normalize import IMAGENET_MEAN
from tracker.data.sequence import Sequence, join_halves
from tracker.errors import RGBXError

POLICIES = ("mirror", "mean", "hold")
"""What stands in for a missing half: the other half; the color that normalization makes zero; the last one seen."""

MEAN_COLOR = np.array([round(255 * value) for value in IMAGENET_MEAN], dtype=np.uint8)


class Frame(NamedTuple):
    """The halves of a frame, (H, W, 3) uint8 each, in RGB order; None is a half that is missing."""

    rgb: np.ndarray | None
    x: np.ndarray | None


def check_frame(frame: object) -> None:
    """Raise RGBXError unless the frame is (H, W, 6) or (H, W, 3) uint8, or a :class:`Frame` of such halves."""
    if isinstance(frame, Frame):
        halves = [half for half in frame if half is not None]
        for half in halves:
            check_frame(half)
            if half.shape[2] != 3:
                raise RGBXError(f"half a frame has shape {half.shape}; expected (H, W, 3)")
        if len(halves) == 2 and halves[0].shape != halves[1].shape:
            (rh, rw), (xh, xw) = halves[0].shape[:2], halves[1].shape[:2]
            raise RGBXError(
                f"a frame is {rw}x{rh} in RGB but {xw}x{xh} in X; the two images must be registered and of one size"
            )
        return
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] not in (3, 6):
        shape = getattr(frame, "shape", type(frame).__name__)
        raise RGBXError(f"a frame has shape {shape}; expected (H, W, 6), RGB first and X last")
    if frame.dtype != np.uint8 or 0 in frame.shape:
        raise RGBXError(f"a frame is {frame.shape} {frame.dtype}; expected a non-empty image of uint8 pixels")


class Halves:
    """Puts whole frames together from what there is, remembering the last of either half.

    Args:
        policy: one of :data:`POLICIES`. Where it has nothing to offer (``hold`` before the first image of that
            half, or after the images' size has changed), the half is mirrored.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self._last: list[np.ndarray | None] = [None, None]

    def remember(self, frame: Frame) -> None:
        """Keep the halves that ``frame`` has as the last ones seen, without tracking in it."""
        for index, half in enumerate(frame):
            if half is not None:
                self._last[index] = half

    def complete(self, frame: np.ndarray | Frame) -> np.ndarray | None:
        """Return the frame with both halves, (H, W, 6) uint8; None where both are missing."""
        if isinstance(frame, np.ndarray):
            if frame.shape[2] == 6:
                self.remember(Frame(frame[:, :, :3], frame[:, :, 3:]))
            return frame
        self.remember(frame)
        given = next((half for half in frame if half is not None), None)
        if given is None:
            return None
        rgb, x = (self._stand_in(index, given) if half is None else half for index, half in enumerate(frame))
        return join_halves(rgb, x)

    def _stand_in(self, index: int, other: np.ndarray) -> np.ndarray:
        if self.policy == "mean":
            return np.broadcast_to(MEAN_COLOR, other.shape)
        last = self._last[index]
        return last if self.policy == "hold" and last is not None and last.shape == other.shape else other


def parse_ranges(text: str) -> list[range]:
    """Read ``10-20,35`` as ranges of frames, first frame 0, both ends included.

    ``10-`` has no end, and ``0-/2`` is every other frame.

    Raises:
        RGBXError: the text is none of these.
    """
    ranges = []
    for part in text.split(","):
        span, _, step = part.strip().partition("/")
        first, dash, last = span.partition("-")
        try:
            start, stride = int(first), int(step or 1)
            stop = (int(last) + 1 if last else 2**62) if dash else start + 1
        except ValueError:
            start, stop, stride = 0, -1, 1
        if start < 0 or stop <= start or stride < 1:
            raise RGBXError(f'"{text}" names no frames; write ranges such as 10-20,35, or 10- or 0-/2 for every other')
        ranges.append(range(start, stop, stride))
    return ranges


def as_halves(frame: np.ndarray | Frame) -> Frame:
    """Return RGB and X of a frame; a frame of three channels has no X."""
    if isinstance(frame, Frame):
        return frame
    return Frame(frame[:, :, :3], frame[:, :, 3:] if frame.shape[2] == 6 else None)


def without(frame: np.ndarray | Frame, rgb: bool, x: bool) -> np.ndarray | Frame:
    """Return the frame with RGB or X taken away."""
    if not (rgb or x):
        return frame
    halves = as_halves(frame)
    return Frame(None if rgb else halves.rgb, None if x else halves.x)


class DroppedSequence(Sequence):
    """A sequence as if some images had never arrived.

    Args:
        sequence: the whole one.
        rgb, x: frames whose RGB or X is dropped.
    """

    def __init__(self, sequence: Sequence, rgb: Iterable[range] = (), x: Iterable[range] = ()) -> None:
        self.sequence = sequence
        self.name, self.modality, self.boxes = sequence.name, sequence.modality, sequence.boxes
        self.rgb_only = sequence.rgb_only
        self.source = getattr(sequence, "source", None)
        self.origin, self.annotated = sequence.origin, sequence.annotated
        self._rgb, self._x = list(rgb), list(x)

    def available(self, index: int) -> np.ndarray | Frame:
        """Return what is left of frame ``index``."""
        lost = [any(index in span for span in spans) for spans in (self._rgb, self._x)]
        return without(available(self.sequence, index), *lost)

    def frame(self, index: int) -> np.ndarray:
        """Return frame ``index`` with black in place of what was dropped: a picture for people to look at."""
        frame = self.available(index)
        if isinstance(frame, np.ndarray):
            return frame
        black = np.zeros_like(self.sequence.frame(index)[:, :, :3])
        rgb, x = (black if half is None else half for half in frame)
        return join_halves(rgb, x)


def available(sequence: Sequence, index: int) -> np.ndarray | Frame:
    """Return frame ``index`` as a tracker gets it."""
    if isinstance(sequence, DroppedSequence):
        return sequence.available(index)
    return without(sequence.frame(index), rgb=False, x=sequence.lacks_x(index))
