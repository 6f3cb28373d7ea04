"""RGB-X sequences: frames of six channels, boxes, and where the target is absent."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from collections.abc import Sequence as ListLike
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from tracker.data.events import ARRAY_SUFFIXES, array_to_image
from tracker.data.registration import FILE_NAMES, fit
from tracker.data.thermal import RADIOMETRIC_HEADER, is_radiometric, read_radiometric
from tracker.errors import RGBXError

MODALITIES = ("thermal", "depth", "event")
"""The kinds of X that a sequence may carry beside RGB."""


def join_halves(rgb: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Join two (H, W, 3) uint8 to (H, W, 6), six times as fast as numpy, which takes longer than decoding."""
    return np.asarray(cv2.merge((rgb, x)))


class Sequence(abc.ABC):
    """One video of one target, with an RGB and an X image per frame.

    Attributes:
        name: unique within its data set.
        modality: one of :data:`MODALITIES`, or ``"rgb"`` for a sequence without X.
        boxes: (N, 4) float64, ``x, y, w, h`` in pixels; a pixel with index i covers [i, i+1), so the box that
            covers the
            first pixel alone is ``0, 0, 1, 1``. Rows are NaN where the target is absent (or not annotated).
        rgb_only: the X half of every frame is zero.
        x_boxes: (N, 4) boxes in the X image, where it was annotated separately (RGBT234, GTOT), or None.
        tags: (N,) bool per name: attributes of frames, as VOT's ``*.tag`` files give them.
        values: (N,) float64 per name, as VOT's ``*.value`` files give them.
        origin: what the annotation file that the boxes are from calls the first pixel, for writing results as it does.
        annotated: (N,) bool: the annotation says something of this frame, a box or that the target is absent. None:
            of every frame (VTUAV annotates one frame in ten).
    """

    name: str
    modality: str
    boxes: np.ndarray
    rgb_only: bool = False
    x_boxes: np.ndarray | None = None
    tags: Mapping[str, np.ndarray] = MappingProxyType({})
    values: Mapping[str, np.ndarray] = MappingProxyType({})
    origin: float = 0.0
    annotated: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Number of frames N."""
        return len(self.boxes)

    def __len__(self) -> int:
        return self.length

    @property
    def present(self) -> np.ndarray:
        """(N,) bool: the target has a box in this frame."""
        return np.asarray(np.isfinite(self.boxes).all(axis=1))

    @abc.abstractmethod
    def frame(self, index: int) -> np.ndarray:
        """Return frame ``index``: (H, W, 6) uint8, R, G, B first and X rendered to three channels last.

        Raises:
            RGBXError: the frame cannot be read; the message names sequence, frame and file.
        """

    def lacks_x(self, index: int) -> bool:
        """Return whether frame ``index`` of a sequence with X has no X; its half of :meth:`frame` is black then."""
        return False

    def planes(self, index: int) -> np.ndarray:
        """Return what there is of frame ``index``: (H, W, 3) uint8 of a sequence without X, :meth:`frame` of any other.

        Cropping these and adding the zeros afterward costs half as much.
        """
        image = self.frame(index)
        return image[:, :, :3] if self.rgb_only else image

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """RGB (H, W, 3) uint8, and X before it is rendered to three channels (depth: (H, W) in millimeters), or None.

        Where nothing rawer is known, X is the rendered image.

        Raises:
            RGBXError: as :meth:`frame`.
        """
        image = self.frame(index)
        return image[:, :, :3], None if self.rgb_only else image[:, :, 3:]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, modality={self.modality!r}, length={self.length}, "
            f"present={int(self.present.sum())})"
        )


def as_boxes(boxes: object) -> np.ndarray:
    """Copy ``boxes`` to (N, 4) float64. Rows that are not finite, or have no area, become NaN.

    Raises:
        RGBXError: not of shape (N, 4).
    """
    array = np.array(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise RGBXError(f"boxes have shape {array.shape}; expected (N, 4) holding x, y, w, h")
    absent = ~np.isfinite(array).all(axis=1) | (array[:, 2] <= 0) | (array[:, 3] <= 0)
    array[absent] = np.nan
    return array


class ArraySequence(Sequence):
    """A sequence whose frames are already in memory.

    Args:
        name, modality: see :class:`Sequence`.
        frames: (N, H, W, 6) or, for RGB alone, (N, H, W, 3) uint8.
        boxes: (N, 4), as in :class:`Sequence`.

    Raises:
        RGBXError: shapes or lengths that do not fit.
    """

    def __init__(self, name: str, modality: str, frames: np.ndarray, boxes: object) -> None:
        if frames.ndim != 4 or frames.shape[3] not in (3, 6) or frames.dtype != np.uint8:
            raise RGBXError(
                f"sequence {name}: frames are {frames.shape} {frames.dtype}; expected (N, H, W, 6) or (N, "
                "H, W, 3) uint8"
            )
        self.boxes = as_boxes(boxes)
        if len(self.boxes) != len(frames):
            raise RGBXError(
                f"sequence {name}: {len(frames)} frames but {len(self.boxes)} boxes; expected one box per frame"
            )
        self.name = name
        self.modality = modality
        self.rgb_only = frames.shape[3] == 3
        self._frames = frames

    def planes(self, index: int) -> np.ndarray:
        return np.asarray(self._frames[index])

    def frame(self, index: int) -> np.ndarray:
        image = self.planes(index)
        return join_halves(image, np.zeros_like(image)) if self.rgb_only else image


ANY_KIND = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
"""Gray stays gray and 16 bits stay 16 bits, and images are turned upright as their EXIF data say."""


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Decode an image file, or answer None where it is missing or not an image.

    Color is in RGB order. An image with an EXIF orientation is turned upright, as viewers show it. With
    :data:`ANY_KIND` a FLIR radiometric JPEG is its raw thermal image, (H, W) uint16. Any path name works.

    Raises:
        RGBXError: a radiometric JPEG that cannot be read.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    if data.size == 0:
        return None
    if flags == ANY_KIND and is_radiometric(data[:RADIOMETRIC_HEADER].tobytes()):
        return read_radiometric(data.tobytes(), path)
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error:
        return None
    if image is None:
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 and image.shape[2] == 3 else image


class FolderSequence(Sequence):
    """A sequence on disk, decoded a frame at a time when it is asked for.

    Args:
        name, modality: see :class:`Sequence`.
        rgb_files: N image files.
        x_files: N image files, or arrays of events (:func:`tracker.data.events.array_to_image`); None for a frame
            without X. Or None for RGB alone.
        boxes: (N, 4), as in :class:`Sequence`.
        render_x: turns the decoded X image, (H, W) or (H, W, 3) of its own dtype, into uint8 of one or three
            channels.
        source: the folder, named in messages.
        tags, values, x_boxes, annotated: see :class:`Sequence`.
        origin: what the annotation file that the boxes are from calls the first pixel, for writing results as it does.
        event_style: how arrays of events are rendered.
        fitted: X of another size is brought to RGB's: by ``registration``, or where both are of one shape by resizing.
            Without it images of different sizes are an error.
        registration: (3, 3) map from X pixels to RGB pixels, as :mod:`tracker.data.registration` reads it.

    Raises:
        RGBXError: the numbers of files and boxes differ.
    """

    def __init__(
        self,
        name: str,
        modality: str,
        rgb_files: ListLike[Path],
        x_files: ListLike[Path] | ListLike[Path | None] | None,
        boxes: object,
        render_x: Callable[[np.ndarray], np.ndarray] | None = None,
        source: Path | None = None,
        tags: Mapping[str, np.ndarray] | None = None,
        *,
        values: Mapping[str, np.ndarray] | None = None,
        x_boxes: np.ndarray | None = None,
        annotated: np.ndarray | None = None,
        origin: float = 0.0,
        event_style: str = "color",
        fitted: bool = False,
        registration: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.modality = modality
        self.rgb_files = rgb_files
        self.x_files: ListLike[Path | None] | None = x_files
        self.source = source
        self.tags = dict(tags or {})
        self.values = dict(values or {})
        self.x_boxes = x_boxes
        self.annotated = annotated
        self.origin = origin
        self.event_style = event_style
        self.fitted = fitted or registration is not None
        self.registration = registration
        self.boxes = as_boxes(boxes)
        self.rgb_only = x_files is None
        self._render_x = render_x
        if x_files is not None and len(x_files) != len(rgb_files):
            raise RGBXError(
                f"sequence {name}: {len(rgb_files)} RGB frames in {_folder(rgb_files, source)} but {len(x_files)} "
                f"{modality} frames in {_folder(x_files, source)}; expected as many of each"
            )
        if len(self.boxes) != len(rgb_files):
            raise RGBXError(
                f"sequence {name}: {len(rgb_files)} frames but {len(self.boxes)} boxes in {source}; "
                "expected one box per frame"
            )

    def lacks_x(self, index: int) -> bool:
        """Return whether there is no X file for frame ``index``."""
        return self.x_files is not None and self.x_files[index] is None

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read RGB, and X over it as it was measured; see :meth:`Sequence.raw`."""
        rgb = self._decode(index, self.rgb_files[index], cv2.IMREAD_COLOR)
        x = self._x(index, rgb)
        return rgb, None if x is None else self._over(index, x, rgb, measured=x.dtype != np.uint8)

    def frame(self, index: int) -> np.ndarray:
        """Read frame ``index``. X is drawn before it is brought over RGB, so that its own extremes decide its grays."""
        rgb = self._decode(index, self.rgb_files[index], cv2.IMREAD_COLOR)
        x = self._x(index, rgb)
        if x is None:
            return join_halves(rgb, np.zeros_like(rgb))
        if self._render_x is not None:
            x = self._render_x(x)
        if x.ndim == 2:
            x = cv2.cvtColor(x, cv2.COLOR_GRAY2RGB)
        return join_halves(rgb, self._over(index, x, rgb, measured=False))

    def _x(self, index: int, rgb: np.ndarray) -> np.ndarray | None:
        """Read X of a frame in its own size, (H, W) or (H, W, 3) of its own dtype; None where there is none."""
        path = None if self.x_files is None else self.x_files[index]
        if path is None:
            return None
        if path.suffix.lower() in ARRAY_SUFFIXES:
            return self._drawn(index, path, (rgb.shape[1], rgb.shape[0]))
        x = self._decode(index, path, ANY_KIND)
        if x.dtype != np.uint8 and self.modality not in ("depth", "thermal"):
            raise RGBXError(
                f"sequence {self.name}: frame {index} has {x.dtype} pixels: {path}; expected 8-bit "
                f"{self.modality} images"
            )
        return x

    def _over(self, index: int, x: np.ndarray, rgb: np.ndarray, measured: bool) -> np.ndarray:
        """Bring X to the size of RGB."""
        if x.shape[:2] == rgb.shape[:2] and self.registration is None:
            return x
        found = fit(x, (rgb.shape[1], rgb.shape[0]), self.registration, measured) if self.fitted else None
        if found is None:
            assert self.x_files is not None
            remedy = (
                f"put their registration into {FILE_NAMES[0]}, or crop them to one shape"
                if self.fitted
                else "the two images must be registered and of one size"
            )
            raise RGBXError(
                f"sequence {self.name}: frame {index} is {rgb.shape[1]}x{rgb.shape[0]} in RGB but "
                f"{x.shape[1]}x{x.shape[0]} in {self.modality}: {self.x_files[index]}; {remedy}"
            )
        return found

    def _decode(self, index: int, path: Path, flags: int) -> np.ndarray:
        try:
            image = read_image(path, flags)
        except RGBXError as error:
            raise RGBXError(f"sequence {self.name}: frame {index}: {error}") from None
        if image is None:
            what = "cannot be decoded as an image" if path.is_file() else "is missing"
            raise RGBXError(
                f"sequence {self.name}: frame {index} {what}: {path}; restore the file or leave the sequence out"
            )
        return image

    def _drawn(self, index: int, path: Path, size: tuple[int, int]) -> np.ndarray:
        try:
            return array_to_image(path, size, self.event_style)
        except RGBXError as error:
            raise RGBXError(f"sequence {self.name}: frame {index}: {error}") from None


def _folder(files: ListLike[Path] | ListLike[Path | None], source: Path | None) -> Path | None:
    """Return the folder of the files, for messages."""
    return next((path.parent for path in files if path is not None), source)
