"""How X that is not a picture becomes one: depth, events, and thermal images of more than 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tracker.data.depth import DEPTH_STYLES, depth_to_image
from tracker.data.events import EVENT_STYLES
from tracker.data.thermal import THERMAL_STYLES, thermal_to_image
from tracker.errors import RGBXError
from tracker.spellings import american


@dataclass(frozen=True)
class XStyle:
    """The choices that a network's training and its use have to share.

    Attributes:
        depth: one of :data:`tracker.data.depth.DEPTH_STYLES`.
        depth_clip: clip depth to min(3 * median, 10000) first.
        event: one of :data:`tracker.data.events.EVENT_STYLES`, for events that are stored as arrays or recordings;
            rendered event images are taken as they are.
        thermal: one of :data:`tracker.data.thermal.THERMAL_STYLES`, for thermal images of more than 8 bits; images of
            8 bits are taken as they are.
        thermal_range: raw values of black and white, for ``thermal="fixed"``.

    Raises:
        RGBXError: an unknown style, or a range that is missing, superfluous or empty.
    """

    depth: str = "jet"
    depth_clip: bool = True
    event: str = "color"
    thermal: str = "percentile"
    thermal_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, known in (("depth", DEPTH_STYLES), ("event", EVENT_STYLES), ("thermal", THERMAL_STYLES)):
            value = american(getattr(self, name))
            if value not in known:
                raise RGBXError(f"{name} style is {value!r}; expected one of {', '.join(known)}")
            object.__setattr__(self, name, value)
        if (self.thermal == "fixed") != (self.thermal_range is not None):
            raise RGBXError(
                f"thermal style is {self.thermal!r} with the range {self.thermal_range}; the style fixed needs a "
                "range, and no other style takes one"
            )
        if self.thermal_range is not None:
            low, high = (float(value) for value in self.thermal_range)
            if not low < high:
                raise RGBXError(f"the thermal range is {low:g} to {high:g}; white must be a larger value than black")
            object.__setattr__(self, "thermal_range", (low, high))

    def renderer(self, modality: str) -> Callable[[np.ndarray], np.ndarray] | None:
        """Return what draws a decoded X image of this modality, or None where it is a picture. It can be pickled."""
        if modality == "depth":
            return partial(_depth, style=self.depth, clip=self.depth_clip)
        if modality == "thermal":
            return partial(thermal_to_image, style=self.thermal, limits=self.thermal_range)
        return None


def x_style(settings: Any) -> XStyle:
    """Return the style that a configuration's data section, or the settings of inference, describe.

    Both have ``depth_style``, ``depth_clip``, ``event_style``, ``thermal_style`` and ``thermal_range``.
    """
    return XStyle(
        settings.depth_style,
        settings.depth_clip,
        settings.event_style,
        settings.thermal_style,
        settings.thermal_range,
    )


def _depth(x: np.ndarray, style: str, clip: bool) -> np.ndarray:
    # Depth that was already colored or scaled to 8 bits three channels is a picture; one channel is millimeters.
    return depth_to_image(x, style, clip) if x.ndim == 2 else x
