"""Low-rank updates start from the network as it is, move it by little rank, and leave its names behind."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from evidence import vit_low_rank

pytest.importorskip("peft")


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
    names = vit_low_rank.add(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(names)
    assert len(names) == 2 * 2 * len(vit_low_rank.TARGETS), "A and B of every layer of two blocks"
    with torch.no_grad():
        assert torch.equal(model(images), untouched)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        expected = model(images)
        vit_low_rank.merge(model)
        assert torch.allclose(model(images), expected, atol=1e-5)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    for name, old in before.items():
        update = after[name].detach() - old
        if any(f".{layer}.weight" in name for layer in vit_low_rank.TARGETS) and "patch_embed" not in name:
            assert torch.linalg.matrix_rank(update, atol=1e-4) == vit_low_rank.RANK
        else:
            assert not update.any(), f"{name} has moved"
