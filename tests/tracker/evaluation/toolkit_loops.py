"""The benchmarks' own rules in plain loops, one frame and one threshold at a time.

They are written from what the official toolkits compute, in the toolkits' own last-pixel arithmetic, and share nothing
with the package that is tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Box = list[float]

IOUS = [0.05 * k for k in range(21)]
PIXELS = [float(k) for k in range(51)]
NORMALIZED = [0.01 * k for k in range(51)]


def iou(a: Box, b: Box) -> float:
    """Return the overlap, with the right edge at x + w - 1; NaN for 0 / 0 and where a number is NaN."""
    if any(math.isnan(v) for v in [*a, *b]):
        return math.nan
    width = min(a[0] + a[2] - 1, b[0] + b[2] - 1) - max(a[0], b[0]) + 1
    height = min(a[1] + a[3] - 1, b[1] + b[3] - 1) - max(a[1], b[1]) + 1
    inside = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - inside
    return inside / union if union else math.nan


def center_error(a: Box, b: Box) -> float:
    """Return the distance in pixels of the centers x + (w - 1) / 2."""
    return math.hypot(a[0] + (a[2] - 1) / 2 - b[0] - (b[2] - 1) / 2, a[1] + (a[3] - 1) / 2 - b[1] - (b[3] - 1) / 2)


def normalized_error(a: Box, b: Box) -> float:
    """Return the same with each axis divided by the true side."""
    dx = a[0] + (a[2] - 1) / 2 - b[0] - (b[2] - 1) / 2
    dy = a[1] + (a[3] - 1) / 2 - b[1] - (b[3] - 1) / 2
    return math.hypot(dx / b[2], dy / b[3]) if b[2] and b[3] else math.nan


@dataclass
class Measured:
    """What a toolkit measured on one sequence.

    Attributes:
        errors: center errors, normalized errors and overlaps of each frame; None where the frame is out of the
            numerators.
        frames: the denominator.
    """

    errors: list[tuple[float, float, float] | None]
    frames: int

    def precision(self, threshold: float, strict: bool = False) -> float:
        values = [e[0] for e in self.errors if e is not None]
        return sum(v < threshold if strict else v <= threshold for v in values) / self.frames

    def normalized_precision(self, threshold: float) -> float:
        return sum(e[1] <= threshold for e in self.errors if e is not None) / self.frames

    def success(self, threshold: float) -> float:
        return sum(e[2] > threshold for e in self.errors if e is not None) / self.frames

    def mean_success(self) -> float:
        return sum(self.success(t) for t in IOUS) / len(IOUS)


class Refused(Exception):
    """Raised where the toolkit stops with an error."""


def no_area(box: Box) -> bool:
    return any(math.isnan(v) for v in box) or box[2] <= 0 or box[3] <= 0


def lasher(results: list[Box], truth: list[Box]) -> Measured:
    """Do as LasHeR: the first result becomes the truth, broken ones copy the one before, and invalid truths give -1."""
    boxes = [list(box) for box in results[: len(truth)]]
    boxes[0] = list(truth[0])
    for i in range(1, len(truth)):
        if no_area(boxes[i]) and not any(math.isnan(v) for v in truth[i]):
            boxes[i] = list(boxes[i - 1])
    return Measured([_or_minus_one(b, t) for b, t in zip(boxes, truth, strict=True)], len(truth))


def visevent(results: list[Box], truth: list[Box], absent: list[bool]) -> Measured:
    """Do as VisEvent and COESOT: as LaSOT's evaluation, with all frames in the denominator."""
    boxes = [list(box) for box in results[: len(truth)]]
    for i in range(1, len(truth)):
        if no_area(boxes[i]) and not any(math.isnan(v) for v in truth[i]):
            boxes[i] = list(boxes[i - 1])
    boxes[0] = list(truth[0])
    errors = [None if a else _or_minus_one(b, t) for b, t, a in zip(boxes, truth, absent, strict=True)]
    return Measured(errors, len(truth))


