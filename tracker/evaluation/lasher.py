"""LasHeR's PR, NPR and SR, with the quirks of its toolkit behind named options.

The rules (those of LaSOT's MATLAB evaluation, which LasHeR took over), in order:

1. results are cut to the number of annotated frames;
2. the first result is replaced by the ground truth;
3. a result with w <= 0, h <= 0 or a number that is not finite copies the frame before (not where the ground
   truth is itself NaN);
4. a ground truth with any of x, y, w, h <= 0 is invalid: its IoU and its errors are set to -1. So it
   counts as a *failure* in SR and as a *success* in PR and NPR. ``absent="lasher"`` keeps this for parity
   with every published figure; the other choices are in :class:`LasHeROptions`;
5. SR is the mean over 21 IoU thresholds 0:0.05:1 of the share of frames with IoU strictly above, PR the share
   with a center error of at most 20 pixels, NPR the share with a normalized error of at most 0.20;
6. means over frames within a sequence, then over sequences.

Rule 4 sees coordinates as the annotation files have them, in which the first pixel is 1: a box at x = 0 is
invalid by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.frame_errors import (
    IOU_THRESHOLDS,
    NORMALIZED_THRESHOLDS,
    PIXEL_THRESHOLDS,
    center_error,
    count_above,
    count_within,
    normalized_center_error,
    overlap,
)
from tracker.evaluation.metrics import Curve, Metrics, SequenceScores

AbsentFrames = Literal["lasher", "excluded", "failure"]
PRECISION_PIXELS = 20.0
NORMALIZED_LEVEL = 0.2


@dataclass(frozen=True)
class LasHeROptions:
    """Where the toolkits differ.

    Attributes:
        absent: frames without a valid ground truth are

            - ``"lasher"``: failures in SR, successes in PR and NPR (the toolkit's quirk, needed for parity);
            - ``"excluded"``: left out of numerator and denominator (what one would expect);
            - ``"failure"``: left out of the numerator, kept in the denominator (VisEvent, COESOT).
        drop_zero: sequences whose curve is zero throughout are left out of that curve's mean (VisEvent,
            COESOT).
        first_frame: replace the first result by the ground truth.
    """

    absent: AbsentFrames = "lasher"
    drop_zero: bool = False
    first_frame: bool = True

    def __post_init__(self) -> None:
        if self.absent not in ("lasher", "excluded", "failure"):
            raise RGBXError(f"absent={self.absent!r} is unknown; expected 'lasher', 'excluded' or 'failure'")


def fit_length(name: str, results: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Results cut to the ground truth's length.

    Raises:
        RGBXError: fewer results than frames.
    """
    if len(results) < len(truth):
        raise RGBXError(
            f"sequence {name}: {len(results)} results for {len(truth)} annotated frames; expected "
            f"one a frame "
            "(a run that was cut short has to be finished)"
        )
    return results[: len(truth)]


def prepare_results(results: np.ndarray, truth: np.ndarray, first_frame: bool = True) -> np.ndarray:
    """Rules 2 and 3: a copy of ``results`` (N, 4) ready to be measured against ``truth`` (N, 4)."""
    results = np.array(results, dtype=np.float64)
    if first_frame:
        results[0] = truth[0]
    invalid = ~np.isfinite(results).all(axis=1) | (results[:, 2] <= 0) | (results[:, 3] <= 0)
    invalid &= ~np.isnan(truth).any(axis=1)
    invalid[0] = False
    source = np.maximum.accumulate(np.where(invalid, 0, np.arange(len(results))))
    return np.asarray(results[source])


def score_sequence(
    name: str,
    results: np.ndarray,
    truth: np.ndarray,
    options: LasHeROptions | None = None,
    present: np.ndarray | None = None,
) -> SequenceScores:
    """One sequence.

    Args:
        name: for reports and messages.
        results: (>= N, 4) ``x, y, w, h``, the first pixel being 1, as the annotation has them.
        truth: (N, 4), the same.
        present: (N,) bool from a separate absence file; a frame is valid if it is present and its box is.

    Raises:
        RGBXError: fewer results than frames.
    """
    options = options or LasHeROptions()
    results = prepare_results(fit_length(name, results, truth), truth, options.first_frame)
    valid = (truth > 0).all(axis=1)
    if present is not None:
        valid &= present
    iou = np.where(valid, overlap(results, truth), -1.0)
    error = np.where(valid, center_error(results, truth), -1.0)
    normalized = np.where(valid, normalized_center_error(results, truth), -1.0)
    frames = len(truth)
    if options.absent != "lasher":
        iou, error, normalized = iou[valid], error[valid], normalized[valid]
    if options.absent == "excluded":
        frames = int(valid.sum())
    total = max(frames, 1)
    curves = {
        "precision": Curve(PIXEL_THRESHOLDS, count_within(error, PIXEL_THRESHOLDS) / total),
        "normalized_precision": Curve(NORMALIZED_THRESHOLDS, count_within(normalized, NORMALIZED_THRESHOLDS) / total),
        "success": Curve(IOU_THRESHOLDS, count_above(iou, IOU_THRESHOLDS) / total),
    }
    return SequenceScores(name, len(truth), int((~valid).sum()), _scores(curves), curves)


def _scores(curves: dict[str, Curve]) -> dict[str, float]:
    return {
        "PR": curves["precision"].at(PRECISION_PIXELS),
        "NPR": curves["normalized_precision"].at(NORMALIZED_LEVEL),
        "SR": float(curves["success"].values.mean()),
    }


def mean_over_sequences(
    sequences: Iterable[SequenceScores],
    options: LasHeROptions | None = None,
    tracker: str = "tracker",
    protocol: str = "lasher",
) -> Metrics:
    """Rule 6.

    Raises:
        RGBXError: no sequence is left to average.
    """
    options = options or LasHeROptions()
    sequences = tuple(sequences)
    counted = sequences
    if options.absent == "excluded":
        counted = tuple(s for s in sequences if s.absent < s.frames)
    if not counted:
        raise RGBXError("no sequence has a valid ground truth; there is nothing to evaluate")
    curves = {}
    for key, first in counted[0].curves.items():
        values = np.stack([s.curves[key].values for s in counted])
        if options.drop_zero and (kept := values.sum(axis=1) > np.finfo(np.float64).eps).any():
            values = values[kept]
        curves[key] = Curve(first.thresholds, values.mean(axis=0))
    return Metrics(tracker, protocol, _scores(curves), curves, sequences, options=asdict(options))
