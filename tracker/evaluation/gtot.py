"""GTOT's MPR at 5 pixels and MSR.

The rules: per frame the smaller center error and the larger IoU over the two ground truths (visible and
infrared); *all frames are pooled*, whatever their sequence; MPR is the share of frames with an error
strictly below 5 pixels; MSR is the area under the success curve over 21 thresholds 0:0.05:1 by the
*trapezoidal* rule; w = x2 - x1 without + 1 for ground truth and for 8-value results; the first frame is
not replaced.

The public RGB-T toolkit, with which published figures were made, rounds the numbers of a result file to
integers before it does anything else. ``round_results=True`` keeps that for parity: PATrack's published
results then give 92.4 / 78.3, without rounding 92.6 / 78.0. Annotations are integers anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass

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
from tracker.evaluation.lasher import fit_length
from tracker.evaluation.metrics import Curve, Metrics, SequenceScores

GTOT_PIXEL_THRESHOLDS = np.linspace(0.0, 25.0, 51)
GTOT_PIXELS = 5.0


@dataclass(frozen=True)
class FrameErrors:
    """The best over both ground truths of one sequence, per frame.

    Attributes:
        name: the sequence.
        error: (N,) center error in pixels.
        iou: (N,).
    """

    name: str
    error: np.ndarray
    iou: np.ndarray


def best_of_two(name: str, results: np.ndarray, visible: np.ndarray, infrared: np.ndarray) -> FrameErrors:
    """Take the smaller center error and the larger IoU over two ground truths, (N, 4) ``x, y, w, h`` each.

    Raises:
        RGBXError: the ground truths differ in length, or there are fewer results than frames.
    """
    if len(visible) != len(infrared):
        raise RGBXError(
            f"sequence {name}: {len(visible)} visible and {len(infrared)} infrared boxes; expected as many of each"
        )
    results = fit_length(name, results, visible)
    return FrameErrors(
        name,
        np.fmin(center_error(results, visible), center_error(results, infrared)),
        np.fmax(overlap(results, visible), overlap(results, infrared)),
    )


def corner_truth(table: np.ndarray) -> np.ndarray:
    """Turn GTOT's annotation (N, 4) ``x1 y1 x2 y2``, in either order, into ``x, y, w, h`` with w = x2 - x1."""
    low, high = np.minimum(table[:, :2], table[:, 2:]), np.maximum(table[:, :2], table[:, 2:])
    return np.concatenate([low, high - low], axis=1)


def _trapezoid(curve: Curve) -> float:
    steps = np.diff(curve.thresholds)
    return float((steps * (curve.values[1:] + curve.values[:-1]) / 2).sum())


def _gtot_scores(error: np.ndarray, iou: np.ndarray) -> tuple[dict[str, float], dict[str, Curve]]:
    precision = Curve(GTOT_PIXEL_THRESHOLDS, count_within(error, GTOT_PIXEL_THRESHOLDS, strict=True) / len(error))
    success = Curve(IOU_THRESHOLDS, count_above(iou, IOU_THRESHOLDS) / len(iou))
    return {"MPR": precision.at(GTOT_PIXELS), "MSR": _trapezoid(success)}, {
        "precision": precision,
        "success": success,
    }


def pool_frames(sequences: Iterable[FrameErrors], tracker: str = "tracker", round_results: bool = True) -> Metrics:
    """Compute GTOT's MPR and MSR over the frames of all sequences together.

    Args:
        sequences: the frame errors of each sequence.
        tracker: name in reports.
        round_results: only recorded in the options; whoever reads the files rounds.

    Raises:
        RGBXError: no sequence.
    """
    sequences = tuple(sequences)
    if not sequences:
        raise RGBXError("no sequence to evaluate; GTOT's protocol needs at least one")
    scores, curves = _gtot_scores(
        np.concatenate([s.error for s in sequences]), np.concatenate([s.iou for s in sequences])
    )
    per_sequence = tuple(SequenceScores(s.name, len(s.iou), 0, *_gtot_scores(s.error, s.iou)) for s in sequences)
    return Metrics(tracker, "gtot", scores, curves, per_sequence, options={"round_results": round_results})


def mean_of_sequences(sequences: Iterable[FrameErrors], tracker: str = "tracker", protocol: str = "rgbt234") -> Metrics:
    """Compute RGBT234's MPR at 20 pixels (at most) and MSR, the mean of 21 points, averaged over sequences.

    With ``protocol="rgbt210"`` the two are called PR and SR.

    Raises:
        RGBXError: no sequence.
    """
    sequences = tuple(sequences)
    if not sequences:
        raise RGBXError("no sequence to evaluate; the protocols of RGBT234 and RGBT210 need at least one")
    rows = []
    for s in sequences:
        curves = {
            "precision": Curve(PIXEL_THRESHOLDS, count_within(s.error, PIXEL_THRESHOLDS) / len(s.error)),
            "success": Curve(IOU_THRESHOLDS, count_above(s.iou, IOU_THRESHOLDS) / len(s.iou)),
        }
        rows.append(SequenceScores(s.name, len(s.iou), 0, _mean_scores(curves, protocol), curves))
    return mean_of_curves(rows, tracker, protocol)


def mean_of_curves(rows: ListLike[SequenceScores], tracker: str, protocol: str) -> Metrics:
    """Average the curves of sequences and read the figures of RGBT234, RGBT210 or VTUAV from them."""
    mean = {
        key: Curve(rows[0].curves[key].thresholds, np.mean([r.curves[key].values for r in rows], axis=0))
        for key in ("precision", "success")
    }
    return Metrics(tracker, protocol, _mean_scores(mean, protocol), mean, tuple(rows))


def _mean_scores(curves: dict[str, Curve], protocol: str) -> dict[str, float]:
    precision, success = ("PR", "SR") if protocol == "rgbt210" else ("MPR", "MSR")
    return {precision: curves["precision"].at(20.0), success: float(curves["success"].values.mean())}


def pool_of_curves(rows: ListLike[SequenceScores], tracker: str, round_results: bool) -> Metrics:
    """Pool the frames of GTOT from the curves of its sequences: their mean weighted by frames."""
    frames = np.array([r.frames for r in rows], dtype=np.float64)
    pooled = {
        key: Curve(first.thresholds, np.average([r.curves[key].values for r in rows], axis=0, weights=frames))
        for key, first in rows[0].curves.items()
    }
    scores = {"MPR": pooled["precision"].at(GTOT_PIXELS), "MSR": _trapezoid(pooled["success"])}
    return Metrics(tracker, "gtot", scores, pooled, tuple(rows), options={"round_results": round_results})