def _or_minus_one(box: Box, target: Box) -> tuple[float, float, float]:
    if all(v > 0 for v in target):
        return center_error(box, target), normalized_error(box, target), iou(box, target)
    return -1.0, -1.0, -1.0


def best_of_two(results: list[Box], visible: list[Box], infrared: list[Box]) -> Measured:
    """Do as RGBT234 and GTOT: take the better of two truths, as reported.

    A NaN is better than nothing and worse than a number.
    """
    errors: list[tuple[float, float, float] | None] = []
    for box, *targets in zip(results, visible, infrared, strict=False):
        distances = [d for d in (center_error(box, t) for t in targets) if not math.isnan(d)]
        overlaps = [o for o in (iou(box, t) for t in targets) if not math.isnan(o)]
        errors.append((min(distances, default=math.nan), math.nan, max(overlaps, default=math.nan)))
    return Measured(errors, len(visible))


def vtuav(results: list[Box], visible: list[Box], infrared: list[Box]) -> Measured:
    """Do as VTUAV: there is one annotation for ten results."""
    return best_of_two([results[10 * k] for k in range(len(visible))], visible, infrared)


def rgbt210(results: list[Box], truth: list[Box]) -> Measured:
    """Do as RGBT210: there is one truth, the first result is replaced, and nothing is repaired."""
    boxes = [list(truth[0]), *results[1:]]
    return best_of_two(boxes, truth, truth)


def fe108(results: list[Box], truth: list[Box]) -> Measured:
    """Do as PyTracking: refuse NaN and negative sides, copy sides of zero, and put invalid truths infinitely far."""
    boxes = [list(box) for box in results]
    if any(math.isnan(v) for box in boxes for v in box) or any(box[2] < 0 or box[3] < 0 for box in boxes):
        raise Refused
    for i in range(1, len(boxes)):
        zero = boxes[i][2] == 0 or boxes[i][3] == 0
        if zero and i < len(truth) and not any(math.isnan(v) for v in truth[i]):
            boxes[i] = list(boxes[i - 1])
    boxes = boxes[: len(truth)]
    boxes[0] = list(truth[0])
    errors: list[tuple[float, float, float] | None] = []
    for box, target in zip(boxes, truth, strict=True):
        valid = target[2] > 0 and target[3] > 0
        errors.append((center_error(box, target), 0.0, iou(box, target)) if valid else (math.inf, 0.0, -1.0))
    return Measured(errors, len(truth))


def drawn_overlap(a: Box, b: Box, size: tuple[int, int] | None) -> float:
    """Return the VOT toolkit's IoU: both boxes drawn pixel by pixel, inside an image of ``size`` where it is given."""
    pixels: list[set[tuple[int, int]]] = []
    spans = []
    for values in (a, b):
        if any(math.isnan(v) for v in values):
            pixels.append(set())
            spans.append((0, 0, 0, 0))
            continue
        x, y, w, h = (round(v) for v in values)
        spans.append((x, y, x + w - 1, y + h - 1))
        pixels.append({(column, row) for column in range(x, x + w) for row in range(y, y + h)})
    left, top = min(s[0] for s in spans), min(s[1] for s in spans)
    right, bottom = max(s[2] for s in spans), max(s[3] for s in spans)
    if left >= right or top >= bottom:
        return 1.0
    if size is not None:
        width, height = size
        if max(left, 0) >= min(right, width - 1) or max(top, 0) >= min(bottom, height - 1):
            return 0.0
        pixels = [{(c, r) for c, r in drawn if 0 <= c < width and 0 <= r < height} for drawn in pixels]
    union = len(pixels[0] | pixels[1])
    return len(pixels[0] & pixels[1]) / union if union else 0.0


def no_ties(errors: list[float]) -> bool:
    """Return whether no error ties with a threshold, a whole number; the last bit of a root would decide a tie."""
    return all(not math.isfinite(e) or e == round(e) or abs(e - round(e)) > 1e-9 for e in errors)
