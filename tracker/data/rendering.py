"""How X that is not a picture becomes one: depth and events, by the styles in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tracker.data.depth import DEPTH_STYLES, depth_to_image
from tracker.data.events import EVENT_STYLES
from tracker.errors import RGBXError


@dataclass(frozen=True)
class XStyle:
    """The choices that a network's training and its use have to share.

    Attributes:
        depth: one of :data:`tracker.data.depth.DEPTH_STYLES`.
        depth_clip: clip depth to min(3 * median, 10000) first.
        event: one of :data:`tracker.data.events.EVENT_STYLES`, for events that are stored as arrays or recordings;
            rendered event images are taken as they are.

    Raises:
        RGBXError: an unknown style.
    """

    depth: str = "jet"
    depth_clip: bool = True
    event: str = "colour"

    def __post_init__(self) -> None:
        if self.depth not in DEPTH_STYLES:
            raise RGBXError(f"depth style is {self.depth!r}; expected one of {', '.join(DEPTH_STYLES)}")
        if self.event not in EVENT_STYLES:
            raise RGBXError(f"event style is {self.event!r}; expected one of {', '.join(EVENT_STYLES)}")

    def renderer(self, modality: str) -> Callable[[np.ndarray], np.ndarray] | None:
        """What turns a decoded X image of this modality into a picture; None where it is one. It can be pickled."""
        return partial(_depth, style=self.depth, clip=self.depth_clip) if modality == "depth" else None


def _depth(x: np.ndarray, style: str, clip: bool) -> np.ndarray:
    # Depth that was already colored or scaled to 8 bits three channels is a picture; one channel is millimeters.
    return depth_to_image(x, style, clip) if x.ndim == 2 else x
