"""The bench of vision on a small network without pre-training and made-up images: what it draws and measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

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
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2, embed_dim=48, num_heads=3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Data:
    monkeypatch.setattr(vision, "CACHE", tmp_path)
    monkeypatch.setattr(vision, "loaded", lambda name, size: network().eval())
    monkeypatch.setattr(vision, "_OLD_HEADS", {})
    counts = (20, 20, 20, 8, 60, 20, 20)
    few, *others = [images(count, 8, seed) for seed, count in enumerate(counts)]
    few, *others = [Images(vision.pixels_of(part.inputs, 32), part.labels) for part in (few, *others)]
    data = Data(few, Images(few.inputs.flip(3), few.labels), *others)
    monkeypatch.setattr(vision, "data_of", lambda task, shots, seed, size: data)
    vision.ready.cache_clear()
    vision._shared_tokens.cache_clear()
    return data


OPTIONS = {"model": "none", "size": 32, "shots": 2, "steps": 4, "batch": 8, "lr": 1e-3}


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("adamw", {}),
        ("srft", {"estimator": "uniform", "strength": 10.0}),
        ("srft", {"estimator": "mas_few", "strength": 10.0}),
        ("srft", {"estimator": "old_head", "strength": 10.0}),
        ("adamw", {"tuning": "lora"}),
        ("srft", {"tuning": "lora", "strength": 0.1, "normalize": "global"}),
        ("lpft", {}),
        ("probe", {}),
    ],
)
@pytest.mark.parametrize("blocks", [0, 1])
def test_a_trial_repeats(small: Data, method: str, extra: dict[str, str | float], blocks: int) -> None:
    one = trial("vision", "cifar10", method, 0, blocks=blocks, **OPTIONS, **extra)
    first, second = vision.run(one), vision.run(one)
    assert first.readouts == second.readouts
    assert all(0.0 <= value <= 100.0 for measures in first.readouts.values() for value in measures)
    assert (first.facts["travel"] > 0.0) == (method != "probe"), "the features move unless only the head is trained"
    if method == "probe":
        assert first.readouts["final"][2:] == first.before[2:], "a probe leaves the features as they are"
    if method == "adamw":
        assert set(first.readouts) == ({"final"} if extra else {"final", "mix0.5"})


def test_a_merged_trial_is_adamw_with_every_readout(small: Data) -> None:
    plain, merged = (vision.run(trial("vision", "cifar10", m, 0, blocks=1, **OPTIONS)) for m in ("adamw", "merged"))
    free = {"final", "mix0.5", "at0.5", "average", *(f"merge{strength:g}" for strength in vision.MERGERS)}
    assert set(merged.readouts) == free
    assert merged.readouts["final"] == plain.readouts["final"]


def test_frozen_blocks_that_ran_before_are_frozen_blocks(small: Data) -> None:
    """With a learning rate of zero for the body, both ways train the same head on the same features."""
    options = {**OPTIONS, "lr": 0.0}
    last, whole = (vision.run(trial("vision", "cifar10", "adamw", 0, blocks=n, **options)) for n in (1, 0))
    assert last.facts["last_loss"] == pytest.approx(whole.facts["last_loss"], rel=1e-3)
    assert last.before == whole.before


def test_the_new_images_are_those_that_the_seed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [images(count, 8, seed) for seed, count in enumerate((700, 600, 1000, 700))]
    monkeypatch.setattr(vision, "_cifar", lambda: (sets[0], sets[1]))
    monkeypatch.setattr(vision, "TASKS", {"new": (lambda: (sets[0], sets[1]), lambda: (sets[2], sets[3]))})
    data, again, other = (vision.data_of("new", 3, seed, 8) for seed in (1, 1, 2))
    assert data.few.labels.bincount().tolist() == [3] * 10
    assert torch.equal(data.few.inputs, again.few.inputs)
    assert not torch.equal(data.few.inputs, other.few.inputs)
    assert torch.equal(data.test.inputs, other.test.inputs)
    assert torch.equal(data.flipped.inputs.flip(3), data.few.inputs)
    counts = [len(part.labels) for part in data[2:]]
    assert counts == [
        vision.VALIDATION,
        vision.TEST,
        vision.PRIOR_IMAGES,
        vision.OLD,
        vision.OLD_VALIDATION,
        vision.OLD_TEST,
    ]
    every = torch.cat([part.inputs.flatten(1) for part in (data.few, data.validation, data.natural)])
    assert len(every.unique(dim=0)) == len(every), "an image is in two parts"


@pytest.mark.parametrize(("name", "images_of"), [("CIFAR-10", vision._cifar), ("Fashion-MNIST", vision._fashion)])
def test_images_that_cannot_be_fetched_say_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, images_of: Any
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def refuse(root: str, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(datasets, name.replace("-10", "10").replace("-", ""), refuse)
    monkeypatch.setattr(vision, "ROOT", tmp_path)
    monkeypatch.setattr(vision, "FASHION", tmp_path / "none")
    monkeypatch.setenv("RGBX_SHARED", str(tmp_path))
    images_of.cache_clear()
    with pytest.raises(RuntimeError, match=f"(?s){name} is not at {tmp_path}.*no route to host.*{tmp_path / 'runs'}"):
        images_of()


def test_a_fixed_draw_mixes_the_classes() -> None:
    sorted_by_class = Images(torch.zeros(500, 1, 1, 3, dtype=torch.uint8), torch.arange(500) // 50)
    assert vision.shuffled(sorted_by_class).labels[:250].bincount(minlength=10).min() > 10


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
def test_a_head_reads_what_features_show(small: Data, share: float, accuracy: float) -> None:
    head = vision.old_head(Shown(share), small)
    assert vision.kept(vision.old_features(Shown(share), small), small, head) == [accuracy, accuracy]


def test_an_old_head_notices_features_that_moved_and_a_new_one_follows_them(small: Data) -> None:
    head, moved = vision.old_head(Shown(1.0), small), Shown(-1.0)
    features = vision.old_features(moved, small)
    assert max(vision.kept(features, small, head)) < 50.0
    assert vision.anew(moved, small, features) == {"anew_validation": 100.0, "anew": 100.0}


def test_batches_hold_every_image_once_an_epoch(small: Data) -> None:
    drawn = list(vision.drawn(small.few, small.flipped, 5, 4, 0))
    assert torch.cat([labels for _, labels in drawn]).bincount().tolist() == [2] * 10
    assert drawn[0][0].shape == (5, 3, 32, 32)


def test_parts_are_the_matrices_of_a_block_or_a_kind() -> None:
    weights = {name: p.detach() for name, p in network().named_parameters()}
    parts = vision.parts_of(weights)
    assert set(parts) == {"block 0", "block 1", "qkv", "proj", "fc1", "fc2"}
    assert set(parts["fc1"]) == {"blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight"}
    assert sum(len(parts[f"block {i}"]) for i in (0, 1)) == 8


def test_significance_of_features_is_the_gauss_newton_diagonal() -> None:
    """For features W x it is the mean of x² for every row of W."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4, bias=False)

        def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
            return self.layer(batch)

        def forward_head(self, hidden: torch.Tensor, pre_logits: bool) -> torch.Tensor:
            return hidden

    inputs = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5])
    prior = vision.prior_of(Linear(), "features", Images(inputs, torch.zeros(4000)), ["layer.weight"])["layer.weight"]
    # 250 batches of a squared normal number, whose relative variance is 2: three standard errors.
    assert torch.allclose(prior, inputs.square().mean(0).expand(4, 3), rtol=3.0 * (2.0 / 250) ** 0.5)

    # An old head that weights two of the four features (but for their spread, which it divides by) weights their rows.
    weights = torch.zeros(5, 2, dtype=torch.float64)
    weights[0, 0], weights[2, 1] = 3.0, 0.5
    head = vision.Head(torch.zeros(4).double(), torch.tensor([1.0, 1.0, 2.0, 1.0]).double(), weights)
    found = vision.prior_of(Linear(), "old_head", Images(inputs, torch.zeros(4000)), ["layer.weight"], head)
    scale = torch.tensor([9.0, 0.0, 0.0625, 0.0]).unsqueeze(1)
    truth = inputs.square().mean(0) * scale
    assert torch.allclose(found["layer.weight"], truth, rtol=3.0 * (2.0 / 250) ** 0.5)


@pytest.mark.parametrize(("estimator", "message"), [("fisher", "there are mas"), ("old_head", "asks for a head")])
def test_an_estimator_that_cannot_be_had_is_refused(estimator: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vision.prior_of(network(), estimator, images(10, 8, 0), ["head.weight"])
