"""LasHeR's PR, NPR and SR, and those of VisEvent and COESOT, which differ in three rules.

The rules are those of LaSOT's MATLAB evaluation, which the three toolkits took over. In this order:

1. Results are cut to the number of annotated frames.
2. The first result is replaced by the ground truth.
3. A result with w <= 0, h <= 0 or a NaN copies the frame before, unless the ground truth is itself NaN. The toolkits of
   VisEvent and COESOT do this before rule 2, so that a broken second result copies the first one as it was reported.
4. A ground truth with any of x, y, w, h <= 0 (or a NaN) is invalid: its IoU and its errors are set to -1. Since -1 is
   "at most 20 pixels" and not "an IoU above 0", the frame is a *failure* in SR and a *success* in PR and NPR, whatever
   the tracker did. :class:`LasHeROptions` has other choices.
5. VisEvent and COESOT come with flags of absence. A frame that is flagged absent is taken out of the numerators and
   stays in the denominators, so it is a failure in all three figures. Rule 4 holds for the other frames.
6. SR is the mean over 21 IoU thresholds 0:0.05:1 of the share of frames with IoU strictly above, PR the share with a
   center error of at most 20 pixels, NPR the share with a normalized error of at most 0.20.
7. Figures are means over frames within a sequence, then over sequences. VisEvent and COESOT leave sequences out of a
   curve's mean where that curve is zero throughout.

Rule 4 sees coordinates as the annotation files have them: in LasHeR's files, where the first pixel is 1, a box at x = 0
is invalid by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

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

AbsentFrames = Literal["lasher", "visevent", "excluded", "failure"]
PRECISION_PIXELS = 20.0
NORMALIZED_LEVEL = 0.2


@dataclass(frozen=True)
class LasHeROptions:
    """Where the toolkits differ, and what one may prefer to what they do.

    Attributes:
        absent: what becomes of frames that are flagged absent or have no valid ground truth:

            - ``"lasher"``: all of them are failures in SR and successes in PR and NPR (the toolkit's quirk, which every
              published figure contains);
            - ``"visevent"``: frames that are flagged absent are failures in SR, PR and NPR; frames that are flagged
              present, or not flagged, and have no valid box are as in LasHeR (VisEvent, COESOT);
            - ``"excluded"``: all of them are left out of numerators and denominators;
            - ``"failure"``: all of them are failures in SR, PR and NPR.
        drop_zero: sequences whose curve is zero throughout are left out of that curve's mean (VisEvent, COESOT).
        first_frame: replace the first result by the ground truth.
        copy_reported_first: a broken second result copies the first result as the tracker reported it (VisEvent,
            COESOT), not the ground truth in its place.

    Raises:
        RGBXError: an unknown choice for ``absent``.
    """

    absent: AbsentFrames = "lasher"
    drop_zero: bool = False
    first_frame: bool = True
    copy_reported_first: bool = False

    def __post_init__(self) -> None:
        if self.absent not in get_args(AbsentFrames):
            known = ", ".join(repr(name) for name in get_args(AbsentFrames))
            raise RGBXError(f"absent={self.absent!r} is unknown; expected one of {known}")


def fit_length(name: str, results: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Cut results to the ground truth's length.

    Raises:
        RGBXError: fewer results than frames.
    """
    if len(results) < len(truth):
        raise RGBXError(
            f"sequence {name}: {len(results)} results for {len(truth)} annotated frames; expected one a frame (a run "
            "that was cut short has to be finished)"
        )
    return results[: len(truth)]


def prepare_results(results: np.ndarray, truth: np.ndarray, options: LasHeROptions | None = None) -> np.ndarray:
    """Apply rules 2 and 3: return a copy of ``results`` (N, 4) ready to be measured against ``truth`` (N, 4)."""
    options = options or LasHeROptions()
    results = np.array(results, dtype=np.float64)
    if options.first_frame and not options.copy_reported_first:
        results[0] = truth[0]
    with np.errstate(invalid="ignore"):
        broken = np.isnan(results).any(axis=1) | (results[:, 2] <= 0) | (results[:, 3] <= 0)
    broken &= ~np.isnan(truth).any(axis=1)
    results = copy_frame_before(results, broken)
    if options.first_frame:
        results[0] = truth[0]
    return results


def copy_frame_before(results: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """Replace every broken result, (N,) bool, by the last one before it that is not; results are (N, 4).

    The first result has none before it and stays as it is.
    """
    kept = ~broken
    kept[0] = True
    source = np.maximum.accumulate(np.where(kept, np.arange(len(results)), 0))
    return np.asarray(results[source])


def score_sequence(
    name: str,
    results: np.ndarray,
    truth: np.ndarray,
    options: LasHeROptions | None = None,
    present: np.ndarray | None = None,
) -> SequenceScores:
    """Score one sequence.

    Args:
        name: for reports and messages.
        results: (>= N, 4) ``x, y, w, h`` in the coordinates of the annotation file.
        truth: (N, 4), the same.
        options: LasHeR's own by default.
        present: (N,) bool, False where a separate file flags the target as absent.

    Returns:
        Scores ``PR``, ``NPR`` and ``SR`` with their curves. ``absent`` counts frames that are flagged absent or have no
        valid box.

    Raises:
        RGBXError: fewer results than frames.
    """
    options = options or LasHeROptions()
    results = prepare_results(fit_length(name, results, truth), truth, options)
    with np.errstate(invalid="ignore"):
        valid = (truth > 0).all(axis=1)
    flagged = np.zeros(len(truth), dtype=bool) if present is None else ~present
    shown = valid & ~flagged
    iou = np.where(shown, overlap(results, truth), -1.0)
    error = np.where(shown, center_error(results, truth), -1.0)
    normalized = np.where(shown, normalized_center_error(results, truth), -1.0)
    counted = {"lasher": np.ones_like(shown), "visevent": ~flagged}.get(options.absent, shown)
    iou, error, normalized = iou[counted], error[counted], normalized[counted]
    frames = max(int(shown.sum()), 1) if options.absent == "excluded" else len(truth)
    curves = {
        "precision": Curve(PIXEL_THRESHOLDS, count_within(error, PIXEL_THRESHOLDS) / frames),
        "normalized_precision": Curve(NORMALIZED_THRESHOLDS, count_within(normalized, NORMALIZED_THRESHOLDS) / frames),
        "success": Curve(IOU_THRESHOLDS, count_above(iou, IOU_THRESHOLDS) / frames),
    }
    return SequenceScores(name, len(truth), int((~shown).sum()), _scores(curves), curves)


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
    """Average the sequences' curves and read the figures from the mean, as rule 7 has it.

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
