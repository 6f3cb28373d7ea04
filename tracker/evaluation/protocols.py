"""From sequences and boxes to a benchmark's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as ListLike
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation import depthtrack, fe108, vtuav
from tracker.evaluation.annotations import FLAGGED, Annotation, read_annotation
from tracker.evaluation.gtot import best_of_two, mean_of_curves, mean_of_sequences, pool_frames, pool_of_curves
from tracker.evaluation.lasher import LasHeROptions, mean_over_sequences, score_sequence
from tracker.evaluation.metrics import Metrics, SequenceScores
from tracker.evaluation.rgbt210 import first_frame_given

ProtocolName = Literal["lasher", "rgbt234", "rgbt210", "gtot", "visevent", "coesot", "fe108", "depthtrack", "vtuav"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
MEANS_OF_TWO = ("rgbt234", "rgbt210", "vtuav")
"""Protocols whose figures are MPR and MSR, or PR and SR, averaged over sequences."""
ROUNDED = ("gtot", "rgbt210")
"""Protocols whose published figures were made from result files with their numbers rounded to integers."""
LASOT_FAMILY = ("lasher", "visevent", "coesot")
"""Protocols that :class:`LasHeROptions` describe."""


class HasBoxes(Protocol):
    """Anything with a name and boxes: :class:`tracker.data.sequence.Sequence` above all."""

    name: str
    boxes: np.ndarray


def check_protocol(protocol: str) -> None:
    """Raise RGBXError unless the protocol is known."""
    if protocol not in PROTOCOLS:
        raise RGBXError(f"protocol {protocol!r} is unknown; expected one of {', '.join(PROTOCOLS)}")


def default_options(protocol: str) -> LasHeROptions:
    """Return the options by which a protocol of the LaSOT family is defined."""
    if protocol == "lasher":
        return LasHeROptions()
    return LasHeROptions(absent="visevent", drop_zero=True, copy_reported_first=True)


def evaluate_annotations(
    annotations: Iterable[Annotation],
    results: Mapping[str, np.ndarray],
    protocol: str = "lasher",
    *,
    tracker: str = "tracker",
    options: LasHeROptions | None = None,
    round_results: bool = True,
    confidences: Mapping[str, np.ndarray] | None = None,
) -> Metrics:
    """Evaluate results in annotation coordinates.

    Args:
        annotations: the ground truth of each sequence.
        results: sequence name to (>= N, 4) boxes.
        protocol: one of :data:`PROTOCOLS`.
        tracker: name in reports.
        options: only for ``lasher``, ``visevent`` and ``coesot``; the default is the protocol's own.
        round_results: recorded for ``gtot`` and ``rgbt210``, see :func:`tracker.evaluation.gtot.pool_frames`.
        confidences: sequence name to (>= N,) confidences, which ``depthtrack`` needs.

    Raises:
        RGBXError: an unknown protocol, options that it does not have, a sequence without a result or confidences, or
            with too few of them.
    """
    check_protocol(protocol)
    if options is not None and protocol not in LASOT_FAMILY:
        raise RGBXError(f"protocol {protocol} has no options; only {', '.join(LASOT_FAMILY)} have")
    annotations = list(annotations)
    missing = [a.name for a in annotations if a.name not in results]
    if missing:
        raise RGBXError(
            f"{len(missing)} of {len(annotations)} sequences have no result ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); run the tracker on them or leave them out"
        )
    if protocol in ("gtot", "rgbt234"):
        best = [
            best_of_two(a.name, results[a.name], a.truth, a.truth if a.infrared is None else a.infrared)
            for a in annotations
        ]
        return pool_frames(best, tracker, round_results) if protocol == "gtot" else mean_of_sequences(best, tracker)
    if protocol == "vtuav":
        best = []
        for a in annotations:
            taken = vtuav.at_annotated_frames(a.name, results[a.name], len(a.truth))
            best.append(best_of_two(a.name, taken, a.truth, a.truth if a.infrared is None else a.infrared))
        return mean_of_sequences(best, tracker, protocol)
    if protocol == "rgbt210":
        errors = [first_frame_given(a.name, results[a.name], a.truth) for a in annotations]
        return replace(mean_of_sequences(errors, tracker, protocol), options={"round_results": round_results})
    if protocol == "fe108":
        return fe108.mean_over_sequences(
            [fe108.score_sequence(a.name, results[a.name], a.truth, a.present) for a in annotations], tracker
        )
    if protocol == "depthtrack":
        confidences = confidences or {}
        silent = [a.name for a in annotations if a.name not in confidences]
        if silent:
            raise RGBXError(
                f"{len(silent)} of {len(annotations)} sequences have no confidences ({', '.join(silent[:5])}"
                f"{', …' if len(silent) > 5 else ''}); DepthTrack's Pr, Re and F need one "
                "a frame (scores/NAME.txt or NAME_confidence.value), other protocols do without"
            )
        rows = [(a.name, results[a.name], confidences[a.name], a.truth, a.size) for a in annotations]
        return depthtrack.score_sequences(rows, tracker)
    options = options or default_options(protocol)
    scored = [score_sequence(a.name, results[a.name], a.truth, options, a.present) for a in annotations]
    return mean_over_sequences(scored, options, tracker, protocol)


def restrict(metrics: Metrics, sequences: Iterable[str]) -> Metrics:
    """Return the same figures over some of the sequences only (those of an attribute).

    DepthTrack's thresholds stay those of the whole evaluation, and so the largest F may be at another of them.

    Raises:
        RGBXError: none of them was evaluated.
    """
    wanted = set(sequences)
    rows = [s for s in metrics.sequences if s.name in wanted]
    if not rows:
        raise RGBXError(f"{metrics.tracker} has no result for any of the sequences asked for")
    return _from_sequences(metrics, rows)


def _from_sequences(metrics: Metrics, rows: ListLike[SequenceScores]) -> Metrics:
    if metrics.protocol == "gtot":
        return pool_of_curves(rows, metrics.tracker, bool(metrics.options.get("round_results")))
    if metrics.protocol in MEANS_OF_TWO:
        return replace(mean_of_curves(rows, metrics.tracker, metrics.protocol), options=metrics.options)
    if metrics.protocol == "fe108":
        return fe108.mean_over_sequences(rows, metrics.tracker)
    if metrics.protocol == "depthtrack":
        return depthtrack.mean_over_sequences(rows, metrics.tracker, metrics.options)
    options = LasHeROptions(**metrics.options)
    return mean_over_sequences(rows, options, metrics.tracker, metrics.protocol)


def evaluate(
    sequences: Iterable[HasBoxes],
    results: Mapping[str, object],
    protocol: str = "lasher",
    *,
    tracker: str = "tracker",
    options: LasHeROptions | None = None,
    speed: float | None = None,
) -> Metrics:
    """Evaluate tracks in memory against the boxes of sequences.

    Both are in pixels with the first pixel at 0 and NaN where there is no box. For most protocols they are moved to
    annotation coordinates (first pixel 1, zeros for no box) before the protocol's rules are applied, so that no box at
    the border is taken for an invalid one. ``depthtrack`` has them as they are. ``visevent`` and ``coesot`` tell a
    frame that is flagged absent from one without a valid box, which a sequence in memory no longer does: the annotation
    of a sequence that was opened from a folder is read from its files again, and in a sequence that has none a frame
    without a box counts as flagged absent. ``vtuav`` takes the frames that are annotated, or
    every tenth one where a sequence does not say which are.

    Args:
        sequences: the ground truth.
        results: sequence name to (N, 4) boxes, or to anything with ``.boxes`` and, for ``depthtrack``, ``.scores`` (a
            :class:`tracker.inference.tracking.Track`).
        protocol: one of :data:`PROTOCOLS`.
        tracker: name in reports.
        options: named options of the LasHeR family.
        speed: frames per second, for reports.

    Raises:
        RGBXError: see :func:`evaluate_annotations`.
    """
    check_protocol(protocol)
    annotations, boxes = [], {}
    for sequence in sequences:
        annotation, first_pixel = _annotation(sequence, protocol)
        annotations.append(annotation)
        if sequence.name in results:
            track = results[sequence.name]
            own = np.array(getattr(track, "boxes", track), dtype=np.float64)
            boxes[sequence.name] = own if protocol == "depthtrack" else to_annotation(own, first_pixel)
    confidences = {
        name: np.asarray(scores) for name, t in results.items() if (scores := getattr(t, "scores", None)) is not None
    }
    metrics = evaluate_annotations(
        annotations, boxes, protocol, tracker=tracker, options=options, round_results=False, confidences=confidences
    )
    return replace(metrics, speed=speed)


def _annotation(sequence: Any, protocol: str) -> tuple[Annotation, float]:
    """Return the ground truth in the coordinates that the protocol sees, and what these call the first pixel."""
    if protocol == "depthtrack":
        return Annotation(sequence.name, np.asarray(sequence.boxes), size=_image_size(sequence)), 0.0
    source = getattr(sequence, "source", None)
    if protocol in FLAGGED:
        if isinstance(source, Path) and source.is_file():
            return read_annotation(sequence.name, source.parent, protocol), float(sequence.origin)
        present = np.isfinite(np.asarray(sequence.boxes)).all(axis=1)
        return Annotation(sequence.name, to_annotation(sequence.boxes), present=present), 1.0
    # Boxes of the X image, where it was annotated separately.
    second = getattr(sequence, "x_boxes", None)
    kept: Any = slice(None)
    if protocol == "vtuav":
        annotated = getattr(sequence, "annotated", None)
        kept = slice(None, None, vtuav.ANNOTATED_EVERY) if annotated is None else annotated
    infrared = None if second is None else to_annotation(second[kept])
    return Annotation(sequence.name, to_annotation(sequence.boxes[kept]), infrared), 1.0


def _image_size(sequence: Any) -> tuple[int, int] | None:
    frame = getattr(sequence, "frame", None)
    if frame is None:
        return None
    height, width = frame(0).shape[:2]
    return width, height


def to_annotation(boxes: np.ndarray, first_pixel: float = 1.0) -> np.ndarray:
    """Move (N, 4) boxes from a first pixel of 0 to ``first_pixel``; NaN for none becomes zeros for none."""
    boxes = np.array(boxes, dtype=np.float64)
    boxes[:, :2] += first_pixel
    boxes[~np.isfinite(boxes).all(axis=1)] = 0.0
    return boxes
