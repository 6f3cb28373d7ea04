"""SRFT with timm: its optimizer factory, its layer-wise learning rates and its schedulers.

    python examples/timm_training.py

The network has random weights, so nothing is downloaded. `pretrained=True` takes those of the hub.
"""

from __future__ import annotations

import timm
import timm.optim
import timm.scheduler
import torch
from torch import Tensor, nn

import srft_kernels as srft


def sample_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of each image (B,)."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def images(seed: int) -> tuple[Tensor, Tensor]:
    """Images (16, 3, 32, 32) of four brightnesses, and which it is (16,)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (16,), generator=draw)
    return torch.randn(16, 3, 32, 32, generator=draw) * 0.3 + labels[:, None, None, None], labels


def train(steps: int = 12) -> tuple[nn.Module, srft.SRFT]:
    """Fine-tune with a learning rate that falls from layer to layer, which makes a group of parameters a layer."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)
    prior = srft.estimate_prior(model, sample_loss, [images(100 + k) for k in range(4)], progress=False)
    inner = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    names = {p: name for name, p in model.named_parameters()}
    # timm's groups have no names, so the prior is keyed by parameter.
    by_parameter = {p: prior[names[p]] for group in inner.param_groups for p in group["params"]}
    optimizer = srft.SRFT(inner, prior=by_parameter, strength=10.0, kappa=srft.CosineKappa(total_steps=steps))
    scheduler = timm.scheduler.CosineLRScheduler(optimizer, t_initial=steps, warmup_t=3, warmup_lr_init=1e-5)
    for step in range(steps):
        scheduler.step(step)
        optimizer.zero_grad()
        loss = sample_loss(model, images(step)).mean()
        loss.backward()
        optimizer.step()
    print(f"timm: loss {loss.item():.3f} after {steps} steps, {len(optimizer.param_groups)} groups")
    return model, optimizer


if __name__ == "__main__":
    train()
