"""The generator's door: a configuration, a sequence rendered on demand, a list of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tracker.data.depth import DEPTH_STYLES, depth_to_image
from tracker.data.events import polarity_to_image
from tracker.data.sequence import MODALITIES, Sequence, join_halves
from tracker.data.synthetic.photographs import SPLITS
from tracker.data.synthetic.scene import Scene
from tracker.errors import RGBXError


@dataclass(frozen=True)
class SyntheticConfig:
    """What to generate. Everything about a sequence follows from this and its index.

    Attributes:
        modality: ``"thermal"``, ``"depth"``, ``"event"``, or ``"rgb"``: mostly day-light, no X, for
            pre-training.
        size: (W, H) of the frames, pixels.
        length: frames.
        seed: with the index, all randomness.
        difficulty: 0..1, scales speed, clutter, noise, and the shares below that are None.
        split: photographs of ``"train"``, ``"test"`` or ``"all"``; the first two share none.
        night, fog: shares of sequences that are dark, or veiled, in RGB.
        lookalike: share of sequences with distractors that wear the target's own skin (and differ in X).
        occlusion: share of sequences in which something passes before the target.
        leave: share of sequences in which the target leaves and returns.
        x_failure: share of day-light sequences in which X shows the target badly (thermal crossover, depth
            out of range,
            few events), so that neither modality can be ignored.
        depth_style: how depth is rendered; :func:`tracker.data.depth.depth_to_image`.

    Raises:
        RGBXError: a value out of its range.
    """

    modality: str = "thermal"
    size: tuple[int, int] = (192, 144)
    length: int = 60
    seed: int = 0
    difficulty: float = 0.5
    split: str = "train"
    night: float | None = None
    fog: float | None = None
    lookalike: float | None = None
    occlusion: float | None = None
    leave: float | None = None
    x_failure: float | None = None
    depth_style: str = "jet"

    def __post_init__(self) -> None:
        if self.modality not in (*MODALITIES, "rgb"):
            raise RGBXError(f"modality is {self.modality!r}; expected one of {', '.join((*MODALITIES, 'rgb'))}")
        if self.split not in SPLITS:
            raise RGBXError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if self.depth_style not in DEPTH_STYLES:
            raise RGBXError(f"depth_style is {self.depth_style!r}; expected one of {', '.join(DEPTH_STYLES)}")
        if len(self.size) != 2 or min(self.size) < 64:
            raise RGBXError(f"size is {self.size}; expected (width, height) of at least 64 pixels each")
        if self.length < 2:
            raise RGBXError(f"length is {self.length}; a sequence has at least 2 frames")
        if self.seed < 0:
            raise RGBXError(f"seed is {self.seed}; expected a non-negative integer")
        for name in ("difficulty", "night", "fog", "lookalike", "occlusion", "leave", "x_failure"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise RGBXError(f"{name} is {value}; expected a number in [0, 1]")

    def share(self, name: str) -> float:
        """The share called ``name``, or what the difficulty makes of it."""
        value = getattr(self, name)
        if value is not None:
            return float(value)
        d = self.difficulty
        plain = self.modality == "rgb"
        return {
            "night": 0.12 * d if plain else 0.2 + 0.4 * d,
            "fog": 0.1 * d if plain else 0.1 + 0.2 * d,
            "lookalike": 0.5 * d if plain else 0.2 + 0.6 * d,
            "occlusion": 0.2 + 0.6 * d,
            "leave": 0.4 * d,
            "x_failure": 0.0 if plain else 0.3 * d,
        }[name]


class SyntheticSequence(Sequence):
    """A rendered sequence: frames on demand, pure functions of (config, index, frame), kept as uint8.

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
        """The objects, light and camera; built when first needed."""
        if self._scene is None:
            self._scene = Scene(self.config, self.index)
        return self._scene

    @property
    def boxes(self) -> np.ndarray:  # type: ignore[override]
        if self._boxes is None:
            self._boxes = self.scene.boxes
        return self._boxes

    def raw(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What the sensors give: RGB (H, W, 3) uint8, and X as thermal (H, W) uint8, depth (H, W) uint16
        millimeters, events (H, W) int8 polarity, or None."""
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
                    self._scene, self._boxes = None, boxes  # sprites are larger than what is still needed
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
        """Raw X to (H, W, 3) uint8."""
        if self.modality == "depth":
            return depth_to_image(x, self.config.depth_style)
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
    """``count`` sequences with indices ``first``, ``first + 1``, ...; none is rendered before a frame is
    asked for.

    Fresh sequences for epoch e: ``synthetic_dataset(config, count, first=e * count)``.

    Raises:
        RGBXError: count is not positive.
    """
    if count < 1:
        raise RGBXError(f"count is {count}; expected at least one sequence")
    return [SyntheticSequence(config, first + k, cache) for k in range(count)]


CONFIG_FIELDS = tuple(field.name for field in fields(SyntheticConfig))
"""Names of the settings, for configuration files."""
