"""From sequences and boxes to a benchmark's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.gtot import best_of_two, mean_of_sequences, pool_frames
from tracker.evaluation.lasher import LasHeROptions, mean_over_sequences, score_sequence
from tracker.evaluation.metrics import Metrics

ProtocolName = Literal["lasher", "visevent", "gtot", "rgbt234"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)


@dataclass(frozen=True)
class Annotation:
    """The ground truth of one sequence, in the coordinates of its file (the first pixel is 1).

    Attributes:
        name: the sequence.
        truth: (N, 4) ``x, y, w, h`` of the visible image.
        infrared: (N, 4) of the infrared image, where it has a ground truth of its own.
        present: (N,) bool from a separate absence file, where there is one.
    """

    name: str
    truth: np.ndarray
    infrared: np.ndarray | None = None
    present: np.ndarray | None = None


class HasBoxes(Protocol):
    """Anything with a name and boxes: :class:`tracker.data.sequence.Sequence` above all."""

    name: str
    boxes: np.ndarray


def check_protocol(protocol: str) -> None:
    """Raises RGBXError unless the protocol is known."""
    if protocol not in PROTOCOLS:
        raise RGBXError(f"protocol {protocol!r} is unknown; expected one of {', '.join(PROTOCOLS)}")


def evaluate_annotations(
    annotations: Iterable[Annotation],
    results: Mapping[str, np.ndarray],
    protocol: str = "lasher",
    *,
    tracker: str = "tracker",
    options: LasHeROptions | None = None,
    round_results: bool = True,
) -> Metrics:
    """Evaluate results in annotation coordinates.

    Args:
        results: sequence name to (>= N, 4) boxes.
        options: only for ``lasher`` and ``visevent``; the default is the protocol's own.
        round_results: recorded for ``gtot``, see :func:`tracker.evaluation.gtot.pool_frames`.

    Raises:
        RGBXError: an unknown protocol, a sequence without a result or with too short a one.
    """
    check_protocol(protocol)
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
    if options is None:
        options = LasHeROptions() if protocol == "lasher" else LasHeROptions(absent="failure", drop_zero=True)
    scored = [score_sequence(a.name, results[a.name], a.truth, options, a.present) for a in annotations]
    return mean_over_sequences(scored, options, tracker, protocol)


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

    Both are in pixels with the first pixel at 0 and NaN where there is no box; they are moved to annotation
    coordinates (first pixel 1, zeros for no box) before the protocol's rules are applied.

    Args:
        results: sequence name to (N, 4) boxes, or to anything with ``.boxes`` (a
            :class:`tracker.inference.run.Track`).

    Raises:
        RGBXError: see :func:`evaluate_annotations`.
    """
    annotations = [Annotation(s.name, to_annotation(s.boxes)) for s in sequences]
    boxes = {name: to_annotation(np.asarray(getattr(track, "boxes", track))) for name, track in results.items()}
    metrics = evaluate_annotations(annotations, boxes, protocol, tracker=tracker, options=options, round_results=False)
    return replace(metrics, speed=speed)


def to_annotation(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) 0-based boxes, NaN for none, to 1-based boxes, zeros for none."""
    boxes = np.array(boxes, dtype=np.float64)
    boxes[:, :2] += 1.0
    boxes[~np.isfinite(boxes).all(axis=1)] = 0.0
    return boxes
