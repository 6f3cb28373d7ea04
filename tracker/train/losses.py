"""The training loss, 2 (1 - GIoU) + 5 L1 + focal, sample by sample (OSTrack convention).

Every loss is ``(B,)``. The mean over the batch is the published batch loss, and ``srft.estimate_prior`` needs the
single values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tracker.boxes import cxcywh_to_xyxy, giou
from tracker.config import LossSection
from tracker.errors import RGBXError
from tracker.models.center_head import decode_boxes
from tracker.models.tracker import TrackerOutput


def _larger_root(b: Tensor, four_ac: Tensor) -> Tensor:
    return (b + (b**2 - four_ac).clamp_min(0).sqrt()) / 2


def gaussian_radius(width: Tensor, height: Tensor, min_overlap: float = 0.7) -> Tensor:
    """Radius in cells within which a box keeps an overlap of ``min_overlap`` (CornerNet, section 3.2).

    Width and height are ``(B,)`` in cells, and so is the answer. It is the smallest root of three quadratics, for boxes
    that are displaced, shrunk and grown. Each root is (b + sqrt(b^2 - 4ac)) / 2, without the division by a: CornerNet's
    first release and the trackers since have it so, and the published weights were trained with it.
    """
    around = width + height
    area = width * height
    displaced = _larger_root(around, 4 * area * (1 - min_overlap) / (1 + min_overlap))
    shrunk = _larger_root(2 * around, 16 * area * (1 - min_overlap))
    grown = _larger_root(-2 * min_overlap * around, 16 * area * min_overlap * (min_overlap - 1))
    return torch.minimum(torch.minimum(displaced, shrunk), grown)


def gaussian_target(boxes: Tensor, cells: int) -> Tensor:
    """Heat map ``(B, 1, cells, cells)`` that the score map has to answer.

    ``boxes (B, 4)`` are cx, cy, w, h of the target in [0, 1]. The map is one at the cell round(center * cells), a
    Gaussian of sigma (2r + 1) / 6 around it within r cells along each axis, and zero beyond; r is
    :func:`gaussian_radius` cut to a whole number. A center that rounds to a cell outside the map counts at the map's
    edge. The published target has no positive cell then, and teaches that there is no target.
    """
    scaled = boxes.detach() * cells
    radius = gaussian_radius(scaled[:, 2], scaled[:, 3]).clamp_min(0).floor()
    sigma = (2 * radius + 1) / 6
    center = scaled[:, :2].round().clamp(0, cells - 1)
    index = torch.arange(cells, device=boxes.device, dtype=scaled.dtype)
    dx = index[None] - center[:, :1]
    dy = index[None] - center[:, 1:]
    along_x = torch.exp(-(dx**2) / (2 * sigma[:, None] ** 2)) * (dx.abs() <= radius[:, None])
    along_y = torch.exp(-(dy**2) / (2 * sigma[:, None] ** 2)) * (dy.abs() <= radius[:, None])
    return (along_y[:, :, None] * along_x[:, None, :])[:, None]


def focal_loss(score: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced focal loss of CenterNet (Zhou et al. 2019, eq. 1), per sample: ``(B,)``.

    ``score`` and ``target`` are ``(B, 1, S, S)``, with the score strictly within (0, 1). A sample's sum is not divided.
    Each sample has one positive cell, so the batch mean is the published sum over the batch divided by its positives.
    """
    positive = target == 1
    hit = (1 - score) ** alpha * score.log()
    miss = (1 - target) ** beta * score**alpha * (1 - score).log()
    return -torch.where(positive, hit, miss).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class TrackingLoss:
    """Weighted sum of GIoU, L1 and focal loss; the weights are SRTrack's."""

    giou_weight: float = 2.0
    l1_weight: float = 5.0
    focal_weight: float = 1.0

    def __call__(self, output: TrackerOutput, boxes: Tensor) -> dict[str, Tensor]:
        """Return the losses of each sample: ``total``, ``giou`` (1 - GIoU), ``l1`` and ``focal``, each ``(B,)``.

        ``boxes (B, 4)`` are cx, cy, w, h of the target relative to the search crop. GIoU and L1 (the mean over the four
        coordinates of the corners) compare left, top, right and bottom; the target's are clamped to the crop. ``total``
        is weighted, its parts are not. All are computed in fp32 (fp64 for fp64 outputs), also under autocast.

        Raises RGBXError unless there is one box a sample.
        """
        batch = output.boxes.shape[0]
        if tuple(boxes.shape) != (batch, 4):
            raise RGBXError(f"the target boxes have shape {tuple(boxes.shape)}, but {batch} outputs need ({batch}, 4)")
        precision = torch.promote_types(output.boxes.dtype, torch.float32)
        target = boxes.to(precision)
        predicted = cxcywh_to_xyxy(output.boxes[:, 0].to(precision))
        corners = cxcywh_to_xyxy(target).clamp(0, 1)
        giou_part = 1 - giou(predicted, corners)
        l1_part = (predicted - corners).abs().mean(dim=1)
        score = output.score_map.to(precision)
        focal_part = focal_loss(score, gaussian_target(target, score.shape[-1]))
        total = self.giou_weight * giou_part + self.l1_weight * l1_part + self.focal_weight * focal_part
        return {"total": total, "giou": giou_part, "l1": l1_part, "focal": focal_part}


class TargetCellLoss:
    """Box losses at the cell of the target, instead of at the cell with the largest score.

    The published loss regresses the box at the argmax of the score map. In a network that starts from nothing that may
    be any cell, so size and offset learn at wrong places first. With a good score map the two losses are the same.
    """

    def __init__(self, loss: TrackingLoss) -> None:
        self.loss = loss

    def __call__(self, output: TrackerOutput, boxes: Tensor) -> dict[str, Tensor]:
        target = gaussian_target(boxes.to(output.score_map.dtype), output.score_map.shape[-1])
        there = decode_boxes(target, output.size_map, output.offset_map)
        return self.loss(output._replace(boxes=there[:, None]), boxes)


def loss_of(settings: LossSection) -> Callable[[TrackerOutput, Tensor], dict[str, Tensor]]:
    """Return the published loss, or with ``loss.cell: target`` its form for networks that find nothing yet."""
    weighted = TrackingLoss(settings.giou, settings.l1, settings.focal)
    return TargetCellLoss(weighted) if settings.cell == "target" else weighted
