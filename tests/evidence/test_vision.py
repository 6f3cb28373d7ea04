"""The bench of vision on a small network without pre-training and made-up images: what it draws and measures."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from evidence import vision
from evidence.trials import trial
from evidence.vision import Data, Images


def images(count: int, side: int, seed: int) -> Images:
    """Ten classes that differ by brightness, so that anything can tell them apart."""
    labels = torch.arange(count) % 10
    noise = torch.randint(0, 10, (count, side, side, 3), generator=torch.Generator().manual_seed(seed))
    return Images((noise + 24 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=16, depth=1, embed_dim=48, num_heads=3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setattr(vision, "SIZE", 16)
    monkeypatch.setattr(vision, "_loaded", lambda name: network())
    monkeypatch.setattr(vision, "_KEPT_BEFORE", {})
    parts = [images(count, 8, seed) for seed, count in enumerate((20, 20, 20, 8, 60, 20, 20))]
    data = Data(*parts)
    monkeypatch.setattr(vision, "data_of", lambda shots, seed: data)
    return data


@pytest.mark.parametrize(("method", "estimator"), [("adamw", ""), ("srft", "uniform"), ("lpft", ""), ("probe", "")])
def test_a_trial_repeats(small: Data, method: str, estimator: str) -> None:
    extra = {"estimator": estimator, "strength": 10.0} if estimator else {}
    one = trial("vision", "cifar10", method, 0, model="none", shots=2, steps=4, batch=8, lr=1e-3, **extra)
    first, second = vision.run(one), vision.run(one)
    assert first.readouts == second.readouts
    assert all(0.0 <= value <= 100.0 for measures in first.readouts.values() for value in measures)
    if method == "probe":
        assert first.readouts["final"][2:] == first.before[2:], "a probe leaves the features as they are"


class Shown(nn.Module):
    """Features that tell brightness, or nothing at all."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
        red = batch[:, :1].mean((2, 3)) * vision.DEVIATION[0] + vision.MEAN[0]
        return self.share * torch.exp(-(((255 * red - 24 * torch.arange(10) - 5) / 8) ** 2))

    def forward_head(self, hidden: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize(("share", "accuracy"), [(1.0, 100.0), (0.0, 10.0)])
def test_the_probe_reads_what_features_show(small: Data, share: float, accuracy: float) -> None:
    assert vision.probed(Shown(share), small) == (accuracy, accuracy)


def test_batches_hold_every_image_once_an_epoch(small: Data) -> None:
    drawn = list(vision.drawn(small.few, 5, 4, 0))
    assert torch.cat([labels for _, labels in drawn]).bincount().tolist() == [2] * 10
    assert drawn[0][0].shape == (5, 3, 16, 16)
