"""A tracker for a loop of one's own, with the two calls that people know from OpenCV's trackers."""

from __future__ import annotations

import os
from collections.abc import Sequence as ListLike
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from tracker.data.sequence import MODALITIES
from tracker.errors import RGBXError
from tracker.inference.missing import Frame
from tracker.inference.online import OnlineTracker, Result
from tracker.inference.opening import open_engine

Halves = tuple["np.ndarray | None", "np.ndarray | None"]
"""RGB and X of a frame; None is a half that is missing."""


class Update(NamedTuple):
    """What :meth:`Tracker.update` answers.

    Attributes:
        ok: the target was found; False where it counts as lost, or neither RGB nor X was there.
        box: (4,) float64 ``x, y, w, h`` in pixels, inside the image; where it was seen last if ``ok`` is False.
    """

    ok: bool
    box: np.ndarray


class Tracker:
    """Follow one target through frames as they come.

    A frame is one of

    - a pair ``(rgb, x)`` of images of one size, of which either may be None where it has not arrived: RGB
      ``(H, W, 3)`` uint8; X ``(H, W, 3)`` or ``(H, W)`` uint8, or what a sensor measured, ``(H, W)`` uint16, which is
      drawn as the checkpoint was trained with it;
    - an array ``(H, W, 6)`` uint8, RGB first and X last;
    - an array ``(H, W, 3)`` uint8: RGB alone.

    Boxes are ``x, y, w, h`` in pixels; pixel i covers [i, i + 1).

    Args:
        checkpoint: a file, the name of shipped weights, or an ONNX file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` and so on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        engine: ``eager``, ``compiled`` or ``graph``, see :mod:`tracker.inference.fast`.
        bgr: the three channels of RGB (and of an X that has three) come in OpenCV's order.
        modality: what an X of more than 8 bits measures: ``depth`` (millimeters) or ``thermal``.
        settings: fields of :class:`tracker.inference.online.InferenceSettings` in place of the checkpoint's own, such
            as ``missing="hold"`` or ``search_growth=1.2``.

    Attributes:
        result: the last answer in full, with score, peak and whether the target is lost; None before the first update.

    Raises:
        RGBXError: a checkpoint that cannot be loaded, an unknown device or an unknown setting.

    For example:

        from tracker import Tracker

        tracker = Tracker("network.safetensors")
        tracker.init((rgb[0], thermal[0]), (120, 80, 40, 60))
        for pair in zip(rgb[1:], thermal[1:]):
            ok, box = tracker.update(pair)
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: str = "fp32",
        engine: str = "eager",
        bgr: bool = False,
        modality: str = "depth",
        **settings: Any,
    ) -> None:
        if modality not in MODALITIES:
            raise RGBXError(f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}")
        try:
            runner, self.settings = open_engine(Path(checkpoint), device, precision, engine, settings)
        except TypeError as error:  # of the dataclass, whose fields the settings are
            raise RGBXError(f"{error}; settings are the fields of tracker.inference.InferenceSettings") from error
        self._online = OnlineTracker(runner, self.settings)
        self._bgr, self._modality = bgr, modality
        self.result: Result | None = None

    def init(self, frame: np.ndarray | Halves, box: ListLike[float] | np.ndarray) -> None:
        """Take the target in its first frame.

        Args:
            frame: see the class.
            box: ``x, y, w, h`` in pixels.

        Raises:
            RGBXError: a malformed frame, or a box that is malformed or outside the image. A target taken before is
                kept then.
        """
        self._online.initialize(self._frame(frame), box)
        self.result = None

    def update(self, frame: np.ndarray | Halves) -> Update:
        """Find the target in the next frame.

        Args:
            frame: see the class. Where both halves are missing, the box stays and ``ok`` is False.

        Returns:
            Whether the target was found, and its box.

        Raises:
            RGBXError: :meth:`init` was not called, or a malformed frame.
        """
        self.result = self._online.track(self._frame(frame))
        return Update(self.result.score > 0 and not self.result.lost, self.result.box)

    def _frame(self, frame: np.ndarray | Halves) -> np.ndarray | Frame:
        if isinstance(frame, np.ndarray):
            if not self._bgr or frame.ndim != 3 or frame.shape[2] not in (3, 6):
                return frame  # the next function says what is wrong with it
            halves = [frame[:, :, first : first + 3][:, :, ::-1] for first in range(0, frame.shape[2], 3)]
            return np.concatenate(halves, axis=2)
        if not isinstance(frame, tuple) or len(frame) != 2:
            raise RGBXError(f"a frame is {type(frame).__name__}; expected an array, or the pair (rgb, x)")
        rgb, x = frame
        return Frame(self._color(rgb), self._x(x))

    def _color(self, image: np.ndarray | None) -> np.ndarray | None:
        if image is None or not self._bgr or image.ndim != 3 or image.shape[2] != 3:
            return image
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _x(self, image: np.ndarray | None) -> np.ndarray | None:
        if image is None or image.ndim != 2:
            return self._color(image)
        if image.dtype != np.uint8:
            render = self.settings.rendering.renderer(self._modality)
            image = image if render is None else render(image)
        return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
