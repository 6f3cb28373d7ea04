"""Host time of one step over many tensors of hardly any data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import AdamW

import srft_kernels as srft

TENSORS, ELEMENTS = 350, 4


@pytest.mark.parametrize("name", ["torch AdamW(fused=True)", "SRFT, kappa 1", "SRFT, kappa 0.5"])
def test_host_time(benchmark: Any, device: torch.device, name: str) -> None:
    parameters = [torch.nn.Parameter(torch.randn(ELEMENTS, device=device)) for _ in range(TENSORS)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer: torch.optim.Optimizer = AdamW(parameters, fused=name.startswith("torch"))
    if name.startswith("SRFT"):
        prior = {p: torch.rand_like(p) for p in parameters}
        optimizer = srft.SRFT(optimizer, prior=prior, kappa=float(name.split()[-1]))
    benchmark(optimizer.step)
