"""DepthTrack's precision, recall and F-score, as the VOT toolkit's long-term analysis computes them.

The rules (Lukezic et al., "Now you see me", 2018; ``rgbd-unsupervised`` of the VOT toolkit):

1. the first frame is where the tracker was started: it has no box and confidence 0, whatever the result file says;
2. IoU is that of *pixels*: x, y, w and h are each rounded to integers (half to even), and only pixels inside the image
   count. A frame without ground truth has IoU 0 with any box; where box and ground truth both cover nothing, or span no
   more than one column or row, the toolkit answers 1;
3. the confidences of the frames of *all* sequences together give up to 100 thresholds: +inf, 98 of the sorted values,
   -inf;
4. at a threshold, a sequence's precision is the mean IoU over the frames whose confidence is at least that (1 if there
   are none), its recall is their summed IoU over the number of frames with a ground truth;
5. means over sequences, F = 2 Pr Re / (Pr + Re); Pr, Re and F are those of the threshold with the largest F.

A precision at 20 pixels, which some papers print as DepthTrack's Pr, is another figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.lasher import fit_length
from tracker.evaluation.metrics import Curve, Metrics, SequenceScores

THRESHOLDS = 100


def pixel_overlap(boxes: np.ndarray, truth: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return the overlap of boxes drawn pixel by pixel, as rule 2 has it.

    Args:
        boxes: (N, 4) ``x, y, w, h`` in the coordinates of the files. A row with a NaN is no box.
        truth: (N, 4), likewise.
        size: width and height of the images; None does not clip.

    Returns:
        (N,) in [0, 1].
    """
    corners, nothing = [], []
    for table in (boxes, truth):
        whole = np.round(np.asarray(table, dtype=np.float32)).astype(np.float64)
        none = np.asarray(np.isnan(whole).any(axis=1))
        # First and last pixel along each axis; no box lies at the origin and covers nothing.
        edges = np.concatenate([whole[:, :2], whole[:, :2] + whole[:, 2:] - 1], axis=1)
        corners.append(np.where(none[:, None], 0.0, edges))
        nothing.append(none)
    low = np.minimum(corners[0][:, :2], corners[1][:, :2])
    high = np.maximum(corners[0][:, 2:], corners[1][:, 2:])
    degenerate = (low >= high).any(axis=1)
    if size is not None:
        low, high = np.maximum(low, 0), np.minimum(high, np.array(size) - 1.0)
    outside = (low >= high).any(axis=1)

    def covered(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        sides = np.minimum(last, high) - np.maximum(first, low) + 1
        return np.asarray(np.clip(sides, 0, None).prod(axis=1))

    areas = [np.where(none, 0.0, covered(c[:, :2], c[:, 2:])) for c, none in zip(corners, nothing, strict=True)]
    shared = covered(np.maximum(corners[0][:, :2], corners[1][:, :2]), np.minimum(corners[0][:, 2:], corners[1][:, 2:]))
    shared = np.where(nothing[0] | nothing[1], 0.0, shared)
    union = areas[0] + areas[1] - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, shared / union, 0.0)
    return np.asarray(np.where(degenerate, 1.0, np.where(outside, 0.0, iou)))


def confidence_thresholds(confidences: np.ndarray) -> np.ndarray:
    """Return the thresholds of rule 3: (T,) from +inf down to -inf, T at most 100."""
    ordered = np.sort(confidences[~np.isnan(confidences)])[::-1]
    inner = THRESHOLDS - 2
    if len(ordered) > inner:
        step = len(ordered) // inner
        ordered = ordered[np.round(np.linspace(step, len(ordered) - step, inner)).astype(int)]
    return np.concatenate([[math.inf], ordered, [-math.inf]])


def score_sequences(
    sequences: Iterable[tuple[str, np.ndarray, np.ndarray, np.ndarray, tuple[int, int] | None]],
    tracker: str = "tracker",
) -> Metrics:
    """Score sequences by DepthTrack's protocol.

    Args:
        sequences: for each sequence its name, (>= N, 4) results, (>= N,) confidences, (N, 4) ground truth (NaN where
            the target is absent), and the images' width and height or None.
        tracker: name in reports.

    Returns:
        Scores ``Pr``, ``Re``, ``F``; curve ``precision_recall`` (thresholds: recall). A sequence's scores are its
        precision and recall at the threshold of the largest F over all sequences.

    Raises:
        RGBXError: no sequence, too few results or confidences, or a sequence without any ground truth.
    """
    rows = []
    bounded = True
    for name, results, confidences, truth, size in sequences:
        boxes = fit_length(name, results, truth).astype(np.float64)
        if len(confidences) < len(truth):
            raise RGBXError(
                f"sequence {name}: {len(confidences)} confidences for {len(truth)} annotated frames; expected one a "
                "frame"
            )
        visible = int((~np.isnan(truth).any(axis=1)).sum())
        if visible == 0:
            raise RGBXError(f"sequence {name} has no frame with a ground truth; leave it out")
        confidence = confidences[: len(truth)].astype(np.float64)
        boxes[0], confidence[0] = np.nan, 0.0
        rows.append((name, pixel_overlap(boxes, truth, size), confidence, visible))
        bounded &= size is not None
    if not rows:
        raise RGBXError("no sequence to evaluate; DepthTrack's protocol needs at least one")
    thresholds = confidence_thresholds(np.concatenate([confidence for _, _, confidence, _ in rows]))
    scored = []
    for name, iou, confidence, visible in rows:
        chosen = confidence[None, :] >= thresholds[:, None]
        count, total = chosen.sum(axis=1), (chosen * iou[None, :]).sum(axis=1)
        curves = {
            "tracking_precision": Curve(thresholds, np.where(count > 0, total / np.maximum(count, 1), 1.0)),
            "tracking_recall": Curve(thresholds, total / visible),
        }
        scored.append(SequenceScores(name, len(iou), len(iou) - visible, {}, curves))
    return mean_over_sequences(scored, tracker, {"clipped_to_image": bounded})


def mean_over_sequences(
    sequences: Iterable[SequenceScores], tracker: str = "tracker", options: dict[str, bool] | None = None
) -> Metrics:
    """Average sequences whose curves share their thresholds, as rule 5 has it."""
    sequences = tuple(sequences)
    precision, recall = (
        np.mean([s.curves[key].values for s in sequences], axis=0) for key in ("tracking_precision", "tracking_recall")
    )
    total = precision + recall
    f_score = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)
    best = int(f_score.argmax())
    scores = {"Pr": float(precision[best]), "Re": float(recall[best]), "F": float(f_score[best])}
    placed = []
    for s in sequences:
        pr, re = (float(s.curves[key].values[best]) for key in ("tracking_precision", "tracking_recall"))
        own = {"Pr": pr, "Re": re, "F": 2 * pr * re / (pr + re) if pr + re > 0 else 0.0}
        placed.append(SequenceScores(s.name, s.frames, s.absent, own, s.curves))
    curves = {"precision_recall": Curve(recall, precision)}
    return Metrics(tracker, "depthtrack", scores, curves, tuple(placed), options=dict(options or {}))
