"""Learn to read upright digits, then turned and inverted ones from five examples a class, and see what is forgotten.

    pip install "srft-kernels[evidence]"
    python examples/digits.py

Three trainings from the same weights over five seeds, some ten seconds: AdamW at a learning rate at which it learns
most, AdamW at the one that is best for new and old together, and SRFT around AdamW. Learning rates and strength are
those that `python -m evidence` found to be best on validation images.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import srft_kernels as srft

Digits = tuple[Tensor, Tensor]
SHOTS, STEPS, BATCH = 5, 300, 32


def digits(seed: int) -> tuple[Digits, Digits, Digits, Digits]:
    """Upright digits to learn, few of the new kind to learn, and of both kinds the same 700 images to test on."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    upright = torch.tensor(images, dtype=torch.float32)[order] / 16
    labels = torch.tensor(labels)[order]
    new = 1 - upright.view(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)
    old, pool, test = slice(0, 597), slice(597, 1097), slice(1097, None)
    few = torch.cat([(labels[pool] == c).nonzero().flatten()[:SHOTS] for c in range(10)])
    return (
        (upright[old], labels[old]),
        (new[pool][few], labels[pool][few]),
        (upright[test], labels[test]),
        (new[test], labels[test]),
    )


def batches(data: Digits, size: int, steps: int, seed: int) -> Iterator[Digits]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randperm(len(data[1]), generator=generator)[:size]
        yield data[0][chosen], data[1][chosen]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Digits, steps: int, seed: int) -> None:
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for images, labels in batches(data, BATCH, steps, seed):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    return 100 * float((model(data[0]).argmax(1) == data[1]).float().mean())


def losses(model: nn.Module, batch: Digits) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def compare(seed: int) -> dict[str, tuple[float, float]]:
    """Accuracy on the new and on the old kind in percent, by the way of training."""
    old, few, old_test, new_test = digits(seed)
    torch.manual_seed(seed)
    pretrained = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    train(pretrained, torch.optim.AdamW(pretrained.parameters(), lr=3e-3), old, 600, seed)

    # What matters to the old digits, once, before anything new is learned.
    prior = srft.estimate_prior(
        pretrained, losses, zip(old[0].split(32), old[1].split(32), strict=True), "fisher_exact"
    )

    def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.named_parameters(), lr=lr, weight_decay=0.0)

    def held(model: nn.Module) -> torch.optim.Optimizer:
        return srft.SRFT(adamw(model, 1e-2), prior, strength=10.0, kappa=srft.CosineKappa(STEPS))

    ways: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "AdamW, lr 1e-2": lambda model: adamw(model, 1e-2),
        "AdamW, lr 1.5e-3": lambda model: adamw(model, 1.5e-3),
        "SRFT(AdamW), lr 1e-2": held,
    }
    found = {"untouched": (accuracy(pretrained, new_test), accuracy(pretrained, old_test))}
    for name, optimizer_of in ways.items():
        model = copy.deepcopy(pretrained)
        train(model, optimizer_of(model), few, STEPS, seed)
        found[name] = (accuracy(model, new_test), accuracy(model, old_test))
    return found


def main() -> None:
    runs = [compare(seed) for seed in range(5)]
    print(f"{'mean over five seeds, %':24}{'new digits':>12}{'old digits':>12}{'both':>8}")
    for name in runs[0]:
        new, old = (statistics.fmean(run[name][kind] for run in runs) for kind in (0, 1))
        print(f"{name:24}{new:12.1f}{old:12.1f}{(new + old) / 2:8.1f}")


if __name__ == "__main__":
    main()
