"""What every example here trains on: a small network that knows an old task, and a few examples of a new one.

Points in sixteen dimensions belong to one of four classes. The new task's points are turned and shifted, so a network
that learns it freely forgets where the old ones were. Everything is made on the spot, in a second, from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FEATURES, CLASSES = 16, 4


@dataclass
class SmallTask:
    """A network after its old task, with the data of both.

    Attributes:
        model: The network, trained on the old task.
        old: Points (N, 16) and classes (N,) of the old task, for its significance and to see what is kept.
        new: The same of the new task, which is what the examples learn.
    """

    model: nn.Module
    old: tuple[Tensor, Tensor]
    new: tuple[Tensor, Tensor]

    def batches(self, size: int = 32, steps: int = 60) -> list[tuple[Tensor, Tensor]]:
        """Return the new task's batches, the same ones in every run."""
        points, labels = self.new
        order = torch.Generator().manual_seed(1)
        chosen = [torch.randint(len(points), (size,), generator=order) for _ in range(steps)]
        return [(points[i], labels[i]) for i in chosen]

    def old_batches(self, size: int = 64) -> list[tuple[Tensor, Tensor]]:
        """Return the old task's data in batches, from which a prior is estimated."""
        points, labels = self.old
        return list(zip(points.split(size), labels.split(size), strict=True))


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the share of points (N, 16) that the network puts into their class, from 0 to 1."""
    with torch.no_grad():
        return float((model(data[0]).argmax(1) == data[1]).float().mean())


def sample_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of each sample (B,), as :func:`srft_kernels.estimate_prior` wants it."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def make_task(seed: int = 0) -> SmallTask:
    """Return a network that has learned the old task with AdamW, and the data of both tasks."""
    torch.manual_seed(seed)
    centers = torch.randn(CLASSES, FEATURES)
    turn = torch.linalg.qr(torch.randn(FEATURES, FEATURES)).Q
    labels = torch.randint(CLASSES, (512,))
    old = centers[labels] + 0.5 * torch.randn(512, FEATURES)
    new = (centers @ turn)[labels] + 0.7 + 0.5 * torch.randn(512, FEATURES)
    model = nn.Sequential(
        nn.Linear(FEATURES, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, CLASSES)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sample_loss(model, (old, labels)).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return SmallTask(model, (old, labels), (new, labels))


def report(name: str, model: nn.Module, task: SmallTask) -> None:
    """Print what the network knows of both tasks."""
    print(f"{name}: new task {accuracy(model, task.new):.1%}, old task {accuracy(model, task.old):.1%}")
