"""X without RGB: what a tracker of one stream sees of a sequence if the second camera is its only one."""

from __future__ import annotations

import numpy as np

from tracker.data.sequence import Sequence, join_halves
from tracker.errors import RGBXError


class XAlone(Sequence):
    """A sequence with X where RGB was, and with no X. Its boxes are those in X, where they were annotated separately.

    Args:
        sequence: any sequence with X.

    Raises:
        RGBXError: the sequence has no X.
    """

    def __init__(self, sequence: Sequence) -> None:
        if sequence.rgb_only:
            raise RGBXError(f"sequence {sequence.name} has no X that could be tracked in alone")
        self.sequence = sequence
        self.name, self.modality, self.rgb_only = sequence.name, "rgb", True
        self.boxes = sequence.boxes if sequence.x_boxes is None else sequence.x_boxes
        self.tags, self.values = sequence.tags, sequence.values
        self.origin, self.annotated = sequence.origin, sequence.annotated

    def planes(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self.sequence.frame(index)[:, :, 3:])

    def frame(self, index: int) -> np.ndarray:
        image = self.planes(index)
        return join_halves(image, np.zeros_like(image))
