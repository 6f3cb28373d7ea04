"""FE108's RSR, OP50, OP75 and RPR, as the PyTracking evaluator computes them.

The rules: a result that holds a NaN or a negative side is refused, wherever it stands; a result with a side of 0 copies
the frame before, and the first one as it was reported; then the first result is replaced by the ground truth. A ground
truth without a positive width and height is invalid: its frame is a *failure* in every figure (IoU -1, error infinite)
and still counts in the denominators. RSR is the mean over 21 IoU thresholds 0:0.05:1 of the share of frames strictly
above, OP50 and OP75 are that curve at 0.50 and 0.75, RPR is the share with a center error of at most 20 pixels. Figures
are means over frames within a sequence, then over sequences.

PyTracking's evaluator has changed: newer versions leave invalid frames out of the denominators too. FE108 has none, so
its figures are the same either way.

STNet's own code counts otherwise (101 thresholds over the pooled frames of all sequences, as GOT-10k does), so figures
of papers are comparable only where they say which they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.frame_errors import (
    IOU_THRESHOLDS,
    PIXEL_THRESHOLDS,
    center_error,
    count_above,
    count_within,
    overlap,
)
from tracker.evaluation.lasher import PRECISION_PIXELS, copy_frame_before, fit_length
from tracker.evaluation.metrics import Curve, Metrics, SequenceScores


def score_sequence(
    name: str, results: np.ndarray, truth: np.ndarray, present: np.ndarray | None = None
) -> SequenceScores:
    """Score one sequence.

    Args:
        name: for reports and messages.
        results: (>= N, 4) ``x, y, w, h``.
        truth: (N, 4), the same.
        present: (N,) bool, False where a separate file flags the target as absent; such a frame is invalid.

    Returns:
        Scores ``RSR``, ``OP50``, ``OP75`` and ``RPR`` with their curves.

    Raises:
        RGBXError: fewer results than frames, or a result that has a NaN or a negative side (the evaluator refuses
            those too).
    """
    results = fit_length(name, results, truth).astype(np.float64)
    with np.errstate(invalid="ignore"):
        refused = np.isnan(results).any(axis=1) | (results[:, 2:] < 0).any(axis=1)
    if refused.any():
        frame = int(np.argmax(refused))
        raise RGBXError(
            f"sequence {name}: the result of frame {frame} is {results[frame].tolist()}; FE108's protocol takes boxes "
            "without NaN and with sides of at least 0, so repair the result file"
        )
    empty = (results[:, 2:] == 0).any(axis=1) & ~np.isnan(truth).any(axis=1)
    results = copy_frame_before(results, empty)
    results[0] = truth[0]
    with np.errstate(invalid="ignore"):
        valid = (truth[:, 2:] > 0).all(axis=1)
    if present is not None:
        valid &= present
    iou = np.where(valid, overlap(results, truth), -1.0)
    error = np.where(valid, center_error(results, truth), np.inf)
    curves = {
        "precision": Curve(PIXEL_THRESHOLDS, count_within(error, PIXEL_THRESHOLDS) / len(truth)),
        "success": Curve(IOU_THRESHOLDS, count_above(iou, IOU_THRESHOLDS) / len(truth)),
    }
    return SequenceScores(name, len(truth), int((~valid).sum()), _scores(curves), curves)


def _scores(curves: dict[str, Curve]) -> dict[str, float]:
    success = curves["success"]
    return {
        "RSR": float(success.values.mean()),
        "OP50": success.at(0.50),
        "OP75": success.at(0.75),
        "RPR": curves["precision"].at(PRECISION_PIXELS),
    }


def mean_over_sequences(sequences: Iterable[SequenceScores], tracker: str = "tracker") -> Metrics:
    """Average the sequences' curves and read the figures from the mean.

    Raises:
        RGBXError: no sequence.
    """
    sequences = tuple(sequences)
    if not sequences:
        raise RGBXError("no sequence to evaluate; FE108's protocol needs at least one")
    curves = {
        key: Curve(first.thresholds, np.mean([s.curves[key].values for s in sequences], axis=0))
        for key, first in sequences[0].curves.items()
    }
    return Metrics(tracker, "fe108", _scores(curves), curves, sequences)
