"""Frames of two video files, two cameras, or one of each, paired as they come."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from tracker.errors import RGBXError
from tracker.inference.frame_source import FrameSource
from tracker.inference.missing import Frame

log = logging.getLogger("rgbx")

CAMERA = "camera:"
UNREADABLE_IN_A_ROW = 30
"""After as many, a stream counts as ended: a file is cut off, or a camera unplugged."""
SAME_RATE = 0.01
"""Frame rates that differ by less are one."""
SAME_SHAPE = 0.02
PAIRINGS = ("auto", "index", "time")


class Image(NamedTuple):
    """One image of a capture: RGB (H, W, 3) uint8, None where it cannot be read; and its time in seconds."""

    pixels: np.ndarray | None
    time: float


class Capture:
    """One video file or camera through OpenCV, with what can go wrong in the middle of it.

    Args:
        address: a file, or ``camera:0``.
        open_capture: makes an object like ``cv2.VideoCapture`` of a path or a number.

    Raises:
        RGBXError: it cannot be opened, or ``camera:`` is not followed by a number.
    """

    def __init__(self, address: str, open_capture: Callable[[Any], Any] = cv2.VideoCapture) -> None:
        self.address = address
        self.live = address.startswith(CAMERA)
        number = address.removeprefix(CAMERA)
        if self.live and not number.isdecimal():
            raise RGBXError(f"{address!r} is not a camera; write camera:0, camera:1 and so on")
        if not self.live and not Path(address).is_file():
            raise RGBXError(f"the video {address} does not exist; give a file, or camera:0 for a camera")
        self._device = open_capture(int(number) if self.live else address)
        if not self._device.isOpened():
            self._device.release()
            advice = (
                "is it plugged in and free" if self.live else "is it a video, of a codec that this OpenCV can decode"
            )
            raise RGBXError(f"cannot open {address}; {advice}?")
        rate = float(self._device.get(cv2.CAP_PROP_FPS))
        self.fps = rate if math.isfinite(rate) and rate > 0 else None
        count = float(self._device.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = int(count) if not self.live and math.isfinite(count) and count > 0 else None
        self._taken = 0
        self._failures = 0
        self._told = False

    def grab(self) -> bool:
        """Take the next image without decoding it; two cameras are grabbed first and decoded then."""
        return bool(self._device.grab())

    def retrieve(self, grabbed: bool) -> Image | None:
        """Decode what :meth:`grab` took; None where the stream has ended."""
        pixels: np.ndarray | None = None
        if grabbed:
            done, image = self._device.retrieve()
            if done and isinstance(image, np.ndarray) and image.size:
                pixels = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
        index, self._taken = self._taken, self._taken + 1
        if pixels is None:
            self._failures += 1
            past_the_end = not self.live and (self.length is None or index >= self.length)
            if past_the_end or self._failures >= UNREADABLE_IN_A_ROW:
                return None
            if not self._told:
                log.warning("%s: image %d cannot be read; it counts as missing, as will others", self.address, index)
                self._told = True
        else:
            self._failures = 0
        seconds = float(self._device.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        if not math.isfinite(seconds) or (seconds <= 0 and index):
            seconds = index / self.fps if self.fps else float(index)
        return Image(pixels, seconds)

    def close(self) -> None:
        self._device.release()


class PairedCapture(FrameSource):
    """RGB and X from two video files or two cameras.

    RGB is the clock: there is one frame for each of its images, and the run ends with it. X's image is the one of the
    same index, or, where frame rates differ, the nearest in time. Where X has ended or none is near enough (one
    X period), it is missing. X of another resolution but the same shape is resized.

    Args:
        rgb, x: files or ``camera:N``; without ``x``, X is missing in every frame.
        pairing: ``index``, ``time``, or ``auto``: by time where two files have different frame rates.
        modality: the kind of X.

    Raises:
        RGBXError: one of them cannot be opened, an unknown pairing, or time asked of cameras, which have none.
    """

    def __init__(
        self,
        rgb: str,
        x: str | None,
        pairing: str = "auto",
        modality: str = "X",
        open_capture: Callable[[Any], Any] = cv2.VideoCapture,
    ) -> None:
        if pairing not in PAIRINGS:
            raise RGBXError(f"pairing {pairing!r} is unknown; choose one of {', '.join(PAIRINGS)}")
        self.rgb = Capture(rgb, open_capture)
        try:
            self.x = None if x is None else Capture(x, open_capture)
        except RGBXError:
            self.rgb.close()
            raise
        self.live = self.rgb.live or (self.x is not None and self.x.live)
        rates = (self.rgb.fps, self.x.fps if self.x else self.rgb.fps)
        if self.live and pairing == "time":
            self.close()
            raise RGBXError("cameras' images are paired as they come; pairing by time is for files")
        if pairing == "auto":
            known = rates[0] is not None and rates[1] is not None
            differ = known and abs(rates[0] / rates[1] - 1) > SAME_RATE  # type: ignore[operator]
            pairing = "time" if differ and not self.live else "index"
        self.pairing = pairing
        self.name = Path(rgb).stem if not self.rgb.live else rgb.replace(":", "")
        self.modality, self.fps, self.length = modality, self.rgb.fps, self.rgb.length
        self._told: set[str] = set()

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s", what)

    def __iter__(self) -> Iterator[Frame]:
        pairs = self._by_time() if self.pairing == "time" else self._by_index()
        for rgb, x in pairs:
            yield Frame(rgb, self._fitted(x, rgb))

    def _by_index(self) -> Iterator[Frame]:
        x_ended = self.x is None
        while True:
            # Both are grabbed before either is decoded: cameras' images are then as close in time as they can be.
            grabbed = (self.rgb.grab(), not x_ended and self.x is not None and self.x.grab())
            rgb = self.rgb.retrieve(grabbed[0])
            if rgb is None:
                break
            x = None
            if self.x is not None and not x_ended:
                x = self.x.retrieve(grabbed[1])
                if x is None:
                    x_ended = True
                    self._tell(f"{self.x.address} ended before {self.rgb.address}; the rest is tracked without X")
            yield Frame(rgb.pixels, None if x is None else x.pixels)
        if self.x is not None and not x_ended and not self.live and self.x.grab():
            self._tell(f"{self.x.address} is longer than {self.rgb.address}; what is left of it is not used")

    def _by_time(self) -> Iterator[Frame]:
        assert self.x is not None
        period = 1 / self.x.fps if self.x.fps else math.inf
        current: Image | None = None
        upcoming = self.x.retrieve(self.x.grab())
        while (rgb := self.rgb.retrieve(self.rgb.grab())) is not None:
            while upcoming is not None and (
                current is None or abs(upcoming.time - rgb.time) <= abs(current.time - rgb.time)
            ):
                current, upcoming = upcoming, self.x.retrieve(self.x.grab())
            near = current is not None and abs(current.time - rgb.time) <= period
            if not near and upcoming is None:
                self._tell(f"{self.x.address} ended before {self.rgb.address}; the rest is tracked without X")
            yield Frame(rgb.pixels, current.pixels if current is not None and near else None)

    def _fitted(self, x: np.ndarray | None, rgb: np.ndarray | None) -> np.ndarray | None:
        if x is None or rgb is None or x.shape == rgb.shape:
            return x
        height, width = rgb.shape[:2]
        if abs(x.shape[1] / x.shape[0] / (width / height) - 1) > SAME_SHAPE:
            raise RGBXError(
                f"RGB is {width}x{height} but X {x.shape[1]}x{x.shape[0]}; the two images must be registered and of "
                "one shape"
            )
        self._tell(f"X is {x.shape[1]}x{x.shape[0]} and resized to RGB's {width}x{height}; they must be registered")
        return cv2.resize(x, (width, height), interpolation=cv2.INTER_LINEAR)

    def close(self) -> None:
        self.rgb.close()
        if self.x is not None:
            self.x.close()
