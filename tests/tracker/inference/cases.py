"""Networks and sequences whose right answers are plain to see, for the tests of tracking."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from tracker.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tracker.data.sequence import ArraySequence
from tracker.models.tracker import TrackerOutput


class ScriptedNetwork(nn.Module):
    """Answers the maps that it was given, one set a call, whatever it sees. It counts its calls."""

    def __init__(self, answers: ListLike[tuple[np.ndarray, np.ndarray, np.ndarray]], search: int = 128) -> None:
        super().__init__()
        self.config = SimpleNamespace(template_size=64, search_size=search)
        self.answers = list(answers)
        self.seen: list[tuple[torch.Size, torch.Size]] = []

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        maps = self.answers[min(len(self.seen), len(self.answers) - 1)]
        self.seen.append((template.shape, search.shape))
        score, size, offset = (torch.tensor(m, dtype=torch.float32)[None] for m in maps)
        return TrackerOutput(score, size, offset, torch.zeros(1, 1, 4), torch.zeros(1, 1, 1))


class BrightestBlob(nn.Module):
    """Finds a bright rectangle on black from the moments of the search crop: a tracker without weights.

    The center is the centroid; the area is the mass; the aspect ratio is given. It answers through the maps of a
    CENTER head, so that everything from the crop to the unmapped box is in the loop.
    """

    def __init__(self, aspect: float, search: int = 128) -> None:
        super().__init__()
        self.config = SimpleNamespace(template_size=64, search_size=search)
        self.aspect = aspect
        self.frames = 0
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, template: Tensor, search: Tensor) -> TrackerOutput:
        assert not self.training
        count, side, cells = len(search), search.shape[-1], search.shape[-1] // 16
        self.frames += count
        mass = (search[:, :3] * self.std + self.mean).clamp(min=0).mean(dim=1).double()
        mass = torch.where(mass < 1e-4, 0.0, mass)
        total = mass.sum(dim=(1, 2)).clamp(min=1e-6)
        middles = (torch.arange(side).double() + 0.5) / side
        cx = (mass.sum(dim=1) * middles).sum(dim=1) / total
        cy = (mass.sum(dim=2) * middles).sum(dim=1) / total
        area = total / side**2
        score = torch.zeros(count, 1, cells, cells)
        size = torch.zeros(count, 2, cells, cells)
        offset = torch.zeros(count, 2, cells, cells)
        for b in range(count):
            ix, iy = int(cx[b] * cells), int(cy[b] * cells)
            score[b, 0, iy, ix] = 1.0
            size[b, :, iy, ix] = torch.stack([(area[b] * self.aspect).sqrt(), (area[b] / self.aspect).sqrt()])
            offset[b, :, iy, ix] = torch.stack([cx[b] * cells - ix, cy[b] * cells - iy])
        return TrackerOutput(score, size, offset, torch.zeros(count, 1, 4), torch.zeros(count, 1, 1))


def drawn(box: np.ndarray, width: int = 200, height: int = 150) -> np.ndarray:
    """Return a white rectangle on black, edges shaded by how much of the pixel is covered: (H, W, 6) uint8."""
    if not np.isfinite(box).all():
        return np.zeros((height, width, 6), np.uint8)

    def cover(start: float, length: float, count: int) -> np.ndarray:
        left = np.arange(count)
        return np.clip(np.minimum(left + 1, start + length) - np.maximum(left, start), 0, 1)

    image = np.outer(cover(box[1], box[3], height), cover(box[0], box[2], width))
    return np.repeat(np.round(255 * image)[:, :, None], 6, axis=2).astype(np.uint8)


# ---- one frame


def moving(name: str, length: int, phase: float = 0.0, absent: int = 0) -> ArraySequence:
    """Return a box of aspect 3:2 that moves on an ellipse and breathes."""
    t = np.arange(length) * 0.15 + phase
    width = 30.0 * (1 + 0.2 * np.sin(t))
    height = width / 1.5
    x = 100 + 45 * np.cos(t) - width / 2
    y = 75 + 35 * np.sin(t * 1.3) - height / 2
    boxes = np.stack([x, y, width, height], axis=1)
    boxes[:absent] = np.nan
    return ArraySequence(name, "thermal", np.stack([drawn(b) for b in boxes]), boxes)


def flat_maps(cells: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full((1, cells, cells), 0.1), np.full((2, cells, cells), 0.25), np.zeros((2, cells, cells))


BLACK = np.zeros((150, 200, 6), np.uint8)
