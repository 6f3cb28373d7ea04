"""A small network, a prior for it and a way to train it, the same in every test of the optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return two linear layers and a norm, from 11 to 5 features."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(11, 64), nn.GELU(), nn.Linear(64, 5), nn.LayerNorm(5)).to(dtype)


def prior_of(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """Return a significance by name. As in estimates, it is mostly small and large in a few places."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator).pow(4) for n, p in model.named_parameters()}


def train(model: nn.Module, optimizer: Optimizer, steps: int, *, first: int = 0) -> list[float]:
    """Take steps whose batches follow from their numbers. Returns the losses."""
    losses = []
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(1000 + step)
        x = torch.randn(16, 11, generator=generator).to(dtype)
        y = torch.randn(16, 5, generator=generator).to(dtype)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(model: nn.Module) -> Tensor:
    """Return all weights as one vector of float64."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])
