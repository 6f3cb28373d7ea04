"""The images of a folder: found once, in natural order, and kept as names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import cv2
import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
EVENT_SUFFIXES = (".npz", ".npy")
"""Events of one frame as arrays, where a folder holds no images of them."""


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """Return a sort key by which ``v9`` comes before ``v10`` and ``000010.jpg`` after ``9.jpg``."""
    name = path.name if isinstance(path, Path) else path
    return [(0, int(t), "") if t.isdigit() else (1, 0, t.lower()) for t in re.split(r"([0-9]+)", name) if t]


class FrameList(Sequence[Path]):
    """Files of one folder, in order.

    A large data set has more than a million frames; a path for each would take ten times the memory of the names.
    """

    __slots__ = ("folder", "names")

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> FrameList: ...

    def __getitem__(self, index: int | slice) -> Path | FrameList:
        if isinstance(index, slice):
            return FrameList(self.folder, self.names[index])
        return self.folder / self.names[index]


class PartialFrameList(Sequence["Path | None"]):
    """Files of one folder by the frames that they belong to; None where a frame has no file."""

    __slots__ = ("folder", "names")

    def __init__(self, folder: Path, names: Sequence[str | None]) -> None:
        self.folder = folder
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path | None: ...

    @overload
    def __getitem__(self, index: slice) -> PartialFrameList: ...

    def __getitem__(self, index: int | slice) -> Path | PartialFrameList | None:
        if isinstance(index, slice):
            return PartialFrameList(self.folder, self.names[index])
        name = self.names[index]
        return None if name is None else self.folder / name


_ANY_DIGIT = str.maketrans("123456789", "000000000")


def sorted_naturally(names: list[str]) -> list[str]:
    """Sort names in natural order.

    Some folders of LasHeR mix two ways of naming, ``v012.jpg`` and ``000013.jpg``. Natural order would put all names of
    one way before the others. Names of several ways are therefore sorted by their last number, if no two have the same.
    """
    if len(set("\n".join(names).translate(_ANY_DIGIT).split("\n"))) <= 1:
        return sorted(names)  # digits in the same places only: text order is natural order, and many times as quick
    if len({_scheme(name) for name in names}) > 1:
        numbers = frame_numbers(names)
        if numbers is not None and len(set(numbers)) == len(numbers):
            return [name for _, name in sorted(zip(numbers, names, strict=True))]
    return sorted(names, key=lambda name: (natural_key(name), name))


def _scheme(name: str) -> str:
    """Return what of a name is neither a number nor the kind of file."""
    return re.sub(r"[0-9]+", "0", name.rpartition(".")[0]).lower()


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """Return the last number in each name, without the suffix; None where a name has none."""
    last = [re.findall(r"[0-9]+", name.rpartition(".")[0])[-1:] for name in names]
    return [int(number[0]) for number in last] if all(last) else None


def same_number_in_two_schemes(names: Sequence[str]) -> tuple[str, str] | None:
    """Find two names of different schemes with one number, whose order nobody can tell; None where there are none."""
    if len({_scheme(name) for name in names}) < 2:
        return None
    seen: dict[int, str] = {}
    for name, number in zip(names, frame_numbers(names) or [], strict=False):
        other = seen.setdefault(number, name)
        if other != name and _scheme(other) != _scheme(name):
            return other, name
    return None


def frame_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> FrameList:
    """List files of the given kinds in natural order. Hidden files and other kinds are passed over.

    The list is empty where there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith(".")]
    except OSError:
        names = []
    return FrameList(folder, sorted_naturally(names))


def any_frame(folder: Path) -> str:
    """Return the name of some image of a folder, which shows how frames are named; empty where there is none."""
    try:
        with os.scandir(folder) as entries:
            return next((e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES)), "")
    except OSError:
        return ""


_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def image_size(path: Path) -> tuple[int, int] | None:
    """Read (W, H) of the upright image from its header; None where that cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return (height, width) if turned else (width, height)
    except (OSError, ValueError):
        return None


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (RGB order); OSError where the disk refuses it, which cv2.imwrite would swallow."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    done, data = cv2.imencode(path.suffix, bgr, options)
    if not done:
        raise OSError(f"{path} could not be encoded")
    path.write_bytes(data.tobytes())
