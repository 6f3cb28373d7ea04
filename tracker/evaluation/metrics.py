"""What an evaluation answers: curves, scores, and the same per sequence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Curve:
    """A rate over thresholds.

    Attributes:
        thresholds: (T,) in pixels, in box sizes, or in IoU.
        values: (T,) rates in [0, 1].
    """

    thresholds: np.ndarray
    values: np.ndarray

    def at(self, threshold: float) -> float:
        """Return the rate at the threshold nearest to ``threshold``."""
        return float(self.values[int(np.abs(self.thresholds - threshold).argmin())])


@dataclass(frozen=True)
class SequenceScores:
    """One sequence.

    Attributes:
        name: the sequence.
        frames: number of frames.
        absent: number of frames whose ground truth is not a valid box.
        scores: name of the score to its value in [0, 1].
        curves: name of the curve (``precision``, ``normalized_precision``, ``success``) to its curve.
    """

    name: str
    frames: int
    absent: int
    scores: dict[str, float]
    curves: dict[str, Curve]


@dataclass(frozen=True)
class Metrics:
    """One tracker on one benchmark.

    Attributes:
        tracker: its name in reports.
        protocol: one of :data:`tracker.evaluation.protocols.PROTOCOLS`.
        scores: the benchmark's scores in [0, 1], by their own names (``PR``, ``NPR``, ``SR``; ``MPR``,
            ``MSR``).
        curves: the benchmark's curves.
        sequences: per sequence.
        options: the protocol's named options as they were used.
        missing: sequences of the data set that had no result file.
        speed: frames per second, where known.
        protocol_reason: what told the protocol, where it was recognized by the data set's files; else empty.
    """

    tracker: str
    protocol: str
    scores: dict[str, float]
    curves: dict[str, Curve]
    sequences: tuple[SequenceScores, ...]
    options: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    speed: float | None = None
    protocol_reason: str = ""

    @property
    def frames(self) -> int:
        """The number of frames that were evaluated."""
        return sum(s.frames for s in self.sequences)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, for JSON; scores are fractions."""

        def curves(mapping: dict[str, Curve]) -> dict[str, Any]:
            return {
                name: {"thresholds": curve.thresholds.tolist(), "values": curve.values.tolist()}
                for name, curve in mapping.items()
            }

        return {
            "tracker": self.tracker,
            "protocol": self.protocol,
            "protocol_reason": self.protocol_reason,
            "options": self.options,
            "scores": self.scores,
            "speed": self.speed,
            "frames": self.frames,
            "missing": list(self.missing),
            "curves": curves(self.curves),
            "sequences": [
                {"name": s.name, "frames": s.frames, "absent": s.absent, "scores": s.scores} for s in self.sequences
            ],
        }
