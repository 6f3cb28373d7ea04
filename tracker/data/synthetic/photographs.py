"""The photographs in scikit-image's wheel, split so that no test uses a photograph of training."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tracker.errors import RGBXError

TRAIN_PHOTOGRAPHS = (
    "astronaut.png",
    "coffee.png",
    "motorcycle_left.png",
    "ihc.png",
    "hubble_deep_field.jpg",
    "brick.png",
    "grass.png",
    "coins.png",
    "camera.png",
    "page.png",
    "moon.png",
)
TEST_PHOTOGRAPHS = (
    "chelsea.png",
    "rocket.jpg",
    "retina.jpg",
    "gravel.png",
    "text.png",
    "cell.png",
    "clock_motion.png",
    "color.png",
)
SPLITS = {
    "train": TRAIN_PHOTOGRAPHS,
    "test": TEST_PHOTOGRAPHS,
    "all": TRAIN_PHOTOGRAPHS + TEST_PHOTOGRAPHS,
}
# The edges of these show black or paper and not the scene.
_CENTER = {"retina.jpg": 0.55, "color.png": 0.6}
_LONG_SIDE = 512
_NOT_SKIN = ("hubble_deep_field.jpg", "clock_motion.png", "cell.png")


def photograph_folder() -> Path:
    """Return scikit-image's data folder.

    Raises:
        RGBXError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise RGBXError(
            "scikit-image is not installed, whose photographs the generator needs; pip install scikit-image"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@functools.lru_cache(maxsize=64)
def photograph(name: str) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, at most 512 pixels on its long side, read-only.

    Raises:
        RGBXError: the installed scikit-image does not carry it.
    """
    path = photograph_folder() / name
    try:
        # Pillow is used because OpenCV's libpng prints a warning about one file's color profile.
        with Image.open(path) as file:
            image = np.asarray(file.convert("RGB"))
    except OSError as error:
        raise RGBXError(
            f"the installed scikit-image does not carry {name} ({path}); install scikit-image >= 0.24"
        ) from error
    keep = _CENTER.get(name, 1.0)
    if keep < 1.0:
        dy, dx = (int(n * (1 - keep) / 2) for n in image.shape[:2])
        image = image[dy : image.shape[0] - dy, dx : image.shape[1] - dx]
    scale = _LONG_SIDE / max(image.shape[:2])
    if scale < 1.0:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = np.ascontiguousarray(image)
    image.flags.writeable = False
    return image


@functools.lru_cache(maxsize=64)
def is_gray(name: str) -> bool:
    """Return whether the photograph's three channels are equal."""
    image = photograph(name)
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())


def random_patch(
    rng: np.random.Generator,
    split: str,
    size: tuple[int, int],
    zoom: tuple[float, float],
    tint: float = 0.5,
    skin: bool = False,
) -> np.ndarray:
    """Return a patch of a random photograph, resized and mirrored at random. Gray photographs are colored.

    Args:
        rng: the generator.
        split: whose photographs are used, see :class:`.settings.SyntheticConfig`.
        size: (W, H) of the patch.
        zoom: range of the patch's side as a share of the largest that fits.
        tint: probability that a color photograph's channels are permuted, for variety of hue.
        skin: leave out photographs that are mostly black or blank, because objects need a texture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    names = [name for name in SPLITS[split] if not (skin and name in _NOT_SKIN)]
    name = names[int(rng.integers(len(names)))]
    image = photograph(name)
    height, width = image.shape[:2]
    share = rng.uniform(*zoom)
    fit = min(width / size[0], height / size[1]) * share
    w, h = max(4, int(size[0] * fit)), max(4, int(size[1] * fit))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    patch = image[y : y + h, x : x + w]
    patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA if w > size[0] else cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    order, dark, bright = rng.permutation(3), rng.uniform(0, 70, 3), rng.uniform(150, 255, 3)
    recolor = rng.random() < tint
    if is_gray(name):
        ramp = dark + (bright - dark) * np.linspace(0, 1, 256)[:, None]
        patch = ramp.astype(np.uint8)[patch[..., 0]]
    elif recolor:
        patch = patch[..., order]
    return np.ascontiguousarray(patch)
