"""VTUAV's MPR and MSR, of its short-term and its long-term part alike.

The rules (the MATLAB code that comes with the data set): every tenth frame is annotated, in both images, and of a
result with one box for each frame every tenth one is taken; per annotated frame the smaller center error and the larger
IoU over the two ground truths; MPR is the share of them with an error of at most 20 pixels, MSR the mean over 21 IoU
thresholds 0:0.05:1 of the share strictly above; means over the annotated frames of a sequence, then over sequences.
Nothing is repaired, and the first result is not replaced. Corners become boxes that are rounded to integers. A frame in
which the target is absent is measured like any other: its ground truth has no area, so it is a failure in MSR, and in
MPR unless the result happens to lie near the image's corner.

The two parts (``test/short-term`` and ``test/long-term``) are evaluated one at a time.
"""

from __future__ import annotations

import numpy as np

from tracker.errors import RGBXError

ANNOTATED_EVERY = 10
"""Frames from one annotated frame to the next; the first one is annotated."""
BOX_FILES = ("rgb.txt", "ir.txt")
"""A sequence's boxes in the RGB and the thermal image, ``x y w h``, a line for each annotated frame."""


def at_annotated_frames(name: str, results: np.ndarray, annotated: int) -> np.ndarray:
    """Take the results of the annotated frames, (annotated, 4), out of those of all frames.

    Raises:
        RGBXError: too few results.
    """
    needed = ANNOTATED_EVERY * (annotated - 1) + 1
    if len(results) < needed:
        raise RGBXError(
            f"sequence {name}: {len(results)} results for {annotated} annotated frames; VTUAV annotates every "
            f"{ANNOTATED_EVERY}th frame and a result has a box for each frame, so expected at least {needed}"
        )
    return results[:needed:ANNOTATED_EVERY]
