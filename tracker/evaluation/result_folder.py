"""Evaluate a folder of result files against a folder of annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence as ListLike
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker.errors import RGBXError
from tracker.evaluation.annotations import choose_sequences, read_annotation, read_vot_boxes
from tracker.evaluation.lasher import LasHeROptions
from tracker.evaluation.metrics import Metrics
from tracker.evaluation.protocols import ROUNDED, check_protocol, evaluate_annotations
from tracker.evaluation.recognition import Recognized, recognize_protocol
from tracker.evaluation.report import write_report
from tracker.evaluation.results import find_confidences, find_results, parse_table, read_boxes


def evaluate_folder(
    dataset: str | Path,
    results: str | Path,
    protocol: str = "auto",
    *,
    tracker: str | None = None,
    split: str | None = None,
    sequences: ListLike[str] | None = None,
    options: LasHeROptions | None = None,
    round_results: bool | None = None,
    allow_missing: bool = False,
    output: str | Path | None = None,
) -> Metrics:
    """Evaluate somebody's result files; frames are not needed.

    Args:
        dataset: folder of annotations, see :func:`tracker.evaluation.annotations.find_sequences` (the layouts of the
            protocols' sets, or bare ``NAME.txt`` files).
        results: folder with a result file for every sequence, see
            :func:`tracker.evaluation.results.find_results`; 4 or 8 values a line, in the annotation's own
            coordinates. ``depthtrack`` also needs confidences, see
            :func:`tracker.evaluation.results.find_confidences`.
        protocol: one of :data:`tracker.evaluation.protocols.PROTOCOLS`, or ``auto`` to tell by the annotation files
            (:func:`tracker.evaluation.recognition.recognize_protocol`); the answer names it.
        tracker: name in reports; the results folder's by default.
        split: ``train``, ``test`` (the data set's list file, or a folder of that name), or a list file of
            names.
        sequences: only these.
        options: named options of the LasHeR family.
        round_results: round the numbers of the result files to integers first; by default only for GTOT and
            RGBT210, as their published figures were made.
        allow_missing: leave out sequences without a result file (they are listed in ``Metrics.missing``)
            instead of refusing.
        output: also write the report there, see :func:`tracker.evaluation.report.write_report`.

    Raises:
        RGBXError: anything missing, malformed or of the wrong length; the message names it.
    """
    results = Path(results)
    if protocol != "auto":
        check_protocol(protocol)
    if not results.is_dir():
        raise RGBXError(f"{results} is not a folder; expected one with a result file for every sequence")
    paths = choose_sequences(dataset, split, None if sequences is None else list(sequences))
    told = recognize_protocol(paths) if protocol == "auto" else Recognized(protocol, "")
    protocol = told.protocol
    rounding = protocol in ROUNDED if round_results is None else round_results
    files = find_results(results, paths)
    missing = tuple(name for name, file in files.items() if file is None)
    if len(missing) == len(paths):
        raise RGBXError(
            f"{results} has no result for any of the {len(paths)} sequences of {dataset}; expected "
            f"files like {missing[0]}.txt"
        )
    if missing and not allow_missing:
        raise RGBXError(
            f"{results} has no result for {len(missing)} of {len(paths)} sequences ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}); add {missing[0]}.txt or allow missing sequences"
        )
    boxes: dict[str, np.ndarray] = {}
    confidences: dict[str, np.ndarray] = {}
    for name, file in files.items():
        if file is None:
            continue
        boxes[name] = _read_result(file, protocol, rounding)
        scores = find_confidences(results, name, file) if protocol == "depthtrack" else None
        if scores is not None:
            confidences[name] = _read_confidences(scores)
    metrics = evaluate_annotations(
        [read_annotation(name, paths[name], protocol) for name in boxes],
        boxes,
        protocol,
        tracker=tracker or results.resolve().name,
        options=options,
        round_results=rounding,
        confidences=confidences,
    )
    metrics = replace(metrics, missing=missing, speed=_recorded_speed(results), protocol_reason=told.reason)
    if output is not None:
        write_report([metrics], output)
    return metrics


def _read_result(path: Path, protocol: str, rounding: bool) -> np.ndarray:
    if protocol == "depthtrack":
        return read_vot_boxes(path)
    if protocol == "vtuav":
        return read_boxes(path, round_corners=True)
    return read_boxes(path, round_values=rounding)


def _read_confidences(path: Path) -> np.ndarray:
    """Read the first column. VOT's toolkit leaves the line of the first frame empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RGBXError(f"cannot read {path}: {error}; expected one confidence a line") from error
    filled = ["0", *lines[1:]] if lines and not lines[0].strip() else lines
    return np.asarray(parse_table(filled, path, (1, 2))[:, 0])


def _recorded_speed(results: Path) -> float | None:
    """Return the frames per second of the ``run.json`` that tracking leaves beside its results, if it did."""
    try:
        value = json.loads((results / "run.json").read_text(encoding="utf-8"))["fps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None
