"""RGBT210's PR and SR.

The rules (the public RGB-T toolkit's): one ground truth (``init.txt``); the first result is replaced by it; nothing
else is repaired; PR is the share of frames with a center error of at most 20 pixels, SR the mean over 21 IoU thresholds
0:0.05:1 of the share strictly above; means over frames within a sequence, then over sequences. The toolkit rounds the
numbers of a result file to integers when it reads them, and so does :func:`tracker.evaluation.evaluate_folder` under
this protocol unless told otherwise.
"""

from __future__ import annotations

import numpy as np

from tracker.evaluation.frame_errors import center_error, overlap
from tracker.evaluation.gtot import FrameErrors
from tracker.evaluation.lasher import fit_length


def first_frame_given(name: str, results: np.ndarray, truth: np.ndarray) -> FrameErrors:
    """Measure results (>= N, 4) against a ground truth (N, 4) ``x, y, w, h``, with the first result replaced.

    Raises:
        RGBXError: fewer results than frames.
    """
    results = fit_length(name, results, truth).astype(np.float64)
    results[0] = truth[0]
    return FrameErrors(name, center_error(results, truth), overlap(results, truth))
