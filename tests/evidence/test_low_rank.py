"""Low-rank updates start from the network as it is, move it by little rank, and leave its names behind."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from evidence import low_rank
from evidence.digits import Perceptron, add_low_rank
from evidence.trials import trial
from evidence.vision import LORA_ALPHA, LORA_LAYERS, LORA_RANK

pytest.importorskip("peft")

TARGETS = ("qkv", "proj", "fc1", "fc2")


def network() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=32, depth=2, embed_dim=48, num_heads=3
    )
    return made.eval()


def test_updates_start_at_nothing_and_end_as_plain_weights() -> None:
    model, images = network(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        untouched = model(images)
    names = low_rank.add(model, LORA_LAYERS, LORA_RANK, LORA_ALPHA)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(names)
    assert len(names) == 2 * 2 * len(TARGETS), "A and B of every layer of two blocks"
    with torch.no_grad():
        assert torch.equal(model(images), untouched)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        expected = model(images)
        low_rank.merge(model)
        assert torch.allclose(model(images), expected, atol=1e-5)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    for name, old in before.items():
        update = after[name].detach() - old
        if any(f".{layer}.weight" in name for layer in TARGETS) and "patch_embed" not in name:
            assert torch.linalg.matrix_rank(update, atol=1e-4) == LORA_RANK
        else:
            assert not update.any(), f"{name} has moved"


def test_an_update_begins_as_the_layer_and_trains_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    inputs = torch.randn(6, 5, dtype=torch.float64)
    before = model(inputs)
    names = low_rank.add(model, ["0"], rank=2, alpha=4)
    model.double()
    assert torch.equal(model(inputs), before)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == names
    a, b = (model.get_parameter(name) for name in names)
    assert (a.shape, b.shape) == ((2, 5), (4, 2))
    with torch.no_grad():
        b.fill_(1.0)
    layer = model[0].get_base_layer()
    expected = inputs @ (layer.weight + 2.0 * b @ a).T + layer.bias
    assert torch.allclose(model[0](inputs), expected)


def test_a_new_head_of_the_digits_trains_as_a_whole() -> None:
    model = Perceptron(8, {"old": 10, "new": 5})
    add_low_rank(model, trial("digits", "halves", "lora", 0, rank=2), "new")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    whole = [name for name in trained if ".lora_" not in name]
    assert whole == ["heads.new.weight", "heads.new.bias"]
    assert len(trained) == len(whole) + 2 * 3, "A and B of both hidden layers and of the old head"
