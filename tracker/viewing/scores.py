"""The figures of a page: per frame, per sequence, and the differences of two runs."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

import numpy as np

from tracker.data.sequence import Sequence
from tracker.evaluation.frame_errors import center_error, overlap
from tracker.evaluation.lasher import LasHeROptions
from tracker.evaluation.protocols import evaluate
from tracker.tables import aligned_table
from tracker.viewing.runs import Record, Run

SCORES = ("SR", "PR")
"""Success (mean of the success curve) and precision (center within 20 pixels)."""


@dataclass(frozen=True)
class FrameErrors:
    """A run against the ground truth, (N,) each; NaN where either has no box.

    Attributes:
        iou: overlap.
        distance: of the centers, in pixels.
    """

    iou: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, record: Record, sequence: Sequence) -> FrameErrors:
        return cls(overlap(record.boxes, sequence.boxes), center_error(record.boxes, sequence.boxes))


@dataclass(frozen=True)
class Difference:
    """Two runs on one sequence: scores of the second minus those of the first, by name."""

    name: str
    first: dict[str, float]
    second: dict[str, float]

    def of(self, score: str) -> float:
        return self.second[score] - self.first[score]


def has_truth(sequence: Sequence) -> bool:
    """Return whether there is a box to compare with; the first one was given to the tracker."""
    return int(sequence.present.sum()) > 1


def score_runs(runs: ListLike[Run], sequences: ListLike[Sequence]) -> list[dict[str, dict[str, float]]]:
    """Score every run by success and precision: sequence name to ``SR`` and ``PR`` in [0, 1].

    By LasHeR's rules over the frames that have a ground truth (``absent="excluded"``), so that a score is
    that of the curve beside it whatever the data set; :mod:`tracker.evaluation` has each benchmark's own rules.
    Sequences that a run lacks, and those without ground truth beyond the first box, are left out.
    """
    options = LasHeROptions(absent="excluded")

    def scores(run: Run, sequence: Sequence) -> dict[str, float]:
        found = evaluate([sequence], {sequence.name: run.records[sequence.name].boxes}, options=options).scores
        return {key: found[key] for key in SCORES}

    return [{s.name: scores(run, s) for s in sequences if s.name in run.records and has_truth(s)} for run in runs]


def mean_scores(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average over sequences; the answer is empty where there is none."""
    if not scores:
        return {}
    return {key: float(np.mean([s[key] for s in scores.values()])) for key in SCORES}


def compare_scores(first: dict[str, dict[str, float]], second: dict[str, dict[str, float]]) -> list[Difference]:
    """Compare two runs on the sequences that both have, the largest difference of success first."""
    both = [Difference(name, first[name], second[name]) for name in first if name in second]
    return sorted(both, key=lambda d: -abs(d.of("SR")))


def difference_table(runs: ListLike[Run], sequences: ListLike[Sequence], lines: int) -> str:
    """Return the largest differences of two runs as text, in percent."""
    found = compare_scores(*score_runs(runs, sequences))
    if not found:
        return "no sequence with ground truth in both runs: nothing to compare"
    head = ["sequence"]
    for score in ("success", "precision"):
        head += [f"{score}: first", "second", "change"]
    rows = []
    for d in found[:lines]:
        row = [d.name]
        for key in SCORES:
            row += [f"{100 * d.first[key]:.1f}", f"{100 * d.second[key]:.1f}", f"{100 * d.of(key):+.1f}"]
        rows.append(row)
    text = aligned_table(head, rows)
    return text if len(found) <= lines else f"{text}\nand {len(found) - lines} more"
