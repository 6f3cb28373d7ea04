"""Generated sequences, which are rendered on demand."""

from __future__ import annotations

import numpy as np

from tracker.data.depth import depth_to_image
from tracker.data.events import polarity_to_image
from tracker.data.sequence import Sequence, join_halves
from tracker.data.synthetic.scene import Scene
from tracker.data.synthetic.settings import SyntheticConfig
from tracker.errors import RGBXError


class SyntheticSequence(Sequence):
    """A generated sequence. Frames are rendered on demand as pure functions of (config, index, frame).

    Boxes: the whole silhouette's extent, whether something hides a part of it or not, clipped to the image,
    in whole pixels; the target is present where at least a quarter of its silhouette is inside the image and
    not hidden.

    Args:
        config: what to generate.
        index: which one.
        cache: keep rendered frames (166 KB each at 192x144 with X, half without).
    """

    def __init__(self, config: SyntheticConfig, index: int, cache: bool = True) -> None:
        if index < 0:
            raise RGBXError(f"sequence index is {index}; expected a non-negative integer")
        self.config = config
        self.index = index
        self.name = f"{config.modality}_{config.split}_{config.seed}_{index:05d}"
        self.modality = config.modality
        self.rgb_only = config.modality == "rgb"
        self._cache: list[np.ndarray | None] | None = [None] * config.length if cache else None
        self._scene: Scene | None = None
        self._boxes: np.ndarray | None = None

    @property
    def length(self) -> int:
        return self.config.length

    @property
    def scene(self) -> Scene:
        """The objects, light and camera, which are built when first needed."""
        if self._scene is None:
            self._scene = Scene(self.config, self.index)
        return self._scene

    @property
    def boxes(self) -> np.ndarray:  # type: ignore[override]
        if self._boxes is None:
            self._boxes = self.scene.boxes
        return self._boxes

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what the sensors give: RGB (H, W, 3) uint8, and X, which is None without a second sensor.

        Thermal X is (H, W) uint8, depth (H, W) uint16 in millimeters, events (H, W) int8 polarity.
        """
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.scene.capture(index)

    def planes(self, index: int) -> np.ndarray:
        if not 0 <= index < self.length:
            raise IndexError(index)
        image = self._cache[index] if self._cache is not None else None
        if image is None:
            image = self._render(index)
            image.flags.writeable = False
            if self._cache is not None:
                self._cache[index] = image
                if all(frame is not None for frame in self._cache):
                    boxes = self.boxes
                    self._scene, self._boxes = None, boxes  # only the boxes are still needed, and sprites are large
        return image

    def frame(self, index: int) -> np.ndarray:
        image = self.planes(index)
        return join_halves(image, np.zeros_like(image)) if self.rgb_only else image

    def render_all(self) -> SyntheticSequence:
        """Render every frame now (nothing to do without a cache), and return the sequence."""
        if self._cache is not None:
            for index in range(self.length):
                self.planes(index)
        return self

    def _render(self, index: int) -> np.ndarray:
        rgb, x = self.raw(index)
        if x is None:
            return rgb
        return join_halves(rgb, self.render_x(x))

    def render_x(self, x: np.ndarray) -> np.ndarray:
        """Draw raw X as (H, W, 3) uint8."""
        if self.modality == "depth":
            return depth_to_image(x, self.config.style.depth, self.config.style.depth_clip)
        if self.modality == "event":
            return polarity_to_image(x)
        return np.repeat(x[:, :, None], 3, axis=2)

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        state["_scene"] = None
        return state

    def __repr__(self) -> str:
        return f"SyntheticSequence({self.name!r}, length={self.length})"


def synthetic_dataset(
    config: SyntheticConfig, count: int, first: int = 0, cache: bool = True
) -> list[SyntheticSequence]:
    """Return ``count`` sequences with indices ``first``, ``first + 1`` and so on.

    No sequence is rendered before a frame is asked for. ``synthetic_dataset(config, count, first=e * count)`` gives
    fresh sequences for epoch e.

    Raises:
        RGBXError: count is not positive.
    """
    if count < 1:
        raise RGBXError(f"count is {count}; expected at least one sequence")
    return [SyntheticSequence(config, first + k, cache) for k in range(count)]
