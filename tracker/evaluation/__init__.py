"""Result files, the protocols of the RGB-X benchmarks, reports and plots."""

from __future__ import annotations

from tracker.evaluation.attributes import read_attributes, score_attributes
from tracker.evaluation.lasher import AbsentFrames, LasHeROptions
from tracker.evaluation.metrics import Curve, Metrics, SequenceScores
from tracker.evaluation.protocols import PROTOCOLS, evaluate
from tracker.evaluation.report import write_report
from tracker.evaluation.result_folder import evaluate_folder
from tracker.evaluation.results import read_boxes, write_boxes

__all__ = [
    "PROTOCOLS",
    "AbsentFrames",
    "Curve",
    "LasHeROptions",
    "Metrics",
    "SequenceScores",
    "evaluate",
    "evaluate_folder",
    "read_attributes",
    "read_boxes",
    "score_attributes",
    "write_boxes",
    "write_report",
]
