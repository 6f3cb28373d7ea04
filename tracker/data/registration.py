"""Bringing an X image over its RGB image, by resizing, by an affine map or by a homography."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tracker.errors import RGBXError

FILE_NAMES = ("registration.txt", "registration.npy")
SAME_SHAPE = 0.02
"""Width over height of two images that are of one shape may differ by so much, relative to each other."""
SMALLEST_DETERMINANT = 1e-9


def find_registration(*folders: Path) -> Path | None:
    """Find the registration file of the first folder that has one."""
    return next((folder / name for folder in folders for name in FILE_NAMES if (folder / name).is_file()), None)


def read_registration(path: Path) -> np.ndarray:
    """Read a map from X pixels to RGB pixels: an affine one of 2 x 3 numbers, or a homography of 3 x 3.

    Coordinates are OpenCV's, with the center of the first pixel at (0, 0). ``cv2.findHomography`` and
    ``cv2.estimateAffine2D`` answer such a map from points in X and in RGB.

    Returns:
        (3, 3) float64.

    Raises:
        RGBXError: the file cannot be read, has another shape, or its map cannot be inverted.
    """
    expected = "expected 2 lines of 3 numbers (affine) or 3 lines of 3 (homography), from X pixels to RGB pixels"
    try:
        if path.suffix == ".npy":
            matrix = np.load(path, allow_pickle=False)
        else:
            text = path.read_text(encoding="utf-8-sig").translate(str.maketrans(",;", "  "))
            matrix = np.array([line.split() for line in text.splitlines() if line.strip()], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise RGBXError(f"{path} cannot be read as a registration ({type(error).__name__}); {expected}") from None
    if matrix.shape not in ((2, 3), (3, 3)) or matrix.dtype.kind not in "fiu":
        raise RGBXError(f"{path} has the shape {matrix.shape}; {expected}")
    whole = np.eye(3)
    whole[: len(matrix)] = matrix
    if not np.isfinite(whole).all() or abs(np.linalg.det(whole)) < SMALLEST_DETERMINANT:
        raise RGBXError(f"{path} holds a map that cannot be inverted; {expected}")
    return whole


def fit(x: np.ndarray, size: tuple[int, int], matrix: np.ndarray | None, measured: bool = False) -> np.ndarray | None:
    """Bring an X image over its RGB image.

    Args:
        x: (H, W) or (H, W, C), any dtype that OpenCV resizes.
        size: (W, H) of the RGB image.
        matrix: (3, 3) map from X pixels to RGB pixels. None takes images of one shape for registered and resizes them.
        measured: take the nearest value and do not mix neighbors, as millimeters need it.

    Returns:
        The image in RGB's size, black where X saw nothing; None where the shapes differ and there is no map.
    """
    height, width = x.shape[:2]
    how = cv2.INTER_NEAREST if measured else cv2.INTER_LINEAR
    if matrix is not None:
        return np.asarray(cv2.warpPerspective(x, matrix, size, flags=how))
    if (width, height) == size:
        return x
    if abs(width / height / (size[0] / size[1]) - 1) > SAME_SHAPE:
        return None
    return np.asarray(cv2.resize(x, size, interpolation=how))
