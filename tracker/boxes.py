"""Box algebra for torch tensors and numpy arrays alike.

Three forms, named where they are used, always in the last axis of length four:

- ``xywh``: left, top, width, height (what annotations hold),
- ``xyxy``: left, top, right, bottom,
- ``cxcywh``: center, width, height (what the network answers).

Coordinates are continuous: a box covers ``[x, x + w) x [y, y + h)``, so right = x + w. The benchmarks' own
conventions (right = x + w - 1) live with the benchmarks, in ``tracker.evaluation``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch

Boxes = TypeVar("Boxes", torch.Tensor, np.ndarray)


def _stack(parts: list[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor):
        return torch.stack(parts, dim=-1)
    return np.stack(parts, axis=-1)


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """Convert ``(..., 4)`` left, top, width, height to left, top, right, bottom."""
    x, y, w, h = (boxes[..., i] for i in range(4))
    converted: Boxes = _stack([x, y, x + w, y + h])
    return converted


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """Convert ``(..., 4)`` left, top, right, bottom to left, top, width, height."""
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    converted: Boxes = _stack([left, top, right - left, bottom - top])
    return converted


def cxcywh_to_xyxy(boxes: Boxes) -> Boxes:
    """Convert ``(..., 4)`` center, width, height to left, top, right, bottom."""
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    converted: Boxes = _stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    return converted


def xyxy_to_cxcywh(boxes: Boxes) -> Boxes:
    """Convert ``(..., 4)`` left, top, right, bottom to center, width, height."""
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    converted: Boxes = _stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    return converted


def xywh_to_cxcywh(boxes: Boxes) -> Boxes:
    """Convert ``(..., 4)`` left, top, width, height to center, width, height."""
    x, y, w, h = (boxes[..., i] for i in range(4))
    converted: Boxes = _stack([x + w / 2, y + h / 2, w, h])
    return converted


def cxcywh_to_xywh(boxes: Boxes) -> Boxes:
    """Convert ``(..., 4)`` center, width, height to left, top, width, height."""
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    converted: Boxes = _stack([cx - w / 2, cy - h / 2, w, h])
    return converted


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Divide. The result is 0 for 0/0 (two empty boxes), and the gradient stays finite there."""
    if isinstance(denominator, torch.Tensor):
        return numerator / denominator.clamp_min(torch.finfo(denominator.dtype).eps ** 2)
    return numerator / np.maximum(denominator, np.finfo(np.float64).eps ** 2)


def _extent(low: Any, high: Any) -> Any:
    """Return the length of an interval, or zero if it is empty."""
    difference = high - low
    if isinstance(difference, torch.Tensor):
        return difference.clamp_min(0)
    return np.maximum(difference, 0)


def _smaller(a: Any, b: Any) -> Any:
    return torch.minimum(a, b) if isinstance(a, torch.Tensor) else np.minimum(a, b)


def _larger(a: Any, b: Any) -> Any:
    return torch.maximum(a, b) if isinstance(a, torch.Tensor) else np.maximum(a, b)


def _intersection_and_union(a: Any, b: Any) -> tuple[Any, Any]:
    width = _extent(_larger(a[..., 0], b[..., 0]), _smaller(a[..., 2], b[..., 2]))
    height = _extent(_larger(a[..., 1], b[..., 1]), _smaller(a[..., 3], b[..., 3]))
    intersection = width * height
    area_a = _extent(a[..., 0], a[..., 2]) * _extent(a[..., 1], a[..., 3])
    area_b = _extent(b[..., 0], b[..., 2]) * _extent(b[..., 1], b[..., 3])
    return intersection, area_a + area_b - intersection


def iou(a: Boxes, b: Boxes) -> Boxes:
    """Intersection over union of ``xyxy`` boxes, pair by pair.

    ``(..., 4)`` and ``(..., 4)`` to ``(...)`` in [0, 1]. Shapes broadcast; two empty boxes give 0.
    """
    intersection, union = _intersection_and_union(a, b)
    overlap: Boxes = _ratio(intersection, union)
    return overlap


def giou(a: Boxes, b: Boxes) -> Boxes:
    """Generalized IoU of ``xyxy`` boxes, pair by pair: IoU less the empty share of the enclosing box.

    ``(..., 4)`` and ``(..., 4)`` to ``(...)`` in [-1, 1]: IoU less the share of the smallest enclosing box
    that neither covers (Rezatofighi et al., CVPR 2019, eq. 2).
    """
    intersection, union = _intersection_and_union(a, b)
    width = _extent(_smaller(a[..., 0], b[..., 0]), _larger(a[..., 2], b[..., 2]))
    height = _extent(_smaller(a[..., 1], b[..., 1]), _larger(a[..., 3], b[..., 3]))
    enclosing = width * height
    overlap: Boxes = _ratio(intersection, union) - _ratio(enclosing - union, enclosing)
    return overlap
